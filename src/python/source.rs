//! What has no wheel: sdists of an index, archives at an address, repositories at a commit; had here and built in the
//! sandbox ([`super::build`]).
//!
//! Everything is fetched outside the sandbox, where credentials are. A build is remembered by its sources, the
//! interpreter and what lies below it. A lock pins what came out ([`Built`]), the sources and the tools, so that
//! another machine can build it again and compare ([`rebuild`]).

use std::collections::BTreeSet;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use url::Url;

use super::build::{self, Bench, BuildError, BuiltWheel, Job, Place};
use super::fetch::{self, Wanted};
use super::indexes::Indexes;
use super::name::normalise;
use super::pinned::PinnedWheel;
use super::pylock;
use super::resolve::{self, NO_HASHES, Request, ResolveError};
use super::tags::Libc;
use super::uv::Uv;
use crate::digest::Digest;
use crate::error::Failure;
use crate::report::SharedReporter;
use crate::secret::{Secret, split_userinfo, strip_userinfo};
use crate::store::Table;

mod error;
mod git;

pub use error::SourceError;
pub use git::Git;

/// Names how builds are remembered.
const MEMORY: u32 = 2;
/// Where the sandbox sees a repository's files.
const CODE: &str = "/run/agent-code";

/// What is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A requirement whose sdist an index has: `docopt==0.6.2`.
    Requirement(String),
    /// An archive at an address.
    Archive(Secret),
    /// A repository: the address as asked, `git+https://host/x@commit`, taken apart by [`Git::parse`].
    Git(Git),
}

/// What a lock has of a build: its sources and its tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltFrom {
    /// The requirement as asked, without credentials: `docopt==0.6.2`, `git+https://host/x@main`. Of a repository of
    /// the machine that made the lock only the name: `git+file:x@main`.
    pub requirement: String,
    /// sdist file name or git commit.
    pub source: String,
    /// Digest of the sdist, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Where the sdist can be had; absent for one from an index of a machine's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The wheels of the build backend and of what it needs.
    pub tools: Vec<PinnedWheel>,
}

/// A wheel that was built, in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The wheel.
    pub wheel: BuiltWheel,
    /// What it was built from.
    pub from: BuiltFrom,
}

/// Writes a repository's files into a directory, at a commit or else at its revision, and tells the commit.
pub type CheckOut<'a> = dyn Fn(&Git, Option<&str>, &Path) -> Result<String, Failure> + 'a;

/// Where sources are had.
pub struct Supplies<'a> {
    /// Indexes.
    pub indexes: &'a Indexes,
    /// C library and OCI architecture.
    pub platform: (Libc, &'a str),
    /// Constraints (PEP 508), one each.
    pub constraints: &'a [String],
    /// Has repositories.
    pub check_out: &'a CheckOut<'a>,
    /// Hears what goes on.
    pub reporter: &'a SharedReporter,
}

impl std::fmt::Debug for Supplies<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supplies").field("indexes", &self.indexes).finish_non_exhaustive()
    }
}

/// What is built, for people and locks: without credentials and without directories of this machine.
#[must_use]
pub fn label(source: &Source) -> String {
    match source {
        Source::Requirement(text) => text.clone(),
        Source::Archive(address) => strip_userinfo(address.reveal()),
        Source::Git(git) => {
            let address = strip_userinfo(git.address.reveal());
            let address = if git.is_local() {
                let path = address.trim_end_matches('/');
                format!("file:{}", path.rsplit('/').next().unwrap_or(path).trim_start_matches("file:"))
            } else {
                address
            };
            let revision = git.revision.as_ref().map(|it| format!("@{it}")).unwrap_or_default();
            let directory = if git.directory.is_empty() { "" } else { "#subdirectory=" };
            format!("git+{address}{revision}{directory}{}", git.directory)
        }
    }
}

/// Builds, or remembers the build. An archive must have one of the digests `allowed`, if any are given.
///
/// # Errors
/// [`SourceError`], [`BuildError`], or what the functions given here give.
pub fn build(
    bench: &Bench<'_>,
    supplies: &Supplies<'_>,
    source: &Source,
    allowed: Option<&BTreeSet<Digest>>,
) -> Result<Built, Failure> {
    let work = Work { bench, supplies, what: label(source) };
    let scratch = bench.store.scratch()?;
    let had = match source {
        Source::Requirement(text) => work.of_index(text)?,
        Source::Archive(address) => work.at_address(address)?,
        Source::Git(git) => work.of_repository(git, None, scratch.path())?,
    };
    if let (Some(allowed), Some(found)) = (allowed, had.sha256)
        && !allowed.contains(&found)
    {
        return Err(SourceError::Digest { what: work.what, file: had.name, found }.into());
    }
    let mut hasher = bench.key("source", MEMORY);
    hasher.field(&work.what).field(had.identity());
    let key = hasher.finish();
    let known = bench.store.record::<Built>(Table::Distributions, &key);
    if let Some(built) = known.filter(|it| bench.store.has(&it.wheel.wheel).is_some()) {
        return Ok(built);
    }
    let wheel = work.build(&had, None, scratch.path())?;
    let from = BuiltFrom {
        requirement: work.what.clone(),
        source: had.name,
        sha256: had.sha256,
        url: had.url,
        tools: wheel.tools.clone(),
    };
    let built = Built { wheel, from };
    bench.store.remember(Table::Distributions, &key, &built)?;
    Ok(built)
}

/// Builds again what a lock pins, with the tools it pins: into the store.
///
/// # Errors
/// [`BuildError::Differs`] when another wheel comes out; otherwise as [`build`].
pub fn rebuild(
    bench: &Bench<'_>,
    supplies: &Supplies<'_>,
    (name, version, expected): (&str, &str, Digest),
    from: &BuiltFrom,
) -> Result<(), Failure> {
    let work = Work { bench, supplies, what: name.to_owned() };
    let scratch = bench.store.scratch()?;
    let had = match (from.sha256, Git::parse(&from.requirement)) {
        (Some(sha256), _) => work.pinned(from, sha256, &format!("{name}=={version}"))?,
        (None, Some(git)) => work.of_repository(&git, Some(&from.source), scratch.path())?,
        (None, None) => return Err(SourceError::Address { what: from.requirement.clone() }.into()),
    };
    let found = work.build(&had, Some(&from.tools), scratch.path())?.wheel;
    if found != expected {
        return Err(BuildError::Differs { what: name.to_owned(), expected, found }.into());
    }
    Ok(())
}

/// Sources that are here.
struct Had {
    /// File name or commit.
    name: String,
    /// Of an archive: its digest, in the store.
    sha256: Option<Digest>,
    /// Where it can be had again.
    url: Option<String>,
    /// Of a repository.
    git: Option<Git>,
}

impl Had {
    fn identity(&self) -> String {
        self.sha256.map_or_else(|| self.name.clone(), |it| it.to_string())
    }
}

struct Work<'a> {
    bench: &'a Bench<'a>,
    supplies: &'a Supplies<'a>,
    what: String,
}

impl Work<'_> {
    /// The sdist of a requirement.
    fn of_index(&self, requirement: &str) -> Result<Had, SourceError> {
        let file = self.find(requirement)?;
        let url = split_userinfo(&file.url).0;
        let kept = (!self.supplies.indexes.is_machines_own(&url)).then(|| url.to_string());
        let (sha256, _) = self.fetch(&Wanted { file: file.name.clone(), url, sha256: file.sha256, size: file.size })?;
        Ok(Had { name: file.name, sha256: Some(sha256), url: kept, git: None })
    }

    /// An archive that a requirement names by its address.
    fn at_address(&self, address: &Secret) -> Result<Had, SourceError> {
        let wrong = || SourceError::Address { what: self.what.clone() };
        let url = Url::parse(address.reveal()).map_err(|_| wrong())?;
        let name = file_name(&url).filter(|_| ["http", "https"].contains(&url.scheme())).ok_or_else(wrong)?;
        let (mut bare, credentials) = split_userinfo(&url);
        bare.set_fragment(None);
        let mut indexes = self.supplies.indexes.clone();
        indexes.add_credentials(&bare, credentials);
        let wanted = Wanted { file: name.clone(), url: bare.clone(), sha256: None, size: None };
        let (sha256, _) = self.fetch_with(&indexes, &wanted)?;
        Ok(Had { name, sha256: Some(sha256), url: Some(bare.to_string()), git: None })
    }

    /// The sdist that a lock pins.
    fn pinned(&self, from: &BuiltFrom, sha256: Digest, requirement: &str) -> Result<Had, SourceError> {
        // A lock may come from anywhere: what it calls its sources must not lead out of the directory they are put into,
        // and no file of this machine is an address.
        if !is_file_name(&from.source) {
            return Err(SourceError::Address { what: strip_userinfo(&from.source) });
        }
        if self.bench.store.has(&sha256).is_none() {
            let url = from.url.as_deref().and_then(|it| Url::parse(it).ok()).filter(|it| it.scheme() != "file");
            let url = url.map_or_else(|| self.find(requirement).map(|it| split_userinfo(&it.url).0), Ok)?;
            self.fetch(&Wanted { file: from.source.clone(), url, sha256: Some(sha256), size: None })?;
        }
        Ok(Had { name: from.source.clone(), sha256: Some(sha256), url: None, git: None })
    }

    /// A repository's files, in `dir`.
    fn of_repository(&self, git: &Git, commit: Option<&str>, dir: &Path) -> Result<Had, Failure> {
        let to = dir.join("code");
        fs::create_dir(&to).map_err(BuildError::Files)?;
        let name = (self.supplies.check_out)(git, commit, &to)?;
        Ok(Had { name, sha256: None, url: None, git: Some(git.clone()) })
    }

    /// Finds the sdist of a requirement at the indexes. Extras and markers are none of its business: with them, the
    /// resolver would have to know what the sdist requires, and build it on this machine for that.
    fn find(&self, requirement: &str) -> Result<pylock::File, SourceError> {
        let name_end = requirement
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
            .unwrap_or(requirement.len());
        let (name, rest) = requirement.split_at(name_end);
        let rest = rest.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']').map_or("", |it| it.1) } else { rest };
        let rest = rest.split(';').next().unwrap_or_default().trim();
        if rest.contains('@') {
            return Err(SourceError::Address { what: self.what.clone() });
        }
        let uv = Uv::find(self.bench.store, self.supplies.reporter)?;
        let request = Request {
            requirements: &[format!("{name}{rest}")],
            constraints: self.supplies.constraints,
            python: self.bench.version,
            libc: self.supplies.platform.0,
            architecture: self.supplies.platform.1,
            base: &[],
            indexes: self.supplies.indexes,
            links: None,
            no_deps: true,
            hashes: &NO_HASHES,
            source: Some(name),
            torch: None,
        };
        let packages = match resolve::packages(&uv, self.bench.store, &request) {
            Ok(packages) => packages,
            Err(ResolveError::Unsatisfiable { .. }) => return Err(SourceError::None { what: self.what.clone() }),
            Err(source) => return Err(SourceError::Resolve { what: self.what.clone(), source }),
        };
        let found = packages.into_iter().find(|it| it.name == normalise(name)).and_then(|it| it.sdist);
        let named = found.filter(|it| !it.name.is_empty() && !it.name.contains('/'));
        named.ok_or_else(|| SourceError::None { what: self.what.clone() })
    }

    fn fetch(&self, wanted: &Wanted) -> Result<(Digest, u64), SourceError> {
        self.fetch_with(self.supplies.indexes, wanted)
    }

    fn fetch_with(&self, indexes: &Indexes, wanted: &Wanted) -> Result<(Digest, u64), SourceError> {
        fetch::file(self.bench.store, indexes, wanted)
            .map_err(|source| SourceError::Fetch { what: self.what.clone(), source })
    }

    fn build(&self, had: &Had, tools: Option<&[PinnedWheel]>, dir: &Path) -> Result<BuiltWheel, Failure> {
        let id = format!("build {}", self.what);
        self.bench.reporter.started(&id, format!("Building {}", self.what));
        let code = dir.join("code");
        let version = had.git.as_ref().map(Git::version);
        let place = match (&had.git, had.sha256) {
            (Some(git), _) => Place::Directory(&code, CODE, &git.directory),
            (None, sha256) => {
                fs::create_dir_all(dir.join("lent")).map_err(BuildError::Files)?;
                let blob = sha256.map(|it| self.bench.store.blob_path(&it)).unwrap_or_default();
                fs::copy(blob, dir.join("lent").join(&had.name)).map_err(BuildError::Files)?;
                Place::Archive(&had.name)
            }
        };
        let job = Job { label: &self.what, place, editable: false, told_version: version.as_deref(), tools };
        let wheel = build::build(self.bench, &job, dir)?;
        self.bench.reporter.finished(&id, format!("{} {}", wheel.name, wheel.version));
        Ok(wheel)
    }
}

/// The last part of an address's path.
fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?;
    let name = percent_encoding::percent_decode_str(last).decode_utf8().ok()?.into_owned();
    is_file_name(&name).then_some(name)
}

/// Whether a name is that of a file in whatever directory it is put into.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != ".." && name != "." && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests;

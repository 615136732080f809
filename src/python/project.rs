//! Projects of a repository made into wheels ([`super::build`]), as the base's Python, what lies below and the
//! repository's files make them.
//!
//! A project in place (`-e`) is built as an editable wheel that points to [`launch::CODE`], and the files its build
//! leaves beside its sources (compiled modules, written versions) are kept too. A build is done once for a subtree, an
//! interpreter and what lies below, and remembered; a lock pins what came out and what it was built with.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::build::{self, Bench, BuildError, BuiltWheel, Job, Place};
use super::name::normalise;
use super::pinned::PinnedWheel;
use crate::digest::{Digest, Hasher};
use crate::error::Failure;
use crate::fs::open_below;
use crate::git::{Checkout, Mode};
use crate::launch;
use crate::store::{Store, Table};

/// Names how builds are remembered.
const MEMORY: u32 = 2;
/// Directories a build leaves that nothing needs later.
const RUBBISH: [&str; 3] = ["build", "dist", "__pycache__"];

/// A directory of the repository that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRequest {
    /// Relative to the repository's root; empty for the root.
    pub path: String,
    /// Whether in place.
    pub editable: bool,
    /// Extras, as written.
    pub extras: Vec<String>,
}

impl ProjectRequest {
    /// What people call it.
    fn label(&self) -> &str {
        if self.path.is_empty() { "the repository" } else { &self.path }
    }
}

/// A project as a wheel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltProject {
    /// The wheel.
    pub wheel: BuiltWheel,
    /// Files that the build left beside the sources, by path from the repository's root: digest and whether executable.
    pub added: BTreeMap<String, (Digest, bool)>,
}

impl BuiltProject {
    /// Names all that came out of the build.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field("built project").field(self.wheel.wheel.bytes());
        for (path, (digest, executable)) in &self.added {
            hasher.field(path).field(digest.bytes()).field([u8::from(*executable)]);
        }
        hasher.finish()
    }

    fn is_in(&self, store: &Store) -> bool {
        let has = |it: &Digest| store.has(it).is_some();
        has(&self.wheel.wheel) && self.added.values().all(|(digest, _)| has(digest))
    }

    /// Requirements of it and of the extras asked for, one each.
    #[must_use]
    pub fn requires(&self, extras: &[String]) -> Vec<String> {
        of_extras(&self.wheel.name, &self.wheel.requires, extras)
    }
}

/// Whether a requirement asks for the distribution of that normalised name.
#[must_use]
pub fn is_for(requirement: &str, name: &str) -> bool {
    requirement.parse::<pep508_rs::Requirement>().is_ok_and(|it| normalise(it.name.as_ref()) == name)
}

/// Builds a project, or remembers its build.
///
/// # Errors
/// [`BuildError`], or what the bench's own functions give.
pub fn build(bench: &Bench<'_>, checkout: &Checkout, request: &ProjectRequest) -> Result<BuiltProject, Failure> {
    let key = key(bench, checkout, request).finish();
    let known = bench.store.record::<BuiltProject>(Table::Distributions, &key);
    if let Some(built) = known.filter(|it| it.is_in(bench.store)) {
        return Ok(built);
    }
    let built = build_anew(bench, checkout, request, None)?;
    bench.store.remember(Table::Distributions, &key, &built)?;
    Ok(built)
}

/// Has what a lock pins: what is remembered, or what the same tools make of the same sources.
///
/// # Errors
/// [`BuildError::Differs`] when something else came out; otherwise as [`build`].
pub fn rebuild(
    bench: &Bench<'_>,
    checkout: &Checkout,
    request: &ProjectRequest,
    (expected, tools): (Digest, &[PinnedWheel]),
) -> Result<BuiltProject, Failure> {
    let mut hasher = key(bench, checkout, request);
    hasher.field(expected.bytes());
    let exact = hasher.finish();
    let keys = [exact, key(bench, checkout, request).finish()];
    let mut known = keys.iter().filter_map(|it| bench.store.record::<BuiltProject>(Table::Distributions, it));
    if let Some(built) = known.find(|it| it.digest() == expected && it.is_in(bench.store)) {
        return Ok(built);
    }
    let built = build_anew(bench, checkout, request, Some(tools))?;
    let found = built.digest();
    if found != expected {
        return Err(BuildError::Differs { what: built.wheel.name, expected, found }.into());
    }
    bench.store.remember(Table::Distributions, &exact, &built)?;
    Ok(built)
}

fn key(bench: &Bench<'_>, checkout: &Checkout, request: &ProjectRequest) -> Hasher {
    let mut hasher = bench.key("project", MEMORY);
    hasher.field(checkout.digest_below(&request.path).bytes()).field(&request.path);
    hasher.field([u8::from(request.editable)]);
    hasher
}

fn build_anew(
    bench: &Bench<'_>,
    checkout: &Checkout,
    request: &ProjectRequest,
    tools: Option<&[PinnedWheel]>,
) -> Result<BuiltProject, Failure> {
    let label = request.label();
    let step = format!("build {label}");
    bench.reporter.started(&step, format!("Building {label}"));
    let scratch = bench.store.scratch()?;
    let code = scratch.path().join("code");
    fs::create_dir(&code).map_err(BuildError::Files)?;
    checkout.write_to("", &code)?;
    let job = Job {
        label,
        place: Place::Directory(&code, launch::CODE, &request.path),
        editable: request.editable,
        // There is no .git to read a version from.
        told_version: Some("0.0.0"),
        tools,
    };
    let wheel = build::build(bench, &job, scratch.path())?;
    let added = if request.editable { added(bench, checkout, (&code, &request.path))? } else { BTreeMap::new() };
    bench.reporter.finished(&step, format!("{} {}", wheel.name, wheel.version));
    Ok(BuiltProject { wheel, added })
}

/// What the build left beside the sources; into the store.
fn added(
    bench: &Bench<'_>,
    checkout: &Checkout,
    (root, path): (&Path, &str),
) -> Result<BTreeMap<String, (Digest, bool)>, Failure> {
    let mut added = BTreeMap::new();
    let mut left = vec![root.join(path)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(BuildError::Files)? {
            let path = entry.map_err(BuildError::Files)?.path();
            let Some(name) = path.file_name().and_then(|it| it.to_str()) else { continue };
            let metadata = fs::symlink_metadata(&path).map_err(BuildError::Files)?;
            if metadata.is_dir() && !RUBBISH.contains(&name) && !name.ends_with(".egg-info") {
                left.push(path);
            } else if metadata.is_file()
                && let Some(inner) = path.strip_prefix(root).ok().and_then(|it| it.to_str())
            {
                // The build may have put a link where a directory was.
                let mut bytes = Vec::new();
                let mut file = open_below(root, inner).map_err(BuildError::Files)?;
                file.read_to_end(&mut bytes).map_err(BuildError::Files)?;
                let known = checkout.get(inner).filter(|it| it.mode != Mode::Symlink);
                if known.is_none_or(|it| it.digest != Digest::of(&bytes)) {
                    let (digest, _) = bench.store.put_bytes(&bytes)?;
                    added.insert(inner.to_owned(), (digest, metadata.permissions().mode() & 0o111 != 0));
                }
            }
        }
    }
    Ok(added)
}

/// The requirements that hold with these extras, freed of what asks for extras. A project that requires itself with
/// further extras gets those.
fn of_extras(name: &str, requires: &[String], extras: &[String]) -> Vec<String> {
    let mut wanted: BTreeSet<String> = extras.iter().map(|it| normalise(it)).collect();
    loop {
        let mut found = Vec::new();
        let mut more = wanted.clone();
        for line in requires {
            let Ok(mut requirement) = line.parse::<pep508_rs::Requirement>() else {
                found.push(line.clone());
                continue;
            };
            let with = |it: &pep508_rs::ExtraName| wanted.contains(&normalise(it.as_ref()));
            requirement.marker = requirement.marker.simplify_extras_with(with);
            let left = requirement.marker.try_to_string().unwrap_or_default();
            if requirement.marker.is_false() || left.contains("extra ") {
                continue;
            }
            if normalise(requirement.name.as_ref()) == name {
                more.extend(requirement.extras.iter().map(|it| normalise(it.as_ref())));
            } else {
                found.push(requirement.to_string());
            }
        }
        if more == wanted {
            return found;
        }
        wanted = more;
    }
}

#[cfg(test)]
mod tests;

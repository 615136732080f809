//! Sources made into wheels: sdists of an index, archives at an address, repositories at a commit.
//!
//! Code of the package runs, so it runs in a sandbox on the base, by the base's own Python. pip does the work there: a
//! wheel of it is lent to the sandbox and run as it is, nothing is installed. The step has network, because what a build
//! needs is pip's to find; indexes are told by variables. A build is remembered by what was asked, the interpreter and
//! what lies below it; what came out is a wheel like any other, checked when it enters the store.

use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::fetch::{self, FetchError, Wanted};
use super::indexes::Indexes;
use super::name::WheelName;
use super::resolve::{self, Request, ResolveError};
use super::tags::Libc;
use super::uv::Uv;
use crate::digest::{Digest, Hasher, digest_reader};
use crate::error::{Explain, Failure, Kind};
use crate::report::SharedReporter;
use crate::sandbox::{Changes, Output, Step};
use crate::secret::{Secret, mask_userinfo};
use crate::store::{Store, StoreError, Table};

/// Names how builds are done; part of what they are remembered under.
const MEMORY: u32 = 1;
/// Where the sandbox sees the directory it works in.
const MOUNT: &str = "/run/agent-build";
/// The time builds see (1980-01-02).
const EPOCH: &str = "315619200";

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

/// A repository as a requirement names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// Its address, as git takes it.
    pub address: Secret,
    /// Commit, tag or branch.
    pub revision: Option<String>,
    /// Directory of the project in it; empty for the root.
    pub directory: String,
}

impl Git {
    /// Takes `git+<address>[@revision][#subdirectory=…]` apart.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("git+").or_else(|| text.starts_with("git@").then_some(text))?;
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let directory = fragment.split('&').find_map(|it| it.strip_prefix("subdirectory=")).unwrap_or_default();
        // An `@` behind the host's path names a revision; one in front of it a user.
        let path = address.find("://").map_or(0, |it| it + 3);
        let path = address[path..].find('/').map_or(address.len(), |it| it + path);
        let at = address[path..].rfind('@').map(|it| it + path);
        let (address, revision) = at.map_or((address, None), |at| (&address[..at], Some(address[at + 1..].to_owned())));
        let inside = directory.split('/').all(|it| it != "..") && !directory.starts_with('/');
        inside.then(|| Self {
            address: Secret::new(address),
            revision,
            directory: directory.trim_matches('/').to_owned(),
        })
    }
}

/// A wheel that was built, in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// File name.
    pub file: String,
    /// The wheel.
    pub wheel: Digest,
    /// Bytes.
    pub size: u64,
    /// What was asked, without credentials.
    pub requirement: String,
    /// sdist file name or commit.
    pub source: String,
    /// Digest of the sdist.
    pub sha256: Option<Digest>,
}

/// Runs a step in a sandbox on the base.
pub type Run<'a> = dyn Fn(&Step) -> Result<Output, Failure> + 'a;
/// Writes a repository's files at a revision into a directory, and tells the commit.
pub type CheckOut<'a> = dyn Fn(&Git, &Path) -> Result<String, Failure> + 'a;

/// What builds are done with.
pub struct Bench<'a> {
    /// Keeps what was built.
    pub store: &'a Store,
    /// Indexes.
    pub indexes: &'a Indexes,
    /// The interpreter's absolute path in the sandbox, its full version and its digest.
    pub interpreter: (&'a str, &'a str, Digest),
    /// C library and OCI architecture.
    pub platform: (Libc, &'a str),
    /// Chain id of what the sandbox stands on.
    pub below: Digest,
    /// Runs a step.
    pub run: &'a Run<'a>,
    /// Has repositories.
    pub check_out: &'a CheckOut<'a>,
    /// Hears what goes on.
    pub reporter: &'a SharedReporter,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("interpreter", &self.interpreter)
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

/// Why a build gave no wheel.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The build itself failed.
    #[error("the build of `{what}` failed\n{words}")]
    Failed {
        /// What was built, without credentials.
        what: String,
        /// The last lines it wrote.
        words: String,
    },
    /// pip cannot be had for the sandbox.
    #[error("cannot have pip for the build")]
    Pip(#[source] ResolveError),
    /// A file between here and the sandbox.
    #[error("cannot handle the files of a build")]
    Files(#[source] std::io::Error),
    /// The wheel cannot be kept.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Failed { .. } => Kind::Unsatisfiable,
            Self::Pip(error) => error.kind(),
            Self::Files(error) => Kind::of_io(error),
            Self::Fetch(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Failed { .. } => {
                vec!["Compilers and headers a build needs can be had with --apt (say build-essential python3-dev), or ask for a version that has a wheel.".to_owned()]
            }
            Self::Pip(error) => error.hints(),
            Self::Fetch(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Files(_) => Vec::new(),
        }
    }
}

/// Builds, or remembers the build.
///
/// # Errors
/// [`BuildError`], or what the bench's own functions give.
pub fn build(bench: &Bench<'_>, source: &Source) -> Result<Built, Failure> {
    let what = label(source);
    let scratch = bench.store.scratch()?;
    let dir = scratch.path();
    let files = BuildError::Files;
    for name in ["sources", "wheels"] {
        fs::create_dir(dir.join(name)).map_err(files)?;
    }
    // A branch moves: a repository is remembered by its commit.
    let commit = match source {
        Source::Git(git) => Some((bench.check_out)(git, &dir.join("sources"))?),
        _ => None,
    };
    let key = memory_key(bench, source, commit.as_deref());
    let known = bench.store.record::<Built>(Table::Distributions, &key);
    if let Some(built) = known.filter(|it| bench.store.has(&it.wheel).is_some()) {
        return Ok(built);
    }
    let id = format!("build {what}");
    bench.reporter.started(&id, format!("Building {what}"));
    let pip = lend_pip(bench, dir)?;
    let (from, origin) = match (source, commit) {
        (Source::Git(git), Some(commit)) => (format!("{MOUNT}/sources/{}", git.directory), (commit, None)),
        _ => download(bench, source, dir, &pip)?,
    };
    run_pip(bench, dir, &what, &[&pip, "wheel", "--no-deps", "--wheel-dir", &format!("{MOUNT}/wheels"), &from])?;
    let built = keep(bench, dir, &what, origin)?;
    bench.store.remember(Table::Distributions, &key, &built)?;
    bench.reporter.finished(&id, format!("{} {}", built.name, built.version));
    Ok(built)
}

/// What is built, for people and locks: without credentials.
#[must_use]
pub fn label(source: &Source) -> String {
    match source {
        Source::Requirement(text) => text.clone(),
        Source::Archive(address) => mask_userinfo(address.reveal()).replace("****@", ""),
        Source::Git(git) => {
            let address = mask_userinfo(git.address.reveal()).replace("****@", "");
            git.revision.as_ref().map_or_else(|| format!("git+{address}"), |it| format!("git+{address}@{it}"))
        }
    }
}

fn memory_key(bench: &Bench<'_>, source: &Source, commit: Option<&str>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("build").field(MEMORY.to_le_bytes()).field(label(source)).field(commit.unwrap_or_default());
    if let Source::Git(git) = source {
        hasher.field(&git.directory);
    }
    hasher.field(bench.interpreter.1).field(bench.interpreter.2.bytes()).field(bench.below.bytes());
    hasher.finish()
}

/// Puts a wheel of pip where the sandbox sees it; how pip is called there.
fn lend_pip(bench: &Bench<'_>, dir: &Path) -> Result<String, Failure> {
    let uv = Uv::find(bench.store, bench.reporter)?;
    let request = Request {
        requirements: &["pip".to_owned()],
        constraints: &[],
        python: bench.interpreter.1,
        libc: bench.platform.0,
        architecture: bench.platform.1,
        base: &[],
        indexes: bench.indexes,
        links: None,
        no_deps: true,
        torch: None,
    };
    let resolution = resolve::resolve(&uv, bench.store, &request).map_err(BuildError::Pip)?;
    let wanted: Vec<Wanted> = resolution
        .wheels
        .into_iter()
        .map(|it| Wanted { file: it.file, url: it.url, sha256: it.sha256, size: it.size })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BuildError::Files)?;
    let fetched = runtime.block_on(fetch::fetch(bench.store, bench.indexes, wanted, bench.reporter))?;
    for (digest, _) in fetched {
        fs::copy(bench.store.blob_path(&digest), dir.join("pip.whl")).map_err(BuildError::Files)?;
    }
    Ok(format!("{MOUNT}/pip.whl/pip"))
}

/// Has the sdist of a requirement or at an address downloaded: where it lies, its name and digest.
fn download(
    bench: &Bench<'_>,
    source: &Source,
    dir: &Path,
    pip: &str,
) -> Result<(String, (String, Option<Digest>)), Failure> {
    let what = label(source);
    // In a file, because an address may hold credentials.
    let text = match source {
        Source::Requirement(text) => text.clone(),
        Source::Archive(address) => address.reveal().to_owned(),
        Source::Git(_) => String::new(),
    };
    let list = dir.join("requirements.txt");
    crate::fs::write_whole(&list, format!("{text}\n").as_bytes(), 0o600).map_err(BuildError::Files)?;
    let name =
        text.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).map_or(text.as_str(), |it| &text[..it]);
    let (to, list) = (format!("{MOUNT}/sources"), format!("{MOUNT}/requirements.txt"));
    let mut arguments = vec![pip, "download", "--no-deps", "--dest", &to, "--requirement", &list];
    if matches!(source, Source::Requirement(_)) {
        arguments.extend(["--no-binary", name]);
    }
    run_pip(bench, dir, &what, &arguments)?;
    let failed = || BuildError::Failed { what: what.clone(), words: "pip left no sdist".to_owned() };
    let file = only_file(&dir.join("sources")).ok_or_else(failed)?;
    let opened = fs::File::open(dir.join("sources").join(&file)).map_err(BuildError::Files)?;
    let (digest, _) = digest_reader(opened).map_err(BuildError::Files)?;
    Ok((format!("{MOUNT}/sources/{file}"), (file, Some(digest))))
}

fn run_pip(bench: &Bench<'_>, dir: &Path, what: &str, arguments: &[&str]) -> Result<(), Failure> {
    let argv: Vec<&str> = [bench.interpreter.0].into_iter().chain(arguments.iter().copied()).collect();
    let mut step = Step::new(format!("build of {what}"), &argv)
        .bind(dir, MOUNT, true)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("PYTHONHASHSEED", "0")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_CACHE_DIR", "1")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_PROGRESS_BAR", "off")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("TMPDIR", "/tmp");
    if arguments.iter().any(|it| it.contains("/sources/")) && !dir.join("requirements.txt").exists() {
        // A repository's files come without its history: there is no tag to read a version from.
        step = step.env("SETUPTOOLS_SCM_PRETEND_VERSION", "0.0.0").env("PBR_VERSION", "0.0.0");
    }
    for (name, value) in bench.indexes.environment_of_pip() {
        step = step.env(&name, value.reveal());
    }
    step.network = true;
    step.changes = Changes::Dropped;
    let output = (bench.run)(&step)?;
    if output.code == 0 {
        return Ok(());
    }
    Err(BuildError::Failed { what: what.to_owned(), words: mask_userinfo(&output.last_words()) }.into())
}

/// Puts the wheel that came out into the store.
fn keep(
    bench: &Bench<'_>,
    dir: &Path,
    what: &str,
    (source, sha256): (String, Option<Digest>),
) -> Result<Built, Failure> {
    let failed = |words: &str| BuildError::Failed { what: what.to_owned(), words: words.to_owned() };
    let file = only_file(&dir.join("wheels")).ok_or_else(|| failed("pip left no wheel"))?;
    let name = WheelName::parse(&file).ok_or_else(|| failed("what pip left is no wheel"))?;
    let (wheel, size) = fetch::adopt(bench.store, &dir.join("wheels").join(&file), &file)?;
    let version = name.version.replace('_', "-");
    let version = version.parse::<pep440_rs::Version>().map_or(version, |it| it.to_string());
    Ok(Built { name: name.name, version, file, wheel, size, requirement: what.to_owned(), source, sha256 })
}

fn only_file(dir: &Path) -> Option<String> {
    let mut names = fs::read_dir(dir).ok()?.filter_map(|it| it.ok()?.file_name().into_string().ok());
    let first = names.next()?;
    names.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::process;
    use crate::report::silent;

    #[test]
    fn repositories_are_taken_apart() {
        let git = |text: &str| Git::parse(text).map(|it| (it.address.reveal().to_owned(), it.revision, it.directory));
        assert_eq!(
            git("git+https://u:p@h.example/x.git@v1.0#egg=x&subdirectory=a/b"),
            Some(("https://u:p@h.example/x.git".to_owned(), Some("v1.0".to_owned()), "a/b".to_owned()))
        );
        assert_eq!(git("git+ssh://git@h.example/x"), Some(("ssh://git@h.example/x".to_owned(), None, String::new())));
        assert_eq!(git("git+https://h.example/x#subdirectory=../y"), None);
        assert_eq!(git("https://h.example/x.tar.gz"), None);
        let source = Source::Git(Git::parse("git+https://u:p@h.example/x@main").unwrap());
        assert_eq!(label(&source), "git+https://h.example/x@main");
    }

    /// Runs a step on this machine; the package is the test's own.
    fn on_host(step: &Step) -> Result<Output, Failure> {
        let lent = step.binds[0].source.display().to_string();
        let mut command = Command::new(&step.argv[0]);
        command.args(step.argv[1..].iter().map(|it| it.replace(MOUNT, &lent)));
        command.envs(step.env.iter());
        let output = process::run(&mut command, Duration::from_secs(600))?;
        let code = process::exit_code(output.status);
        Ok(Output { code, stdout: output.stdout, stderr: output.stderr })
    }

    #[test]
    fn a_repository_becomes_a_wheel_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let indexes = Indexes::of_machine(&|name| std::env::var(name).ok());
        let check_out = |_: &Git, to: &Path| {
            let text =
                "[build-system]\nrequires = [\"setuptools\"]\n[project]\nname = \"demo.project\"\nversion = \"1.5\"\n";
            fs::create_dir_all(to.join("sub/demo")).map_err(BuildError::Files)?;
            fs::write(to.join("sub/pyproject.toml"), text).map_err(BuildError::Files)?;
            fs::write(to.join("sub/demo/__init__.py"), "x = 1\n").map_err(BuildError::Files)?;
            Ok("abc".to_owned())
        };
        let runs = std::cell::Cell::new(0);
        let run = |step: &Step| {
            runs.set(runs.get() + 1);
            on_host(step)
        };
        let bench = Bench {
            store: &store,
            indexes: &indexes,
            interpreter: ("python3", "3.11.2", Digest::of("python")),
            platform: (Libc::Glibc(2, 36), "amd64"),
            below: Digest::of("base"),
            run: &run,
            check_out: &check_out,
            reporter: &silent(),
        };
        let source = Source::Git(Git::parse("git+https://h.example/x@main#subdirectory=sub").unwrap());
        let built = build(&bench, &source).unwrap();
        assert_eq!(
            (built.name.as_str(), built.version.as_str(), built.source.as_str()),
            ("demo-project", "1.5", "abc")
        );
        assert_eq!(built.requirement, "git+https://h.example/x@main");
        assert!(fetch::is_checked(&store, &built.wheel));
        assert_eq!(build(&bench, &source).unwrap(), built);
        assert_eq!(runs.get(), 1);
    }
}

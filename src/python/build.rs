//! Sources made into wheels: the base's own Python calls their build backend in a sandbox, without network.
//!
//! ```text
//! sources (a directory, or an archive) ─▶ pyproject.toml ─▶ tools ─▶ hooks (PEP 517, PEP 660) ─▶ wheel, packed anew
//! ```
//!
//! Code of a package runs here, so it sees neither the network nor a secret: what its backend needs is resolved and
//! fetched as wheels outside, and lent to the sandbox as an environment in a fixed place. What a build gives is to be
//! the same wherever it is done: the places, the clock, the hash seed and the tools are (a lock pins these), and the
//! wheel that comes out is written anew ([`super::pack`]), so that order, times and compression do not count. What a
//! backend itself leaves to chance cannot be helped; who has pinned the wheel notices.
//!
//! ```text
//! /run/agent-build/{build.py,call.json,tools/,<archive>}    lent, read-only
//! /run/agent-work/{sources/,out/,answer.json}               what the build writes
//! ```
//!
//! What the sandbox leaves is hostile: nothing of it is read through a symbolic link.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::fetch;
use super::name::normalise;
use super::pack::repack;
use super::pinned::PinnedWheel;
use super::wheel::Wheel;
use crate::digest::{Digest, Hasher};
use crate::error::Failure;
use crate::fs::open_below;
use crate::report::Reporter;
use crate::sandbox::{Changes, Output, Step};
use crate::store::Store;

mod error;
mod system;
mod tools;

pub use error::BuildError;
use system::BuildSystem;

/// Where the sandbox sees what it is lent.
const LENT: &str = "/run/agent-build";
/// Where it writes.
const WORK: &str = "/run/agent-work";
/// What runs in it.
const DRIVER: &str = include_str!("../../templates/build.py");
/// The time that builds see (1980-01-02).
const EPOCH: &str = "315619200";
/// Most bytes of a tool's file.
const LARGEST: u64 = 1 << 30;
/// Most bytes of what the driver answers.
const LONGEST_ANSWER: u64 = 16 << 20;

/// What a build asks for.
#[derive(Debug, Clone, Copy)]
pub enum Needs<'a> {
    /// Requirements, to be resolved.
    Requirements(&'a [String]),
    /// What an earlier build was done with.
    Pinned(&'a [PinnedWheel]),
}

/// Has wheels in the store.
pub type Tools<'a> = dyn Fn(Needs<'_>) -> Result<Vec<PinnedWheel>, Failure> + 'a;
/// Runs a step in the sandbox.
pub type Run<'a> = dyn Fn(&Step) -> Result<Output, Failure> + 'a;

/// What builds are done with.
pub struct Bench<'a> {
    /// Keeps what was built.
    pub store: &'a Store,
    /// The interpreter's absolute path in the sandbox.
    pub executable: &'a str,
    /// Its full version.
    pub version: &'a str,
    /// Its file's digest.
    pub interpreter: Digest,
    /// Names what the sandbox stands on.
    pub below: Digest,
    /// Has tools.
    pub tools: &'a Tools<'a>,
    /// Runs a step.
    pub run: &'a Run<'a>,
    /// Hears what is worth knowing.
    pub reporter: &'a dyn Reporter,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("interpreter", &self.interpreter)
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl Bench<'_> {
    /// Begins the key of what a build on this bench is remembered by.
    pub(super) fn key(&self, what: &str, memory: u32) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.field(what).field(memory.to_le_bytes());
        hasher.field(self.version).field(self.interpreter.bytes()).field(self.below.bytes());
        hasher
    }
}

/// Where the sources are.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// An archive of that name in the directory that is lent.
    Archive(&'a str),
    /// A directory of this machine, where the sandbox sees it, and the project's directory below it.
    Directory(&'a Path, &'a str, &'a str),
}

/// What is to be built.
#[derive(Debug)]
pub struct Job<'a> {
    /// What people call it.
    pub label: &'a str,
    /// Where its sources are.
    pub place: Place<'a>,
    /// Whether it is to be installed in place.
    pub editable: bool,
    /// The version it has, for sources without the history that would tell.
    pub told_version: Option<&'a str>,
    /// What an earlier build was done with.
    pub tools: Option<&'a [PinnedWheel]>,
}

/// A wheel that came out of a build, in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltWheel {
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
    /// What it requires (`Requires-Dist`).
    pub requires: Vec<String>,
    /// What it was built with.
    pub tools: Vec<PinnedWheel>,
}

/// Builds; `lent` and `work` are directories of this machine that the sandbox sees as such.
///
/// # Errors
/// [`BuildError`], or what the bench's own functions give.
pub(super) fn build(bench: &Bench<'_>, job: &Job<'_>, dir: &Path) -> Result<BuiltWheel, Failure> {
    let (lent, work) = (dir.join("lent"), dir.join("work"));
    fs::create_dir_all(&lent).map_err(BuildError::Files)?;
    fs::create_dir_all(work.join("out")).map_err(BuildError::Files)?;
    fs::write(lent.join("build.py"), DRIVER).map_err(BuildError::Files)?;
    Build { bench, job, lent, work }.build()
}

/// What the driver is to do.
#[derive(Serialize)]
struct Told<'a> {
    archive: String,
    source: &'a str,
    answer: String,
}

/// What it tells of sources.
#[derive(Deserialize)]
struct Sources {
    source: String,
    pyproject: String,
}

#[derive(Serialize)]
struct Call<'a> {
    path: Vec<String>,
    programs: String,
    source: &'a str,
    backend: &'a str,
    hook: String,
    arguments: Vec<String>,
    answer: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    missing: bool,
    #[serde(default)]
    value: serde_json::Value,
}

struct Build<'a> {
    bench: &'a Bench<'a>,
    job: &'a Job<'a>,
    lent: PathBuf,
    work: PathBuf,
}

impl Build<'_> {
    fn build(&self) -> Result<BuiltWheel, Failure> {
        let sources = self.sources()?;
        let pyproject: toml::Table =
            sources.pyproject.parse().map_err(|error: toml::de::Error| self.failed(error.message()))?;
        let system = BuildSystem::of(&pyproject);
        let kind = if self.job.editable { "editable" } else { "wheel" };
        let call = |hook: &str, arguments| self.call((&sources.source, &system), hook.to_owned(), arguments);
        let tools = match self.job.tools {
            Some(pinned) => self.lend(Needs::Pinned(pinned))?,
            None => {
                let tools = self.lend(Needs::Requirements(&system.requires))?;
                let more = call(&format!("get_requires_for_build_{kind}"), Vec::new())?;
                let more: Vec<String> = serde_json::from_value(more.value).unwrap_or_default();
                if more.is_empty() {
                    tools
                } else {
                    self.lend(Needs::Requirements(&[system.requires.clone(), more].concat()))?
                }
            }
        };
        let out = || vec![format!("{WORK}/out")];
        let mut answer = call(&format!("build_{kind}"), out())?;
        if answer.missing && self.job.editable {
            self.bench.reporter.warning(format!(
                "project `{}` is installed as a copy: its build backend knows no installation in place",
                self.job.label
            ));
            answer = call("build_wheel", out())?;
        }
        let file = answer.value.as_str().filter(|it| !it.contains('/'));
        let file = file.ok_or_else(|| self.failed("its build backend names no wheel"))?;
        self.keep(file, tools)
    }

    fn failed(&self, words: impl Into<String>) -> BuildError {
        BuildError::Failed { what: self.job.label.to_owned(), words: words.into() }
    }

    /// Has the sources where they can be built.
    fn sources(&self) -> Result<Sources, Failure> {
        let (archive, source) = match self.job.place {
            Place::Archive(name) => (format!("{LENT}/{name}"), format!("{WORK}/sources")),
            Place::Directory(_, target, "") => (String::new(), target.to_owned()),
            Place::Directory(_, target, project) => (String::new(), format!("{target}/{project}")),
        };
        self.drive(&Told { archive, source: &source, answer: self.answer() })
    }

    fn answer(&self) -> String {
        format!("{WORK}/answer.json")
    }

    fn call(
        &self,
        (source, system): (&str, &BuildSystem),
        hook: String,
        arguments: Vec<String>,
    ) -> Result<Answer, Failure> {
        let tools = self.tools();
        self.drive(&Call {
            path: system.backend_path.iter().map(|it| format!("{source}/{it}")).collect(),
            programs: format!("{}/bin", tools.root),
            source,
            backend: &system.backend,
            hook,
            arguments,
            answer: self.answer(),
        })
    }

    /// Runs the driver in the sandbox.
    fn drive<T: for<'de> Deserialize<'de>>(&self, request: &impl Serialize) -> Result<T, Failure> {
        let text = serde_json::to_vec(request).map_err(|it| self.failed(it.to_string()))?;
        crate::fs::write_whole(&self.lent.join("call.json"), &text, 0o644).map_err(BuildError::Files)?;
        // Until there are tools, the interpreter itself will do.
        let tools = self.tools().interpreter();
        let python = if self.lent.join("tools").exists() { &tools } else { self.bench.executable };
        let arguments = [python, "-s", "-B", &format!("{LENT}/build.py"), &format!("{LENT}/call.json")];
        let mut step = Step::new(format!("build of {}", self.job.label), &arguments)
            .bind(&self.lent, LENT, false)
            .bind(&self.work, WORK, true)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONNOUSERSITE", "1")
            .env("TZ", "UTC");
        if let Place::Directory(source, target, _) = self.job.place {
            step = step.bind(source, target, true);
        }
        if let Some(version) = self.job.told_version {
            for name in ["SETUPTOOLS_SCM_PRETEND_VERSION", "PBR_VERSION", "POETRY_DYNAMIC_VERSIONING_BYPASS"] {
                step = step.env(name, version);
            }
        }
        step.changes = Changes::Dropped;
        let output = (self.bench.run)(&step)?;
        if output.code != 0 {
            return Err(self.failed(output.last_words()).into());
        }
        let answer = open_below(&self.work, "answer.json").and_then(|it| io::read_to_string(it.take(LONGEST_ANSWER)));
        let answer = answer.map_err(BuildError::Files)?;
        Ok(serde_json::from_str(&answer).map_err(|it| self.failed(it.to_string()))?)
    }

    /// Puts the wheel that came out into the store, packed anew.
    fn keep(&self, file: &str, tools: Vec<PinnedWheel>) -> Result<BuiltWheel, Failure> {
        // Nothing of the build runs any more: what is no link now stays none.
        open_below(&self.work, &format!("out/{file}")).map_err(BuildError::Files)?;
        let path = self.work.join("out").join(file);
        let wheel = Wheel::open(&path, file).map_err(BuildError::from)?;
        wheel.verify().map_err(BuildError::from)?;
        let writer = self.bench.store.writer()?;
        let (digest, size) = repack(&wheel, writer).map_err(BuildError::from)?.commit()?;
        fetch::check(self.bench.store, &digest, file).map_err(BuildError::from)?;
        let metadata = wheel.metadata("METADATA").map_err(BuildError::from)?;
        let fields = |name: &str| -> Vec<String> {
            let header = metadata.lines().take_while(|it| !it.is_empty());
            let value = |line: &str| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            header.filter_map(value).collect()
        };
        let version = fields("Version").concat();
        Ok(BuiltWheel {
            name: normalise(&fields("Name").concat()),
            version: version.parse::<pep440_rs::Version>().map_or(version, |it| it.to_string()),
            file: file.to_owned(),
            wheel: digest,
            size,
            requires: fields("Requires-Dist"),
            tools,
        })
    }
}

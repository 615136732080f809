//! Projects of a repository made into wheels: the base's own Python calls the project's build backend in a sandbox.
//!
//! What the backend needs (`build-system.requires`) is resolved and fetched as wheels by the host and lent to the
//! sandbox, so that the build itself runs without network and without pip. A project in place (`-e`) is built as an
//! editable wheel that points to [`launch::CODE`], and the files its build leaves beside its sources (compiled modules,
//! written versions) are kept too. A build is done once for a subtree, an interpreter and what lies below, and
//! remembered; what it does is not pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::fetch::{self, FetchError};
use super::install::{Content, Target, install};
use super::name::normalise;
use super::wheel::{Wheel, WheelError};
use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Failure, Kind};
use crate::fs::open_below;
use crate::git::{Checkout, GitError, Mode};
use crate::launch;
use crate::report::Reporter;
use crate::sandbox::{Changes, Output, Step};
use crate::store::{Store, StoreError, Table};

/// Names how builds are remembered.
const MEMORY: u32 = 1;
/// Where the sandbox sees what we lend it.
const MOUNT: &str = "/run/agent-build";
/// What calls the backend.
const DRIVER: &str = include_str!("../../templates/build_project.py");
/// Every time stamp a build writes (1980-01-02).
const EPOCH: &str = "315619200";
/// Most bytes of a tool's file.
const LARGEST: u64 = 1 << 30;
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

/// What a build is done with.
pub struct Workbench<'a> {
    /// Keeps what was built.
    pub store: &'a Store,
    /// The repository's files.
    pub checkout: &'a Checkout,
    /// The interpreter's absolute path in the sandbox.
    pub executable: &'a str,
    /// Its full version.
    pub version: &'a str,
    /// Its file's digest.
    pub interpreter: Digest,
    /// Chain id of what the sandbox stands on.
    pub below: Digest,
    /// Has wheels that fulfil requirements in the store: digest and file name of each.
    pub tools: &'a Tools<'a>,
    /// Runs a step in the sandbox.
    pub run: &'a Run<'a>,
    /// Hears what is worth knowing.
    pub reporter: &'a dyn Reporter,
}

/// Requirements to wheels in the store.
pub type Tools<'a> = dyn Fn(&[String]) -> Result<Vec<(Digest, String)>, Failure> + 'a;
/// Runs a step.
pub type Run<'a> = dyn Fn(&Step) -> Result<Output, Failure> + 'a;

/// A project as a wheel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltProject {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// The wheel.
    pub wheel: Digest,
    /// Its file name.
    pub file: String,
    /// What it requires (`Requires-Dist`).
    pub requires: Vec<String>,
    /// Files that the build left beside the sources, by path from the repository's root: digest and whether executable.
    pub added: BTreeMap<String, (Digest, bool)>,
}

/// What a project is called and requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Normalised name.
    pub name: String,
    /// Digest of its subtree.
    pub tree: Digest,
    /// Requirements of it and of the extras asked for, one each.
    pub requires: Vec<String>,
}

/// Why a project cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// Its `pyproject.toml` cannot be read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Its backend failed.
    #[error("the build of project `{path}` failed:\n{words}")]
    Failed {
        /// Its directory.
        path: String,
        /// The last lines it wrote.
        words: String,
    },
    /// Its wheel is refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// Its wheel cannot be kept.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its files cannot be had.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the build.
    #[error("cannot handle the files of a build")]
    Files(#[source] std::io::Error),
}

impl Explain for ProjectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } | Self::Failed { .. } => Kind::Input,
            Self::Wheel(error) => error.kind(),
            Self::Fetch(error) => error.kind(),
            Self::Git(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Files(error) => Kind::of_io(error),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Failed { .. } => vec![
                "Its build runs without network on the base image; compilers and headers it needs can be had with --apt."
                    .to_owned(),
            ],
            _ => Vec::new(),
        }
    }
}

/// What a project is called and requires, where its `pyproject.toml` says it all.
///
/// # Errors
/// [`ProjectError::Unreadable`]
pub fn declared(checkout: &Checkout, request: &ProjectRequest) -> Result<Option<Described>, ProjectError> {
    let tree = checkout.digest_below(&request.path);
    let found = static_metadata(&pyproject(checkout, &request.path)?);
    Ok(found.map(|(name, requires)| Described { requires: of_extras(&name, &requires, &request.extras), name, tree }))
}

/// Whether a requirement asks for the distribution of that normalised name.
#[must_use]
pub fn is_for(requirement: &str, name: &str) -> bool {
    requirement.parse::<pep508_rs::Requirement>().is_ok_and(|it| normalise(it.name.as_ref()) == name)
}

/// Says what a project is called and requires by building it.
///
/// # Errors
/// [`ProjectError`], or what the workbench's own functions give.
pub fn describe(bench: &Workbench<'_>, request: &ProjectRequest) -> Result<Described, Failure> {
    let tree = bench.checkout.digest_below(&request.path);
    let built = build(bench, request)?;
    Ok(Described { requires: of_extras(&built.name, &built.requires, &request.extras), name: built.name, tree })
}

/// Builds a project, or remembers its build.
///
/// # Errors
/// [`ProjectError`], or what the workbench's own functions give.
pub fn build(bench: &Workbench<'_>, request: &ProjectRequest) -> Result<BuiltProject, Failure> {
    let tree = bench.checkout.digest_below(&request.path);
    let mut hasher = Hasher::new();
    hasher.field("project").field(MEMORY.to_le_bytes()).field(tree.bytes()).field(&request.path);
    hasher.field([u8::from(request.editable)]).field(bench.interpreter.bytes()).field(bench.version);
    hasher.field(bench.below.bytes());
    let key = hasher.finish();
    let there = |it: &BuiltProject| {
        bench.store.has(&it.wheel).is_some() && it.added.values().all(|(digest, _)| bench.store.has(digest).is_some())
    };
    if let Some(built) = bench.store.record::<BuiltProject>(Table::Distributions, &key).filter(there) {
        return Ok(built);
    }
    let label = if request.path.is_empty() { "the repository" } else { request.path.as_str() };
    let step = format!("build {label}");
    bench.reporter.report(crate::report::Event::Started { id: step.clone(), title: format!("Building {label}") });
    let scratch = bench.store.scratch()?;
    let built = Build { bench, request, dir: scratch.path(), label }.build()?;
    bench.store.remember(Table::Distributions, &key, &built)?;
    let outcome = format!("{} {}", built.name, built.version);
    bench.reporter.report(crate::report::Event::Finished { id: step, outcome });
    Ok(built)
}

/// One build in a scratch directory: `code` is the repository, `lent` what the sandbox sees at [`MOUNT`].
struct Build<'a> {
    bench: &'a Workbench<'a>,
    request: &'a ProjectRequest,
    dir: &'a Path,
    label: &'a str,
}

#[derive(Serialize)]
struct Call<'a> {
    path: Vec<String>,
    source: String,
    backend: &'a str,
    hook: &'a str,
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

impl Build<'_> {
    fn build(&self) -> Result<BuiltProject, Failure> {
        let files = ProjectError::Files;
        for name in ["lent/tools", "lent/out", "code"] {
            fs::create_dir_all(self.dir.join(name)).map_err(files)?;
        }
        fs::write(self.dir.join("lent/build.py"), DRIVER).map_err(files)?;
        self.bench.checkout.write_to("", &self.dir.join("code"))?;
        let system = BuildSystem::of(&pyproject(self.bench.checkout, &self.request.path)?);
        self.lend_tools(&system.requires)?;
        let kind = if self.request.editable { "editable" } else { "wheel" };
        let more = self.call(&system, &format!("get_requires_for_build_{kind}"), Vec::new())?;
        let more: Vec<String> = serde_json::from_value(more.value).unwrap_or_default();
        if !more.is_empty() {
            self.lend_tools(&[system.requires.clone(), more].concat())?;
        }
        let out = || vec![format!("{MOUNT}/out")];
        let mut answer = self.call(&system, &format!("build_{kind}"), out())?;
        if answer.missing && self.request.editable {
            self.bench.reporter.report(crate::report::Event::Warning(format!(
                "project `{}` is installed as a copy: its build backend knows no installation in place",
                self.label
            )));
            answer = self.call(&system, "build_wheel", out())?;
        }
        let file = answer.value.as_str().map(ToOwned::to_owned).filter(|it| !it.contains('/'));
        let file = file.ok_or_else(|| self.failed("its build backend names no wheel"))?;
        let path = self.dir.join("lent/out").join(&file);
        let (digest, _) = fetch::adopt(self.bench.store, &path, &file).map_err(ProjectError::from)?;
        let wheel = Wheel::open(&path, &file).map_err(ProjectError::from)?;
        let metadata = wheel.metadata("METADATA").map_err(ProjectError::from)?;
        let fields = |name: &str| -> Vec<String> {
            let header = metadata.lines().take_while(|it| !it.is_empty());
            let value = |line: &str| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            header.filter_map(value).collect()
        };
        Ok(BuiltProject {
            name: normalise(&fields("Name").concat()),
            version: fields("Version").concat(),
            wheel: digest,
            file,
            requires: fields("Requires-Dist"),
            added: if self.request.editable { self.added()? } else { BTreeMap::new() },
        })
    }

    fn failed(&self, words: impl Into<String>) -> ProjectError {
        ProjectError::Failed { path: self.label.to_owned(), words: words.into() }
    }

    /// Unpacks the wheels of the backend and of what it needs into one directory.
    fn lend_tools(&self, requires: &[String]) -> Result<(), Failure> {
        let tools = self.dir.join("lent/tools");
        let minor: Vec<&str> = self.bench.version.split('.').take(2).collect();
        let target = Target { root: format!("{MOUNT}/tools"), python: minor.join(".") };
        let site = format!("{}/", target.site_packages());
        for (digest, file) in (self.bench.tools)(requires)? {
            let wheel = Wheel::open(&self.bench.store.blob_path(&digest), &file).map_err(ProjectError::from)?;
            for (path, file) in install(&wheel, &target).map_err(ProjectError::from)? {
                let Some(path) = path.strip_prefix(&site).map(|it| tools.join(it)) else { continue };
                let bytes = match file.content {
                    Content::Bytes(bytes) => bytes,
                    Content::Entry(index) => {
                        let archive = wheel.archive();
                        archive.read(&archive.entries()[index], LARGEST).map_err(WheelError::from)?
                    }
                };
                fs::create_dir_all(crate::fs::parent_of(&path)).map_err(ProjectError::Files)?;
                fs::write(&path, bytes).map_err(ProjectError::Files)?;
            }
        }
        Ok(())
    }

    fn call(&self, system: &BuildSystem, hook: &str, arguments: Vec<String>) -> Result<Answer, Failure> {
        let source = match self.request.path.as_str() {
            "" => launch::CODE.to_owned(),
            path => format!("{}/{path}", launch::CODE),
        };
        let own = system.backend_path.iter().map(|it| format!("{source}/{it}"));
        let call = Call {
            path: own.chain([format!("{MOUNT}/tools")]).collect(),
            source: source.clone(),
            backend: &system.backend,
            hook,
            arguments,
            answer: format!("{MOUNT}/answer.json"),
        };
        let lent = self.dir.join("lent");
        let text = serde_json::to_vec(&call).map_err(|it| self.failed(it.to_string()))?;
        fs::write(lent.join("call.json"), text).map_err(ProjectError::Files)?;
        let arguments =
            [self.bench.executable, "-I", "-B", &format!("{MOUNT}/build.py"), &format!("{MOUNT}/call.json")];
        let mut step = Step::new(format!("build of {}", self.label), &arguments)
            .bind(&lent, MOUNT, true)
            .bind(&self.dir.join("code"), launch::CODE, true)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("PYTHONHASHSEED", "0")
            // There is no .git to read a version from.
            .env("SETUPTOOLS_SCM_PRETEND_VERSION", "0.0.0")
            .env("PBR_VERSION", "0.0.0");
        step.changes = Changes::Dropped;
        let output = (self.bench.run)(&step)?;
        if output.code != 0 {
            return Err(self.failed(output.last_words()).into());
        }
        let answer = open_below(&lent, "answer.json").and_then(std::io::read_to_string).map_err(ProjectError::Files)?;
        Ok(serde_json::from_str(&answer).map_err(|it| self.failed(it.to_string()))?)
    }

    /// What the build left beside the sources; into the store.
    fn added(&self) -> Result<BTreeMap<String, (Digest, bool)>, Failure> {
        let root = self.dir.join("code");
        let mut added = BTreeMap::new();
        let mut left = vec![root.join(&self.request.path)];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).map_err(ProjectError::Files)? {
                let path = entry.map_err(ProjectError::Files)?.path();
                let Some(name) = path.file_name().and_then(|it| it.to_str()) else { continue };
                let metadata = fs::symlink_metadata(&path).map_err(ProjectError::Files)?;
                if metadata.is_dir() && !RUBBISH.contains(&name) && !name.ends_with(".egg-info") {
                    left.push(path);
                } else if metadata.is_file()
                    && let Some(inner) = path.strip_prefix(&root).ok().and_then(|it| it.to_str())
                {
                    // The build may have put a link where a directory was.
                    let mut bytes = Vec::new();
                    let mut file = open_below(&root, inner).map_err(ProjectError::Files)?;
                    file.read_to_end(&mut bytes).map_err(ProjectError::Files)?;
                    let known = self.bench.checkout.get(inner).filter(|it| it.mode != Mode::Symlink);
                    if known.is_none_or(|it| it.digest != Digest::of(&bytes)) {
                        let (digest, _) = self.bench.store.put_bytes(&bytes)?;
                        added.insert(inner.to_owned(), (digest, metadata.permissions().mode() & 0o111 != 0));
                    }
                }
            }
        }
        Ok(added)
    }
}

/// `[build-system]`, with what stands for one that is not there.
#[derive(Debug, PartialEq, Eq)]
struct BuildSystem {
    requires: Vec<String>,
    backend: String,
    backend_path: Vec<String>,
}

impl BuildSystem {
    fn of(pyproject: &toml::Table) -> Self {
        let table = pyproject.get("build-system").and_then(toml::Value::as_table);
        let list = |key: &str| table.and_then(|it| it.get(key)).map(texts);
        let backend = table.and_then(|it| it.get("build-backend")).and_then(toml::Value::as_str);
        Self {
            requires: list("requires").unwrap_or_else(|| vec!["setuptools>=40.8.0".to_owned()]),
            backend: backend.unwrap_or("setuptools.build_meta:__legacy__").to_owned(),
            backend_path: list("backend-path").unwrap_or_default(),
        }
    }
}

fn texts(value: &toml::Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

fn pyproject(checkout: &Checkout, directory: &str) -> Result<toml::Table, ProjectError> {
    let path = if directory.is_empty() { "pyproject.toml".to_owned() } else { format!("{directory}/pyproject.toml") };
    let text = checkout.text(&path)?.unwrap_or_default();
    text.parse().map_err(|error: toml::de::Error| ProjectError::Unreadable { path, reason: error.message().to_owned() })
}

/// Name and requirements, where `[project]` says both and nothing of them is dynamic.
fn static_metadata(pyproject: &toml::Table) -> Option<(String, Vec<String>)> {
    let project = pyproject.get("project")?.as_table()?;
    let dynamic = project.get("dynamic").map(texts).unwrap_or_default();
    if dynamic.iter().any(|it| ["dependencies", "optional-dependencies"].contains(&it.as_str())) {
        return None;
    }
    let mut requires = project.get("dependencies").map(texts).unwrap_or_default();
    let optional = project.get("optional-dependencies").and_then(toml::Value::as_table);
    for (extra, lines) in optional.into_iter().flatten() {
        for line in texts(lines) {
            let (line, marker) = line.split_once(';').map_or((line.as_str(), None), |(a, b)| (a, Some(b.trim())));
            // A direct address ends at blank and semicolon.
            let line = line.trim();
            let extra = normalise(extra);
            requires.push(match marker {
                Some(marker) => format!("{line} ; ({marker}) and extra == '{extra}'"),
                None => format!("{line} ; extra == '{extra}'"),
            });
        }
    }
    Some((normalise(project.get("name")?.as_str()?), requires))
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

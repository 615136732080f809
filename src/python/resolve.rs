//! Requirements to pinned wheels, by uv: for the base's Python, C library and machine, with builds disabled.
//!
//! What the base already has is offered as stand-ins ([`super::stub`]) and preferred. When the base has everything that
//! is named, the first attempt asks no index at all. uv writes `pylock.toml`; which of a package's wheels is installed
//! is decided here, by tags.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fs_err as fs;
use url::Url;

use super::indexes::Indexes;
use super::inspect::Installed;
use super::name::normalise;
use super::pylock::{self, Package};
use super::stub;
use super::tags::{Libc, Tags, machine};
use super::uv::{PATIENCE, Uv};
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::http;
use crate::process::{self, RunError};
use crate::secret::mask_userinfo;
use crate::store::{Store, StoreError};

/// The C library versions (glibc 2.x) that uv has a platform for.
const MINORS: [u16; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];

/// Where interpreters lie that are no shims.
const PLAIN: [&str; 2] = ["/usr/bin/python3", "/usr/local/bin/python3"];

/// The digests that files of a distribution may have, by normalised name; where a name is not here, any.
pub type Hashes = BTreeMap<String, BTreeSet<Digest>>;

/// No distribution's files are bound.
pub static NO_HASHES: Hashes = BTreeMap::new();

/// What is to be resolved.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Requirements (PEP 508), one each.
    pub requirements: &'a [String],
    /// Constraints (PEP 508), one each.
    pub constraints: &'a [String],
    /// Full version of the interpreter.
    pub python: &'a str,
    /// C library.
    pub libc: Libc,
    /// OCI architecture, `amd64`.
    pub architecture: &'a str,
    /// Distributions of the base that may satisfy requirements.
    pub base: &'a [Installed],
    /// Indexes.
    pub indexes: &'a Indexes,
    /// A directory of further wheels: those that were built.
    pub links: Option<&'a Path>,
    /// Whether what a distribution needs is left out.
    pub no_deps: bool,
    /// Which files of a distribution may be taken.
    pub hashes: &'a Hashes,
    /// The distribution whose sdist is wanted rather than a wheel; then `no_deps` must be set, so that nobody has to
    /// know what the sdist requires, which might take a build.
    pub source: Option<&'a str>,
    /// Where PyTorch comes from, `cu126` or `cpu`; `None` treats it like any other package.
    pub torch: Option<&'a str>,
}

impl Request<'_> {
    /// Major and minor version of the interpreter.
    #[must_use]
    pub fn minor(&self) -> (u16, u16) {
        let mut numbers = self.python.split('.').map(|it| it.parse().unwrap_or(0));
        (numbers.next().unwrap_or(3), numbers.next().unwrap_or(0))
    }
}

/// A wheel of a resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Pinned {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// File name.
    pub file: String,
    /// Where it lies.
    pub url: Url,
    /// Bytes, where the index says.
    pub size: Option<u64>,
    /// SHA-256, where the index says.
    pub sha256: Option<Digest>,
}

/// What fulfils a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolution {
    /// Wheels to install, by name.
    pub wheels: Vec<Pinned>,
    /// Distributions of the base that are used, by name.
    pub base: Vec<Installed>,
}

/// Why there is no resolution.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The requirements cannot be had together.
    #[error("the requirements cannot be satisfied\n{reason}")]
    Unsatisfiable {
        /// uv's own words.
        reason: String,
        /// Packages that have no wheel for this Python, only sources.
        unbuilt: Vec<String>,
    },
    /// An index does not answer.
    #[error("the package index does not answer\n{reason}")]
    Unreachable {
        /// uv's own words.
        reason: String,
    },
    /// An index would have to be asked, and none may be.
    #[error("the requirements would have to be resolved, and nothing is fetched here\n{reason}")]
    Offline {
        /// uv's own words.
        reason: String,
    },
    /// uv failed.
    #[error("uv failed\n{reason}")]
    Failed {
        /// uv's own words.
        reason: String,
    },
    /// What uv wrote cannot be used.
    #[error("uv's answer cannot be used: {reason}")]
    Answer {
        /// What is wrong.
        reason: String,
    },
    /// A line that would be more to uv than a requirement.
    #[error("`{line}` is not a requirement")]
    Line {
        /// The line, without credentials.
        line: String,
    },
    /// uv has no platform for the base.
    #[error("there are no wheels for `{libc}` on `{architecture}`")]
    Platform {
        /// C library.
        libc: String,
        /// Architecture.
        architecture: String,
    },
    /// uv cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Files in between cannot be written or read.
    #[error("cannot prepare the resolution")]
    Io(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for ResolveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unsatisfiable { .. } | Self::Platform { .. } => Kind::Unsatisfiable,
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Offline { .. } => Kind::NotFound,
            Self::Failed { .. } => Kind::System,
            Self::Answer { .. } => Kind::Internal,
            Self::Line { .. } => Kind::Input,
            Self::Run(error) => error.kind(),
            Self::Io(error) => Kind::of_io(error),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unsatisfiable { unbuilt, .. } if !unbuilt.is_empty() => {
                vec![format!(
                    "Only sources exist for {}: ask for a version that has a wheel for this Python.",
                    unbuilt.join(", ")
                )]
            }
            Self::Unsatisfiable { .. } => {
                vec![
                    "Change the requirement that uv names, or the base image's Python (--docker, --python-version)."
                        .to_owned(),
                ]
            }
            Self::Unreachable { .. } => {
                vec!["Check the network and the index configured for uv or pip; SSL_CERT_FILE names further authorities.".to_owned()]
            }
            Self::Offline { .. } => vec![http::OFFLINE_HINT.to_owned()],
            Self::Store(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// Resolves.
///
/// # Errors
/// [`ResolveError`]
pub fn resolve(uv: &Uv, store: &Store, request: &Request<'_>) -> Result<Resolution, ResolveError> {
    choose(packages(uv, store, request)?, request)
}

/// Resolves, without choosing among the files of a package.
///
/// # Errors
/// [`ResolveError`]
pub fn packages(uv: &Uv, store: &Store, request: &Request<'_>) -> Result<Vec<Package>, ResolveError> {
    if request.requirements.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(line) = request.requirements.iter().chain(request.constraints).find(|it| !is_requirement(it)) {
        return Err(ResolveError::Line { line: mask_userinfo(line).escape_debug().to_string() });
    }
    let platform = platform(request)?;
    let scratch = store.scratch()?;
    let dir = scratch.path();
    fs::create_dir(dir.join("stubs"))?;
    fs::write(dir.join("requirements.in"), lines(request.requirements))?;
    fs::write(dir.join("constraints.txt"), lines(request.constraints))?;
    stub::write(&dir.join("stubs"), request.base, &best_tag(request))?;
    let run = |offline: bool| -> Result<Vec<Package>, ResolveError> {
        let answer = dir.join("pylock.toml");
        if request.base.is_empty() {
            remove(&answer)?;
        } else {
            fs::write(&answer, stub::preferences(request.base))?;
        }
        compile(uv, request, dir, &platform, offline)?;
        let text = fs::read_to_string(dir.join("pylock.toml"))?;
        pylock::parse(&text, dir).map_err(|reason| ResolveError::Answer { reason })
    };
    if base_has_all_names(request)
        && let Ok(packages) = run(true)
    {
        return Ok(packages);
    }
    run(false)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a line is one requirement to uv and nothing else, wherever it comes from: no option, no path, no second line,
/// and nothing that uv would replace by a variable of its environment.
fn is_requirement(line: &str) -> bool {
    line.trim_start().starts_with(|it: char| it.is_ascii_alphanumeric())
        && !line.trim_start().starts_with("file:")
        && !line.contains(['\n', '\r'])
        && !line.contains("${")
}

fn lines(items: &[String]) -> String {
    items.iter().map(|it| format!("{it}\n")).collect()
}

/// uv's name for the base's platform: the newest it knows that is not newer than the base.
fn platform(request: &Request<'_>) -> Result<String, ResolveError> {
    let unknown =
        || ResolveError::Platform { libc: request.libc.to_string(), architecture: request.architecture.to_owned() };
    let machine = machine(request.architecture);
    if !matches!(machine, "x86_64" | "aarch64") {
        return Err(unknown());
    }
    match request.libc {
        Libc::Musl(..) => Ok(format!("{machine}-unknown-linux-musl")),
        Libc::Glibc(2, minor) => {
            let known = MINORS.iter().rev().find(|it| **it <= minor).ok_or_else(unknown)?;
            Ok(format!("{machine}-manylinux_2_{known}"))
        }
        Libc::Glibc(..) => Err(unknown()),
    }
}

/// The tag that uv prefers to all others for that platform.
fn best_tag(request: &Request<'_>) -> String {
    let (major, minor) = request.minor();
    let machine = machine(request.architecture);
    let platform = match request.libc {
        Libc::Musl(..) => format!("musllinux_1_2_{machine}"),
        Libc::Glibc(_, libc) => {
            let known = MINORS.iter().rev().find(|it| **it <= libc).copied().unwrap_or(17);
            format!("manylinux_2_{known}_{machine}")
        }
    };
    format!("cp{major}{minor}-cp{major}{minor}-{platform}")
}

fn base_has_all_names(request: &Request<'_>) -> bool {
    request.requirements.iter().all(|line| {
        let end = line.find(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
        let name = normalise(&line[..end]);
        request.base.iter().any(|it| it.name == name)
    })
}

fn compile(uv: &Uv, request: &Request<'_>, dir: &Path, platform: &str, offline: bool) -> Result<(), ResolveError> {
    let mut command = uv.command();
    let stubs = dir.join("stubs");
    let stubs = (!request.base.is_empty()).then_some(stubs.as_path());
    let links: Vec<&Path> = request.links.into_iter().chain(stubs).collect();
    command.envs(request.indexes.environment(&links).iter().map(|(name, value)| (name, value.reveal())));
    command
        .args(["pip", "compile", "requirements.in", "--constraints", "constraints.txt"])
        .args(["--format", "pylock.toml", "--output-file", "pylock.toml", "--quiet", "--no-header"])
        .args(["--no-sources", "--no-python-downloads", "--color", "never"])
        .args(["--python-version", request.python, "--python-platform", platform])
        .current_dir(dir);
    // It wants an interpreter, though it resolves for another one. Those on PATH may be shims, asked anew each time.
    if let Some(plain) = PLAIN.into_iter().find(|it| Path::new(it).exists()) {
        command.args(["--python", plain]);
    }
    match request.source {
        Some(name) => command.args(["--no-deps", "--no-binary", name]),
        None => command.args(["--only-binary", ":all:"]),
    };
    if request.no_deps && request.source.is_none() {
        command.arg("--no-deps");
    }
    if offline {
        command.args(["--offline", "--no-index"]);
    } else if let Some(backend) = request.torch {
        command.args(["--torch-backend", backend]);
    }
    let output = process::run(&mut command, PATIENCE)?;
    if output.status.success() { Ok(()) } else { Err(explain(&output.errors())) }
}

/// What uv's words mean.
fn explain(stderr: &str) -> ResolveError {
    let reason = mask_userinfo(stderr.trim().trim_start_matches("error: "));
    if http::is_offline() && ["network was disabled", "connectivity is disabled"].iter().any(|it| reason.contains(it)) {
        return ResolveError::Offline { reason };
    }
    if reason.contains("No solution found") || reason.contains("was not found in the package registry") {
        let hint = "Wheels are required for `";
        let mut unbuilt: Vec<String> =
            reason.split(hint).skip(1).filter_map(|it| it.split('`').next()).map(str::to_owned).collect();
        unbuilt.sort();
        unbuilt.dedup();
        return ResolveError::Unsatisfiable { reason, unbuilt };
    }
    if ["Failed to fetch", "error sending request", "Could not connect", "Network connectivity"]
        .iter()
        .any(|it| reason.contains(it))
    {
        return ResolveError::Unreachable { reason };
    }
    ResolveError::Failed { reason }
}

/// Of every package the wheel the interpreter prefers, or the base's own.
fn choose(packages: Vec<Package>, request: &Request<'_>) -> Result<Resolution, ResolveError> {
    let tags = Tags::new(request.minor(), request.libc, request.architecture);
    let mut resolution = Resolution::default();
    for package in packages {
        let version = package.version.clone().unwrap_or_default();
        let in_base = request.base.iter().find(|it| it.name == package.name && it.version == version);
        if let Some(it) = in_base {
            resolution.base.push(it.clone());
            continue;
        }
        // One whose digest the index does not say is taken, fetched and looked at then.
        let allowed = request.hashes.get(&package.name);
        let may = |it: &&pylock::File| allowed.zip(it.sha256).is_none_or(|(allowed, sha256)| allowed.contains(&sha256));
        let best = tags.best(package.wheels.iter().filter(may).map(|it| (it.name.as_str(), it)));
        let Some(file) = best else {
            let one = if allowed.is_some() { "wheel of the digests asked for" } else { "wheel" };
            let reason =
                format!("{} {version} has no {one} for Python {} and {}", package.name, request.python, request.libc);
            return Err(ResolveError::Unsatisfiable { reason, unbuilt: vec![package.name] });
        };
        resolution.wheels.push(Pinned {
            name: package.name,
            version,
            file: file.name.clone(),
            url: file.url.clone(),
            size: file.size,
            sha256: file.sha256,
        });
    }
    Ok(resolution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Member, wheel_members, write_wheel};
    use crate::report::silent;

    fn installed(name: &str, version: &str) -> Installed {
        Installed {
            name: name.to_owned(),
            version: version.to_owned(),
            location: "/usr/lib/python3/dist-packages".to_owned(),
            requires: Vec::new(),
            extras: Vec::new(),
        }
    }

    /// A directory of wheels as the only index.
    struct Place {
        _dir: tempfile::TempDir,
        store: Store,
        uv: Uv,
        indexes: Indexes,
    }

    impl Place {
        fn with(wheels: &[(&str, &str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let links = dir.path().join("links");
            fs::create_dir(&links).unwrap();
            for (name, version, requires) in wheels {
                let mut members = wheel_members(name, version, vec![Member::new(&format!("{name}.py"), "")]);
                let metadata = members.iter_mut().find(|it| it.name.ends_with("METADATA")).unwrap();
                metadata.content.extend(requires.bytes());
                write_wheel(&links, name, version, &members);
            }
            let store = Store::open(&dir.path().join("store")).unwrap();
            let shared = Store::open(&Store::default_path()).unwrap();
            let uv = Uv::find(&shared, &silent()).unwrap();
            let links = links.display().to_string();
            let indexes = Indexes::of_machine(&|name| match name {
                "PIP_FIND_LINKS" => Some(links.clone()),
                "PIP_NO_INDEX" => Some("1".to_owned()),
                _ => None,
            });
            Self { _dir: dir, store, uv, indexes }
        }

        fn resolve(&self, requirements: &[&str], base: &[Installed]) -> Result<Resolution, ResolveError> {
            let requirements: Vec<String> = requirements.iter().map(|it| (*it).to_owned()).collect();
            let request = Request {
                requirements: &requirements,
                constraints: &[],
                python: "3.11.2",
                libc: Libc::Glibc(2, 36),
                architecture: "amd64",
                base,
                indexes: &self.indexes,
                links: None,
                no_deps: false,
                hashes: &NO_HASHES,
                source: None,
                torch: None,
            };
            resolve(&self.uv, &self.store, &request)
        }
    }

    fn names(resolution: &Resolution) -> Vec<String> {
        resolution.wheels.iter().map(|it| format!("{} {}", it.name, it.version)).collect()
    }

    #[test]
    fn requirements_become_wheels_with_their_needs() {
        let place =
            Place::with(&[("alpha", "1.0", "Requires-Dist: beta>=2\n"), ("beta", "2.5", ""), ("beta", "1.0", "")]);
        let resolution = place.resolve(&["alpha", "beta; python_version > '3.12'"], &[]).unwrap();
        assert_eq!(names(&resolution), ["alpha 1.0", "beta 2.5"]);
        assert!(resolution.wheels[0].sha256.is_some());
        assert!(place.indexes.is_machines_own(&resolution.wheels[0].url));
    }

    #[test]
    fn what_the_base_has_is_used_even_where_no_index_knows_it() {
        let place = Place::with(&[("alpha", "1.0", "Requires-Dist: torch\n"), ("numpy", "2.0", "")]);
        let base = [installed("numpy", "1.26.4"), installed("torch", "2.6.0a0+ecf3bae40a.nv25.1")];
        let resolution = place.resolve(&["torch>=2", "alpha", "numpy"], &base).unwrap();
        assert_eq!(names(&resolution), ["alpha 1.0"]);
        assert_eq!(resolution.base, [base[0].clone(), base[1].clone()]);
        let resolution = place.resolve(&["numpy>=2"], &base).unwrap();
        assert_eq!((names(&resolution), resolution.base.len()), (vec!["numpy 2.0".to_owned()], 0));
    }

    #[test]
    fn a_base_that_has_everything_needs_no_index() {
        let mut place = Place::with(&[]);
        place.indexes =
            Indexes::of_machine(&|name| (name == "PIP_INDEX_URL").then(|| "http://127.0.0.1:9/simple".to_owned()));
        let base = [installed("torch", "2.6.0a0+ecf3bae40a.nv25.1")];
        let resolution = place.resolve(&["torch==2.6.0a0+ecf3bae40a.nv25.1"], &base).unwrap();
        assert_eq!((resolution.wheels.len(), resolution.base.len()), (0, 1));
    }

    #[test]
    fn nothing_but_requirements_reaches_uv() {
        let place = Place::with(&[("alpha", "1.0", "")]);
        for line in [
            "-e /srv/project",
            "alpha\n-r /etc/passwd",
            "alpha\r-e /srv/project",
            "./project",
            "file:///srv/alpha-1.0-py3-none-any.whl",
            "alpha @ https://h.example/${UV_INDEX}/alpha-1.0-py3-none-any.whl",
        ] {
            let error = place.resolve(&[line], &[]).unwrap_err();
            assert!(matches!(error, ResolveError::Line { .. }), "{line}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_satisfied_keeps_uvs_reason() {
        let place = Place::with(&[("alpha", "1.0", "Requires-Dist: beta>=2\n"), ("beta", "1.0", "")]);
        let error = place.resolve(&["alpha"], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        let text = error.to_string();
        assert!(text.contains("beta>=2") && text.contains("alpha"), "{text}");
    }
}

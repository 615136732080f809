//! The lock's Python part: from gathered requirements to wheels pinned by digest ([`resolve`]), and those wheels into
//! the store ([`fetch_wheels`], [`rebuild`]).
//!
//! A resolution is remembered by everything it depends on (requirements, indexes, interpreter, the base's own
//! distributions) for as long as the caller says. A wheel from an index of this machine's own configuration is locked
//! without an address; where such a wheel is missing, its name and version are resolved again and its digest decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::requirements::Gathered;
use super::{BaseDistribution, Distribution, PythonPart, Tool};
use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Failure, Kind};
use crate::python::fetch::{self, FetchError, Wanted};
use crate::python::indexes::Indexes;
use crate::python::inspect::{Installed, Interpreter};
use crate::python::resolve::{Pinned, Request, ResolveError};
use crate::python::tags::Libc;
use crate::python::uv::{Uv, UvError};
use crate::report::SharedReporter;
use crate::secret::{split_userinfo, strip_userinfo};
use crate::store::{Store, StoreError, Table};

mod builds;
mod torch;
mod wheels;

pub use builds::{Building, must_rebuild, rebuild};
pub use torch::Torch;
pub use wheels::fetch_wheels;

use builds::Builds;
use torch::{backends, resolve_torch};

/// Names how resolutions are remembered.
const MEMORY: u32 = 3;

/// What the environment is made for.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The interpreter.
    pub interpreter: &'a Interpreter,
    /// C library, `glibc 2.36`.
    pub libc: &'a str,
    /// OCI architecture, `amd64`.
    pub architecture: &'a str,
    /// Distributions of the interpreter; used unless `isolated`.
    pub installed: &'a [Installed],
    /// Whether the environment sees none of them.
    pub isolated: bool,
}

/// How long resolutions are remembered.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Seconds since the epoch.
    pub now: u64,
    /// Seconds; 0 asks anew.
    pub max_age: u64,
}

/// Why the part cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// There is no uv.
    #[error(transparent)]
    Uv(#[from] UvError),
    /// There is no resolution.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A wheel cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The base's C library is none we know.
    #[error("the base's C library `{0}` is not known")]
    Libc(String),
    /// What has no wheel, and no sandbox to build it in.
    #[error("`{0}` must be built from source, and there is no sandbox for that")]
    Unbuilt(String),
    /// A wheel of the repository that is none.
    #[error("`{0}` of the repository cannot be read as a wheel")]
    Unread(String),
    /// A wheel that nobody asked for.
    #[error("`{file}` has digest {found}, which is none that is asked for")]
    Hash {
        /// Its file name.
        file: String,
        /// Its digest.
        found: Digest,
    },
    /// Downloads or files in between.
    #[error("cannot prepare downloads")]
    Runtime(#[source] std::io::Error),
}

impl Explain for PythonError {
    fn kind(&self) -> Kind {
        match self {
            Self::Uv(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::Fetch(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Libc(_) | Self::Unbuilt(_) => Kind::Unsatisfiable,
            Self::Hash { .. } | Self::Unread(_) => Kind::Input,
            Self::Runtime(error) => Kind::of_io(error),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Uv(error) => error.hints(),
            Self::Resolve(error) => error.hints(),
            Self::Fetch(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Libc(_) => vec!["Choose a base with glibc or musl (--docker).".to_owned()],
            Self::Unbuilt(_) => vec!["Ask for a release that has a wheel.".to_owned()],
            Self::Hash { .. } => {
                vec![
                    "If the release was made anew, put its digest into the requirement (--hash) or lock file."
                        .to_owned(),
                ]
            }
            Self::Unread(_) | Self::Runtime(_) => Vec::new(),
        }
    }
}

/// What is remembered of a resolution.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    at: u64,
    uv: Tool,
    distributions: Vec<Distribution>,
    base: Vec<BaseDistribution>,
    /// What builds stood on.
    below: Option<Digest>,
}

impl Remembered {
    /// What was built on other ground does not count.
    fn stands_on(&self, below: Option<Digest>) -> bool {
        self.below == below || self.distributions.iter().all(|it| it.built_from.is_none())
    }
}

/// Resolves the Python part, and says which uv did; none where nothing was to be resolved. Projects are not its
/// business, and what needs a build is an error. Blocks; not for a thread of an async runtime.
///
/// # Errors
/// [`PythonError`]
pub fn resolve(
    store: &Store,
    asked: (&Ground<'_>, &Gathered),
    places: (&Indexes, Torch),
    memory: Memory,
    reporter: &SharedReporter,
) -> Result<(PythonPart, Option<Tool>), Failure> {
    resolve_building((store, None), asked, places, memory, reporter)
}

/// The same, building what has no wheel.
///
/// # Errors
/// [`PythonError`], or whatever building gives.
pub fn resolve_building(
    (store, building): (&Store, Option<Building<'_>>),
    (ground, gathered): (&Ground<'_>, &Gathered),
    (indexes, torch): (&Indexes, Torch),
    memory: Memory,
    reporter: &SharedReporter,
) -> Result<(PythonPart, Option<Tool>), Failure> {
    let mut part = PythonPart {
        version: ground.interpreter.version.clone(),
        executable: ground.interpreter.executable.clone(),
        libc: ground.libc.to_owned(),
        digest: ground.interpreter.digest,
        site_packages: !ground.isolated,
        extra_paths: if ground.isolated { Vec::new() } else { ground.interpreter.extra_paths.clone() },
        indexes: gathered.indexes.iter().map(|it| strip_userinfo(it.reveal())).collect(),
        distributions: Vec::new(),
        base_distributions: Vec::new(),
        projects: Vec::new(),
    };
    if gathered.requirements.is_empty() && gathered.builds.is_empty() && gathered.wheels.is_empty() {
        return Ok((part, None));
    }
    let key = memory_key(ground, gathered, indexes, torch);
    let remembered: Option<Remembered> = store.record(Table::Resolutions, &key);
    let below = building.map(|it| it.0.below);
    let is_young = |it: &Remembered| memory.now.saturating_sub(it.at) < memory.max_age;
    let found = match remembered.filter(|it| is_young(it) && it.stands_on(below)) {
        Some(found) => found,
        None => {
            let found = resolve_anew((store, building), (ground, gathered), (indexes, torch), memory.now, reporter)?;
            store.remember(Table::Resolutions, &key, &found)?;
            found
        }
    };
    part.distributions = found.distributions;
    let direct = gathered.direct();
    // Archives of sources are asked for by address wherever they are no requirement's answer.
    let archive = |it: &Distribution| it.built_from.as_ref().is_some_and(|it| it.requirement.contains("://"));
    part.distributions.iter_mut().for_each(|it| it.direct = direct.contains(&it.name) || archive(it));
    part.base_distributions = found.base;
    Ok((part, Some(found.uv)))
}

fn resolve_anew(
    (store, building): (&Store, Option<Building<'_>>),
    (ground, gathered): (&Ground<'_>, &Gathered),
    (indexes, torch): (&Indexes, Torch),
    now: u64,
    reporter: &SharedReporter,
) -> Result<Remembered, Failure> {
    let uv = Uv::find(store, reporter)?;
    reporter.started("resolve", "Python requirements");
    let installed = if ground.isolated { &[][..] } else { ground.installed };
    let links = store.scratch()?;
    let hashes = gathered.hashes.clone();
    let mut builds = Builds { store, building, links: links.path(), built: Vec::new(), hashes };
    let mut requirements = gathered.requirements.clone();
    for asked in &gathered.builds {
        requirements.push(builds.named(asked)?);
    }
    for wheel in &gathered.wheels {
        requirements.push(builds.here(wheel)?);
    }
    let backends = backends(gathered, torch, installed);
    let resolution = loop {
        let request = Request {
            requirements: &requirements,
            constraints: &gathered.constraints,
            python: &ground.interpreter.version,
            libc: Libc::parse(ground.libc).ok_or_else(|| PythonError::Libc(ground.libc.to_owned()))?,
            architecture: ground.architecture,
            base: installed,
            indexes,
            links: Some(links.path()),
            no_deps: gathered.exact,
            hashes: &builds.hashes,
            source: None,
            torch: None,
        };
        match resolve_torch(store, &uv, &request, &backends, reporter) {
            Ok(resolution) => break resolution,
            Err(error) => builds.supply(error, &requirements)?,
        }
    };
    let mut distributions = pin(store, indexes, &resolution.wheels, reporter)?;
    for it in &mut distributions {
        it.built_from = builds.origin(&it.sha256);
        let of_repository = gathered.wheels.iter().find(|wheel| wheel.digest == Some(it.sha256));
        it.path = of_repository.map(|it| it.path.clone());
        if builds.hashes.get(&it.name).is_some_and(|allowed| !allowed.contains(&it.sha256)) {
            return Err(PythonError::Hash { file: it.file.clone(), found: it.sha256 }.into());
        }
    }
    let base: Vec<BaseDistribution> = resolution.base.iter().map(base_distribution).collect();
    let outcome = format!("{} distributions, {} of the base", distributions.len(), base.len());
    reporter.finished("resolve", outcome);
    Ok(Remembered {
        at: now,
        uv: Tool { version: uv.version, sha256: uv.sha256 },
        distributions,
        base,
        below: building.map(|it| it.0.below),
    })
}

/// The name that a requirement begins with.
fn name_of(line: &str) -> &str {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    &line[..end]
}

fn base_distribution(it: &Installed) -> BaseDistribution {
    BaseDistribution { name: it.name.clone(), version: it.version.clone(), location: it.location.clone() }
}

/// Pins wheels by digest and size; those of which the index says neither are fetched for it.
fn pin(
    store: &Store,
    indexes: &Indexes,
    wheels: &[Pinned],
    reporter: &SharedReporter,
) -> Result<Vec<Distribution>, PythonError> {
    let is_known = |it: &&Pinned| it.sha256.is_some() && it.size.is_some();
    let unknown: Vec<&Pinned> = wheels.iter().filter(|it| !is_known(it)).collect();
    let fetched = if unknown.is_empty() {
        Vec::new()
    } else {
        let wanted = unknown.iter().map(|it| wanted_of(it)).collect();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PythonError::Runtime)?;
        runtime.block_on(fetch::fetch(store, indexes, wanted, reporter))?
    };
    let fetched: BTreeMap<&str, (Digest, u64)> = unknown.iter().map(|it| it.name.as_str()).zip(fetched).collect();
    let mut distributions = Vec::new();
    for it in wheels {
        let known = it.sha256.zip(it.size).or_else(|| fetched.get(it.name.as_str()).copied());
        let Some((sha256, size)) = known else { continue };
        let url = (!indexes.is_machines_own(&it.url)).then(|| split_userinfo(&it.url).0.to_string());
        distributions.push(Distribution {
            name: it.name.clone(),
            version: it.version.clone(),
            file: it.file.clone(),
            sha256,
            size,
            url,
            direct: false,
            built_from: None,
            path: None,
        });
    }
    distributions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(distributions)
}

fn wanted_of(it: &Pinned) -> Wanted {
    Wanted { file: it.file.clone(), url: split_userinfo(&it.url).0, sha256: it.sha256, size: it.size }
}

/// Everything a resolution depends on.
fn memory_key(ground: &Ground<'_>, gathered: &Gathered, indexes: &Indexes, torch: Torch) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("resolution").field(MEMORY.to_le_bytes());
    hasher.field(&ground.interpreter.version).field(ground.libc).field(ground.architecture);
    hasher.field(format!("{torch:?}"));
    let mut list = |items: &[String]| {
        hasher.field((items.len() as u64).to_le_bytes());
        for it in items {
            hasher.field(it);
        }
    };
    list(&gathered.requirements);
    list(&gathered.constraints);
    list(&gathered.builds.iter().map(|it| Digest::of(it.reveal()).to_string()).collect::<Vec<_>>());
    list(&indexes.fingerprint());
    list(&gathered.wheels.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>());
    list(&gathered.hashes.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>());
    list(&[gathered.exact.to_string()]);
    if !ground.isolated {
        let installed = ground.installed.iter();
        list(
            &installed
                .map(|it| format!("{} {} {} {:?}", it.name, it.version, it.location, it.requires))
                .collect::<Vec<_>>(),
        );
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Member, wheel_members, write_wheel};
    use crate::report::silent;

    fn gathered(requirements: &[&str]) -> Gathered {
        Gathered { requirements: requirements.iter().map(|it| (*it).to_owned()).collect(), ..Gathered::default() }
    }

    fn interpreter() -> Interpreter {
        Interpreter {
            version: "3.11.2".to_owned(),
            executable: "/usr/bin/python3.11".to_owned(),
            digest: Digest::of("python"),
            complete: true,
            paths: Vec::new(),
            extra_paths: Vec::new(),
        }
    }

    fn links(dir: &std::path::Path) -> Indexes {
        let dir = dir.display().to_string();
        Indexes::of_machine(&|name| match name {
            "PIP_FIND_LINKS" => Some(dir.clone()),
            "PIP_NO_INDEX" => Some("1".to_owned()),
            _ => None,
        })
    }

    #[tokio::test]
    async fn a_lock_pins_without_naming_this_machine_and_its_wheels_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("links");
        fs_err::create_dir(&place).unwrap();
        let members = wheel_members("alpha", "1.0", vec![Member::new("alpha.py", "")]);
        write_wheel(&place, "alpha", "1.0", &members);
        let store = Store::open(&dir.path().join("store")).unwrap();
        let indexes = links(&place);
        let (task_store, task_indexes) = (store.clone(), indexes.clone());
        let work = move |memory| {
            let interpreter = interpreter();
            let ground = Ground {
                interpreter: &interpreter,
                libc: "glibc 2.36",
                architecture: "amd64",
                installed: &[],
                isolated: true,
            };
            resolve(&task_store, (&ground, &gathered(&["alpha"])), (&task_indexes, Torch::Plain), memory, &silent())
        };
        let again = work.clone();
        let memory = |now| Memory { now, max_age: 100 };
        let (part, uv) = tokio::task::spawn_blocking(move || work(memory(1000))).await.unwrap().unwrap();
        assert!(uv.is_some());
        assert_eq!((part.distributions.len(), part.distributions[0].url.as_deref()), (1, None));
        assert!(!toml::to_string(&part).unwrap().contains(&dir.path().display().to_string()));
        // Another machine: nothing in the store, another directory.
        let other = dir.path().join("other");
        fs_err::rename(&place, &other).unwrap();
        let elsewhere = Store::open(&dir.path().join("elsewhere")).unwrap();
        fetch_wheels(&elsewhere, &part, (&links(&other), "amd64"), &silent()).await.unwrap();
        assert!(elsewhere.has(&part.distributions[0].sha256).is_some());
        // Remembered while young enough: the index is gone.
        let remembered = again.clone();
        let young = tokio::task::spawn_blocking(move || remembered(memory(1099))).await.unwrap().unwrap();
        assert_eq!(young.0, part);
        assert!(tokio::task::spawn_blocking(move || again(memory(1100))).await.unwrap().is_err());
        // Another file under that name is not what was locked.
        let changed = wheel_members("alpha", "1.0", vec![Member::new("alpha.py", "changed")]);
        write_wheel(&other, "alpha", "1.0", &changed);
        let third = Store::open(&dir.path().join("third")).unwrap();
        let error = fetch_wheels(&third, &part, (&links(&other), "amd64"), &silent()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

//! The lock's Python part: from gathered requirements to wheels pinned by digest; and those wheels into the store.
//!
//! A resolution is remembered by everything it depends on (requirements, indexes, interpreter, the base's own
//! distributions) for as long as the caller says. A wheel from an index of this machine's own configuration is locked
//! without an address; where such a wheel is missing, its name and version are resolved again and its digest decides.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use url::Url;

use super::requirements::Gathered;
use super::{BaseDistribution, BuiltFrom, Distribution, PythonPart, Tool};
use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Failure, Kind};
use crate::python::build::{self, Bench, Built, Git, Source};
use crate::python::fetch::{self, FetchError, Wanted};
use crate::python::indexes::Indexes;
use crate::python::inspect::{Installed, Interpreter};
use crate::python::name::normalise;
use crate::python::resolve::{self, Pinned, Request, Resolution, ResolveError};
use crate::python::tags::Libc;
use crate::python::uv::{Uv, UvError};
use crate::report::SharedReporter;
use crate::secret::{Secret, split_userinfo};
use crate::store::{Store, StoreError, Table};

/// Names how resolutions are remembered.
const MEMORY: u32 = 1;
/// The CUDA versions that PyTorch has or had an index for, newest first.
const CUDA: [u32; 18] = [132, 130, 129, 128, 126, 125, 124, 123, 122, 121, 120, 118, 117, 116, 115, 113, 111, 102];
/// How many CUDA versions are tried, from the base's down.
const CUDA_STEPS: usize = 6;
/// The distributions whose builds differ by CUDA version.
const TORCH: [&str; 5] = ["torch", "torchvision", "torchaudio", "torchcsprng", "torchtext"];

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

/// Which builds of PyTorch are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torch {
    /// Those of any other package: the index's own (`pytorch_resolve: none`).
    Plain,
    /// Those without CUDA.
    Cpu,
    /// Those for this CUDA version (10 × major + minor), or the newest below it.
    Cuda(u32),
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
            Self::Runtime(_) => Vec::new(),
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

/// The same, with a bench on which what has no wheel is built.
///
/// # Errors
/// [`PythonError`], [`build::BuildError`], or what the bench's own functions give.
pub fn resolve_building(
    (store, bench): (&Store, Option<&Bench<'_>>),
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
        distributions: Vec::new(),
        base_distributions: Vec::new(),
        projects: Vec::new(),
    };
    if gathered.requirements.is_empty() && gathered.builds.is_empty() {
        return Ok((part, None));
    }
    let key = memory_key(ground, gathered, indexes, torch);
    let remembered: Option<Remembered> = store.record(Table::Resolutions, &key);
    let found = match remembered.filter(|it| memory.now.saturating_sub(it.at) < memory.max_age) {
        Some(found) => found,
        None => {
            let found = resolve_anew((store, bench), (ground, gathered), (indexes, torch), memory.now, reporter)?;
            store.remember(Table::Resolutions, &key, &found)?;
            found
        }
    };
    part.distributions = found.distributions;
    part.base_distributions = found.base;
    Ok((part, Some(found.uv)))
}

fn resolve_anew(
    (store, bench): (&Store, Option<&Bench<'_>>),
    (ground, gathered): (&Ground<'_>, &Gathered),
    (indexes, torch): (&Indexes, Torch),
    now: u64,
    reporter: &SharedReporter,
) -> Result<Remembered, Failure> {
    let uv = Uv::find(store, reporter)?;
    reporter.started("resolve", "Python requirements");
    let installed = if ground.isolated { &[][..] } else { ground.installed };
    let links = store.scratch()?;
    let mut builds = Builds { store, bench, links: links.path(), built: Vec::new() };
    let mut requirements = gathered.requirements.clone();
    for asked in &gathered.builds {
        requirements.push(builds.named(asked)?);
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
            no_deps: false,
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
    }
    let base: Vec<BaseDistribution> = resolution.base.iter().map(base_distribution).collect();
    let outcome = format!("{} distributions, {} of the base", distributions.len(), base.len());
    reporter.finished("resolve", outcome);
    Ok(Remembered { at: now, uv: Tool { version: uv.version, sha256: uv.sha256 }, distributions, base })
}

/// What was built for a resolution.
struct Builds<'a> {
    store: &'a Store,
    bench: Option<&'a Bench<'a>>,
    /// Where the resolver finds it.
    links: &'a Path,
    built: Vec<Built>,
}

impl Builds<'_> {
    /// Builds what a requirement names by address: the requirement that the wheel fulfils.
    fn named(&mut self, asked: &Secret) -> Result<String, Failure> {
        let text = asked.reveal();
        let (head, address) = match text.split_once('@').filter(|it| !it.0.contains([':', '/'])) {
            Some((head, address)) if !text.starts_with("git@") => (head.trim(), address.trim()),
            _ => ("", text),
        };
        let (address, marker) = address.split_once(" ;").map_or((address, None), |it| (it.0.trim(), Some(it.1)));
        let source = match Git::parse(address) {
            Some(git) => Source::Git(git),
            None => Source::Archive(Secret::new(address)),
        };
        let built = self.build(&source)?;
        let extras = head.find('[').map_or("", |it| &head[it..]);
        let marker = marker.map(|it| format!(" ;{it}")).unwrap_or_default();
        Ok(format!("{}{extras}=={}{marker}", built.name, built.version))
    }

    /// Builds what a resolution lacked; its error where there is nothing to build.
    fn supply(&mut self, error: PythonError, requirements: &[String]) -> Result<(), Failure> {
        let unbuilt = match &error {
            PythonError::Resolve(ResolveError::Unsatisfiable { unbuilt, .. }) if self.bench.is_some() => {
                unbuilt.clone()
            }
            _ => return Err(error.into()),
        };
        let known = |name: &str| self.built.iter().any(|it| it.name == name);
        let fresh: Vec<String> = unbuilt.into_iter().map(|it| normalise(&it)).filter(|it| !known(it)).collect();
        if fresh.is_empty() {
            return Err(error.into());
        }
        for name in fresh {
            let asked = requirements.iter().find(|it| normalise(name_of(it)) == name);
            let asked = asked.map_or(name.as_str(), |it| it.split(';').next().unwrap_or(it).trim());
            self.build(&Source::Requirement(asked.to_owned()))?;
        }
        Ok(())
    }

    fn build(&mut self, source: &Source) -> Result<Built, Failure> {
        let Some(bench) = self.bench else { return Err(PythonError::Unbuilt(build::label(source)).into()) };
        let built = build::build(bench, source)?;
        fs_err::copy(self.store.blob_path(&built.wheel), self.links.join(&built.file)).map_err(PythonError::Runtime)?;
        self.built.push(built.clone());
        Ok(built)
    }

    fn origin(&self, wheel: &Digest) -> Option<BuiltFrom> {
        let it = self.built.iter().find(|it| it.wheel == *wheel)?;
        Some(BuiltFrom { requirement: it.requirement.clone(), source: it.source.clone(), sha256: it.sha256 })
    }
}

/// The name that a requirement begins with.
fn name_of(line: &str) -> &str {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    &line[..end]
}

fn base_distribution(it: &Installed) -> BaseDistribution {
    BaseDistribution { name: it.name.clone(), version: it.version.clone(), location: it.location.clone() }
}

/// Tries one build of PyTorch after the other.
fn resolve_torch(
    store: &Store,
    uv: &Uv,
    request: &Request<'_>,
    backends: &[Option<String>],
    reporter: &SharedReporter,
) -> Result<Resolution, PythonError> {
    let mut first: Option<ResolveError> = None;
    for (index, backend) in backends.iter().enumerate() {
        // When PyTorch's own index does not answer, only the ordinary one is left to ask.
        if matches!(first, Some(ResolveError::Unreachable { .. })) && backend.is_some() {
            continue;
        }
        match resolve::resolve(uv, store, &Request { torch: backend.as_deref(), ..*request }) {
            Ok(resolution) => {
                if index > 0 {
                    let wanted = backends[0].as_deref().unwrap_or("the index's own");
                    let got = backend.as_deref().unwrap_or("the index's own");
                    reporter.warning(format!("PyTorch: no build `{wanted}` fits, `{got}` is used"));
                }
                return Ok(resolution);
            }
            Err(error @ (ResolveError::Unsatisfiable { .. } | ResolveError::Unreachable { .. })) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match first {
        Some(error) => Err(error.into()),
        None => Ok(resolve::resolve(uv, store, request)?),
    }
}

/// The builds of PyTorch to try, best first.
fn backends(gathered: &Gathered, torch: Torch, installed: &[Installed]) -> Vec<Option<String>> {
    let named: Vec<(&str, String)> = gathered
        .requirements
        .iter()
        .map(|line| (line.as_str(), normalise(name_of(line))))
        .filter(|(_, name)| TORCH.contains(&name.as_str()))
        .collect();
    let in_base = named.iter().any(|(_, name)| installed.iter().any(|it| it.name == *name));
    // A task that names an index of its own knows where its PyTorch comes from.
    if named.is_empty() || in_base || !gathered.indexes.is_empty() {
        return vec![None];
    }
    // `torch==2.1.0+cu118` says it itself.
    let local = named
        .iter()
        .find_map(|(line, _)| line.split_once('+'))
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
    if let Some(local) = local {
        let known = local == "cpu" || CUDA.iter().any(|it| local == format!("cu{it}"));
        return vec![known.then_some(local)];
    }
    match torch {
        Torch::Plain => vec![None],
        Torch::Cpu => vec![Some("cpu".to_owned()), None],
        Torch::Cuda(version) => {
            let fitting = CUDA.iter().filter(|it| **it <= version).take(CUDA_STEPS);
            fitting.map(|it| Some(format!("cu{it}"))).chain([None]).collect()
        }
    }
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
            built_from: None,
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

/// Puts the wheels of a part into the store, checked; what is there already is not asked for.
///
/// # Errors
/// [`PythonError`]
pub async fn fetch_wheels(
    store: &Store,
    part: &PythonPart,
    (indexes, architecture): (&Indexes, &str),
    reporter: &SharedReporter,
) -> Result<(), PythonError> {
    let absent: Vec<Distribution> = part
        .distributions
        .iter()
        .filter(|it| store.has(&it.sha256).is_none() || !fetch::is_checked(store, &it.sha256))
        .cloned()
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let (nameless, mut wanted) = split(&absent, store);
    if !nameless.is_empty() {
        let (store, part, indexes, architecture, reporter) =
            (store.clone(), part.clone(), indexes.clone(), architecture.to_owned(), reporter.clone());
        let locating =
            tokio::task::spawn_blocking(move || locate(&store, &part, &nameless, (&indexes, &architecture), &reporter));
        let located = locating.await.map_err(|error| PythonError::Runtime(std::io::Error::other(error)))?;
        wanted.extend(located?);
    }
    fetch::fetch(store, indexes, wanted, reporter).await?;
    Ok(())
}

/// What has no address and what has.
fn split(absent: &[Distribution], store: &Store) -> (Vec<Distribution>, Vec<Wanted>) {
    let mut nameless = Vec::new();
    let mut wanted = Vec::new();
    for it in absent {
        // One that is in the store and only unchecked needs no address that answers.
        let local = store.has(&it.sha256).and_then(|_| Url::from_file_path(store.blob_path(&it.sha256)).ok());
        let url = it.url.as_deref().and_then(|it| Url::parse(it).ok()).or(local);
        match url {
            Some(url) => {
                wanted.push(Wanted { file: it.file.clone(), url, sha256: Some(it.sha256), size: Some(it.size) });
            }
            None => nameless.push(it.clone()),
        }
    }
    (nameless, wanted)
}

/// Finds wheels without an address at this machine's indexes, by name and version first and by digest then.
fn locate(
    store: &Store,
    part: &PythonPart,
    nameless: &[Distribution],
    (indexes, architecture): (&Indexes, &str),
    reporter: &SharedReporter,
) -> Result<Vec<Wanted>, PythonError> {
    let nowhere = |it: &Distribution| FetchError::Nowhere { file: it.file.clone(), sha256: it.sha256 };
    let uv = Uv::find(store, reporter)?;
    let requirements: Vec<String> = nameless.iter().map(|it| format!("{}=={}", it.name, it.version)).collect();
    let request = Request {
        requirements: &requirements,
        constraints: &[],
        python: &part.version,
        libc: Libc::parse(&part.libc).ok_or_else(|| PythonError::Libc(part.libc.clone()))?,
        architecture,
        base: &[],
        indexes,
        links: None,
        no_deps: true,
        torch: None,
    };
    let packages = match resolve::packages(&uv, store, &request) {
        Ok(packages) => packages,
        Err(ResolveError::Unsatisfiable { .. }) => return Err(nowhere(&nameless[0]).into()),
        Err(error) => return Err(error.into()),
    };
    let mut wanted = Vec::new();
    for it in nameless {
        let files = packages.iter().filter(|package| package.name == it.name).flat_map(|package| &package.wheels);
        let same = |file: &&crate::python::pylock::File| {
            file.sha256 == Some(it.sha256) || (file.sha256.is_none() && file.name == it.file)
        };
        let file = files.clone().find(same).ok_or_else(|| nowhere(it))?;
        wanted.push(Wanted {
            file: it.file.clone(),
            url: file.url.clone(),
            sha256: Some(it.sha256),
            size: Some(it.size),
        });
    }
    Ok(wanted)
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

    #[test]
    fn pytorch_comes_for_the_bases_cuda_unless_somebody_knows_better() {
        let torch = gathered(&["torch==2.1.0", "numpy"]);
        let some = |it: &str| Some(it.to_owned());
        let steps = backends(&torch, Torch::Cuda(124), &[]);
        assert_eq!(
            (steps[0].clone(), steps[1].clone(), steps.last().cloned()),
            (some("cu124"), some("cu123"), Some(None))
        );
        assert_eq!(backends(&torch, Torch::Cpu, &[]), [some("cpu"), None]);
        assert_eq!(backends(&torch, Torch::Plain, &[]), [None]);
        assert_eq!(backends(&gathered(&["torch==2.1.0+cu118"]), Torch::Cpu, &[]), [some("cu118")]);
        assert_eq!(backends(&gathered(&["numpy"]), Torch::Cpu, &[]), [None]);
        let own = Gathered { indexes: vec![crate::secret::Secret::new("https://h.example")], ..torch.clone() };
        assert_eq!(backends(&own, Torch::Cpu, &[]), [None]);
    }
}

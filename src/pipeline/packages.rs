//! Interpreter, system packages and distributions: what a base lacks of what a task needs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::Base;
use crate::digest::Digest;
use crate::error::{During, Explain, Failure, Kind};
use crate::git::Checkout;
use crate::lock::python::{self, Building, Ground, Memory, Torch};
use crate::lock::requirements::{self, Gathered, Manager};
use crate::lock::system::{Ask, InterpreterNeed, SystemRequest, SystemResolution, known};
use crate::lock::{Asked, BaseDistribution, Lock, PythonPart, SetupPart, SystemPart, Tool};
use crate::python::indexes::Indexes;
use crate::python::inspect::{Inspection, Installed, Interpreter};
use crate::python::lockfile::Place;
use crate::python::project::is_for;
use crate::secret::Secret;
use crate::task::Task;

use super::builds::Site;
use super::relock::{Code, Earlier, Floor};
use super::{Wishes, Workshop, base, projects};

/// What a task stands on.
pub(super) struct Below<'a> {
    pub(super) floor: &'a Floor,
    pub(super) code: &'a Code,
    pub(super) earlier: &'a Earlier,
}

/// The parts of a lock that are packages.
pub(super) struct Packages {
    pub(super) uv: Option<Tool>,
    pub(super) python: PythonPart,
    pub(super) system: Option<SystemPart>,
    /// What was asked for, complete.
    pub(super) asked: Asked,
}

/// No C library that we know, so no wheels either.
#[derive(Debug, thiserror::Error)]
#[error("the base image has neither glibc nor musl, so no Python can run on it")]
struct NoLibc;

impl Explain for NoLibc {
    fn kind(&self) -> Kind {
        Kind::Unsatisfiable
    }

    fn hints(&self) -> Vec<String> {
        vec!["Name another base image with --docker, such as recipe:debian-python or python:3.11.".to_owned()]
    }
}

/// Which requirements count, and where PyTorch comes from.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Whether the repository's files count even where the task has a list.
    pub repository_first: bool,
    /// Whether the user's list counts rather than the pinned one of a run.
    pub original: bool,
    /// The program whose lock file counts.
    pub manager: Option<Manager>,
    /// What `${NAME}` in requirements stands for.
    pub variables: BTreeMap<String, Secret>,
}

/// Chooses the interpreter, solves system packages and resolves distributions, save what stands.
pub(super) fn lock(shop: &Workshop, task: &Task, wishes: &Wishes<'_>, below: &Below<'_>) -> Result<Packages, Failure> {
    let reporter = &shop.around.reporter;
    let (standing, earlier) = (below.floor.standing, below.earlier.lock.as_ref());
    let mut asked = below.earlier.asked.clone();
    let setup = SetupPart::of(task);
    let mut stands = earlier.filter(|it| standing.interpreter && may_stand(it, below, setup.as_ref()));
    let mut gathered = None;
    if let Some(lock) = stands.filter(|_| !(standing.requirements && below.code.stands)) {
        let found = gather(shop, task, wishes, (below, &lock.python.version))?;
        let as_then = |it: &Asked| it.gathered.contains(&found.digest());
        stands = stands.filter(|it| it.asked.as_ref().is_some_and(as_then));
        gathered = Some((lock.python.version.clone(), found));
    }
    if let Some(lock) = stands {
        let system = if standing.system { lock.system.clone() } else { solve(shop, wishes, below, None)?.part };
        asked.stood(lock.asked.as_ref());
        let gathered = gathered.map(|it| it.1);
        asked.pinned_by(&lock.python, gathered.as_ref());
        gathered.iter().flat_map(|it| &it.notes).for_each(|it| reporter.note(it));
        return Ok(Packages { uv: lock.uv.clone(), python: lock.python.clone(), system, asked });
    }
    let (mut packages, found) = resolve(shop, task, wishes, (below, gathered))?;
    asked.pinned_by(&packages.python, Some(&found));
    packages.asked = asked;
    Ok(packages)
}

/// Leaves open which version another base has of what a run wrote back as the earlier base's own: no index may have
/// that. What the user's own text pins stays pinned.
fn loosen(requirements: &mut [String], of_base: &[BaseDistribution], own: &str) {
    for line in requirements {
        let written = of_base.iter().find(|it| *line == format!("{}=={}", it.name, it.version));
        if let Some(it) = written.filter(|_| own.lines().all(|it| it.trim() != line.as_str())) {
            line.clone_from(&it.name);
        }
    }
}

/// Whether an earlier Python part can stand: the interpreter is there, and what was built for it was built on this
/// ground and from these files.
fn may_stand(earlier: &Lock, below: &Below<'_>, setup: Option<&SetupPart>) -> bool {
    let part = &earlier.python;
    let mut packages = earlier.system.iter().flat_map(|it| &it.packages);
    let brought = packages.any(|it| it.sha256 == part.digest);
    let built = !part.projects.is_empty() || part.distributions.iter().any(|it| it.built_from.is_some());
    (below.floor.standing.system || !(brought || built))
        && (!built || earlier.setup.as_ref() == setup)
        && (part.projects.is_empty() || below.code.stands)
}

/// Resolves anew, and tells what was gathered for it: what was gathered already, for an interpreter of that version.
fn resolve(
    shop: &Workshop,
    task: &Task,
    wishes: &Wishes<'_>,
    (below, mut kept): (&Below<'_>, Option<(String, Gathered)>),
) -> Result<(Packages, Gathered), Failure> {
    let mut gather_for = |version: &str| match kept.take() {
        Some((of, found)) if of == version => Ok(found),
        _ => gather(shop, task, wishes, (below, version)),
    };
    let (part, base, looked) = (&below.floor.part, below.floor.base(shop)?, below.floor.looked(shop)?);
    let libc = looked.libc.clone().ok_or(NoLibc)?;
    let chosen = choose(shop, task, wishes, looked);
    // Mistakes are told before system packages are solved, where the interpreter is known before that.
    let early = chosen.map(|it| gather_for(&it.0.version)).transpose()?;
    let need = chosen.is_none().then(|| InterpreterNeed { version: wishes.python.clone() });
    let earlier = below.earlier.lock.as_ref().filter(|_| below.floor.standing.system);
    let known = earlier.and_then(|it| known(it.system.as_ref(), need.as_ref()));
    let system = known.map_or_else(|| solve(shop, wishes, below, need), Ok)?;
    let brought = system.interpreter.map(|it| Interpreter {
        version: it.version,
        executable: it.executable,
        digest: it.digest,
        complete: true,
        paths: Vec::new(),
        extra_paths: Vec::new(),
    });
    let (interpreter, installed) = match (chosen, &brought) {
        (Some(chosen), _) => chosen,
        (None, Some(brought)) => (brought, &[][..]),
        (None, None) => return Err(NoLibc.into()),
    };
    let found = match early {
        Some(found) => found,
        None => gather_for(&interpreter.version)?,
    };
    found.notes.iter().for_each(|it| shop.around.reporter.note(it));
    let mut gathered = found.clone();
    if let Some(lock) = below.earlier.lock.as_ref().filter(|_| !below.floor.same) {
        let own = task.script.requirements.org_pip.as_deref().unwrap_or_default();
        loosen(&mut gathered.requirements, &lock.python.base_distributions, own);
    }
    let ground = Ground {
        interpreter,
        libc: &libc,
        architecture: &part.platform.architecture,
        installed,
        isolated: wishes.isolated,
    };
    let mut indexes = shop.indexes.clone();
    indexes.add_task(&gathered.indexes);
    let setup = SetupPart::of(task);
    let stands = super::ground::Ground { part, base, system: system.part.as_ref(), setup: setup.as_ref(), built: None };
    let constraints = gathered.constraints.clone();
    let site = Site { ground: stands, interpreter, libc: &libc, indexes: &indexes, constraints: &constraints };
    let checkout = below.code.checkout(&shop.sources())?;
    let (projects, requires) = projects::describe(shop, &site, checkout, &gathered.projects)?;
    if !gathered.exact {
        gathered.requirements.extend(requires);
    }
    gathered.requirements.retain(|line| projects.iter().all(|it| !is_for(line, &it.name)));
    let memory = Memory { now: now(), max_age: shop.max_age.as_secs() };
    let torch = torch(base);
    let (store, reporter) = (&shop.around.store, &shop.around.reporter);
    let resolve = |building: Option<Building<'_>>| {
        python::resolve_building((store, building), (&ground, &gathered), (&indexes, torch), memory, reporter)
    };
    let (mut python, uv) = site.with(shop, resolve).during(|| "cannot resolve Python requirements".to_owned())?;
    python.projects = projects;
    Ok((Packages { uv, python, system: system.part, asked: below.earlier.asked.clone() }, found))
}

/// Seconds since the epoch: how old an answer is. Nothing of it enters a lock.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

/// The builds of PyTorch that fit a base's CUDA; on a base without, the index's own, which run anywhere.
fn torch(base: &Base) -> Torch {
    let env = base.env();
    let cuda = env.iter().find(|it| it.0 == "CUDA_VERSION").and_then(|(_, version)| {
        let mut numbers = version.split('.').map(|it| it.parse::<u32>().ok());
        Some(numbers.next()?? * 10 + numbers.next()??)
    });
    cuda.map_or(Torch::Plain, Torch::Cuda)
}

/// Has the wheels of a lock in the store.
pub(super) fn fetch(shop: &Workshop, part: &PythonPart, architecture: &str) -> Result<(), Failure> {
    fetch_with(shop, part, (&shop.indexes, architecture)).during(|| "cannot fetch Python distributions".to_owned())
}

/// The same from other indexes.
pub(super) fn fetch_with(
    shop: &Workshop,
    part: &PythonPart,
    (indexes, architecture): (&Indexes, &str),
) -> Result<(), Failure> {
    Ok(shop.wait(python::fetch_wheels(&shop.around.store, part, (indexes, architecture), &shop.around.reporter))?)
}

/// Gathers; the repository's files are had where the task's own text does not say all.
fn gather(
    shop: &Workshop,
    task: &Task,
    wishes: &Wishes<'_>,
    (below, python): (&Below<'_>, &str),
) -> Result<Gathered, Failure> {
    let (script, code) = (&task.script, below.code);
    let failed: RefCell<Option<Failure>> = RefCell::new(None);
    let checkout = || code.checkout(&shop.sources()).map_err(|it| *failed.borrow_mut() = Some(it)).ok();
    let file = |path: &str| checkout()?.text(path).ok().flatten();
    let has = |path: &str| checkout().is_some_and(|it| it.get(path).is_some());
    let is_dir = |path: &str| path.is_empty() || checkout().is_some_and(|it| it.is_dir(path));
    let variables = Cell::new(false);
    let variable = |name: &str| {
        variables.set(true);
        wishes.requirements.variables.get(name).map(|it| it.reveal().to_owned())
    };
    let target = Place::new(python, &below.floor.part.platform.architecture);
    let sources = requirements::Sources {
        task: &script.requirements,
        working_dir: script.working_dir.trim_matches('/'),
        entry_point: script.entry_point.split_whitespace().next().unwrap_or_default(),
        repository_first: wishes.requirements.repository_first,
        original: wishes.requirements.original,
        file: &file,
        has: &has,
        is_dir: &is_dir,
        manager: wishes.requirements.manager,
        target: target.as_ref(),
        variable: &variable,
    };
    let gathered = requirements::gather(&sources);
    if let Some(failure) = failed.take() {
        return Err(failure);
    }
    let step = || "cannot read the task's requirements".to_owned();
    let mut gathered = Gathered { variables: variables.get(), ..gathered.during(step)? };
    for wheel in &mut gathered.wheels {
        wheel.digest = keep_wheel(shop, code.checkout(&shop.sources())?, &wheel.path).during(step)?;
    }
    Ok(gathered)
}

/// A wheel of the repository, in the store; `None` where there is none.
fn keep_wheel(shop: &Workshop, checkout: &Checkout, path: &str) -> Result<Option<Digest>, Failure> {
    let Some(file) = checkout.get(path) else { return Ok(None) };
    Ok(Some(shop.around.store.put_bytes(&checkout.bytes(file)?)?.0))
}

/// Has the wheels of a lock that lie in the repository.
pub(super) fn wheels_of_repository(shop: &Workshop, lock: &Lock) -> Result<(), Failure> {
    let here = lock.python.distributions.iter().filter_map(|it| Some((it, it.path.as_deref()?)));
    let mut absent = here.filter(|it| shop.around.store.has(&it.0.sha256).is_none()).peekable();
    let (Some(_), Some(code)) = (absent.peek(), &lock.code) else { return Ok(()) };
    let checkout = crate::lock::code::checkout(code, &shop.sources())?;
    for (distribution, path) in absent {
        let found = keep_wheel(shop, &checkout, path)?;
        if found != Some(distribution.sha256) {
            return Err(NotThere { path: path.to_owned(), expected: distribution.sha256 }.into());
        }
    }
    Ok(())
}

/// The lock and the code that it pins do not fit each other.
#[derive(Debug, thiserror::Error)]
#[error("the lock takes `{path}` of the repository for the wheel {expected}, and it is another file")]
struct NotThere {
    path: String,
    expected: Digest,
}

impl Explain for NotThere {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        vec!["Lock the task again.".to_owned()]
    }
}

type Chosen<'a> = (&'a crate::python::inspect::Interpreter, &'a [Installed]);

/// The version asked for must be there; the recorded one is a preference, as with the original.
fn choose<'a>(shop: &Workshop, task: &Task, wishes: &Wishes<'_>, looked: &'a Inspection) -> Option<Chosen<'a>> {
    if let Some(wanted) = &wishes.python {
        return looked.choose(Some(wanted));
    }
    let recorded = task.script.interpreter.as_deref().and_then(recorded_version);
    let first = looked.choose(recorded.as_deref()).or_else(|| looked.choose(None));
    if let (Some(recorded), Some((chosen, _))) = (recorded, first)
        && !chosen.version.starts_with(&format!("{recorded}."))
    {
        shop.around
            .reporter
            .note(format!("the task was recorded with Python {recorded}, the base has {}", chosen.version));
    }
    first
}

/// `3.11` of `python3.11` or a path that ends so.
fn recorded_version(interpreter: &str) -> Option<String> {
    let name = interpreter.rsplit('/').next()?;
    let version = name.strip_prefix("python")?;
    let (major, minor) = version.split_once('.')?;
    (major == "3" && !minor.is_empty() && minor.bytes().all(|it| it.is_ascii_digit())).then(|| version.to_owned())
}

fn solve(
    shop: &Workshop,
    wishes: &Wishes<'_>,
    below: &Below<'_>,
    interpreter: Option<InterpreterNeed>,
) -> Result<SystemResolution, Failure> {
    let request = SystemRequest { packages: wishes.apt.clone(), opencv: wishes.opencv, interpreter };
    let base = below.floor.base(shop)?;
    let mut layers = || base::blobs(shop, base);
    let mut ask = Ask { layers: &mut layers, reporter: &*shop.around.reporter };
    crate::lock::system::resolve(&shop.around.store, &below.floor.part, &request, shop.max_age, &mut ask)
        .during(|| "cannot resolve system packages".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_base_had_is_left_open_for_another() {
        let of_base = |name: &str, version: &str| BaseDistribution {
            name: name.to_owned(),
            version: version.to_owned(),
            location: String::new(),
        };
        let mut lines = ["six==1.16.0", "torch==2.1.0a0", "numpy==1.26.0"].map(str::to_owned);
        loosen(&mut lines, &[of_base("torch", "2.1.0a0"), of_base("numpy", "1.26.0")], "numpy==1.26.0\n");
        assert_eq!(lines, ["six==1.16.0", "torch", "numpy==1.26.0"]);
    }

    #[test]
    fn the_recorded_version_is_read_from_the_interpreters_name() {
        assert_eq!(recorded_version("python3.11").as_deref(), Some("3.11"));
        assert_eq!(recorded_version("/opt/x/bin/python3.9").as_deref(), Some("3.9"));
        for none in ["python", "python3", "/usr/bin/python3.x", "pypy3.9", ""] {
            assert_eq!(recorded_version(none), None, "{none}");
        }
    }
}

//! Projects of the repository: described for the lock, built and made layers of for the image.

use super::{Workshop, base};
use crate::base::Base;
use crate::digest::Digest;
use crate::error::{During, Failure};
use crate::git::Checkout;
use crate::layer::code::Owner;
use crate::layer::{BuiltLayer, local};
use crate::lock::python::{self, Ground, Memory, Torch};
use crate::lock::requirements::Gathered;
use crate::lock::{BasePart, Lock, Project, PythonPart, SystemPart};
use crate::oci::chain_id;
use crate::python::indexes::Indexes;
use crate::python::inspect::Interpreter;
use crate::python::project::{self, Described, ProjectRequest, Workbench};
use crate::sandbox::{LayerBlob, Sandbox, Step};

/// What projects are built on.
pub(super) struct Place<'a> {
    pub(super) base: &'a Base,
    pub(super) interpreter: &'a Interpreter,
    pub(super) libc: &'a str,
    pub(super) architecture: &'a str,
    pub(super) indexes: &'a Indexes,
    /// The layers of ours below.
    pub(super) layers: &'a [BuiltLayer],
}

/// Describes projects for a lock, and gives their requirements; one that another of them fulfils is left out.
pub(super) fn describe(
    shop: &Workshop,
    place: &Place<'_>,
    checkout: &Checkout,
    requests: &[ProjectRequest],
) -> Result<(Vec<Project>, Vec<String>), Failure> {
    let mut projects: Vec<Project> = Vec::new();
    let mut requires: Vec<String> = Vec::new();
    for request in requests {
        let Described { name, tree, requires: more } = match project::declared(checkout, request)? {
            Some(described) => described,
            None => with_bench(shop, place, checkout, |bench| project::describe(bench, request))?,
        };
        requires.extend(more);
        projects.push(Project {
            path: request.path.clone(),
            editable: request.editable,
            extras: request.extras.clone(),
            name,
            tree,
        });
    }
    projects.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    projects.dedup_by(|a, b| a.path == b.path);
    requires.retain(|line| projects.iter().all(|it| !project::is_for(line, &it.name)));
    requires.sort();
    requires.dedup();
    Ok((projects, requires))
}

/// The layers of a lock's projects.
pub(super) fn layers(
    shop: &Workshop,
    lock: &Lock,
    base: &Base,
    ground: &[BuiltLayer],
    owner: impl FnOnce() -> Result<Owner, Failure>,
) -> Result<Vec<BuiltLayer>, Failure> {
    let (Some(code), false) = (&lock.code, lock.python.projects.is_empty()) else { return Ok(Vec::new()) };
    let (part, owner) = (&lock.python, owner()?);
    let checkout = crate::lock::code::checkout(code, &shop.sources())?;
    let interpreter = interpreter(part);
    let place = Place {
        base,
        interpreter: &interpreter,
        libc: &part.libc,
        architecture: &lock.base.platform.architecture,
        indexes: &shop.indexes,
        layers: ground,
    };
    let target = crate::layer::python::target(part);
    let one = |it: &Project| {
        let build = |bench: &Workbench<'_>| local::local(bench, it, &target, owner);
        with_bench(shop, &place, &checkout, build).during(|| format!("cannot build layer `local` of `{}`", it.name))
    };
    part.projects.iter().map(one).collect()
}

/// The system layer, where projects must be built before anything else is locked.
pub(super) fn ground(
    shop: &Workshop,
    base: (&BasePart, &Base),
    system: Option<&SystemPart>,
) -> Result<Vec<BuiltLayer>, Failure> {
    let Some(system) = system else { return Ok(Vec::new()) };
    let mut below = || base::blobs(shop, base.1);
    let reporter = &*shop.around.reporter;
    Ok(crate::layer::system::build(&shop.around.store, base.0, system, &mut below, reporter)?.into_iter().collect())
}

fn interpreter(part: &PythonPart) -> Interpreter {
    Interpreter {
        version: part.version.clone(),
        executable: part.executable.clone(),
        digest: part.digest,
        complete: true,
        paths: Vec::new(),
        extra_paths: Vec::new(),
    }
}

fn with_bench<T>(
    shop: &Workshop,
    place: &Place<'_>,
    checkout: &Checkout,
    work: impl FnOnce(&Workbench<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (store, reporter) = (&shop.around.store, &*shop.around.reporter);
    let diff_ids: Vec<Digest> =
        place.base.diff_ids().into_iter().chain(place.layers.iter().map(|it| it.layer.diff_id)).collect();
    let run = |step: &Step| {
        crate::sandbox::choose(store)?;
        let mut layers = base::blobs(shop, place.base)?;
        let ours = place.layers.iter();
        layers.extend(ours.map(|it| LayerBlob { diff_id: it.layer.diff_id, blob: it.layer.descriptor.digest }));
        Ok(Sandbox::open(store, &layers, reporter)?.run(step, reporter)?)
    };
    let tools = |requires: &[String]| tools(shop, place, requires);
    work(&Workbench {
        store,
        checkout,
        executable: &place.interpreter.executable,
        version: &place.interpreter.version,
        interpreter: place.interpreter.digest,
        below: chain_id(&diff_ids).unwrap_or_else(|| Digest::of("")),
        tools: &tools,
        run: &run,
        reporter,
    })
}

/// Wheels that fulfil what a build backend requires.
fn tools(shop: &Workshop, place: &Place<'_>, requires: &[String]) -> Result<Vec<(Digest, String)>, Failure> {
    let ground = Ground {
        interpreter: place.interpreter,
        libc: place.libc,
        architecture: place.architecture,
        installed: &[],
        isolated: true,
    };
    let gathered = Gathered { requirements: requires.to_vec(), ..Gathered::default() };
    let memory = Memory { now: super::packages::now(), max_age: shop.max_age.as_secs() };
    let reporter = &shop.around.reporter;
    let (part, _) =
        python::resolve(&shop.around.store, (&ground, &gathered), (place.indexes, Torch::Plain), memory, reporter)
            .during(|| "cannot resolve what a build requires".to_owned())?;
    super::packages::fetch(shop, &part, place.architecture)?;
    Ok(part.distributions.into_iter().map(|it| (it.sha256, it.file)).collect())
}

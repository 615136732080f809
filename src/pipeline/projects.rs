//! Projects of the repository: built for the lock, which pins what came out, and made layers of for the image.

use super::Workshop;
use super::builds::{Site, interpreter};
use super::ground::Ground;
use crate::error::{During, Explain, Failure, Kind};
use crate::git::Checkout;
use crate::layer::code::Owner;
use crate::layer::{BuiltLayer, local};
use crate::lock::{Lock, Project};
use crate::python::build::Bench;
use crate::python::project::{self, ProjectRequest};

/// No C library that wheels are known for.
#[derive(Debug, thiserror::Error)]
#[error("project `{path}` cannot be built: the base's C library is not known")]
struct NoBench {
    path: String,
}

impl Explain for NoBench {
    fn kind(&self) -> Kind {
        Kind::Unsatisfiable
    }
}

/// Builds projects for a lock, and gives their requirements; one that another of them fulfils is left out.
pub(super) fn describe(
    shop: &Workshop,
    site: &Site<'_>,
    checkout: &Checkout,
    requests: &[ProjectRequest],
) -> Result<(Vec<Project>, Vec<String>), Failure> {
    let mut projects: Vec<Project> = Vec::new();
    let mut requires: Vec<String> = Vec::new();
    for request in requests {
        let built = with_bench(shop, site, &request.path, |bench| project::build(bench, checkout, request))?;
        requires.extend(built.requires(&request.extras));
        let digest = built.digest();
        projects.push(Project {
            path: request.path.clone(),
            editable: request.editable,
            extras: request.extras.clone(),
            name: built.wheel.name,
            version: built.wheel.version,
            tree: checkout.digest_below(&request.path),
            built: digest,
            tools: built.wheel.tools,
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
    ground: Ground<'_>,
    owner: impl FnOnce() -> Result<Owner, Failure>,
) -> Result<Vec<BuiltLayer>, Failure> {
    let (Some(code), false) = (&lock.code, lock.python.projects.is_empty()) else { return Ok(Vec::new()) };
    let (part, owner) = (&lock.python, owner()?);
    let checkout = crate::lock::code::checkout(code, &shop.sources())?;
    let interpreter = interpreter(part);
    let indexes = &shop.indexes;
    let site = Site { ground, interpreter: &interpreter, libc: &part.libc, indexes, constraints: &[] };
    let target = crate::layer::python::target(part);
    let one = |it: &Project| {
        let build = |bench: &Bench<'_>| local::local(bench, &checkout, it, (&target, owner));
        with_bench(shop, &site, &it.path, build).during(|| format!("cannot build layer `local` of `{}`", it.name))
    };
    part.projects.iter().map(one).collect()
}

fn with_bench<T>(
    shop: &Workshop,
    site: &Site<'_>,
    path: &str,
    work: impl FnOnce(&Bench<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    site.with(shop, |building| match building {
        Some((bench, _)) => work(bench),
        None => Err(NoBench { path: path.to_owned() }.into()),
    })
}

//! What has no wheel, built while a task is locked: in a sandbox on the base and the task's system packages.

use std::cell::RefCell;
use std::path::Path;

use super::{Workshop, base};
use crate::base::Base;
use crate::digest::Digest;
use crate::error::Failure;
use crate::git::{Address, Wanted};
use crate::lock::python::{self, Ground, Memory, Torch};
use crate::lock::requirements::Gathered;
use crate::lock::{BasePart, PythonPart, SystemPart, Tool};
use crate::python::build::{Bench, Git};
use crate::python::indexes::Indexes;
use crate::python::tags::Libc;
use crate::sandbox::{LayerBlob, Output, Sandbox, Step};

/// What builds stand on.
pub(super) struct Place<'a> {
    pub(super) part: &'a BasePart,
    pub(super) base: &'a Base,
    /// Compilers and headers among them.
    pub(super) system: Option<&'a SystemPart>,
}

/// Resolves distributions, building what must be; no sandbox is made when nothing must.
pub(super) fn resolve(
    shop: &Workshop,
    place: &Place<'_>,
    (ground, gathered): (&Ground<'_>, &Gathered),
    (indexes, torch): (&Indexes, Torch),
    memory: Memory,
) -> Result<(PythonPart, Option<Tool>), Failure> {
    let (store, reporter) = (&shop.around.store, &shop.around.reporter);
    let Some(libc) = Libc::parse(ground.libc) else {
        return python::resolve(store, (ground, gathered), (indexes, torch), memory, reporter);
    };
    let opened = RefCell::new(None);
    let run = |step: &Step| -> Result<Output, Failure> {
        let mut opened = opened.borrow_mut();
        let sandbox = match opened.take() {
            Some(sandbox) => sandbox,
            None => open(shop, place)?,
        };
        let output = sandbox.run(step, &**reporter);
        *opened = Some(sandbox);
        Ok(output?)
    };
    let check_out = |git: &Git, to: &Path| check_out(shop, git, to);
    let system = place.system.map(|it| crate::layer::system::system_key(place.part, it));
    let bench = Bench {
        store,
        indexes,
        interpreter: (&ground.interpreter.executable, &ground.interpreter.version, ground.interpreter.digest),
        platform: (libc, ground.architecture),
        below: Digest::of(format!("{} {system:?}", place.base.chain_id())),
        run: &run,
        check_out: &check_out,
        reporter,
    };
    python::resolve_building((store, Some(&bench)), (ground, gathered), (indexes, torch), memory, reporter)
}

fn open(shop: &Workshop, place: &Place<'_>) -> Result<Sandbox, Failure> {
    let (store, reporter) = (&shop.around.store, &*shop.around.reporter);
    crate::sandbox::choose(store)?;
    let mut layers = base::blobs(shop, place.base)?;
    if let Some(system) = place.system {
        let mut below = || base::blobs(shop, place.base);
        let built = crate::layer::system::build(store, place.part, system, &mut below, reporter)?;
        layers.extend(built.map(|it| LayerBlob { diff_id: it.layer.diff_id, blob: it.layer.descriptor.digest }));
    }
    Ok(Sandbox::open(store, &layers, reporter)?)
}

/// Writes a repository at a revision into a directory: its commit.
fn check_out(shop: &Workshop, git: &Git, to: &Path) -> Result<String, Failure> {
    let address = Address::parse(git.address.reveal())?;
    let fetch = |wanted: Wanted| shop.repositories.fetch(&address, &wanted);
    // A revision is a commit, a tag or a branch; only the repository knows which.
    let commit = match &git.revision {
        Some(it) => fetch(Wanted::Tag(it.clone()))
            .or_else(|_| fetch(Wanted::Branch(it.clone())))
            .or_else(|_| fetch(Wanted::Commit(it.clone())))?,
        None => fetch(Wanted::Default)?,
    };
    let tree = shop.repositories.tree(&commit, None)?;
    shop.repositories.checkout(tree)?.write_to("", to)?;
    Ok(commit.id)
}

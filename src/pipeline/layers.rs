//! The layers of a lock, those that do not stand on each other at the same time.

use std::thread;

use super::ground::{self, Ground};
use super::{Workshop, base};
use crate::base::{Base, rootfs};
use crate::error::{During, Failure};
use crate::layer::entrypoint::{Entrypoint, Start};
use crate::layer::python::Environment;
use crate::layer::{BuiltLayer, LayerKind, bytecode, code, entrypoint, python};
use crate::lock::Lock;
use crate::lock::python::must_rebuild;
use crate::sandbox::{Output, Sandbox};

/// Builds or finds every layer of a lock, bottom first.
pub(super) fn build(shop: &Workshop, lock: &Lock, base: &Base) -> Result<Vec<BuiltLayer>, Failure> {
    thread::scope(|scope| {
        let stands =
            Ground { part: &lock.base, base, system: lock.system.as_ref(), setup: lock.setup.as_ref(), built: None };
        let ground = scope.spawn(move || stands.build(shop));
        let code = scope.spawn(|| code_layer(shop, lock, base));
        let entrypoint = scope.spawn(|| entrypoint_layers(shop, lock));
        let wheels = super::packages::wheels_of_repository(shop, lock)
            .and_then(|()| super::packages::fetch(shop, &lock.python, &lock.base.platform.architecture));
        let brought = ground::brings_interpreter(lock);
        let (mut layers, python) = if brought || must_rebuild(&shop.around.store, &lock.python) {
            let layers = join(ground)?;
            wheels?;
            super::builds::rebuild(shop, Ground { built: Some(&layers), ..stands }, &lock.python)?;
            let below: Vec<&BuiltLayer> = layers.iter().filter(|it| brought && it.kind == LayerKind::System).collect();
            let python = python_layers(shop, lock, base, &below)?;
            (layers, python)
        } else {
            let python = wheels.and_then(|()| python_layers(shop, lock, base, &[]));
            (join(ground)?, python?)
        };
        if lock.setup.is_some() {
            shop.around.reporter.note("the setup script's layer is not reproducible: what it does is not pinned");
        }
        let stands = Ground { built: Some(&layers), ..stands };
        let local = super::projects::layers(shop, lock, stands, || owner(shop, base))?;
        let entrypoint = join(entrypoint)?;
        // What changes least lies lowest: engines unpack anew whatever lies above a layer that changed.
        layers.extend(python.large);
        layers.push(entrypoint.binary);
        layers.extend(python.shared);
        layers.extend(join(code)?);
        layers.extend(local);
        layers.push(entrypoint.documents);
        Ok(layers)
    })
}

/// How the image of a lock starts.
pub(super) fn start(lock: &Lock, base: &Base) -> Start {
    entrypoint::start(&entrypoint::launch(lock), &base.config)
}

fn entrypoint_layers(shop: &Workshop, lock: &Lock) -> Result<Entrypoint, Failure> {
    entrypoint::write(&shop.around.store, lock, &shop.guest).during(|| "cannot build layer `entrypoint`".to_owned())
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    handle.join().unwrap_or_else(|it| std::panic::resume_unwind(it))
}

/// Reports the start and end of a layer, and names it in errors.
pub(super) fn told(
    shop: &Workshop,
    kind: LayerKind,
    make: impl FnOnce() -> Result<Option<BuiltLayer>, Failure>,
) -> Result<Option<BuiltLayer>, Failure> {
    let reporter = &*shop.around.reporter;
    let id = format!("layer {}", kind.as_str());
    reporter.started(&id, kind.as_str());
    let built = make().during(|| format!("cannot build layer `{}`", kind.as_str()))?;
    let outcome = built.as_ref().map_or("not needed", |it| if it.cached { "cached" } else { "built" });
    reporter.finished(&id, outcome);
    Ok(built)
}

fn python_layers(shop: &Workshop, lock: &Lock, base: &Base, below: &[&BuiltLayer]) -> Result<Environment, Failure> {
    let reporter = &shop.around.reporter;
    reporter.started("layer python", "python");
    let run = |step: &bytecode::Step<'_>| compile(shop, base, below, step);
    let compiler =
        lock.bytecode.then_some(bytecode::Compiler { ground: ground::of_interpreter(lock, base), run: &run });
    let layers = python::layers(&shop.around.store, &lock.python, compiler, reporter)
        .during(|| "cannot build layer `python`".to_owned())?;
    let cached = layers.large.iter().chain(&layers.shared).all(|it| it.cached);
    reporter.finished("layer python", if cached { "cached" } else { "built" });
    Ok(layers)
}

/// Runs the base's interpreter on a directory of ours, without network; what it changes elsewhere is dropped.
fn compile(shop: &Workshop, base: &Base, below: &[&BuiltLayer], step: &bytecode::Step<'_>) -> Result<Output, Failure> {
    let store = &shop.around.store;
    crate::sandbox::choose(store)?;
    let mut layers = base::blobs(shop, base)?;
    layers.extend(below.iter().map(|it| ground::blob(it)));
    let sandbox = Sandbox::open(store, &layers, &*shop.around.reporter)?;
    bytecode::run_in(&sandbox, step, &shop.around.reporter)
}

fn code_layer(shop: &Workshop, lock: &Lock, base: &Base) -> Result<Option<BuiltLayer>, Failure> {
    let Some(part) = &lock.code else { return Ok(None) };
    told(shop, LayerKind::Code, || {
        let owner = owner(shop, base)?;
        let checkout = || crate::lock::code::checkout(part, &shop.sources());
        Ok(Some(code::code(&shop.around.store, part, owner, checkout)?))
    })
}

/// Whose files the code is: those of the user the image runs as.
fn owner(shop: &Workshop, base: &Base) -> Result<code::Owner, Failure> {
    let user = base.user();
    if ["", "0", "root", "0:0", "root:root"].contains(&user) {
        return Ok(code::Owner { uid: 0, gid: 0 });
    }
    let owner = shop.wait(rootfs::owner(&shop.around, base))?;
    Ok(code::Owner { uid: owner.uid, gid: owner.gid })
}

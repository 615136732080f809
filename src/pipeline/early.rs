//! Whether a sandbox will be needed, asked before anything is fetched: a machine that allows none says so at once.
//!
//! What is cached or remembered needs none. What only shows later that it must be built (an sdist, a project of the
//! repository) tries the sandbox before its own downloads.

use super::{Workshop, ground, look};
use crate::base::Base;
use crate::error::{During, Failure};
use crate::layer::{self, LayerKind, bytecode, setup, system};
use crate::lock::Lock;
use crate::store::Table;

/// Before a task is locked that asks for system packages: a store without any memory has none of what they resolve to.
pub(super) fn before_lock(shop: &Workshop) -> Result<(), Failure> {
    if shop.around.store.is_empty(Table::Resolutions) { sandbox(shop) } else { Ok(()) }
}

/// Before a base's layers are fetched to look into them, when system packages are to be solved on it: what was never
/// looked into was never solved on.
pub(super) fn before_look(shop: &Workshop, base: &Base) -> Result<(), Failure> {
    if look::remembered(shop, base).is_none() { sandbox(shop) } else { Ok(()) }
}

fn sandbox(shop: &Workshop) -> Result<(), Failure> {
    crate::sandbox::choose(&shop.around.store).map(drop).during(|| "cannot resolve system packages".to_owned())
}

/// Before a lock's layers are built.
pub(super) fn before_build(shop: &Workshop, lock: &Lock, base: &Base) -> Result<(), Failure> {
    let Some(kind) = uncached(shop, lock, base) else { return Ok(()) };
    let chosen = crate::sandbox::choose(&shop.around.store);
    chosen.map(drop).during(|| format!("cannot build layer `{}`", kind.as_str()))
}

/// The lowest layer that must be made in a sandbox.
fn uncached(shop: &Workshop, lock: &Lock, base: &Base) -> Option<LayerKind> {
    let store = &shop.around.store;
    let mut below = None;
    if let Some(part) = lock.system.as_ref().filter(|it| !it.packages.is_empty()) {
        match layer::find(store, &system::system_key(&lock.base, part)) {
            Some(found) => below = Some(found.diff_id),
            None => return Some(LayerKind::System),
        }
    }
    if let Some(part) = &lock.setup {
        let (script, env) = (part.script.bytes(), base.env().into_iter().collect());
        let input = setup::SetupInput { below: ground::chain(base, below), script: &script, env: &env };
        if layer::find(store, &setup::setup_key(&input)).is_none() {
            return Some(LayerKind::Setup);
        }
    }
    let ground = ground::of_interpreter(lock, base);
    (lock.bytecode && bytecode::is_missing(store, &lock.python, &ground)).then_some(LayerKind::Bytecode)
}

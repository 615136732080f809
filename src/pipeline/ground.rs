//! What the rest stands on: the base, system packages, and what the setup script leaves.

use std::collections::BTreeMap;

use super::{Workshop, base, layers};
use crate::base::Base;
use crate::digest::{Digest, Hasher};
use crate::error::Failure;
use crate::layer::{BuiltLayer, LayerKind, setup, system};
use crate::lock::{BasePart, Lock, SetupPart, SystemPart};
use crate::oci::chain_id;
use crate::sandbox::LayerBlob;

/// The locked parts of it.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) part: &'a BasePart,
    pub(super) base: &'a Base,
    pub(super) system: Option<&'a SystemPart>,
    pub(super) setup: Option<&'a SetupPart>,
    /// Its layers above the base, where they are built already.
    pub(super) built: Option<&'a [BuiltLayer]>,
}

impl Ground<'_> {
    /// Builds or finds its layers above the base.
    pub(super) fn build(&self, shop: &Workshop) -> Result<Vec<BuiltLayer>, Failure> {
        let (store, reporter) = (&shop.around.store, &*shop.around.reporter);
        let mut layers: Vec<BuiltLayer> = Vec::new();
        if let Some(part) = self.system {
            let mut below = || base::blobs(shop, self.base);
            let build = || system::build(store, self.part, part, &mut below, reporter);
            layers.extend(layers::told(shop, LayerKind::System, build)?);
        }
        if let Some(part) = self.setup {
            let script = part.script.bytes();
            let env: BTreeMap<String, String> = self.base.env().into_iter().collect();
            let below = chain(self.base, layers.iter().map(|it| it.layer.diff_id));
            let input = setup::SetupInput { below, script: &script, env: &env };
            let mut below = || Ok(base::blobs(shop, self.base)?.into_iter().chain(layers.iter().map(blob)).collect());
            let build = || setup::build(store, &input, &mut below, reporter).map(Some);
            let built = layers::told(shop, LayerKind::Setup, build)?;
            layers.extend(built);
        }
        Ok(layers)
    }

    /// All its layers, their blobs in the store.
    pub(super) fn blobs(&self, shop: &Workshop) -> Result<Vec<LayerBlob>, Failure> {
        let mut blobs = base::blobs(shop, self.base)?;
        match self.built {
            Some(built) => blobs.extend(built.iter().map(blob)),
            None => blobs.extend(self.build(shop)?.iter().map(blob)),
        }
        Ok(blobs)
    }

    /// Names it by what it is made of, for what is remembered of builds on it.
    pub(super) fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field("ground").field(self.base.chain_id().bytes());
        for (name, value) in self.base.env() {
            hasher.field(name).field(value);
        }
        if let Some(system) = self.system.filter(|it| !it.packages.is_empty()) {
            hasher.field("system").field(system::system_key(self.part, system).bytes());
        }
        if let Some(setup) = self.setup {
            hasher.field("setup").field(setup.script.sha256.bytes());
        }
        hasher.finish()
    }
}

/// Whether the interpreter is of the system packages and not the base's. What a setup script left is none of its
/// business.
pub(super) fn brings_interpreter(lock: &Lock) -> bool {
    lock.system.iter().flat_map(|it| &it.packages).any(|it| it.sha256 == lock.python.digest)
}

/// Names the layers that a lock's interpreter runs on when it makes bytecode.
pub(super) fn of_interpreter(lock: &Lock, base: &Base) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("interpreter").field(base.chain_id().bytes());
    if let Some(system) = lock.system.as_ref().filter(|_| brings_interpreter(lock)) {
        hasher.field(system::system_key(&lock.base, system).bytes());
    }
    hasher.finish()
}

/// The chain id of a base with layers of ours on top.
pub(super) fn chain(base: &Base, ours: impl IntoIterator<Item = Digest>) -> Digest {
    let diff_ids: Vec<Digest> = base.diff_ids().into_iter().chain(ours).collect();
    chain_id(&diff_ids).unwrap_or_else(|| Digest::of(""))
}

/// A layer of ours for a sandbox to stand on.
pub(super) fn blob(layer: &BuiltLayer) -> LayerBlob {
    LayerBlob { diff_id: layer.layer.diff_id, blob: layer.layer.descriptor.digest }
}

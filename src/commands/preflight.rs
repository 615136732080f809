//! Whether what is to be built can run on this machine, where `--gpus` or `--cpu-only` says that it will.

use std::collections::BTreeMap;

use serde_json::Value;

use super::blocking;
use crate::base::Around;
use crate::daemon::preflight::{Machine, PreflightError, glance, is_off, preflight};
use crate::digest::Digest;
use crate::error::{During, Failure};
use crate::gpu::{self, Ask, Discovery, GpuSet};
use crate::lock::Lock;
use crate::secret::Secret;
use crate::settings::TaskSettings;
use crate::store::Store;
use crate::system::recipe;

/// This machine, for a run with certain GPUs.
pub(super) struct Here {
    gpus: GpuSet,
    found: Discovery,
}

impl Here {
    /// Looks at this machine; none where the image is for any.
    pub(super) async fn of(settings: &TaskSettings) -> Result<Option<Self>, Failure> {
        let Some(ask) = settings.gpus.clone() else { return Ok(None) };
        // A driver that is broken is nothing to a run that does not need it.
        if ask == Ask::None {
            return Ok(Some(Self { gpus: GpuSet::default(), found: Discovery::NoDriver(String::new()) }));
        }
        blocking(move || {
            let found = gpu::discover()?;
            Ok(Some(Self { gpus: gpu::resolve(&ask, &found)?, found }))
        })
        .await
    }

    /// Looks at a base before a layer of it is fetched.
    pub(super) fn glance(
        &self,
        store: &Store,
        variables: &BTreeMap<String, Secret>,
        (config, layers): (&Value, &[(Digest, u64)]),
    ) -> Result<(), Failure> {
        let off = is_off(variables);
        let present = layers.iter().map(|it| it.0).filter(|it| store.has(it).is_some()).collect();
        let machine = Machine { present, ..Machine::empty(&self.gpus, &self.found, store) };
        glance(config, layers, off, &machine).during(cannot)
    }

    /// Looks at a whole lock before anything of it is built; `unchecked` where its runs do without the driver's check.
    pub(super) async fn check(&self, around: &Around, lock: &Lock, unchecked: bool) -> Result<(), Failure> {
        // What cannot be had any more is told by the build, which needs more of it.
        let config = match &lock.base.recipe {
            None => crate::lock::base::open(around, &lock.base).await.map_or(Value::Null, |it| it.config),
            Some(recipe) => {
                let name = lock.base.name.as_deref().unwrap_or_default();
                recipe::configuration(name, &recipe.text).unwrap_or_default()
            }
        };
        let mut machine = Machine::here(&self.gpus, &self.found, &around.store, lock);
        let mut told = preflight(&config, lock, unchecked, &machine);
        if matches!(told, Err(PreflightError::Space { .. })) {
            // What an engine has of the base is not fetched for it.
            machine.present.extend(in_engine(around, lock).await);
            told = preflight(&config, lock, unchecked, &machine);
        }
        for warning in told.during(cannot)? {
            around.reporter.warning(warning.0);
        }
        Ok(())
    }
}

fn cannot() -> String {
    "the image cannot run here".to_owned()
}

/// The base's layers, where an engine has all of them.
async fn in_engine(around: &Around, lock: &Lock) -> Vec<Digest> {
    let Some(docker) = &around.docker else { return Vec::new() };
    let wanted: Vec<Digest> = lock.base.layers.iter().map(|it| it.diff_id).collect();
    let images = docker.images().await.unwrap_or_default();
    if images.iter().any(|it| it.diff_ids.starts_with(&wanted)) {
        lock.base.layers.iter().filter_map(|it| it.blob.as_ref()).map(|it| it.digest).collect()
    } else {
        Vec::new()
    }
}

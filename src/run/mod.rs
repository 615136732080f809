//! Running a finished image: an implementation per engine.
//!
//! `agent run` attends its run itself, hands on its output and leaves nothing. The executor's runs outlive whoever started
//! them: they are named by a [`RunId`] and asked for through an [`Engine`], made by [`engine_of`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{ContainerSpec, Docker, Libpod, Podman};
use crate::error::Failure;
use crate::gpu::GpuSet;
use crate::registry;
use crate::report::SharedReporter;
use crate::secret::Secret;

pub mod arguments;
mod cgroup;
pub mod choice;
mod containers;
pub mod docker;
pub mod engine;
pub mod lends;
mod listen;
pub mod monitor;
pub mod names;
pub mod native;
mod podman;
pub mod policy;
pub mod ports;
pub mod rules;
pub mod settings;
pub mod spec;
pub mod templates;
mod variables;

pub use containers::{ContainerEngine, ContainersError};
pub use engine::{Engine, EngineKind};
pub use spec::{Found, Outcome, RunId, RunImage, RunSpec};
pub use variables::variables;

/// What engines stand on.
#[derive(Clone)]
pub struct Ground {
    /// Where each run has a directory named by its id: native runs are found there.
    pub runs: PathBuf,
    /// The store, which has the images of native runs. Opened only while it is used.
    pub store: PathBuf,
    /// Registries, for layers of native runs that the store does not have. Where none may be asked, engines ask none.
    pub registry: registry::Client,
    /// Podman's service (`CONTAINER_HOST`); without one it is started.
    pub container_host: Option<String>,
    /// Whether the host's proxies and certificates are lent to runs.
    pub lends: bool,
    /// How long what an engine fetches may show no progress.
    pub silence: Duration,
    /// Hears what is unpacked, and what a run asks for that its engine cannot do.
    pub reporter: SharedReporter,
}

/// An engine that can run images here, tried.
///
/// # Errors
/// It does not answer, or nothing can be run natively on this machine.
pub async fn engine_of(kind: EngineKind, ground: &Ground) -> Result<Arc<dyn Engine>, Failure> {
    Ok(match kind {
        EngineKind::Docker => {
            let docker = Docker::connect_default()?;
            docker.ping().await?;
            {
                let engine = ContainerEngine::docker(docker, ground.lends).silence(ground.silence);
                Arc::new(engine.offline(ground.registry.is_offline()))
            }
        }
        EngineKind::Podman => {
            let podman = match &ground.container_host {
                Some(host) => Libpod::connect(host)?,
                None => Libpod::of_ours(Podman::default())?,
            };
            podman.ping().await?;
            {
                let engine = ContainerEngine::podman(podman, ground.lends).silence(ground.silence);
                Arc::new(engine.offline(ground.registry.is_offline()))
            }
        }
        EngineKind::Native => Arc::new(native::NativeEngine::open(ground).await?),
    })
}

/// Tells a container which GPUs are its own, whatever its image says, where a hook or a runtime gives them by variables.
fn tell_gpus(spec: &mut ContainerSpec, gpus: &GpuSet) {
    spec.env.extend(gpus.environment().into_iter().map(|(name, value)| (name, Secret::new(value))));
}

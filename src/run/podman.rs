//! [`Engine`] in Podman, over its own API: CDI devices work only there.
//!
//! Containers are children of their own `conmon`, which keeps their exit codes: neither the service's end nor ours is
//! theirs.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::containers::{Containers, ContainersError, container};
use super::docker::lend_to;
use super::spec::{Found, Outcome, RunId, RunImage, RunSpec};
use super::{Engine, tell_gpus};
use crate::engine::{DeviceRequest, Libpod};
use crate::error::Failure;
use crate::gpu::cdi;
use crate::secret::Secret;

/// Runs as containers of Podman.
#[derive(Debug)]
pub struct PodmanEngine {
    podman: Libpod,
    containers: Containers,
    /// Whether the host's proxies and certificates are lent.
    lends: bool,
}

impl PodmanEngine {
    /// Runs over an API; `lends` the host's proxies and certificates to them.
    #[must_use]
    pub fn new(podman: Libpod, lends: bool) -> Self {
        Self { containers: Containers::Podman(podman.clone()), podman, lends }
    }

    async fn has(&self, image: &RunImage) -> Result<(), ContainersError> {
        if self.podman.has_image(&image.config).await? {
            return Ok(());
        }
        let (endpoint, name) = (self.podman.endpoint().to_owned(), image.name.clone());
        Err(ContainersError::NoImage { engine: "Podman", endpoint, name })
    }

    async fn begin(&self, spec: &RunSpec) -> Result<(), ContainersError> {
        self.has(&spec.image).await?;
        // Podman names images by their configuration, and this one exactly is meant.
        let mut asked = container(spec, spec.image.config.hex(), &self.containers)?;
        if self.lends {
            lend_to(&mut asked);
        }
        tell_gpus(&mut asked, &spec.gpus);
        // Hooks that give devices by this variable have no part in it.
        asked.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
        asked.device_requests = Vec::new();
        if !spec.gpus.is_empty() {
            let ids = cdi::names(&spec.gpus);
            asked.device_requests = vec![DeviceRequest { driver: "cdi".to_owned(), ids, capabilities: Vec::new() }];
        }
        Ok(self.containers.start(&asked, &spec.id).await?)
    }
}

impl Engine for PodmanEngine {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(self.has(image).await?) })
    }

    fn start<'a>(&'a self, spec: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(self.begin(spec).await?) })
    }

    fn find<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>> {
        Box::pin(async { Ok(self.containers.find(run).await?) })
    }

    fn wait<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async { Ok(self.containers.wait(run).await?) })
    }

    fn stop<'a>(&'a self, run: &'a RunId, grace: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { Ok(self.containers.stop(run, grace).await?) })
    }

    fn remove<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(self.containers.remove(run).await?) })
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>> {
        Box::pin(async { Ok(self.containers.runs().await?) })
    }
}

//! [`Engine`] in Docker.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::lend_to;
use crate::engine::{ContainerSpec, DeviceRequest, Docker, EngineError, EngineImage};
use crate::error::Failure;
use crate::gpu::{GpuSet, cdi};
use crate::run::containers::{Containers, ContainersError, container};
use crate::run::spec::{Found, Outcome, RunId, RunImage, RunSpec};
use crate::run::{Engine, tell_gpus};
use crate::secret::Secret;

/// Runs as containers of the Docker engine.
#[derive(Debug)]
pub struct DockerEngine {
    docker: Docker,
    containers: Containers,
    /// Whether the host's proxies and certificates are lent.
    lends: bool,
}

impl DockerEngine {
    /// Runs in an engine; `lends` the host's proxies and certificates to them.
    #[must_use]
    pub fn new(docker: Docker, lends: bool) -> Self {
        Self { containers: Containers::Docker(docker.clone()), docker, lends }
    }

    /// The image as the engine knows it: by what it is, not by a name that may mean another one since.
    async fn image(&self, image: &RunImage) -> Result<EngineImage, ContainersError> {
        let is_it = |it: &EngineImage| it.id == image.config || it.id == image.manifest;
        let named = self.docker.image(&image.name).await?;
        if let Some(found) = named.as_ref().filter(|it| is_it(it)) {
            return Ok(found.clone());
        }
        for id in [image.config, image.manifest] {
            if let Some(found) = self.docker.image(&id.to_string()).await?.filter(is_it) {
                return Ok(found);
            }
        }
        let (engine, endpoint, name) = ("Docker", self.docker.endpoint().to_owned(), image.name.clone());
        Err(match named {
            Some(other) => ContainersError::OtherImage { engine, endpoint, name, found: other.id.to_string() },
            None => ContainersError::NoImage { engine, endpoint, name },
        })
    }

    async fn begin(&self, spec: &RunSpec) -> Result<(), ContainersError> {
        let image = self.image(&spec.image).await?;
        let named = image.tags.contains(&spec.image.name);
        let image = if named { spec.image.name.clone() } else { image.id.to_string() };
        let mut asked = container(spec, image, &self.containers)?;
        if self.lends {
            lend_to(&mut asked);
        }
        let by_driver = with_gpus(&asked, &spec.gpus);
        match self.containers.start(&by_driver, &spec.id).await {
            Err(error) if !spec.gpus.is_empty() && lacks_driver(&error) && self.docker.reads_cdi().await? => {
                Ok(self.containers.start(&with_cdi(&asked, &spec.gpus), &spec.id).await?)
            }
            other => Ok(other?),
        }
    }
}

/// The container with its GPUs by way of the engine's NVIDIA driver.
fn with_gpus(asked: &ContainerSpec, gpus: &GpuSet) -> ContainerSpec {
    let mut spec = asked.clone();
    tell_gpus(&mut spec, gpus);
    spec.device_requests = Vec::new();
    if gpus.is_empty() {
        return spec;
    }
    let ids = gpus.devices.iter().map(|it| it.id().to_owned()).collect();
    spec.device_requests =
        vec![DeviceRequest { driver: "nvidia".to_owned(), ids, capabilities: vec!["gpu".to_owned()] }];
    spec
}

/// The container with its GPUs by their CDI names.
fn with_cdi(asked: &ContainerSpec, gpus: &GpuSet) -> ContainerSpec {
    let mut spec = asked.clone();
    // Where NVIDIA's runtime is the engine's own, it adds nothing then.
    spec.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
    spec.device_requests =
        vec![DeviceRequest { driver: "cdi".to_owned(), ids: cdi::names(gpus), capabilities: Vec::new() }];
    spec
}

/// Whether the engine has no driver for NVIDIA's devices, as one without the container toolkit's hook.
fn lacks_driver(error: &EngineError) -> bool {
    matches!(error, EngineError::Refused { message, .. } if message.contains("could not select device driver"))
}

impl Engine for DockerEngine {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(self.image(image).await.map(|_| ())?) })
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

//! Starting runs in Docker.

use super::lend_to;
use crate::engine::{ContainerSpec, DeviceRequest, Docker, EngineError, EngineImage};
use crate::gpu::{GpuSet, cdi};
use crate::run::containers::{Containers, ContainersError, container};
use crate::run::spec::{RunImage, RunSpec};
use crate::run::tell_gpus;
use crate::secret::Secret;

/// The image as the engine knows it: by what it is, not by a name that may mean another one since.
pub(in crate::run) async fn image(docker: &Docker, image: &RunImage) -> Result<EngineImage, ContainersError> {
    let is_it = |it: &EngineImage| it.id == image.config || it.id == image.manifest;
    let named = docker.image(&image.name).await?;
    if let Some(found) = named.as_ref().filter(|it| is_it(it)) {
        return Ok(found.clone());
    }
    for id in [image.config, image.manifest] {
        if let Some(found) = docker.image(&id.to_string()).await?.filter(is_it) {
            return Ok(found);
        }
    }
    let (engine, endpoint, name) = ("Docker", docker.endpoint().to_owned(), image.name.clone());
    Err(match named {
        Some(other) => ContainersError::OtherImage { engine, endpoint, name, found: other.id.to_string() },
        None => ContainersError::NoImage { engine, endpoint, name },
    })
}

/// Starts a run; `lends` the host's proxies and certificates to it.
pub(in crate::run) async fn begin(
    docker: &Docker,
    containers: &Containers,
    spec: &RunSpec,
    lends: bool,
) -> Result<(), ContainersError> {
    let image = image(docker, &spec.image).await?;
    let named = image.tags.contains(&spec.image.name);
    let image = if named { spec.image.name.clone() } else { image.id.to_string() };
    let mut asked = container(spec, image, containers)?;
    if lends {
        lend_to(&mut asked);
    }
    if spec.only_told_gpus {
        tell_gpus(&mut asked, &spec.gpus);
        return Ok(containers.start(&asked, &spec.id).await?);
    }
    let by_driver = with_gpus(&asked, &spec.gpus);
    match containers.start(&by_driver, &spec.id).await {
        Err(error) if !spec.gpus.is_empty() && lacks_driver(&error) && docker.reads_cdi().await? => {
            Ok(containers.start(&with_cdi(&asked, &spec.gpus), &spec.id).await?)
        }
        other => Ok(other?),
    }
}

/// The container with its GPUs by way of the engine's NVIDIA driver.
fn with_gpus(asked: &ContainerSpec, gpus: &GpuSet) -> ContainerSpec {
    let mut spec = asked.clone();
    tell_gpus(&mut spec, gpus);
    if gpus.is_empty() {
        return spec;
    }
    let ids = gpus.devices.iter().map(|it| it.id().to_owned()).collect();
    let driver = "nvidia".to_owned();
    spec.device_requests.push(DeviceRequest { driver, ids, capabilities: vec!["gpu".to_owned()] });
    spec
}

/// The container with its GPUs by their CDI names.
fn with_cdi(asked: &ContainerSpec, gpus: &GpuSet) -> ContainerSpec {
    let mut spec = asked.clone();
    // Where NVIDIA's runtime is the engine's own, it adds nothing then.
    spec.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
    let driver = "cdi".to_owned();
    spec.device_requests.push(DeviceRequest { driver, ids: cdi::names(gpus), capabilities: Vec::new() });
    spec
}

/// Whether the engine has no driver for NVIDIA's devices, as one without the container toolkit's hook.
#[must_use]
pub fn lacks_driver(error: &EngineError) -> bool {
    matches!(error, EngineError::Refused { message, .. } if message.contains("could not select device driver"))
}

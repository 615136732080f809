//! Starting runs in Podman, over its own API: CDI devices work only there.
//!
//! Containers are children of their own `conmon`, which keeps their exit codes: neither the service's end nor ours is
//! theirs.

use super::containers::{Containers, ContainersError, container};
use super::docker::lend_to;
use super::spec::{RunImage, RunSpec};
use super::tell_gpus;
use crate::engine::{DeviceRequest, Libpod};
use crate::gpu::cdi;
use crate::secret::Secret;

/// Fails unless the image is there.
pub(super) async fn has(podman: &Libpod, image: &RunImage) -> Result<(), ContainersError> {
    if podman.has_image(&image.config).await? {
        return Ok(());
    }
    let (endpoint, name) = (podman.endpoint().to_owned(), image.name.clone());
    Err(ContainersError::NoImage { engine: "Podman", endpoint, name })
}

/// Starts a run; `lends` the host's proxies and certificates to it.
pub(super) async fn begin(
    podman: &Libpod,
    containers: &Containers,
    spec: &RunSpec,
    lends: bool,
) -> Result<(), ContainersError> {
    has(podman, &spec.image).await?;
    // Podman names images by their configuration, and this one exactly is meant.
    let mut asked = container(spec, spec.image.config.hex(), containers)?;
    if lends {
        lend_to(&mut asked);
    }
    tell_gpus(&mut asked, &spec.gpus);
    if !spec.only_told_gpus {
        // Hooks that give devices by this variable have no part in it.
        asked.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
        if !spec.gpus.is_empty() {
            let ids = cdi::names(&spec.gpus);
            asked.device_requests.push(DeviceRequest { driver: "cdi".to_owned(), ids, capabilities: Vec::new() });
        }
    }
    Ok(containers.start(&asked, &spec.id).await?)
}

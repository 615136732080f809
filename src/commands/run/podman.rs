//! The way to Podman's APIs.

use crate::commands::Context;
use crate::engine::{Libpod, Podman};
use crate::error::Failure;

/// The service that `CONTAINER_HOST` names, else one of our own for as long as this is kept.
pub(super) async fn connect(context: &Context) -> Result<Libpod, Failure> {
    let podman = match context.session.environment.get("CONTAINER_HOST") {
        Some(host) => Libpod::connect(host)?,
        None => Libpod::of_ours(Podman::default())?,
    };
    podman.ping().await?;
    Ok(podman)
}

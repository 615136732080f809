//! The way to Podman's API.

use tempfile::TempDir;

use crate::commands::{Context, blocking};
use crate::engine::{Docker, Endpoint, EngineError, Podman, Service};
use crate::error::Failure;

/// A connection, and the service behind it where that is ours.
pub(super) struct Connected {
    pub(super) engine: Docker,
    _service: Option<(Service, TempDir)>,
}

/// The service that `CONTAINER_HOST` names, else one of our own for as long as the run.
pub(super) async fn connect(context: &Context) -> Result<Connected, Failure> {
    if let Some(host) = context.session.environment.get("CONTAINER_HOST") {
        return Ok(Connected { engine: Docker::connect(&Endpoint::plain(host))?, _service: None });
    }
    blocking(|| {
        let scratch =
            |source| EngineError::Transfer { action: "make a directory for podman's socket".to_owned(), source };
        let directory = tempfile::Builder::new().prefix("agent-podman-").tempdir().map_err(scratch)?;
        let service = Podman::default().serve(&directory.path().join("podman.sock"))?;
        Ok(Connected { engine: service.connect()?, _service: Some((service, directory)) })
    })
    .await
}

//! [`Engine`] in whatever keeps containers. What starts them differs; everything after that is the same.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Containers, ContainersError};
use crate::engine::{Docker, EngineError, Libpod};
use crate::error::Failure;
use crate::oci::Reference;
use crate::registry::RegistryError;
use crate::registry::auth::{Login, Sources};
use crate::run::spec::{Found, Outcome, RunId, RunImage, RunSpec};
use crate::run::{Engine, docker, podman};

/// How long a pull may show no progress where nobody says.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Runs as containers of an engine.
#[derive(Debug)]
pub struct ContainerEngine {
    containers: Containers,
    /// Whether the host's proxies and certificates are lent.
    lends: bool,
    /// Whether no registry may be asked.
    offline: bool,
    /// How long a pull may show no progress.
    silence: Duration,
}

impl ContainerEngine {
    /// Runs in Docker; `lends` the host's proxies and certificates to them.
    #[must_use]
    pub fn docker(docker: Docker, lends: bool) -> Self {
        Self { containers: Containers::Docker(docker), lends, offline: false, silence: SILENCE }
    }

    /// The same in Podman.
    #[must_use]
    pub fn podman(podman: Libpod, lends: bool) -> Self {
        Self { containers: Containers::Podman(podman), lends, offline: false, silence: SILENCE }
    }

    /// The same, which may pull nothing: [`RegistryError::Offline`].
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// The same, whose pulls may show no progress for so long: [`EngineError::Stalled`].
    #[must_use]
    pub fn silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    async fn has(&self, image: &RunImage) -> Result<(), ContainersError> {
        match &self.containers {
            Containers::Docker(it) => docker::image(it, image).await.map(drop),
            Containers::Podman(it) => podman::has(it, image).await,
        }
    }

    /// Has the image, from its registry where it is named there and is not here.
    async fn make_ready(&self, image: &RunImage) -> Result<(), Failure> {
        let absent = match self.has(image).await {
            Err(ContainersError::NoImage { .. }) => image.in_registry(),
            other => return Ok(other?),
        };
        if let Some(reference) = absent {
            if self.offline {
                let action = format!("pull `{reference}`");
                return Err(RegistryError::Offline { registry: reference.registry, action }.into());
            }
            let login = login(reference.clone()).await?;
            match &self.containers {
                Containers::Docker(it) => it.pull(&reference, login.as_ref(), self.silence).await?,
                Containers::Podman(it) => it.pull(&reference, login.as_ref(), self.silence).await?,
            }
        }
        Ok(self.has(image).await?)
    }

    /// Removes an image by its name, if that means it; whether it is done with.
    async fn remove_image(&self, image: &RunImage) -> Result<bool, EngineError> {
        let removed = match &self.containers {
            Containers::Docker(it) => {
                let found = it.image(&image.name).await?;
                if found.is_none_or(|it| it.id != image.config && it.id != image.manifest) {
                    return Ok(true);
                }
                it.remove_image(&image.name).await
            }
            Containers::Podman(it) => {
                // What Podman makes itself has no registry's name.
                let name = format!("localhost/{}", image.name);
                if it.image_id(&name).await? != Some(image.config) {
                    return Ok(true);
                }
                it.remove_image(&name).await
            }
        };
        match removed {
            Ok(()) => Ok(true),
            // A container uses it.
            Err(EngineError::Refused { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, spec: &RunSpec) -> Result<(), ContainersError> {
        match &self.containers {
            Containers::Docker(it) => docker::begin(it, &self.containers, spec, self.lends).await,
            Containers::Podman(it) => podman::begin(it, &self.containers, spec, self.lends).await,
        }
    }
}

/// The credentials of this user for a registry. Helper programs take their time.
async fn login(reference: Reference) -> Result<Option<Login>, Failure> {
    let work = move || Sources::of_process().login(&reference.registry, &reference.repository);
    Ok(tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)??)
}

impl Engine for ContainerEngine {
    fn name(&self) -> &'static str {
        match &self.containers {
            Containers::Docker(_) => "docker",
            Containers::Podman(_) => "podman",
        }
    }

    fn docker(&self) -> Option<Docker> {
        match &self.containers {
            Containers::Docker(it) => Some(it.clone()),
            Containers::Podman(it) => it.docker().ok(),
        }
    }

    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.make_ready(image))
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

    fn discard<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async { Ok(self.remove_image(image).await?) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::digest::Digest;
    use crate::engine::Endpoint;

    /// A Docker in which there is no image; its answer to a pull is this, and has no end.
    fn without_images(path: &std::path::Path, pulled: Option<&'static str>) -> Arc<Mutex<Vec<String>>> {
        let listener = UnixListener::bind(path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut lines = Vec::new();
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    lines.push(std::mem::take(&mut line));
                }
                log.lock().unwrap().extend(lines.first().cloned());
                let pulls = lines.first().is_some_and(|it| it.starts_with("POST ") && it.contains("/images/create"));
                if lines.first().is_some_and(|it| it.contains("_ping")) {
                    let head = "libpod-api-version: 4.3.1\r\ncontent-length: 0\r\nconnection: close";
                    let _ = write!(reader.get_mut(), "HTTP/1.1 200 X\r\n{head}\r\n\r\n");
                    continue;
                }
                if let Some(said) = pulled.filter(|_| pulls) {
                    let head = "content-type: application/json\r\ntransfer-encoding: chunked";
                    let _ = write!(reader.get_mut(), "HTTP/1.1 200 X\r\n{head}\r\n\r\n{:x}\r\n{said}\r\n", said.len());
                    kept.push(reader);
                    continue;
                }
                let said = "{\"message\":\"no such image\"}";
                let head = format!("content-type: application/json\r\ncontent-length: {}", said.len());
                let _ = write!(reader.get_mut(), "HTTP/1.1 404 X\r\n{head}\r\nconnection: close\r\n\r\n{said}");
            }
        });
        asked
    }

    #[tokio::test]
    async fn a_pull_without_progress_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let asked = without_images(&path, Some("{\"status\":\"Pulling fs layer\",\"id\":\"0123\"}\r\n"));
        let address = format!("unix://{}", path.display());
        let docker = ContainerEngine::docker(Docker::connect(&Endpoint::plain(&address)).unwrap(), false);
        let podman = ContainerEngine::podman(Libpod::connect(&address).unwrap(), false);
        for engine in [docker, podman] {
            let engine = engine.silence(Duration::from_secs(1));
            let digest = Digest::of(b"image");
            let name = format!("registry.example/team/task@{digest}");
            let image = RunImage { name: name.clone(), manifest: digest, config: digest };
            let prepared = engine.prepare(&image);
            let failure = tokio::time::timeout(Duration::from_secs(60), prepared).await.expect("it waits").unwrap_err();
            let said = failure.to_string();
            assert!(said.ends_with(&format!("made no progress for 1 s: pull `{name}`")), "{said}");
            // Whoever gives it the image does not answer, and it is not asked again at once: that has been waited for.
            assert_eq!(failure.kind(), crate::error::Kind::System);
            assert!(std::mem::take(&mut *asked.lock().unwrap()).iter().any(|it| it.contains("/images/create")));
        }
    }

    #[tokio::test]
    async fn without_registries_an_image_that_is_not_there_is_not_pulled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let asked = without_images(&path, None);
        let docker = Docker::connect(&Endpoint::plain(format!("unix://{}", path.display()))).unwrap();
        let engine = ContainerEngine::docker(docker, false).offline(true);
        let digest = Digest::of(b"image");
        let name = format!("registry.example/team/task@{digest}");
        let failure =
            engine.prepare(&RunImage { name: name.clone(), manifest: digest, config: digest }).await.unwrap_err();
        let said = failure.to_string();
        assert_eq!(said, format!("cannot pull `{name}`: nothing is fetched here, and `registry.example` is not asked"));
        let asked = asked.lock().unwrap();
        assert!(!asked.is_empty() && asked.iter().all(|it| it.starts_with("GET ")), "{asked:?}");
    }
}

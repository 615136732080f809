//! Podman's own API (libpod): what it alone can do for containers, CDI devices before all.
//!
//! It is spoken to where `CONTAINER_HOST` says, else on a service of ours. Such a service ends by itself when nobody asks
//! for a while and is started again when somebody does; containers are children of neither it nor us.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::podman::Service;
use super::spec::libpod_body;
use super::{ContainerSpec, ContainerState, Docker, Endpoint, EngineError, Podman};
use crate::http;

mod images;
mod over;
mod state;

use state::{Inspected, state};

/// The version of Docker's API that every Podman since 3 has.
const DOCKER: &str = "v1.40";

/// Podman's own API.
#[derive(Clone)]
pub struct Libpod {
    client: reqwest::Client,
    base: String,
    endpoint: String,
    ours: Option<Arc<Ours>>,
    /// The version it speaks, once it has said so.
    version: Arc<OnceCell<String>>,
}

/// A service of ours, started whenever none runs.
struct Ours {
    podman: Podman,
    directory: tempfile::TempDir,
    service: Mutex<Option<Service>>,
}

impl std::fmt::Debug for Libpod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libpod").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

impl Libpod {
    /// The service at an address, as `CONTAINER_HOST` has it. Nothing is sent yet.
    ///
    /// # Errors
    /// [`EngineError::Endpoint`] for an address of a kind we cannot use.
    pub fn connect(host: &str) -> Result<Self, EngineError> {
        match host.split_once("://") {
            Some(("unix", path)) => Self::new(host, "http://localhost".to_owned(), Some(path.into()), None),
            Some(("tcp" | "http", rest)) => {
                Self::new(host, format!("http://{}", rest.trim_end_matches('/')), None, None)
            }
            _ => {
                let reason = "only unix:// and tcp:// are understood".to_owned();
                Err(EngineError::Endpoint { endpoint: host.to_owned(), reason })
            }
        }
    }

    /// A service of our own, on this machine.
    ///
    /// # Errors
    /// [`EngineError::Transfer`] without a place for its socket.
    pub fn of_ours(podman: Podman) -> Result<Self, EngineError> {
        let scratch =
            |source| EngineError::Transfer { action: "make a directory for podman's socket".to_owned(), source };
        let directory = tempfile::Builder::new().prefix("agent-podman-").tempdir().map_err(scratch)?;
        let socket = directory.path().join("podman.sock");
        let host = format!("unix://{}", socket.display());
        let ours = Ours { podman, directory, service: Mutex::new(None) };
        Self::new(&host, "http://localhost".to_owned(), Some(socket), Some(ours))
    }

    fn new(
        endpoint: &str,
        base: String,
        socket: Option<std::path::PathBuf>,
        ours: Option<Ours>,
    ) -> Result<Self, EngineError> {
        // Waiting for a container's end says nothing until then.
        let options = http::Options { read: None, redirects: false, socket, ..http::Options::default() };
        let client = http::client(&options)
            .map_err(|error| EngineError::Unreachable { endpoint: endpoint.to_owned(), source: Box::new(error) })?;
        let ours = ours.map(Arc::new);
        Ok(Self { client, base, endpoint: endpoint.to_owned(), ours, version: Arc::default() })
    }

    /// The API that it shares with Docker, of the same service; an own one ends with the last clone of this.
    ///
    /// # Errors
    /// As [`Docker::connect`].
    pub fn docker(&self) -> Result<Docker, EngineError> {
        Docker::connect(&Endpoint::plain(self.endpoint.clone()))
    }

    /// Its address, for people.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether it runs on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.endpoint.starts_with("unix://")
    }

    /// Asks whether it answers, and starts it if it is ours.
    ///
    /// # Errors
    /// [`EngineError`] when it does not.
    pub async fn ping(&self) -> Result<(), EngineError> {
        if let Some(ours) = &self.ours {
            let ours = Arc::clone(ours);
            let begun = tokio::task::spawn_blocking(move || ours.ensure()).await;
            begun.unwrap_or_else(|error| {
                Err(EngineError::Transfer { action: "run podman".to_owned(), source: std::io::Error::other(error) })
            })?;
        }
        self.version.get_or_try_init(|| self.ask_version()).await.map(|_| ())
    }

    async fn ask_version(&self) -> Result<String, EngineError> {
        let answer = self.client.get(format!("{}/libpod/_ping", self.base)).send().await;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let version = answer.headers().get("Libpod-API-Version").and_then(|it| it.to_str().ok());
        match version {
            Some(version) if answer.status().is_success() => Ok(version.to_owned()),
            _ => Err(EngineError::Endpoint {
                endpoint: self.endpoint.clone(),
                reason: "who answers there does not speak Podman's own API".to_owned(),
            }),
        }
    }

    /// Creates a container and tells its id. Environment values go in the request alone.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a missing image, a taken name, a device that is not there.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let body = libpod_body(spec).map_err(|message| EngineError::Refused {
            endpoint: self.endpoint.clone(),
            action: format!("create a container of `{}`", spec.image),
            status: 400,
            message,
        })?;
        let action = format!("create a container of `{}`", spec.image);
        let answer = self.call(reqwest::Method::POST, "containers/create", Some(&body), &action).await?;
        let created: Listed = self.parse("create", &answer)?;
        Ok(created.id)
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when its program is missing or a device or mount cannot be had.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let path = format!("containers/{id}/start");
        self.call(reqwest::Method::POST, &path, None, "start the container").await.map(|_| ())
    }

    /// Waits until it has ended and tells its exit code.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such container or the service goes away.
    pub async fn wait(&self, id: &str) -> Result<i64, EngineError> {
        let path = format!("containers/{id}/wait?condition=exited&condition=stopped");
        let answer = self.call(reqwest::Method::POST, &path, None, "wait for the container").await?;
        self.parse("wait", &answer)
    }

    /// TERM, then KILL after `grace` seconds. One that is stopped or gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when it does not do it.
    pub async fn stop(&self, id: &str, grace: u32) -> Result<(), EngineError> {
        let path = format!("containers/{id}/stop?timeout={grace}");
        gone_is_done(self.call(reqwest::Method::POST, &path, None, "stop the container").await)
    }

    /// Removes it, running or not, with its anonymous volumes. One that is gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when it does not do it.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let path = format!("containers/{id}?force=true&v=true&timeout=0");
        gone_is_done(self.call(reqwest::Method::DELETE, &path, None, "remove the container").await)
    }

    /// How a container is, `None` when there is none of that id or name.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn state(&self, id: &str) -> Result<Option<ContainerState>, EngineError> {
        match self.inspected(id).await? {
            Some(found) => self.true_state(found).await,
            None => Ok(None),
        }
    }

    async fn inspected(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        let path = format!("containers/{id}/json");
        match self.call(reqwest::Method::GET, &path, None, "inspect the container").await {
            Ok(answer) => Ok(Some(self.parse("inspect", &answer)?)),
            Err(EngineError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The containers, running or not, that carry a label (`key` or `key=value`).
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn labelled(&self, label: &str) -> Result<Vec<ContainerState>, EngineError> {
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let filters = percent_encoding::utf8_percent_encode(&filters, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("containers/json?all=true&filters={filters}");
        let answer = self.call(reqwest::Method::GET, &path, None, "list its containers").await?;
        let listed: Option<Vec<Listed>> = self.parse("list", &answer)?;
        let mut states = Vec::new();
        for it in listed.unwrap_or_default() {
            states.extend(self.state(&it.id).await?);
        }
        Ok(states)
    }

    async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
        action: &str,
    ) -> Result<bytes::Bytes, EngineError> {
        let answer = self.ask((Api::Libpod, method), path, body, (action, None)).await?;
        answer.bytes().await.map_err(|error| self.unreachable(error))
    }

    /// An answer whose end is still to come; credentials for a registry may go along. A refusal is an error.
    async fn ask(
        &self,
        (api, method): (Api, reqwest::Method),
        path: &str,
        body: Option<&Value>,
        (action, login): (&str, Option<&Value>),
    ) -> Result<reqwest::Response, EngineError> {
        self.ping().await?;
        let api = match api {
            Api::Libpod => format!("v{}/libpod", self.version.get().map_or("4.0.0", String::as_str)),
            Api::Docker => DOCKER.to_owned(),
        };
        let mut request = self.client.request(method, format!("{}/{api}/{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(login) = login {
            let encoded = base64::engine::general_purpose::URL_SAFE.encode(login.to_string());
            request = request.header("X-Registry-Auth", encoded);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        // 304: it is so already.
        if status.is_success() || status.as_u16() == 304 {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(error))?;
        let said: Option<Value> = serde_json::from_slice(&bytes).ok();
        let said = said.as_ref().and_then(|it| it.get("message").or_else(|| it.get("cause"))?.as_str());
        let message = said.map_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned(), str::to_owned);
        Err(EngineError::Refused {
            endpoint: self.endpoint.clone(),
            action: action.to_owned(),
            status: status.as_u16(),
            message,
        })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, EngineError> {
        serde_json::from_slice(bytes).map_err(|error| EngineError::Answer {
            endpoint: self.endpoint.clone(),
            what: what.to_owned(),
            detail: error.to_string(),
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> EngineError {
        EngineError::Unreachable { endpoint: self.endpoint.clone(), source: Box::new(error.without_url()) }
    }
}

/// Which of its two.
#[derive(Debug, Clone, Copy)]
enum Api {
    Libpod,
    /// The one that is Docker's.
    Docker,
}

impl Ours {
    fn ensure(&self) -> Result<(), EngineError> {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        if service.as_mut().is_some_and(Service::is_up) {
            return Ok(());
        }
        // What an ended one left would be taken for a listening one.
        let socket = self.directory.path().join("podman.sock");
        let _ = fs_err::remove_file(&socket);
        *service = Some(self.podman.serve(&socket)?);
        Ok(())
    }
}

fn gone_is_done(result: Result<bytes::Bytes, EngineError>) -> Result<(), EngineError> {
    match result {
        Err(EngineError::Refused { status: 404, .. }) => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_spoken_to_are_taken() {
        assert!(Libpod::connect("unix:///run/podman/podman.sock").unwrap().is_local());
        assert!(!Libpod::connect("tcp://127.0.0.1:8080").unwrap().is_local());
        assert!(matches!(Libpod::connect("ssh://root@host/x"), Err(EngineError::Endpoint { .. })));
    }
}

//! A connection to a Docker engine: what images it has, archives in and out.

use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions,
};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::{Endpoint, EngineError};
use crate::digest::Digest;
use crate::oci::Reference;
use crate::registry::auth::Login;

/// Seconds an engine may take before it begins to answer: loading a large image says nothing until it is done.
const PATIENCE: u64 = 3600;
/// How many images are asked about at a time.
const QUESTIONS: usize = 16;

/// A connection to an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    pub(super) endpoint: String,
}

/// An image as an engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineImage {
    /// The config digest in a classic store, the manifest digest (or the index's) in a containerd store.
    pub id: Digest,
    /// Its names, `repository:tag`.
    pub tags: Vec<String>,
    /// Where it was pulled from, `repository@digest`.
    pub repo_digests: Vec<String>,
    /// The uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// Size in bytes as the engine counts it.
    pub size: u64,
}

impl Docker {
    /// Connects to an endpoint. Nothing is sent yet.
    ///
    /// # Errors
    /// [`EngineError::Endpoint`] for an address of a kind we cannot use, [`EngineError::Unreachable`] without a socket.
    pub fn connect(endpoint: &Endpoint) -> Result<Self, EngineError> {
        let host = endpoint.host.as_str();
        let client = match (host.split_once("://"), &endpoint.tls) {
            (Some(("unix", path)), _) => bollard::Docker::connect_with_unix(path, PATIENCE, API_DEFAULT_VERSION),
            (Some(("tcp" | "http" | "https", _)), Some(dir)) => bollard::Docker::connect_with_ssl(
                host,
                &dir.join("key.pem"),
                &dir.join("cert.pem"),
                &dir.join("ca.pem"),
                PATIENCE,
                API_DEFAULT_VERSION,
            ),
            (Some(("tcp" | "http", _)), None) => {
                bollard::Docker::connect_with_http(host, PATIENCE, API_DEFAULT_VERSION)
            }
            _ => {
                let reason = "only unix:// and tcp:// are understood".to_owned();
                return Err(EngineError::Endpoint { endpoint: host.to_owned(), reason });
            }
        };
        match client {
            Ok(client) => Ok(Self { client, endpoint: host.to_owned() }),
            Err(error) => Err(EngineError::Unreachable { endpoint: host.to_owned(), source: Box::new(error) }),
        }
    }

    /// Connects to the engine that the environment and the docker configuration of this process name.
    ///
    /// # Errors
    /// As [`Endpoint::find`] and [`Docker::connect`].
    pub fn connect_default() -> Result<Self, EngineError> {
        Self::connect(&Endpoint::find(&super::endpoint::Surroundings::of_process())?)
    }

    /// The address of the engine, for people.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether an engine answers.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`] when none does.
    pub async fn ping(&self) -> Result<(), EngineError> {
        self.client.ping().await.map(|_| ()).map_err(|error| self.refused("answer", error))
    }

    /// The engine's version, `20.10.24`.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn version(&self) -> Result<String, EngineError> {
        let version = self.client.version().await.map_err(|error| self.refused("tell its version", error))?;
        Ok(version.version.unwrap_or_default())
    }

    /// Whether the engine runs on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.endpoint.starts_with("unix://")
    }

    /// Whether the engine keeps layers unpacked by chain id, and not blobs in containerd.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn has_classic_store(&self) -> Result<bool, EngineError> {
        let info = self.client.info().await.map_err(|error| self.refused("tell of itself", error))?;
        let mut status = info.driver_status.iter().flatten().flatten();
        Ok(!status.any(|it| it.starts_with("io.containerd.snapshotter")))
    }

    /// Whether the engine reads CDI specifications.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn reads_cdi(&self) -> Result<bool, EngineError> {
        let info = self.client.info().await.map_err(|error| self.refused("tell of itself", error))?;
        Ok(info.cdi_spec_dirs.is_some_and(|it| !it.is_empty()))
    }

    /// The image of that name or id, `None` when there is none.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn image(&self, name: &str) -> Result<Option<EngineImage>, EngineError> {
        match self.client.inspect_image(name).await {
            Ok(found) => self.image_of(name, found).map(Some),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.refused(&format!("inspect `{name}`"), error)),
        }
    }

    /// What the engine tells of an image's configuration, in the image-spec's own shape.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such image.
    pub async fn image_config(&self, name: &str) -> Result<serde_json::Value, EngineError> {
        let found = self.client.inspect_image(name).await;
        let found = found.map_err(|error| self.refused(&format!("inspect `{name}`"), error))?;
        let layers = found.root_fs.and_then(|it| it.layers).unwrap_or_default();
        Ok(serde_json::json!({
            "architecture": found.architecture,
            "os": found.os,
            "created": found.created,
            "config": found.config,
            "rootfs": {"type": "layers", "diff_ids": layers},
        }))
    }

    /// Everything the engine has, newest first, untagged images too. One that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        let listed = self
            .client
            .list_images(None::<ListImagesOptions>)
            .await
            .map_err(|error| self.refused("list its images", error))?;
        let found: Vec<Option<EngineImage>> = stream::iter(listed)
            .map(|it| async move { self.image(&it.id).await })
            .buffered(QUESTIONS)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Loads an image archive (`docker load`). Chunks come from `archive`; an error there ends the transfer.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the engine's own words, among them those for a layer that a thin archive lacks.
    pub async fn load<S>(&self, archive: S) -> Result<(), EngineError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut answers = Box::pin(self.client.import_image_stream(options, archive, None));
        while let Some(answer) = answers.next().await {
            answer.map_err(|error| self.refused("load the image", error))?;
        }
        Ok(())
    }

    /// Fetches an image from its registry (`docker pull`).
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the engine's own words.
    pub async fn pull(&self, image: &Reference, login: Option<&Login>, silence: Duration) -> Result<(), EngineError> {
        let name = image.familiar();
        let options = CreateImageOptions { from_image: Some(name.clone()), ..CreateImageOptions::default() };
        let mut credentials =
            DockerCredentials { serveraddress: Some(image.registry.clone()), ..DockerCredentials::default() };
        match login {
            Some(Login::Password(it)) => {
                credentials.username = Some(it.user.clone());
                credentials.password = Some(it.password.reveal().to_owned());
            }
            Some(Login::IdentityToken(it)) => credentials.identitytoken = Some(it.reveal().to_owned()),
            None => {}
        }
        let mut answers = Box::pin(self.client.create_image(Some(options), None, login.map(|_| credentials)));
        let action = || format!("pull `{name}`");
        loop {
            // It tells of each part that it gets.
            let answer = timeout(silence, answers.next()).await.map_err(|_| EngineError::Stalled {
                endpoint: self.endpoint.clone(),
                action: action(),
                silence,
            })?;
            let Some(answer) = answer else { return Ok(()) };
            answer.map_err(|error| self.refused(&action(), error))?;
        }
    }

    /// The archive of an image (`docker save`).
    pub fn export(&self, image: &str) -> impl Stream<Item = Result<Bytes, EngineError>> + Send + use<> {
        let this = self.clone();
        let action = format!("export `{image}`");
        let chunks: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, BollardError>> + Send>> =
            Box::pin(self.client.export_image(image));
        chunks.map(move |chunk| chunk.map_err(|error| this.refused(&action, error)))
    }

    /// Gives an image another name, `repository` and `tag` apart.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such image.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        let action = || format!("tag `{image}` as `{repository}:{tag}`");
        self.client.tag_image(image, Some(options)).await.map_err(|error| self.refused(&action(), error))
    }

    /// Removes an image or one of its names; one that is gone already is no error.
    ///
    /// # Errors
    /// [`EngineError::Refused`] while a container uses it.
    pub async fn remove_image(&self, image: &str) -> Result<(), EngineError> {
        match self.client.remove_image(image, None::<RemoveImageOptions>, None).await {
            Ok(_) | Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.refused(&format!("remove `{image}`"), error)),
        }
    }

    fn image_of(&self, name: &str, found: bollard::models::ImageInspect) -> Result<EngineImage, EngineError> {
        let odd = |detail: String| EngineError::Answer {
            endpoint: self.endpoint.clone(),
            what: format!("inspect `{name}`"),
            detail,
        };
        let id = found.id.ok_or_else(|| odd("no id".to_owned()))?;
        let layers = found.root_fs.and_then(|it| it.layers).unwrap_or_default();
        let diff_ids: Result<Vec<Digest>, _> = layers.iter().map(|it| it.parse()).collect();
        Ok(EngineImage {
            id: id.parse().map_err(|_| odd(format!("id `{id}`")))?,
            tags: found.repo_tags.unwrap_or_default(),
            repo_digests: found.repo_digests.unwrap_or_default(),
            diff_ids: diff_ids.map_err(|error| odd(error.to_string()))?,
            size: found.size.and_then(|it| u64::try_from(it).ok()).unwrap_or_default(),
        })
    }

    /// The engine's refusal, or that nobody answered.
    pub(super) fn refused(&self, action: &str, error: BollardError) -> EngineError {
        let refused = |status, message| EngineError::Refused {
            endpoint: self.endpoint.clone(),
            action: action.to_owned(),
            status,
            message,
        };
        match error {
            BollardError::DockerResponseServerError { status_code, message } => refused(status_code, message),
            BollardError::DockerStreamError { error } => refused(0, error),
            BollardError::JsonDataError { message, .. } => {
                EngineError::Answer { endpoint: self.endpoint.clone(), what: action.to_owned(), detail: message }
            }
            other => EngineError::Unreachable { endpoint: self.endpoint.clone(), source: Box::new(other) },
        }
    }
}

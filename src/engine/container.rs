//! Containers of a Docker engine: created, started, listened to, waited for, stopped, found again by label.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::models;
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, DownloadFromContainerOptions, InspectContainerOptions,
    KillContainerOptions, ListContainersOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions,
    StopContainerOptions, WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};

use super::spec::body;
use super::{ContainerSpec, Docker, EngineError};

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChunk {
    /// Of its standard output.
    Out(Bytes),
    /// Of its standard error.
    Err(Bytes),
}

/// A container's output, piece by piece.
pub type Output = Pin<Box<dyn Stream<Item = Result<LogChunk, EngineError>> + Send>>;

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it was never started.
    pub created: bool,
    /// Whether it runs now.
    pub running: bool,
    /// When it was last started.
    pub started: Option<jiff::Timestamp>,
    /// When it ended.
    pub finished: Option<jiff::Timestamp>,
    /// Its exit code, once it has run and ended.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// The engine's own words on why it did not start.
    pub error: Option<String>,
}

impl Docker {
    /// Creates a container and tells its id.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a missing image, a taken name, a device that is not there.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let options = CreateContainerOptions { name: spec.name.clone(), ..CreateContainerOptions::default() };
        let created = self
            .client
            .create_container(Some(options), body(spec))
            .await
            .map_err(|error| self.refused(&format!("create a container of `{}`", spec.image), error))?;
        Ok(created.id)
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when its program is missing or a device or mount cannot be had.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let started = self.client.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|error| self.refused("start the container", error))
    }

    /// Its output from the beginning, and on until it ends if `follow`. Of an engine's own making: some end a followed
    /// log before the last line where that has no end, some replace what is no text, and some keep no log at all.
    #[must_use]
    pub fn logs(&self, id: &str, follow: bool) -> Output {
        let options = LogsOptions { follow, stdout: true, stderr: true, ..LogsOptions::default() };
        self.output(Box::pin(self.client.logs(id, Some(options))))
    }

    /// Its output as it comes from its program. Asked for before the start, all of it; the program waits while nobody
    /// takes what comes.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when there is no such container, or whoever stands between does not let this through.
    pub async fn attach(&self, id: &str) -> Result<Output, EngineError> {
        let options = AttachContainerOptions { stream: true, stdout: true, stderr: true, ..Default::default() };
        let attached = self.client.attach_container(id, Some(options)).await;
        let attached = attached.map_err(|error| self.refused("give the container's output", error))?;
        Ok(self.output(attached.output))
    }

    fn output(&self, chunks: Pin<Box<dyn Stream<Item = Result<LogOutput, BollardError>> + Send>>) -> Output {
        let this = self.clone();
        Box::pin(chunks.map(move |chunk| match chunk {
            Ok(LogOutput::StdErr { message }) => Ok(LogChunk::Err(message)),
            Ok(other) => Ok(LogChunk::Out(other.into_bytes())),
            Err(error) => Err(this.refused("give the container's output", error)),
        }))
    }

    /// Waits until it is not running and tells its exit code.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such container or the engine goes away.
    pub async fn wait(&self, id: &str) -> Result<i64, EngineError> {
        let mut answers = Box::pin(self.client.wait_container(id, None::<WaitContainerOptions>));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // bollard takes an exit code other than 0 for an error.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(self.refused("wait for the container", error)),
            None => {
                let state = self.state(id).await?;
                state.and_then(|it| it.exit_code).ok_or_else(|| EngineError::Answer {
                    endpoint: self.endpoint.clone(),
                    what: "wait".to_owned(),
                    detail: "no exit code".to_owned(),
                })
            }
        }
    }

    /// TERM, then KILL after `grace` seconds. One that is stopped or gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn stop(&self, id: &str, grace: u32) -> Result<(), EngineError> {
        let options = StopContainerOptions { t: i32::try_from(grace).ok(), signal: None };
        gone_is_done(self.client.stop_container(id, Some(options)).await)
            .map_err(|error| self.refused("stop the container", error))
    }

    /// Sends a signal (`SIGTERM`). One that does not run is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.client.kill_container(id, Some(options)).await {
            // 409: it is not running.
            Err(BollardError::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            other => gone_is_done(other).map_err(|error| self.refused("signal the container", error)),
        }
    }

    /// Removes it, running or not, with its anonymous volumes. One that is gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        gone_is_done(self.client.remove_container(id, Some(options)).await)
            .map_err(|error| self.refused("remove the container", error))
    }

    /// How a container is, `None` when there is none of that id or name.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn state(&self, id: &str) -> Result<Option<ContainerState>, EngineError> {
        match self.client.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(state(found))),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.refused("inspect the container", error)),
        }
    }

    /// A tar of a path of a container, running or not; `None` when there is nothing. For small files.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn copy_out(&self, id: &str, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut chunks = Box::pin(self.client.download_from_container(id, Some(options)));
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
                Err(error) => return Err(self.refused(&format!("copy `{path}`"), error)),
            }
        }
        Ok(Some(archive))
    }

    /// The containers, running or not, that carry a label (`key` or `key=value`).
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn labelled(&self, label: &str) -> Result<Vec<ContainerState>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.refused("list its containers", error))?;
        let mut states = Vec::new();
        for id in listed.into_iter().filter_map(|it| it.id) {
            states.extend(self.state(&id).await?);
        }
        Ok(states)
    }
}

fn gone_is_done(result: Result<(), BollardError>) -> Result<(), BollardError> {
    match result {
        Err(BollardError::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        other => other,
    }
}

/// A time as engines write it; the year 1 stands for never.
pub(super) fn moment(text: Option<&str>) -> Option<jiff::Timestamp> {
    text.filter(|it| !it.starts_with("0001-"))?.parse().ok()
}

fn state(found: models::ContainerInspectResponse) -> ContainerState {
    let labels = found.config.and_then(|it| it.labels).unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let (started, finished) = (moment(state.started_at.as_deref()), moment(state.finished_at.as_deref()));
    let running = state.running.unwrap_or_default();
    ContainerState {
        id: found.id.unwrap_or_default(),
        labels: labels.into_iter().collect(),
        created: state.status == Some(models::ContainerStateStatusEnum::CREATED),
        running,
        started,
        finished,
        exit_code: state.exit_code.filter(|_| finished.is_some() && !running),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.filter(|it| !it.is_empty()),
    }
}

//! Runs an image in a Docker engine (or in Podman's service, which speaks the same): created, started, listened to,
//! stopped, removed.
//!
//! Variables, credentials among them, go through the API and never stand in an argument of a program. A run is found
//! again by its label, whoever started it. The host's proxies and certificates are lent to a run on this machine.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::engine::{Bind, ContainerSpec, Docker, EngineError, LogChunk};
use crate::sandbox::lend;
use crate::secret::Secret;

/// The label by which a run's container is found.
pub const RUN_LABEL: &str = "io.github.agent.run";
/// Seconds between TERM and KILL; the in-image process needs six to end its program and report.
const GRACE: u32 = 10;
/// How long the end of the output is waited for after the container's own.
const TAIL: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 + signal for one that a signal ended.
    pub code: i64,
    /// Whether the kernel killed it for memory.
    pub out_of_memory: bool,
}

/// A started container.
#[derive(Debug)]
pub struct DockerRun {
    docker: Docker,
    id: String,
}

/// Lends the host's proxies and certificates to a container on this machine; what it sets itself stays. A remote engine
/// has files and a network of its own.
pub fn lend_host(docker: &Docker, spec: &mut ContainerSpec) {
    if !docker.endpoint().starts_with("unix://") {
        return;
    }
    for (name, value) in lend::proxies() {
        spec.env.entry(name).or_insert_with(|| Secret::new(value));
    }
    if let Some(bundle) = lend::trust_store().and_then(|it| it.canonicalize().ok()) {
        let source = bundle.display().to_string();
        spec.binds.push(Bind { source, target: lend::TRUST.to_owned(), read_only: true });
        for name in lend::TRUST_VARIABLES {
            spec.env.entry(name.to_owned()).or_insert_with(|| Secret::new(lend::TRUST));
        }
    }
}

/// Creates and starts a container under a run's id. One that cannot be started is removed.
///
/// # Errors
/// [`EngineError`]
pub async fn start(docker: &Docker, mut spec: ContainerSpec, run: &str) -> Result<DockerRun, EngineError> {
    spec.labels.insert(RUN_LABEL.to_owned(), run.to_owned());
    spec.stop_timeout.get_or_insert(GRACE);
    let id = docker.create(&spec).await?;
    let started = DockerRun { docker: docker.clone(), id };
    match docker.start(&started.id).await {
        Ok(()) => Ok(started),
        Err(error) => {
            // The first error is the one that matters.
            let _ = docker.remove(&started.id).await;
            Err(error)
        }
    }
}

/// The container of a run that somebody started, if it is still there.
///
/// # Errors
/// [`EngineError`] when the engine does not answer.
pub async fn find(docker: &Docker, run: &str) -> Result<Option<DockerRun>, EngineError> {
    let found = docker.labelled(&format!("{RUN_LABEL}={run}")).await?;
    Ok(found.into_iter().next().map(|it| DockerRun { docker: docker.clone(), id: it.id }))
}

impl DockerRun {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Hands on the output from its beginning and waits for the end. When `stop` is done the container gets TERM, and
    /// KILL ten seconds later.
    ///
    /// # Errors
    /// [`EngineError`] when the engine goes away; the container is where it was.
    pub async fn attend(
        &self,
        mut output: impl FnMut(&LogChunk),
        stop: impl Future<Output = ()>,
    ) -> Result<Ended, EngineError> {
        let mut logs = Box::pin(self.docker.logs(&self.id, true)).fuse();
        let mut end = Box::pin(self.docker.wait(&self.id));
        let mut stop = Box::pin(stop);
        let mut stopping = None;
        let code = loop {
            tokio::select! {
                Some(chunk) = logs.next() => if let Ok(chunk) = chunk { output(&chunk) },
                code = &mut end => break code?,
                () = &mut stop, if stopping.is_none() => {
                    let (docker, id) = (self.docker.clone(), self.id.clone());
                    stopping = Some(tokio::spawn(async move { docker.stop(&id, GRACE).await }));
                }
            }
        };
        // What was written last may still be on its way; an engine that never closes the stream does not keep us.
        let drained = async {
            while let Some(Ok(chunk)) = logs.next().await {
                output(&chunk);
            }
        };
        let _ = tokio::time::timeout(TAIL, drained).await;
        let state = self.docker.state(&self.id).await?;
        Ok(Ended { code, out_of_memory: state.is_some_and(|it| it.oom_killed) })
    }

    /// As [`DockerRun::attend`], stopped by the signals this process gets: the first asks, the second kills.
    ///
    /// # Errors
    /// [`EngineError`]
    pub async fn attend_signals(&self, output: impl FnMut(&LogChunk)) -> Result<Ended, EngineError> {
        let deaf = |source| EngineError::Transfer { action: "listen to signals".to_owned(), source };
        let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(deaf)?;
        let (asked, ask) = tokio::sync::oneshot::channel::<()>();
        let (docker, id) = (self.docker.clone(), self.id.clone());
        let listening = tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            let _ = asked.send(());
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            docker.kill(&id, "SIGKILL").await
        });
        let stop = async {
            if ask.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let ended = self.attend(output, stop).await;
        listening.abort();
        ended
    }

    /// Asks it to end, and kills it after `grace` seconds.
    ///
    /// # Errors
    /// [`EngineError`]
    pub async fn stop(&self, grace: u32) -> Result<(), EngineError> {
        self.docker.stop(&self.id, grace).await
    }

    /// Removes the container, running or not.
    ///
    /// # Errors
    /// [`EngineError`]
    pub async fn remove(self) -> Result<(), EngineError> {
        self.docker.remove(&self.id).await
    }
}

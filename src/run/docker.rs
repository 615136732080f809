//! Runs an image in a Docker engine (or in Podman's service, which speaks the same): created, started, listened to,
//! stopped, removed.
//!
//! The output is listened to from before the start; where that is not possible it is read from the engine's log, and
//! what the log had not told by the end is read once more after it. Variables, credentials among them, go through the
//! API and never stand in an argument of a program. A run is found again by its label, whoever started it. The host's
//! proxies and certificates are lent to a run on this machine.

use std::collections::BTreeMap;
use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

mod engine;

pub use engine::lacks_driver;
pub(super) use engine::{begin, image};

use super::lends::HostMount;
use super::listen::Listening;
use crate::config::Environment;
use crate::engine::{Bind, ContainerSpec, Docker, EngineError, LogChunk, Output};
use crate::process::Hangup;
use crate::sandbox::lend;
use crate::secret::{Secret, is_secret_variable};

/// The label by which a run's container is found.
pub const RUN_LABEL: &str = "io.github.agent.run";
/// Seconds between TERM and KILL; the in-image process needs six to end its program and report.
const GRACE: u32 = 10;
/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 + signal for one that a signal ended.
    pub code: i64,
    /// Whether the kernel killed it for memory.
    pub out_of_memory: bool,
    /// Whether all of its output was handed on, as far as can be known.
    pub heard: bool,
}

/// A started container.
pub struct DockerRun {
    docker: Docker,
    id: String,
    /// What it says, listened to since before its start.
    output: Option<Output>,
}

impl std::fmt::Debug for DockerRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRun").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Lends the host's proxies and certificates to a container on this machine; what it sets itself stays. A remote engine
/// has files and a network of its own.
pub fn lend_host(docker: &Docker, spec: &mut ContainerSpec) {
    if docker.is_local() {
        lend_to(spec);
        for (name, value) in secret_proxies() {
            spec.env.entry(name).or_insert(value);
        }
    }
}

/// The host's proxies that hold a password: not for an environment that an engine tells.
#[must_use]
pub fn secret_proxies() -> BTreeMap<String, Secret> {
    let all = lend::proxies().into_iter();
    all.filter(|(name, value)| is_secret_variable(name, value)).map(|(name, it)| (name, Secret::new(it))).collect()
}

/// The same for a container that is known to be on this machine, but for what an engine must not tell.
pub(super) fn lend_to(spec: &mut ContainerSpec) {
    for (name, value) in lend::proxies().into_iter().filter(|(name, value)| !is_secret_variable(name, value)) {
        spec.env.entry(name).or_insert_with(|| Secret::new(value));
    }
    // In a container of its own the agent's files are none of the engine's machine.
    let shared = HostMount::of(&Environment::current()).is_ok_and(|it| it.is_none());
    if let Some(bundle) = lend::trust_store().filter(|_| shared).and_then(|it| it.canonicalize().ok()) {
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
pub async fn start(docker: &Docker, spec: ContainerSpec, run: &str) -> Result<DockerRun, EngineError> {
    let id = docker.create(&marked(spec, run)).await?;
    start_created(docker, id).await
}

/// A container that is found again as a run's.
#[must_use]
pub fn marked(mut spec: ContainerSpec, run: &str) -> ContainerSpec {
    spec.labels.insert(RUN_LABEL.to_owned(), run.to_owned());
    spec.stop_timeout.get_or_insert(GRACE);
    spec
}

/// Starts a container that somebody created. One that cannot be started is removed.
///
/// # Errors
/// [`EngineError`]
pub async fn start_created(docker: &Docker, id: String) -> Result<DockerRun, EngineError> {
    // Whoever stands between us and the engine may not let this through: there is the log.
    let output = docker.attach(&id).await.ok();
    let started = DockerRun { docker: docker.clone(), id, output };
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
    Ok(found.into_iter().next().map(|it| DockerRun { docker: docker.clone(), id: it.id, output: None }))
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
        &mut self,
        mut output: impl FnMut(&LogChunk),
        stop: impl Future<Output = ()>,
    ) -> Result<Ended, EngineError> {
        let mut listening = match self.output.take() {
            Some(chunks) => Listening::directly(chunks),
            None => Listening::by_log(self.docker.logs(&self.id, true)),
        };
        let mut end = Box::pin(self.docker.wait(&self.id));
        let mut stop = Box::pin(stop);
        let mut stopping = None;
        let code = loop {
            tokio::select! {
                Some(chunk) = listening.next() => output(&chunk),
                code = &mut end => break code?,
                () = &mut stop, if stopping.is_none() => {
                    let (docker, id) = (self.docker.clone(), self.id.clone());
                    stopping = Some(tokio::spawn(async move { docker.stop(&id, GRACE).await }));
                }
            }
        };
        let heard = listening.finish(|| self.docker.logs(&self.id, false), &mut output).await;
        let state = self.docker.state(&self.id).await?;
        Ok(Ended { code, out_of_memory: state.is_some_and(|it| it.oom_killed), heard })
    }

    /// As [`DockerRun::attend`], stopped by the signals this process gets: the first asks, the second kills.
    ///
    /// # Errors
    /// [`EngineError`]
    pub async fn attend_signals(
        &mut self,
        output: impl FnMut(&LogChunk),
        mut signals: StopSignals,
    ) -> Result<Ended, EngineError> {
        let (asked, ask) = tokio::sync::oneshot::channel::<()>();
        let (docker, id) = (self.docker.clone(), self.id.clone());
        let listening = tokio::spawn(async move {
            signals.next().await;
            let _ = asked.send(());
            signals.next().await;
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

/// The signals that ask this process to end, heard from the moment this is made: before a container is, so that none
/// is left behind.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Hangup,
}

impl StopSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`EngineError::Transfer`]
    pub fn listen() -> Result<Self, EngineError> {
        let deaf = |source| EngineError::Transfer { action: "listen to signals".to_owned(), source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(deaf)?,
            interrupt: signal(SignalKind::interrupt()).map_err(deaf)?,
            hangup: Hangup::listen().map_err(deaf)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.hangup.recv() => {}
        }
    }
}

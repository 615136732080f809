//! What the daemon asks of whatever runs images. An implementation per engine; a fake one in the daemon's tests.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::spec::{Found, Outcome, RunId, RunImage, RunSpec};
use crate::engine::Docker;
use crate::error::Failure;
use crate::switches::{Fate, Known};

/// Runs images. Every call names a run by its id alone, so that whoever started it need not be who attends it.
pub trait Engine: Send + Sync {
    /// Its name, for people and journals: `docker`, `podman`, `native`.
    fn name(&self) -> &'static str;

    /// A connection that speaks Docker's API, where it has one: to look at its images.
    fn docker(&self) -> Option<Docker> {
        None
    }

    /// Makes sure that the image can be started at once: it is there, and unpacked. One that is named at a digest is
    /// fetched from its registry where it is not there.
    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>>;

    /// Starts a run. One that goes on under this id already, or has ended, is left as it is: a start that was journalled
    /// and may or may not have happened is repeated safely. What cannot be started leaves nothing behind.
    fn start<'a>(&'a self, spec: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>>;

    /// What is known of a run.
    fn find<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>>;

    /// Waits until a run has ended. An engine that goes away meanwhile is waited for.
    fn wait<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>>;

    /// TERM to the run's first process, KILL to all of it after `grace`; done when it has stopped. One that has ended or
    /// is absent is no error.
    fn stop<'a>(&'a self, run: &'a RunId, grace: Duration) -> BoxFuture<'a, Result<(), Failure>>;

    /// Forgets a run that has ended: its container, its exit record. Its directory is the caller's.
    fn remove<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<(), Failure>>;

    /// The runs that were started here and not removed, whoever started them.
    fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>>;

    /// Removes an image that was made for runs, where its name still means it and no container uses it; `false` where it
    /// stays for that. One that is gone, or whose name means another by now, is done with.
    fn discard<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>>;
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// The Docker engine, wherever `DOCKER_HOST` says.
    Docker,
    /// Podman's own API, wherever `CONTAINER_HOST` says, else a service of ours.
    Podman,
    /// This program itself.
    Native,
}

impl EngineKind {
    /// Its name, as [`Engine::name`] has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Native => "native",
        }
    }

    /// What its runs make of a switch.
    #[must_use]
    pub const fn fate(self, known: &Known) -> Fate {
        match self {
            Self::Docker => known.docker,
            Self::Podman => known.podman,
            Self::Native => known.natively,
        }
    }
}

//! Runs as containers of an engine, Docker or Podman: found by their label, attended by whoever asks.
//!
//! What starts them differs and stands in [`super::docker`] and [`super::podman`]; everything after that is the same.

use std::time::Duration;

use fs_err as fs;
use jiff::Timestamp;

use super::docker::RUN_LABEL;
use super::spec::{Found, Outcome, RunId};
use crate::engine::{ContainerSpec, ContainerState, Docker, EngineError, Libpod};

mod container;
mod engine;
mod error;

pub(super) use container::{container, spool};
pub use engine::ContainerEngine;
pub use error::ContainersError;

/// Seconds between TERM and KILL of whoever stops a container without saying: the in-image process needs six to end its
/// program and report.
const GRACE: u32 = 10;
/// The first pause before an engine that is away is asked again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long an engine is trusted to say that a container has ended, before its state is looked at again.
const SILENCE: Duration = Duration::from_secs(300);
/// How long an engine that comes up or goes down may answer with errors of its own.
const NONSENSE: Duration = Duration::from_secs(600);
/// How long an engine that is away is waited for by who wants something done.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine that keeps containers.
#[derive(Debug, Clone)]
pub(super) enum Containers {
    Docker(Docker),
    Podman(Libpod),
}

impl Containers {
    /// For people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Docker(_) => "Docker",
            Self::Podman(_) => "Podman",
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        match self {
            Self::Docker(it) => it.endpoint(),
            Self::Podman(it) => it.endpoint(),
        }
    }

    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Docker(it) => it.is_local(),
            Self::Podman(it) => it.is_local(),
        }
    }

    /// The container of a run: one that runs before others, should there be more than one.
    async fn state(&self, run: &RunId) -> Result<Option<ContainerState>, EngineError> {
        let mut states = self.labelled(&format!("{RUN_LABEL}={run}")).await?;
        states.sort_by_key(|it| (!it.running, it.created));
        Ok(states.into_iter().next())
    }

    async fn labelled(&self, label: &str) -> Result<Vec<ContainerState>, EngineError> {
        match self {
            Self::Docker(it) => it.labelled(label).await,
            Self::Podman(it) => it.labelled(label).await,
        }
    }

    /// Creates the container of a run and starts it, unless it goes on or has ended already. What cannot be started is
    /// removed again.
    pub(super) async fn start(&self, spec: &ContainerSpec, run: &RunId) -> Result<(), EngineError> {
        let id = match self.state(run).await? {
            Some(found) if !found.created => return Ok(()),
            Some(found) => found.id,
            None => match self.create(spec).await {
                Ok(id) => id,
                // Another start of the same run may have been quicker: its name is the run's.
                Err(error) if is_taken(&error) => match self.state(run).await? {
                    Some(found) if !found.created => return Ok(()),
                    Some(found) => found.id,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            },
        };
        let started = match self {
            Self::Docker(it) => it.start(&id).await,
            Self::Podman(it) => it.start(&id).await,
        };
        if let Err(error) = &started
            && !error.is_unheard()
        {
            // The first error is the one that matters.
            let _ = self.discard(&id).await;
        }
        started
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        match self {
            Self::Docker(it) => it.create(spec).await,
            Self::Podman(it) => it.create(spec).await,
        }
    }

    async fn discard(&self, id: &str) -> Result<(), EngineError> {
        match self {
            Self::Docker(it) => it.remove(id).await,
            Self::Podman(it) => it.remove(id).await,
        }
    }

    /// What is known of a run.
    pub(super) async fn find(&self, run: &RunId) -> Result<Found, EngineError> {
        Ok(match self.state(run).await? {
            None => Found::Absent,
            Some(it) if it.created => Found::Absent,
            Some(it) if it.running => Found::Running,
            Some(it) => Found::Ended(self.outcome(&it)),
        })
    }

    fn outcome(&self, state: &ContainerState) -> Outcome {
        let lost = |reason: &str| Outcome::Lost { reason: reason.to_owned() };
        // Podman writes -1 where whoever would have told it was killed.
        let Some(code) = state.exit_code.filter(|it| *it >= 0) else {
            return lost("its container did not leave an exit code");
        };
        // What was running when the machine went down is given 255 by the engine that comes up with it.
        if code == 255 && self.is_local() && boot_time().is_some_and(|it| is_across(state, it)) {
            return lost("the machine was restarted");
        }
        Outcome::Exited { code: i32::try_from(code).unwrap_or(1), out_of_memory: state.oom_killed }
    }

    /// Waits until a run has ended. An engine that is away is asked again until it answers.
    pub(super) async fn wait(&self, run: &RunId) -> Result<Outcome, EngineError> {
        let mut pause = PAUSE.0;
        let mut refusing: Option<tokio::time::Instant> = None;
        loop {
            let waited = match self.state(run).await {
                Ok(None) => return Ok(Outcome::Lost { reason: "its container was removed".to_owned() }),
                Ok(Some(it)) if it.created => {
                    return Ok(Outcome::Lost { reason: "its container was never started".to_owned() });
                }
                Ok(Some(it)) if !it.running => return Ok(self.outcome(&it)),
                Ok(Some(it)) => tokio::time::timeout(SILENCE, self.ended(&it.id)).await.unwrap_or(Ok(())),
                Err(error) => Err(error),
            };
            match waited {
                Ok(()) => (pause, refusing) = (PAUSE.0, None),
                // The container may have gone between two questions.
                Err(EngineError::Refused { status: 404 | 409, .. }) => tokio::time::sleep(PAUSE.0).await,
                Err(error) if error.is_away() => {
                    // One that is there and answers nothing but nonsense will not get better.
                    let since = refusing.get_or_insert_with(tokio::time::Instant::now);
                    if error.is_unheard() {
                        refusing = None;
                    } else if since.elapsed() > NONSENSE {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ended(&self, id: &str) -> Result<(), EngineError> {
        match self {
            Self::Docker(it) => it.wait(id).await.map(|_| ()),
            Self::Podman(it) => it.wait(id).await.map(|_| ()),
        }
    }

    /// TERM, KILL after `grace`, done when it has stopped. An engine that is away is waited for, for a while.
    pub(super) async fn stop(&self, run: &RunId, grace: Duration) -> Result<(), EngineError> {
        let seconds = u32::try_from(grace.as_secs() + u64::from(grace.subsec_nanos() > 0)).unwrap_or(GRACE);
        let began = tokio::time::Instant::now();
        let mut pause = PAUSE.0;
        loop {
            let stopped = match self.state(run).await {
                Ok(Some(it)) if it.running => match self {
                    Self::Docker(docker) => docker.stop(&it.id, seconds).await,
                    Self::Podman(podman) => podman.stop(&it.id, seconds).await,
                },
                Ok(_) => return Ok(()),
                Err(error) => Err(error),
            };
            match stopped {
                Ok(()) => return Ok(()),
                Err(error) if error.is_away() && began.elapsed() < grace + PATIENCE => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the containers of a run.
    pub(super) async fn remove(&self, run: &RunId) -> Result<(), EngineError> {
        for it in self.labelled(&format!("{RUN_LABEL}={run}")).await? {
            self.discard(&it.id).await?;
        }
        Ok(())
    }

    /// The runs of all containers that carry the label.
    pub(super) async fn runs(&self) -> Result<Vec<RunId>, EngineError> {
        let states = self.labelled(RUN_LABEL).await?;
        let mut runs: Vec<RunId> = states.iter().filter_map(|it| it.labels.get(RUN_LABEL)?.parse().ok()).collect();
        runs.sort();
        runs.dedup();
        Ok(runs)
    }
}

/// Whether a container's name is another's.
fn is_taken(error: &EngineError) -> bool {
    match error {
        EngineError::Refused { status, message, .. } => *status == 409 || message.contains("already in use"),
        _ => false,
    }
}

/// When this machine was started.
fn boot_time() -> Option<Timestamp> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|it| it.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// Whether a container started before a moment and ended after it.
fn is_across(state: &ContainerState, moment: Timestamp) -> bool {
    state.started.is_some_and(|it| it < moment) && state.finished.is_some_and(|it| it >= moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_went_down_with_its_machine_is_told_from_one_that_ended() {
        let boot: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let across = |started: Option<&str>, finished: Option<&str>| {
            let at = |text: &str| text.parse::<Timestamp>().unwrap();
            let state = ContainerState {
                id: String::new(),
                labels: std::collections::BTreeMap::new(),
                created: false,
                running: false,
                started: started.map(at),
                finished: finished.map(at),
                exit_code: Some(255),
                oom_killed: false,
                error: None,
            };
            is_across(&state, boot)
        };
        let (before, later, after) = ("2026-01-01T12:00:00Z", "2026-01-01T23:59:59Z", "2026-01-02T00:00:07Z");
        assert!(across(Some(before), Some(after)));
        assert!(!across(Some(before), Some(later)) && !across(Some(after), Some(after)));
        assert!(!across(Some(before), None) && !across(None, Some(after)));
        assert!(boot_time().is_some_and(|it| it < Timestamp::now()));
    }
}

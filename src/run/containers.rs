//! Runs as containers of an engine, Docker or Podman: found by their label, attended by whoever asks.
//!
//! What starts them differs and stands in [`super::docker`] and [`super::podman`]; everything after that is the same.

use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use jiff::Timestamp;

use super::docker::RUN_LABEL;
use super::lends::{HostMount, LendError};
use super::spec::{Found, Outcome, RunId, RunSpec};
use crate::config::Environment;
use crate::engine::{Bind, ContainerSpec, ContainerState, Docker, EngineError, Libpod};
use crate::error::{Explain, Kind};
use crate::launch;
use crate::secret::Secret;

mod engine;

pub use engine::ContainerEngine;

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

/// Why a run cannot be started in an engine.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// The image is not where it was built to.
    #[error("{engine} at `{endpoint}` has no image `{name}`")]
    NoImage {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
        /// The name.
        name: String,
    },
    /// The name means another image by now.
    #[error("{engine} at `{endpoint}` has another image under the name `{name}`: {found}")]
    OtherImage {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
        /// The name.
        name: String,
        /// What is there.
        found: String,
    },
    /// A run's directory cannot be lent to an engine on another machine.
    #[error("{engine} at `{endpoint}` may be on another machine: the directory of a run cannot be lent to it")]
    Elsewhere {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
    },
    /// The run's directory cannot be used.
    #[error("cannot make the console spool of the run in `{path}`")]
    Spool {
        /// The run's directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The agent is in a container, and its runs' directories are not shared with the engine's machine.
    #[error(
        "`{path}`, the run's directory, is not in what CLEARML_AGENT_K8S_HOST_MOUNT shares with the engine's machine"
    )]
    NotShared {
        /// The run's directory.
        path: std::path::PathBuf,
    },
    /// `CLEARML_AGENT_K8S_HOST_MOUNT` says nothing.
    #[error(transparent)]
    HostMount(#[from] LendError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Explain for ContainersError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoImage { .. } => Kind::NotFound,
            Self::OtherImage { .. } => Kind::Conflict,
            Self::Elsewhere { .. } | Self::NotShared { .. } => Kind::Config,
            Self::HostMount(error) => error.kind(),
            Self::Spool { source, .. } => Kind::of_io(source),
            Self::Engine(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoImage { .. } | Self::OtherImage { .. } => {
                vec!["Build it again: somebody removed or replaced it after its build.".to_owned()]
            }
            Self::Elsewhere { .. } => vec!["Run this program on the engine's machine, over its socket.".to_owned()],
            Self::NotShared { .. } => {
                vec!["Let AGENT_STATE_DIR name a directory below the one that is shared.".to_owned()]
            }
            Self::HostMount(error) => error.hints(),
            Self::Spool { .. } => Vec::new(),
            Self::Engine(error) => error.hints(),
        }
    }
}

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
        let Some(code) = state.exit_code else { return lost("its container did not leave an exit code") };
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

/// The container of a run: what was asked for, the run's marks, its console spool.
pub(super) fn container(spec: &RunSpec, image: String, engine: &Containers) -> Result<ContainerSpec, ContainersError> {
    if !engine.is_local() {
        let endpoint = engine.endpoint().to_owned();
        return Err(ContainersError::Elsewhere { engine: engine.name(), endpoint });
    }
    let mut container = spec.container.clone();
    container.image = image;
    container.name.get_or_insert_with(|| format!("agent-{}", spec.id));
    container.labels.insert(RUN_LABEL.to_owned(), spec.id.to_string());
    container.stop_timeout.get_or_insert(GRACE);
    // The in-image program takes this one, whatever the base's took.
    container.stop_signal.get_or_insert_with(|| "SIGTERM".to_owned());
    let spool = spool(spec).map_err(|source| ContainersError::Spool { path: spec.directory.clone(), source })?;
    container.binds.extend(spool);
    // Shared with the container where labels of SELinux would keep it out: what lies in the run's own directory.
    for bind in container.binds.iter().filter(|it| Path::new(&it.source).starts_with(&spec.directory)) {
        container.bind_options.entry(bind.target.clone()).or_default().push("z".to_owned());
    }
    if let Some(host) = HostMount::of(&Environment::current())? {
        outside(&mut container, &spec.directory, &host)?;
    }
    container.env.entry("AGENT_SPOOL".to_owned()).or_insert_with(|| Secret::new(launch::SPOOL));
    Ok(container)
}

/// Names what is lent of the run's own directory as the engine's machine knows it, where that is another one's: the agent
/// runs in a container itself. Options of binds stay with their targets.
fn outside(container: &mut ContainerSpec, directory: &Path, host: &HostMount) -> Result<(), ContainersError> {
    let own = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for bind in &mut container.binds {
        let source = Path::new(&bind.source);
        if source.starts_with(directory) || source.starts_with(&own) {
            // Either name of it may be the one that is shared.
            let known = host.outside(source).or_else(|| {
                let below = source.strip_prefix(&own).or_else(|_| source.strip_prefix(directory)).ok()?;
                host.outside(&own.join(below)).or_else(|| host.outside(&directory.join(below)))
            });
            let Some(known) = known else {
                return Err(ContainersError::NotShared { path: directory.to_owned() });
            };
            bind.source = known.display().to_string();
        }
    }
    Ok(())
}

/// Makes a run's console spool so that whoever runs inside can write there and whoever attends the run can take over: the
/// run's directory lets nobody else of this machine in. Gives its bind, where the run has none of its own.
pub(super) fn spool(spec: &RunSpec) -> std::io::Result<Option<Bind>> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let directory = spec.directory.join("spool");
    let bound = spec.container.binds.iter().find(|it| it.target.trim_end_matches('/') == launch::SPOOL);
    if bound.is_some_and(|it| Path::new(&it.source) != directory) {
        return Ok(None);
    }
    fs::create_dir_all(&directory)?;
    // A run that was started before may have put anything in its place: no link is followed.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true).custom_flags(flags.bits().cast_signed());
    let lock = options.open(directory.join("lock"))?;
    // Another user inside owns what it makes; these are ours, made before.
    fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
    lock.file().set_permissions(std::fs::Permissions::from_mode(0o666))?;
    if bound.is_some() {
        return Ok(None);
    }
    let source = fs::canonicalize(&directory)?.display().to_string();
    Ok(Some(Bind { source, target: launch::SPOOL.to_owned(), read_only: false }))
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
    fn a_run_of_an_agent_in_a_container_is_lent_what_the_node_knows() {
        let machine = Environment::of([("CLEARML_AGENT_K8S_HOST_MOUNT", "/on/node:/in/pod")]);
        let host = HostMount::of(&machine).unwrap().unwrap();
        let bind = |source: &str| Bind { source: source.to_owned(), target: "/t".to_owned(), read_only: true };
        let mut container = ContainerSpec {
            binds: vec![bind("/in/pod/state/runs/1/spool"), bind("/data"), bind("/on/node/cache")],
            ..ContainerSpec::default()
        };
        outside(&mut container, Path::new("/in/pod/state/runs/1"), &host).unwrap();
        let sources: Vec<&str> = container.binds.iter().map(|it| it.source.as_str()).collect();
        assert_eq!(sources, ["/on/node/state/runs/1/spool", "/data", "/on/node/cache"]);
        let mut container = ContainerSpec { binds: vec![bind("/root/state/1/spool")], ..ContainerSpec::default() };
        let error = outside(&mut container, Path::new("/root/state/1"), &host).unwrap_err();
        assert!(error.to_string().starts_with("`/root/state/1`, the run's directory, is not in what "), "{error}");
    }
}

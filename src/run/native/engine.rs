//! [`Engine`] without an engine: each run belongs to a monitor of its own, found by the run's directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use futures_util::future::BoxFuture;
use rustix::process::{Signal, pidfd_send_signal};

use super::translate::{Left, translate};
use crate::base::{self, Around, Pin};
use crate::engine::Docker;
use crate::error::{Explain, Failure, Kind};
use crate::image::named;
use crate::oci::Reference;
use crate::run::containers::spool;
use crate::run::monitor::{self, MonitorError, Order, State};
use crate::run::spec::{Found, Outcome, RunId, RunImage, RunSpec};
use crate::run::{Engine, Ground};
use crate::sandbox::{self, LayerBlob};
use crate::store::Store;

/// How often the files of a run are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long the kernel and a monitor may take to be done with a run that was killed.
const AFTER: Duration = Duration::from_secs(30);
/// How long a monitor may take to clear up behind its run.
const CLEARING: Duration = Duration::from_secs(120);

/// Why something cannot be done to a native run.
#[derive(Debug, thiserror::Error)]
pub enum NativeRunError {
    /// The store does not know the image.
    #[error("the store has no image `{name}`")]
    NoImage {
        /// Its name.
        name: String,
    },
    /// The name means another image by now.
    #[error("the store has another image under the name `{name}`: {found}")]
    OtherImage {
        /// Its name.
        name: String,
        /// What is there.
        found: String,
    },
    /// The run's directory is not where runs are looked for.
    #[error("the run {run} has the directory `{directory}` and would not be found there again")]
    Directory {
        /// The run.
        run: RunId,
        /// Its directory.
        directory: PathBuf,
    },
    /// What is in the run's directory cannot be read or written.
    #[error("cannot use the directory of the run in `{directory}`")]
    Files {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A run that goes on cannot be forgotten.
    #[error("the run {run} has not ended")]
    GoesOn {
        /// The run.
        run: RunId,
    },
    /// It could not be started.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
}

impl Explain for NativeRunError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoImage { .. } => Kind::NotFound,
            Self::OtherImage { .. } | Self::GoesOn { .. } => Kind::Conflict,
            Self::Directory { .. } => Kind::Internal,
            Self::Files { source, .. } => Kind::of_io(source),
            Self::Monitor(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoImage { .. } | Self::OtherImage { .. } => {
                vec!["Build it again: it was removed or replaced after its build.".to_owned()]
            }
            Self::GoesOn { .. } => vec!["Stop it first.".to_owned()],
            Self::Monitor(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// Runs as processes of this machine.
pub struct NativeEngine {
    ground: Ground,
}

impl std::fmt::Debug for NativeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeEngine").field("runs", &self.ground.runs).finish_non_exhaustive()
    }
}

impl NativeEngine {
    /// Runs on this machine, if it lets us.
    ///
    /// # Errors
    /// [`crate::sandbox::SandboxError::NoWay`] says what keeps us from it.
    pub async fn open(ground: &Ground) -> Result<Self, Failure> {
        let ground = ground.clone();
        blocking(move || {
            sandbox::runs_here(&Store::open(&ground.store)?)?;
            Ok(Self { ground })
        })
        .await
    }

    /// Attends what was started here, whether or not this machine would let us start anything now.
    #[must_use]
    pub fn attending(ground: &Ground) -> Self {
        Self { ground: ground.clone() }
    }

    fn directory(&self, run: &RunId) -> PathBuf {
        self.ground.runs.join(run.as_str())
    }

    fn state(&self, run: &RunId) -> Result<State, NativeRunError> {
        let directory = self.directory(run);
        monitor::state(&directory).map_err(|source| NativeRunError::Files { directory, source })
    }

    async fn make_ready(&self, image: &RunImage) -> Result<(), Failure> {
        let (ground, image) = (self.ground.clone(), image.clone());
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            let store = Store::open(&ground.store)?;
            let pin = pin_of(&store, &image)?;
            let around = Around {
                store: store.clone(),
                registry: ground.registry.clone(),
                docker: Docker::connect_default().ok(),
                reporter: ground.reporter.clone(),
            };
            runtime.block_on(base::fetch(&around, &pin))?;
            Ok(sandbox::unpack(&store, &layers(&pin), &*ground.reporter)?)
        })
        .await
    }

    async fn begin(&self, spec: &RunSpec) -> Result<(), Failure> {
        // Where it is looked for afterwards is by its id alone.
        let own = self.directory(&spec.id);
        let same = |a: &Path, b: &Path| fs::canonicalize(a).ok().is_some_and(|a| fs::canonicalize(b).ok() == Some(a));
        if !same(&own, &spec.directory) {
            return Err(NativeRunError::Directory { run: spec.id.clone(), directory: spec.directory.clone() }.into());
        }
        if !matches!(self.state(&spec.id)?, State::Absent) {
            return Ok(());
        }
        let (ground, spec) = (self.ground.clone(), spec.clone());
        let warnings = blocking(move || begin(&ground, spec, &own)).await?;
        for warning in warnings {
            self.ground.reporter.warning(warning);
        }
        Ok(())
    }

    async fn follow(&self, run: &RunId) -> Result<Outcome, NativeRunError> {
        loop {
            match self.state(run)? {
                State::Ended(outcome) => return Ok(outcome),
                State::Absent => return Ok(Outcome::Lost { reason: "it was never started".to_owned() }),
                State::Starting(_) | State::Running(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn end(&self, run: &RunId, grace: Duration) -> Result<(), NativeRunError> {
        let began = Instant::now();
        let (mut asked, mut killed) = (false, false);
        loop {
            match self.state(run)? {
                State::Absent | State::Ended(_) => return Ok(()),
                // Nothing of the image runs yet: with the monitor goes what it makes ready.
                State::Starting(monitor) => {
                    if let Some(handle) = monitor.and_then(|it| it.open()) {
                        let _ = pidfd_send_signal(handle, Signal::KILL);
                    }
                }
                State::Running(started) => {
                    let over = began.elapsed() >= grace;
                    if !asked || (over && !killed) {
                        let signal = if over { Signal::KILL } else { Signal::TERM };
                        if let Some(handle) = started.program.and_then(|it| it.open()) {
                            let _ = pidfd_send_signal(handle, signal);
                        }
                        (asked, killed) = (true, over);
                    }
                }
            }
            if began.elapsed() > grace + AFTER {
                return Err(NativeRunError::GoesOn { run: run.clone() });
            }
            tokio::time::sleep(LOOK.min(Duration::from_millis(20))).await;
        }
    }

    async fn forget(&self, run: &RunId) -> Result<(), Failure> {
        match self.state(run)? {
            State::Running(_) | State::Starting(_) => return Err(NativeRunError::GoesOn { run: run.clone() }.into()),
            State::Absent | State::Ended(_) => {}
        }
        let (directory, run) = (self.directory(run), run.clone());
        blocking(move || {
            let failed = |source| NativeRunError::Files { directory: directory.clone(), source };
            if !directory.is_dir() {
                return Ok(());
            }
            if !monitor::release(&directory, CLEARING).map_err(failed)? {
                return Err(NativeRunError::GoesOn { run }.into());
            }
            Ok(monitor::clear(&directory).map_err(failed)?)
        })
        .await
    }

    fn all(&self) -> Result<Vec<RunId>, NativeRunError> {
        let failed = |source| NativeRunError::Files { directory: self.ground.runs.clone(), source };
        let entries = match fs::read_dir(&self.ground.runs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut runs = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(run) = name.to_str().and_then(|it| it.parse::<RunId>().ok()) else { continue };
            if !matches!(self.state(&run)?, State::Absent) {
                runs.push(run);
            }
        }
        runs.sort();
        Ok(runs)
    }
}

/// The image in the store under its name, if it is the one that was built.
fn pin_of(store: &Store, image: &RunImage) -> Result<Pin, NativeRunError> {
    let missing = || NativeRunError::NoImage { name: image.name.clone() };
    let name: Reference = image.name.parse().map_err(|_| missing())?;
    let pin = named::recall(store, &name).ok_or_else(missing)?;
    if pin.config != image.config {
        let found = pin.config.to_string();
        return Err(NativeRunError::OtherImage { name: image.name.clone(), found });
    }
    Ok(pin)
}

fn layers(pin: &Pin) -> Vec<LayerBlob> {
    pin.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.blob.digest }).collect()
}

/// Hands a run to a monitor; gives what it was asked for and cannot have.
fn begin(ground: &Ground, spec: RunSpec, directory: &Path) -> Result<Vec<String>, Failure> {
    let failed = |source| NativeRunError::Files { directory: directory.to_owned(), source };
    let directory = &fs::canonicalize(directory).map_err(failed)?;
    let store = Store::open(&ground.store)?;
    let pin = pin_of(&store, &spec.image)?;
    let config = serde_json::from_slice(&store.read_blob(&pin.config)?).map_err(|it| failed(it.into()))?;
    let mut spec = spec;
    let spool = spool(&spec).map_err(failed)?;
    spec.container.binds.extend(spool);
    let (mut native, Left(left)) = translate(&spec)?;
    native.layers = layers(&pin);
    native.config = config;
    native.alone = !ground.lends;
    let store = store.root().to_owned();
    let order = Order { store, spec: native };
    let told = monitor::begin(directory, &order).map_err(NativeRunError::from)?;
    Ok(left.into_iter().chain(told).collect())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

impl Engine for NativeEngine {
    fn name(&self) -> &'static str {
        "native"
    }

    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.make_ready(image))
    }

    fn start<'a>(&'a self, spec: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.begin(spec))
    }

    fn find<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>> {
        Box::pin(async {
            Ok(match self.state(run)? {
                State::Absent => Found::Absent,
                State::Starting(_) | State::Running(_) => Found::Running,
                State::Ended(outcome) => Found::Ended(outcome),
            })
        })
    }

    fn wait<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async { Ok(self.follow(run).await?) })
    }

    fn stop<'a>(&'a self, run: &'a RunId, grace: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { Ok(self.end(run, grace).await?) })
    }

    fn remove<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.forget(run))
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>> {
        Box::pin(async { Ok(self.all()?) })
    }

    fn discard<'a>(&'a self, _: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>> {
        // It is in the store, which is collected by its own bound.
        Box::pin(async { Ok(true) })
    }
}

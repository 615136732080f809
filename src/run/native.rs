//! Runs an image without any container engine: its layers unpacked, an overlay, namespaces, and the image's entry point
//! as the first process.
//!
//! The network is the host's. Values of the environment go over a socket, never into an argument. What the run changes
//! on disk ends with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Explain, Kind};
use crate::process::Hangup;
use crate::report::Reporter;
use crate::sandbox::{Bind, Guest, LayerBlob, Limit, Process, Sandbox, SandboxError};
use crate::store::{Lease, Store, StoreError};

mod account;
mod engine;
mod translate;

use super::cgroup::Groups;
pub use super::cgroup::Room;
use account::Account;
pub use engine::{NativeEngine, NativeRunError};
pub use translate::of_container;

/// How long a run may take to end after it was asked to: the in-image process reports to the server meanwhile.
const GRACE: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct NativeSpec {
    /// All layers of the image, bottom first, their blobs in the store.
    pub layers: Vec<LayerBlob>,
    /// The image configuration (image-spec).
    pub config: Value,
    /// In place of the image's `Entrypoint` and `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments in place of the image's `Cmd`; the image's own when empty.
    pub arguments: Vec<String>,
    /// Variables on top of the image's own; may hold secrets.
    pub env: BTreeMap<String, String>,
    /// User in place of the image's own, as in an image configuration: `1000`, `name:group`.
    pub user: Option<String>,
    /// What of the host is seen inside.
    pub binds: Vec<Bind>,
    /// Whether the root cannot be written to.
    pub read_only: bool,
    /// Host name inside.
    pub hostname: String,
    /// Working directory in place of the image's own.
    pub directory: Option<String>,
    /// Further groups of the program.
    pub groups: Vec<u32>,
    /// Whether the run is kept from the host's network.
    pub offline: bool,
    /// Whether the host's proxies and certificates are kept from it.
    pub alone: bool,
    /// Empty directories in memory: path and mount options.
    pub tmpfs: Vec<(String, String)>,
    /// Symbolic links to make: path and what it says.
    pub links: Vec<(String, String)>,
    /// Directories for the end of `LD_LIBRARY_PATH`.
    pub libraries: Vec<String>,
    /// Room of /dev/shm in bytes.
    pub shm: Option<u64>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// What all of it may use of the machine, as far as this machine lets us say.
    pub room: Room,
    /// What its control groups are called.
    pub name: String,
}

impl std::fmt::Debug for NativeSpec {
    // Values of the environment may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeSpec").field("layers", &self.layers).field("binds", &self.binds).finish_non_exhaustive()
    }
}

/// Why an image cannot be run natively.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// Nothing says what to run.
    #[error("the image has neither an entry point nor a command")]
    NoCommand,
    /// The user does not exist.
    #[error("the image's user `{user}` stands in neither /etc/passwd nor /etc/group of it")]
    User {
        /// As the image has it.
        user: String,
    },
    /// Signals cannot be heard.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The thread that waits ended.
    #[error("the run was lost sight of")]
    Lost,
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for NativeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoCommand | Self::User { .. } => Kind::Input,
            Self::Signals(error) => Kind::of_io(error),
            Self::Lost => Kind::Internal,
            Self::Sandbox(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoCommand => vec!["Say what to run after the image's name.".to_owned()],
            Self::Sandbox(error) => error.hints(),
            Self::Store(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// A run that goes on until it ends; ended (KILL) when dropped.
#[derive(Debug)]
pub struct NativeRun {
    process: Process,
    groups: Groups,
    /// What could not be limited.
    warnings: Vec<String>,
    // Below the process: it goes after it.
    _sandbox: Sandbox,
    // And after that nobody stands on what is leased.
    _lease: Lease,
}

/// Starts an image. To be called outside of async code: unpacking takes its time.
///
/// # Errors
/// [`NativeError`]; there being no sandbox is told before anything is unpacked.
pub fn start(
    store: &Store,
    spec: &NativeSpec,
    streams: (Stdio, Stdio, Stdio),
    reporter: &dyn Reporter,
) -> Result<NativeRun, NativeError> {
    let words = |name: &str| -> Vec<String> {
        let list = spec.config["config"][name].as_array().into_iter().flatten();
        list.filter_map(|it| it.as_str().map(str::to_owned)).collect()
    };
    let text = |name: &str| spec.config["config"][name].as_str().unwrap_or_default().to_owned();
    let mut argv = spec.entrypoint.clone().unwrap_or_else(|| words("Entrypoint"));
    // Another entry point makes no sense of the image's own command.
    let own = spec.arguments.is_empty() && spec.entrypoint.is_none();
    argv.extend(if own { words("Cmd") } else { spec.arguments.clone() });
    if argv.is_empty() {
        return Err(NativeError::NoCommand);
    }
    let mut sandbox = Sandbox::open(store, &spec.layers, reporter)?;
    let blobs = spec.layers.iter().map(|it| store.blob_path(&it.blob));
    let lease = store.lease(sandbox.stands_on().chain(blobs))?;
    // It may go on for months, and the rest of the store is to be collected meanwhile.
    sandbox.let_go();
    let user = spec.user.clone().unwrap_or_else(|| text("User"));
    let account = Account::find(&sandbox, &user)?;
    let mut env: BTreeMap<String, String> =
        words("Env").iter().filter_map(|it| it.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    env.entry("HOME".to_owned()).or_insert_with(|| account.home.clone());
    if !spec.hostname.is_empty() {
        env.insert("HOSTNAME".to_owned(), spec.hostname.clone());
    }
    env.extend(spec.env.clone());
    if !spec.libraries.is_empty() {
        // Last, so that an image's own choice stands.
        let own = env.get("LD_LIBRARY_PATH").filter(|it| !it.is_empty()).into_iter();
        let path = own.chain(&spec.libraries).cloned().collect::<Vec<_>>().join(":");
        env.insert("LD_LIBRARY_PATH".to_owned(), path);
    }
    let directory = spec.directory.clone().unwrap_or_else(|| text("WorkingDir"));
    let (groups, warnings) = Groups::limited(&spec.name, &spec.room);
    let guest = Guest {
        argv,
        env,
        directory: Some(directory).filter(|it| !it.is_empty()).unwrap_or_else(|| "/".to_owned()),
        user: account.ids,
        groups: account.groups.into_iter().chain(spec.groups.iter().copied()).collect(),
        binds: spec.binds.clone(),
        network: !spec.offline,
        alone: spec.alone,
        read_only: spec.read_only,
        hostname: spec.hostname.clone(),
        tmpfs: spec.tmpfs.clone(),
        links: spec.links.clone(),
        shm: spec.shm,
        limits: spec.limits.clone(),
        control_groups: groups.paths(),
    };
    let process = sandbox.start(&guest, streams)?;
    Ok(NativeRun { process, groups, warnings, _sandbox: sandbox, _lease: lease })
}

impl NativeRun {
    /// The first process's id, as this process sees it.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What of its room could not be limited here, for people.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The directories of its control groups.
    pub(super) fn control_groups(&self) -> Vec<PathBuf> {
        self.groups.paths()
    }

    /// Whether the kernel killed something of it for memory.
    pub(super) fn ran_out(&self) -> bool {
        self.groups.ran_out()
    }

    /// Sends a signal to the image's first process.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end: the exit code. `None` when it goes on after `patience`.
    ///
    /// # Errors
    /// [`SandboxError`] when the program could not be started after all.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Option<i32>, SandboxError> {
        self.process.wait(patience)
    }

    /// Waits for the end and hands on the signals this process gets meanwhile. What was asked to end and does not is
    /// killed, after a while or when asked again.
    ///
    /// # Errors
    /// [`NativeError`]
    pub async fn attend(self: &Arc<Self>, mut signals: Signals) -> Result<i32, NativeError> {
        let run = self;
        let waiting = Arc::clone(self);
        let mut end = tokio::task::spawn_blocking(move || waiting.wait(None));
        let mut asked = false;
        let mut deadline = Box::pin(tokio::time::sleep(Duration::MAX / 4));
        loop {
            let heard = tokio::select! {
                ended = &mut end => {
                    return Ok(ended.map_err(|_| NativeError::Lost)??.unwrap_or(1));
                }
                heard = signals.next() => heard,
                () = &mut deadline, if asked => Signal::KILL,
            };
            run.signal(if asked { Signal::KILL } else { heard });
            if !asked {
                asked = true;
                deadline = Box::pin(tokio::time::sleep(GRACE));
            }
        }
    }
}

/// The signals that a run is handed, heard from the moment this is made: before it starts, so that none ends us and
/// leaves it behind.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: Hangup,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`NativeError::Signals`]
    pub fn listen() -> Result<Self, NativeError> {
        let listen = |kind| signal(kind).map_err(NativeError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: Hangup::listen().map_err(NativeError::Signals)?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            () = self.hangup.recv() => Signal::HUP,
        }
    }
}

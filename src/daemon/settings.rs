//! What `agent daemon` and `agent execute` are to do, merged from flags, environment and configuration elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Agent, Api};
use crate::gpu;
use crate::run::EngineKind;
use crate::run::choice::BaseChoice;
use crate::secret::Secret;

/// What decides how any task is executed here, whichever verb asked.
#[derive(Debug, Clone)]
pub struct ExecutionSettings {
    /// What runs images.
    pub engine: EngineKind,
    /// `--docker "image args"` or `--podman "image args"`, as it was given: passed on to builds, not by their command
    /// lines. Empty: the flag without a value.
    pub docker: Option<String>,
    /// Image and container arguments of tasks that name none.
    pub base: BaseChoice,
    /// Which GPUs.
    pub gpus: gpu::Ask,
    /// Run only tasks that name an image made of them (`--prebuilt-only`).
    pub prebuilt_only: bool,
    /// How often a task is tried again after the machinery failed it, not its program (`--retries`).
    pub retries: u32,
    /// No network but the server: what was pinned before counts, what is not in the store is not fetched
    /// (`--standalone-mode`).
    pub standalone: bool,
    /// Phases' deadlines.
    pub limits: Limits,
    /// How many images of tasks an engine keeps, and for how long (`agent.task_images_max`, `agent.task_images_days`).
    pub images: super::images::Bounds,
    /// Bytes of console a run may keep on disk while the server is away.
    pub spool_bytes: u64,
    /// `CLEARML_LOG_LEVEL` of programs, where it was given.
    pub log_level: Option<String>,
    /// `PYTHONOPTIMIZE` of programs (`-O`); zero leaves it unset.
    pub optimize: u8,
    /// Where runs are journalled: `AGENT_STATE_DIR`, else `$XDG_STATE_HOME/agent`, else `~/.local/state/agent`.
    pub state: PathBuf,
    /// The configuration file that is in use, for processes that are started.
    pub config_file: Option<PathBuf>,
    /// Variables for builds that are started, which say what flags said: git credentials. Never on a command line.
    pub build_environment: Vec<(&'static str, Secret)>,
    /// The server and its credentials.
    pub api: Api,
    /// The `agent` section.
    pub agent: Agent,
    /// Flags without effect, for people.
    pub notes: Vec<String>,
}

/// How long a phase may take, and how long it may go without any progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fetching, resolving and building an image (`agent.build_timeout_sec`).
    pub build: Duration,
    /// As `build`, without a sign of progress (`agent.no_progress_timeout_sec`).
    pub silence: Duration,
    /// Making the image ready and starting it (`agent.start_timeout_sec`).
    pub start: Duration,
    /// Running it (`agent.run_timeout_sec`); without a limit where there is none.
    pub run: Option<Duration>,
    /// As `run`, without a byte of output (`agent.run_silence_timeout_sec`).
    pub quiet: Option<Duration>,
    /// Between TERM and KILL (`agent.stop_grace_sec`).
    pub grace: Duration,
    /// What a task does before it is stopped (`agent.abort_callback_max_timeout`).
    pub abort_callback: Duration,
}

/// `agent daemon`.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// How tasks are executed.
    pub execution: ExecutionSettings,
    /// Queues, by priority. Empty: the server's default queue.
    pub queues: Vec<QueueChoice>,
    /// Whether missing queues are made.
    pub create_queues: bool,
    /// Whether queues take turns.
    pub fair: bool,
    /// How often the server is asked.
    pub interval: Duration,
    /// How many tasks run at once, and how GPUs are shared among them.
    pub slots: Slots,
    /// The worker's id, where flags or configuration name one.
    pub worker_id: Option<String>,
    /// The worker's name: `CLEARML_WORKER_NAME`, `agent.worker_name`, else the host's.
    pub worker_name: String,
    /// `--child-report-tags`.
    pub tags: Vec<String>,
    /// When it works; absent: always.
    pub schedule: Option<super::schedule::Schedule>,
    /// Where Prometheus may ask (`--metrics-listen`).
    pub metrics: Option<std::net::SocketAddr>,
    /// How many images are built ahead of a free slot; zero switches it off.
    pub ahead: usize,
    /// Whether tasks' console lines are shown, too (`--foreground`).
    pub show_console: bool,
    /// The log of a daemon in the background, which this process is then.
    pub background_log: Option<PathBuf>,
}

/// What `agent daemon` was asked for.
#[derive(Debug, Clone)]
pub enum DaemonAsk {
    /// To serve queues.
    Serve(Box<DaemonSettings>),
    /// To serve queues in the background.
    Detach(Box<DaemonSettings>),
    /// To stop daemons of this machine.
    Stop(StopSettings),
    /// To show them; where their state is.
    Status(PathBuf),
}

/// Which daemons of this machine are to be stopped, and how.
#[derive(Debug, Clone)]
pub struct StopSettings {
    /// Where their state is.
    pub state: PathBuf,
    /// Which.
    pub which: Which,
    /// Whether they finish what runs first.
    pub drain: bool,
}

/// Which daemons are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of these worker ids.
    Named(Vec<String>),
    /// The one that was started with flags like these.
    Like {
        /// What its worker id is made of.
        identity: super::instances::Identity,
        /// The queues it serves, where they were named.
        queues: Vec<String>,
    },
}

/// A queue as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueChoice {
    /// Name or id.
    pub name: String,
    /// GPUs for each of its tasks, with dynamic GPUs: least and most.
    pub gpus: Option<(u32, u32)>,
}

/// How many tasks run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// One.
    One,
    /// `--services-mode`: this many; absent: any number.
    Services(Option<usize>),
    /// `--dynamic-gpus`: as many as the GPUs allow.
    Dynamic,
}

/// `agent execute`.
#[derive(Debug, Clone)]
pub struct ExecuteSettings {
    /// How.
    pub execution: ExecutionSettings,
    /// The task: id or name.
    pub task: String,
    /// Whether a clone of it runs.
    pub clone: bool,
    /// Whether it must have been queued (`--require-queue`).
    pub require_queue: bool,
    /// Whether the server is told of the run: `--disable-monitoring` leaves the end's status to whoever started this.
    pub monitored: bool,
    /// Where the program's output is also written.
    pub log_file: Option<PathBuf>,
}

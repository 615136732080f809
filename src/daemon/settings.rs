//! What `agent daemon` and `agent execute` are to do, merged from flags, environment and configuration elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Agent, Api};
use crate::run::EngineKind;

/// What decides how any task is executed here, whichever verb asked.
#[derive(Debug, Clone)]
pub struct ExecutionSettings {
    /// What runs images.
    pub engine: EngineKind,
    /// `--docker "image args"`, as it was given: passed on to the build.
    pub docker: Option<String>,
    /// Which GPUs.
    pub gpus: GpuChoice,
    /// Run only tasks that name an image made of them (`--prebuilt-only`).
    pub prebuilt_only: bool,
    /// How often a task is tried again after the machinery failed it, not its program (`--retries`).
    pub retries: u32,
    /// No network but the server: what is not in the store is not fetched (`--standalone-mode`).
    pub standalone: bool,
    /// Phases' deadlines.
    pub limits: Limits,
    /// Bytes of console a run may keep on disk while the server is away.
    pub spool_bytes: u64,
    /// `CLEARML_LOG_LEVEL` of programs, where it was given.
    pub log_level: Option<String>,
    /// Where runs are journalled: `AGENT_STATE_DIR`, else `$XDG_STATE_HOME/agent`, else `~/.local/state/agent`.
    pub state: PathBuf,
    /// The configuration file that is in use, for processes that are started.
    pub config_file: Option<PathBuf>,
    /// The server and its credentials.
    pub api: Api,
    /// The `agent` section.
    pub agent: Agent,
}

/// `--gpus`, `--cpu-only`, or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// Neither: all there are.
    Unsaid,
    /// `--cpu-only`, `--gpus none`.
    None,
    /// `--gpus all`.
    All,
    /// `--gpus 0,1`, ranges undone: indices, `0:1` for instances, UUIDs.
    These(Vec<String>),
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
    /// Between TERM and KILL (`agent.stop_grace_sec`).
    pub grace: Duration,
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

//! What the dispatcher knows of the work it hands out: a task goes in, news come out, an ending comes last.
//!
//! The dispatcher decides who runs what and when; how a task is run, and how that is journalled, is a unit's business.
//! [`Crew`] is what ties them: the daemon's starts units, the dispatcher's tests have one of their own.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use crate::error::{Explain, Failure, Kind};
use crate::gpu::GpuSet;
use crate::run::RunId;

/// A task to be run, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Chosen before the task is taken out of its queue.
    pub run: RunId,
    /// The task's id.
    pub task: String,
    /// The queue it was taken from: its id.
    pub queue: Option<String>,
    /// The worker's id of this run.
    pub worker: String,
    /// The GPUs it sees.
    pub gpus: GpuSet,
}

/// What is asked of a run meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// Nothing: it goes on.
    Nothing,
    /// It is to stop, and to be reported as stopped.
    Stop,
    /// It is to be left as it is: it goes on, and whoever comes next attends it.
    Detach,
}

/// What a run tells meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It is in this phase from now on, in a word.
    Phase(&'static str),
    /// Its program has started: from now on its GPUs do what they are for.
    Running,
    /// Something people should know.
    Note(String),
}

/// How a run ended for whoever attended it.
#[derive(Debug)]
pub enum End {
    /// The task has its status.
    Settled {
        /// The status.
        status: String,
        /// Why, for people.
        reason: String,
        /// Whether the machinery failed it.
        machinery: bool,
    },
    /// The task is somebody else's, or in its queue again.
    GivenBack {
        /// Why, for people.
        reason: String,
    },
    /// The machinery failed, and the task is back in its queue.
    Requeued {
        /// Why, for people.
        reason: String,
    },
    /// It goes on without us.
    Detached,
    /// It cannot be attended; it stays in the journal.
    Failed(Failure),
}

/// Attends a run to its end.
pub type Attend = Box<dyn FnOnce(watch::Receiver<Asks>, mpsc::Sender<News>) -> BoxFuture<'static, End> + Send>;

/// Whether a worker's runs are wanted.
pub type Wants = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Runs of this machine that nobody attends.
pub type Left = Result<Vec<(Job, Attend)>, Failure>;

/// Builds an image ahead of its task's turn.
pub type Prebuild = BoxFuture<'static, Result<(), Failure>>;

/// What is asked of a crew, and its answer.
pub type Verb<I, O> = Box<dyn Fn(I) -> O + Send + Sync>;

/// The same of something that stays ours.
pub type VerbOf<I, O> = Box<dyn Fn(&I) -> O + Send + Sync>;

/// Who does the work, and writes it down.
pub struct Crew {
    /// Writes down that a task is about to be taken out of its queue: on disk when this returns.
    pub intend: VerbOf<Job, Result<(), Failure>>,
    /// Writes down that it has been taken out.
    pub taken: VerbOf<RunId, Result<(), Failure>>,
    /// Forgets an intention: nothing came of it.
    pub forget: VerbOf<RunId, ()>,
    /// Runs a task that was taken.
    pub run: Verb<Job, Attend>,
    /// Finds the wanted runs of this machine that nobody attends: their process was killed. Those that are not resumed
    /// are free again once they are dropped.
    pub left: Verb<Wants, Left>,
    /// Builds the image of a task that still waits. Dropping the future ends the build.
    pub prebuild: Verb<String, Prebuild>,
}

/// What a daemon does now, for `agent daemon --status` and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// What counts more than the schedule: `worker` or a queue's name, and whether tasks are taken.
    pub forced: Vec<(String, bool)>,
    /// Whether no more tasks are taken.
    pub draining: bool,
    /// What runs.
    pub running: Vec<Doing>,
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    /// Its id.
    pub task: String,
    /// The queue it came from: its name.
    pub queue: Option<String>,
    /// In which phase it is.
    pub phase: &'static str,
}

/// A run's own code broke.
#[derive(Debug, thiserror::Error)]
#[error("a defect of this program: {0}")]
pub struct Broken(pub String);

impl Explain for Broken {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

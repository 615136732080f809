//! What is known of a unit: plain data, one JSON document.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::daemon::unit::Claim;
use crate::gpu::GpuSet;
use crate::run::{Outcome, RunId, RunImage};

/// The version of the document this program writes and reads.
pub const FORMAT: u32 = 1;

/// Where a unit is. Each phase is written down before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being taken: on its way from the queue to `in_progress`.
    Taken,
    /// Its image is being built.
    Build,
    /// Its engine makes the image ready.
    Prepare,
    /// Its engine starts it, or has started it and nobody wrote that down.
    Start,
    /// It runs.
    Run,
    /// It has stopped; the server does not have all of its console.
    Drain,
    /// The server does not know its end.
    Settle,
    /// It is over.
    Done,
}

impl Phase {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Build => "building",
            Self::Prepare => "preparing",
            Self::Start => "starting",
            Self::Run => "running",
            Self::Drain => "draining",
            Self::Settle => "settling",
            Self::Done => "done",
        }
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The run's id.
    pub run: RunId,
    /// The task's id.
    pub task: String,
    /// The queue it came from.
    pub queue: Option<String>,
    /// The worker it runs as.
    pub worker: String,
    /// The worker that runs it beside others, where that is another.
    #[serde(default)]
    pub parent: Option<String>,
    /// The devices it sees.
    pub gpus: GpuSet,
    /// Tags of the worker.
    pub tags: Vec<String>,
    /// How often the machinery has failed it before.
    pub attempt: u32,
    /// Name of its engine.
    pub engine: String,
    /// Address of its server.
    pub server: String,
    /// Which start of the machine it began in, where the kernel said.
    #[serde(default)]
    pub boot: Option<String>,
    /// Where it is.
    pub phase: Phase,
    /// When the phase began, in milliseconds since the epoch.
    pub since: i64,
    /// When it was taken, in milliseconds since the epoch.
    pub began: i64,
    /// Whether the task is known to have left its queue for this unit.
    pub popped: bool,
    /// Whether the task's end is somebody else's to tell the server.
    #[serde(default)]
    pub quiet: bool,
    /// The process that builds its image.
    pub builder: Option<Builder>,
    /// Its image.
    pub image: Option<RunImage>,
    /// The image's own user.
    pub user: Option<String>,
    /// Whether its engine may have been asked to start it.
    #[serde(default)]
    pub may_run: bool,
    /// How often the code that attends it broke.
    #[serde(default)]
    pub broken: u32,
    /// Why its program may go on after its end, for people.
    #[serde(default)]
    pub goes_on: Option<String>,
    /// What somebody wants of it.
    pub wish: Option<Wish>,
    /// How it ended.
    pub end: Option<Ending>,
    /// What the server is to be told, or was told.
    pub verdict: Option<Verdict>,
}

/// A process, told apart from a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// Its id and its group's.
    pub pid: u32,
    /// When it started, in the kernel's ticks.
    pub started: u64,
}

/// What somebody wants of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// It is to be stopped, and the task with it.
    Stop {
        /// By whom.
        by: WishedBy,
    },
    /// It is to be stopped: it has taken too long, and the task has failed.
    Limit {
        /// What was not done in which time.
        reason: String,
    },
    /// It is to be stopped; the task is somebody else's now.
    Leave {
        /// The task's status, or what became of it.
        status: String,
    },
}

/// Who wants a unit stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WishedBy {
    /// Somebody through the server.
    Server,
    /// Somebody on this machine.
    User,
}

/// How a unit ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It ran.
    Ran {
        /// How that ended.
        outcome: Outcome,
        /// A device that was lost, where one was; for people.
        lost_gpu: Option<String>,
    },
    /// It ran, and its program said by its end that its user had broken it off.
    Aborted {
        /// The exit code.
        code: u8,
    },
    /// It did not run, or not to an end that is known.
    Failed {
        /// Why, for people.
        reason: String,
        /// Whether another try may succeed: it was the machinery and not the task.
        passing: bool,
        /// An exit code for whoever waits.
        code: u8,
    },
    /// It was stopped before it ran.
    Stopped,
}

/// What the server is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The task has ended well.
    Completed,
    /// It was stopped.
    Stopped {
        /// By whom.
        reason: String,
    },
    /// It has failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is to be tried again.
    Again {
        /// Why.
        reason: String,
    },
    /// Nothing: somebody else's word stands.
    Leave {
        /// The task's status, or what became of it.
        status: String,
    },
}

impl Record {
    pub(in crate::daemon) fn new(claim: &Claim, engine: &str, server: &str) -> Self {
        let now = now();
        Self {
            format: FORMAT,
            run: claim.run.clone(),
            task: claim.task.clone(),
            queue: claim.queue.clone(),
            worker: claim.worker.clone(),
            parent: claim.parent.clone(),
            gpus: claim.gpus.clone(),
            tags: claim.tags.clone(),
            attempt: claim.attempt,
            engine: engine.to_owned(),
            server: server.to_owned(),
            boot: Some(boot()).filter(|it| !it.is_empty()),
            phase: Phase::Taken,
            since: now,
            began: now,
            popped: false,
            quiet: false,
            builder: None,
            image: None,
            user: None,
            may_run: false,
            goes_on: None,
            broken: 0,
            wish: None,
            end: None,
            verdict: None,
        }
    }

    /// Whether no engine was ever asked to start it, nor will be because it has ended.
    #[must_use]
    pub fn is_unstarted(&self) -> bool {
        !self.may_run && self.phase < Phase::Run && self.end.is_none()
    }

    /// Begins a phase.
    pub(in crate::daemon) fn enter(&mut self, phase: Phase) {
        (self.phase, self.since) = (phase, now());
    }
}

/// This start of the machine: another one has another name.
pub(in crate::daemon) fn boot() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Milliseconds since the epoch.
pub(in crate::daemon) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX))
}

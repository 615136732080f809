//! One task from its claim to its end.
//!
//! A unit is a loop over [`Phase`]s: each is written into the journal before it begins, does its work and says which one
//! follows. A process that goes on with a journalled unit enters the same loop in the middle, so that there is no second
//! path for recovery: every phase can be begun twice. What is wanted of a unit meanwhile comes from two sides, the
//! server ([`watching`]) and whoever holds `asks`; both end a phase early, are written down as a [`Wish`], and lead to
//! the end all the same. The server learns of the end only after the container has stopped and its console is there.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::engines;
use super::journal::{Ending, Entry, Journalled, Phase, Record, Wish, WishedBy};
use crate::clearml::events::Level;
use crate::clearml::tasks::{self, Change};
use crate::error::{Failure, Kind};
use crate::gpu::GpuSet;
use crate::run::RunId;

mod afterwards;
mod building;
mod claiming;
mod container;
mod ending;
mod executor;
mod forgotten;
mod known;
mod lines;
mod overdue;
mod pace;
mod prebuilt;
mod running;
mod server;
mod stopping;
mod waiting;
mod watching;

pub(super) use afterwards::tell_again;
pub(super) use building::prebuild;
pub use executor::Executor;
use lines::Lines;
use pace::Pace;
pub(super) use server::is_marked;
use watching::Watch;

/// A task to be run, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its id.
    pub task: String,
    /// The queue it came from, by id.
    pub queue: Option<String>,
    /// Id of the worker it runs as.
    pub worker: String,
    /// Id of the worker that runs it beside others, where that is another.
    pub parent: Option<String>,
    /// The devices it sees.
    pub gpus: GpuSet,
    /// Tags of the worker.
    pub tags: Vec<String>,
    /// How often the machinery has failed it before, where that is known here.
    pub attempt: u32,
    /// The run's id.
    pub run: RunId,
}

/// What a unit is asked meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// Stop the run and report it as stopped; where whoever that takes does not answer, leave the unit in the journal.
    Stop,
    /// Leave everything as it is: a run goes on, the journal stays.
    Detach,
}

/// What a unit tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitEvent {
    /// It begins a phase. From [`Phase::Drain`] on it uses no device any more.
    Phase(Phase),
    /// It waits for something, or something happened that people should know.
    Note(String),
    /// It says something in the task's console, before or after the run.
    Line(Level, String),
}

/// How a unit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum UnitEnd {
    /// The server has its end.
    Settled {
        /// The task's status.
        status: String,
        /// Why, as the server was told.
        reason: String,
        /// The program's exit code, or one for what happened instead.
        exit_code: u8,
        /// Whether it failed by no fault of the task: the machinery may fail the next one too.
        machinery: bool,
    },
    /// Somebody else's word on the task stands.
    Left {
        /// The task's status, or what became of it.
        status: String,
        /// As in `Settled`.
        exit_code: u8,
    },
    /// The task was never taken: it is somebody else's.
    Refused {
        /// Its status.
        status: String,
        /// The worker that has it, where that is known.
        worker: Option<String>,
    },
    /// The machinery failed, and the task is back in its queue.
    Requeued {
        /// Why.
        reason: String,
    },
    /// The machinery failed, and whoever made the claim may make another: there is no queue.
    Again {
        /// Why.
        reason: String,
        /// The next claim's `attempt`.
        attempt: u32,
    },
    /// The task was still in its queue, or is there again.
    Returned,
    /// As was asked: everything is as it was.
    Detached,
}

/// Takes a task through its phases. Its claim has been won.
///
/// # Errors
/// What keeps the unit from going on at all: its journal cannot be written, or the server refuses what no waiting mends.
/// The unit stays in the journal.
pub async fn run(
    executor: Arc<Executor>,
    claim: Claim,
    asks: watch::Receiver<Ask>,
    events: mpsc::Sender<UnitEvent>,
) -> Result<UnitEnd, Failure> {
    let entry = executor.journal.begin(&claim, executor.engine.name(), &executor.client.address())?;
    Unit::new(executor, entry, asks, events, Pace::REAL).drive().await
}

/// Goes on with a unit whose process ended, in the engine that it is in: adopts what runs, or tells the truth about what
/// does not.
///
/// # Errors
/// As [`run`].
pub async fn resume(
    executor: Arc<Executor>,
    journalled: Journalled,
    asks: watch::Receiver<Ask>,
    events: mpsc::Sender<UnitEvent>,
) -> Result<UnitEnd, Failure> {
    resumed(&executor, journalled, asks, events, Pace::REAL)?.drive().await
}

/// The unit that goes on.
fn resumed(
    executor: &Arc<Executor>,
    journalled: Journalled,
    asks: watch::Receiver<Ask>,
    events: mpsc::Sender<UnitEvent>,
    pace: Pace,
) -> Result<Unit, Failure> {
    let mut entry = journalled.entry;
    let executor = engines::executor_of(executor, entry.record());
    let engine = executor.engine.name();
    if entry.record().engine != engine && entry.record().is_unstarted() {
        // Its image was made for another engine.
        entry.update(|it| {
            engine.clone_into(&mut it.engine);
            it.image = None;
            it.enter(it.phase.min(Phase::Build));
        })?;
    }
    Ok(Unit { resumed: Some(Instant::now()), ..Unit::new(executor, entry, asks, events, pace) })
}

/// What follows a phase.
enum Step {
    Go(Phase),
    End(UnitEnd),
}

/// Why a phase was left without a step.
enum Halt {
    Detached,
    Failure(Failure),
}

impl<E: Into<Failure>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

/// What ends a phase early.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Interruption {
    Wish(Wish),
    Detach,
}

struct Unit {
    executor: Arc<Executor>,
    entry: Entry,
    asks: watch::Receiver<Ask>,
    events: mpsc::Sender<UnitEvent>,
    pace: Pace,
    /// When it was gone on with, where another process began it.
    resumed: Option<Instant>,
    /// From the claim to the end of the run.
    watch: Option<Watch>,
    /// Our own console lines, while no run has the spool.
    lines: Option<Lines>,
    /// Whether somebody on this machine was heard to ask for a stop.
    stopping: AtomicBool,
    /// How many builds failed because somebody did not answer.
    unanswered: u32,
}

impl Unit {
    fn new(
        executor: Arc<Executor>,
        entry: Entry,
        asks: watch::Receiver<Ask>,
        events: mpsc::Sender<UnitEvent>,
        pace: Pace,
    ) -> Self {
        let stopping = AtomicBool::new(false);
        Self { executor, entry, asks, events, pace, resumed: None, watch: None, lines: None, stopping, unanswered: 0 }
    }

    fn record(&self) -> &Record {
        self.entry.record()
    }

    async fn drive(mut self) -> Result<UnitEnd, Failure> {
        loop {
            let phase = self.record().phase;
            let _ = self.events.send(UnitEvent::Phase(phase)).await;
            match self.step(phase).await {
                Ok(Step::Go(next)) => self.entry.update(|it| it.enter(next))?,
                Ok(Step::End(end)) => return Ok(end),
                Err(Halt::Detached) => {
                    self.remember_the_stop()?;
                    return Ok(UnitEnd::Detached);
                }
                Err(Halt::Failure(failure)) => return Err(failure),
            }
        }
    }

    async fn step(&mut self, phase: Phase) -> Result<Step, Halt> {
        let begun = matches!(phase, Phase::Build | Phase::Prepare | Phase::Start | Phase::Run);
        // Sending what an outage has left may take hours.
        if (begun || phase == Phase::Drain) && self.watch.is_none() {
            self.watch = Some(Watch::start(self)?);
        }
        if begun && self.record().wish.is_some() && phase != Phase::Run && phase != Phase::Start {
            return self.ended(Ending::Stopped);
        }
        match phase {
            Phase::Taken => self.take().await,
            Phase::Build => self.build().await,
            Phase::Prepare => self.prepare().await,
            Phase::Start => self.start().await,
            Phase::Run => self.attend().await,
            Phase::Drain => self.drain().await,
            Phase::Settle => self.settle().await,
            Phase::Done => self.done(),
        }
    }

    /// Writes down how it ended; the end's phases follow.
    fn ended(&mut self, end: Ending) -> Result<Step, Halt> {
        self.entry.update(|it| it.end = Some(end))?;
        Ok(Step::Go(Phase::Drain))
    }

    /// The machinery failed.
    fn failed(&mut self, during: &str, failure: &Failure) -> Result<Step, Halt> {
        let end = Ending::Failed {
            reason: format!("{during}: {failure}"),
            passing: is_passing(failure.kind()),
            code: failure.kind().exit_code(),
        };
        self.ended(end)
    }

    /// Tells people something; nobody needs to listen.
    fn note(&self, text: String) {
        let _ = self.events.try_send(UnitEvent::Note(text));
    }

    /// Says in the task's status message where the unit is and what it waits for.
    fn say(&self, text: impl Into<String>) {
        if let Some(watch) = &self.watch {
            watch.say(&text.into());
        }
    }

    /// A console line of our own, while the spool is ours; a note for people where it is the run's.
    fn line(&self, level: Level, text: &str) {
        if self.keep_line(level, text) {
            let _ = self.events.try_send(UnitEvent::Line(level, text.to_owned()));
        } else {
            self.note(text.to_owned());
        }
    }

    /// The same of what people are shown in another way; whether the spool is ours.
    fn keep_line(&self, level: Level, text: &str) -> bool {
        self.lines.as_ref().map(|it| it.add(level, text)).is_some()
    }

    fn change<'a>(&'a self, reason: &'a str, message: &'a str) -> Change<'a> {
        Change { task: &self.record().task, reason, message, force: false }
    }

    fn changed_by(&self) -> String {
        tasks::changed_by(&self.record().worker)
    }
}

/// Whether it was the machinery that failed, and may not the next time.
fn is_passing(kind: Kind) -> bool {
    matches!(kind, Kind::Unreachable | Kind::System | Kind::Space | Kind::Conflict | Kind::Interrupted | Kind::Internal)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

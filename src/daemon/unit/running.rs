//! From the finished image to the end of the container: the engine's part.

use std::future::ready;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::known::{self, Place};
use super::{Ask, Ending, Halt, Interruption, Step, Unit};
use crate::clearml::events::Level;
use crate::daemon::journal::{Phase, Wish, WishedBy};
use crate::error::{Explain, Failure, Kind};
use crate::gpu::{self, Discovery, GpuSet};
use crate::run::{EngineKind, Found, Outcome};
use crate::spool::{EndCause, LeftEnd, ProgramEnd, Spool, SpoolError};

/// How many times in a row an engine may fail to say what became of a run, other than by not answering.
const FAILURES: u32 = 10;
/// How often ports are looked for again where somebody else was quicker.
const PORTS: u32 = 3;
/// How long the driver may take to say which devices there are.
const COUNTING: Duration = Duration::from_secs(30);

/// An engine took a question and says nothing.
#[derive(Debug, thiserror::Error)]
#[error("it does not answer")]
pub(super) struct Silent;

impl Explain for Silent {
    fn kind(&self) -> Kind {
        Kind::Unreachable
    }
}

/// What came of an attempt.
enum Came<T> {
    Done(T),
    Failed(Failure),
    Late,
    Interrupted(Interruption),
}

impl Unit {
    /// Has the engine make the image ready.
    pub(super) async fn prepare(&mut self) -> Result<Step, Halt> {
        let engine = std::sync::Arc::clone(&self.executor.engine);
        let Some(image) = self.record().image.clone() else {
            // Journalled by a build that wrote no image down: it is quickly found.
            return Ok(Step::Go(Phase::Build));
        };
        self.say(format!("preparing image in {}", engine.name()));
        let limits = &self.executor.settings.limits;
        // It may have to be fetched whole.
        let limit = if image.in_registry().is_some() { limits.build.max(limits.start) } else { limits.start };
        let prepared = self.attempt(limit, || engine.prepare(&image)).await;
        let what = format!("{} cannot prepare the image", engine.name());
        self.engine_did(prepared, limit, (&what, "prepared"), Phase::Start)
    }

    /// Has the engine start the run.
    pub(super) async fn start(&mut self) -> Result<Step, Halt> {
        if self.record().wish.is_some() {
            return Ok(Step::Go(Phase::Run));
        }
        let engine = std::sync::Arc::clone(&self.executor.engine);
        let limit = self.executor.settings.limits.start;
        if self.resumed.is_some() {
            // One that has started needs its spool now, and nothing that the server would have to be asked for first.
            let run = self.record().run.clone();
            let found = self.attempt(limit, || engine.find(&run)).await;
            match found {
                Came::Done(Found::Running | Found::Ended(_)) => return Ok(Step::Go(Phase::Run)),
                Came::Interrupted(interruption) => {
                    self.wished(interruption)?;
                    return Ok(Step::Go(Phase::Run));
                }
                // Of what an engine saw of its start it may have kept nothing.
                _ if self.has_begun() => return Ok(Step::Go(Phase::Run)),
                _ => {}
            }
        }
        match self.open_lines() {
            // It has started already, and whoever started it could not write that down.
            Err(SpoolError::InUse(_)) => {}
            opened => opened?,
        }
        let mut spec = match self.spec().await? {
            Ok(spec) => spec,
            Err(failure) => return self.failed("the run cannot be started", &failure),
        };
        self.line(Level::Info, &format!("starting in {} as run {}", engine.name(), self.record().run));
        self.say(format!("starting in {}", engine.name()));
        // From now on the spool is the run's.
        if let Some(lines) = self.lines.take() {
            lines.close().await;
        }
        self.entry.update(|it| it.may_run = true)?;
        let mut again = PORTS;
        let started = loop {
            let begins = || -> BoxFuture<'_, _> {
                // An engine that goes down while it starts a run may have started it, and come back knowing nothing of
                // that.
                if self.has_begun() { Box::pin(ready(Ok(()))) } else { engine.start(&spec) }
            };
            match self.attempt(limit, begins).await {
                // Another run may have been given it in the same moment.
                Came::Failed(failure) if again > 0 && is_port_taken(&failure) => again -= 1,
                started => break started,
            }
            spec = match self.spec().await? {
                Ok(spec) => spec,
                Err(failure) => return self.failed("the run cannot be started", &failure),
            };
        };
        if let Some(watch) = &self.watch
            && matches!(started, Came::Done(()))
        {
            watch.run_begins();
        }
        let what = format!("{} cannot start the run", engine.name());
        self.engine_did(started, limit, (&what, "started"), Phase::Run)
    }

    /// Waits for the engine, which what is built is for: one that is away fails no task.
    pub(super) async fn engine_answers(&mut self) -> Result<Step, Halt> {
        let engine = std::sync::Arc::clone(&self.executor.engine);
        let (run, limit) = (self.record().run.clone(), self.executor.settings.limits.build);
        let came = self.attempt(limit, || Box::pin(async { self.answered(engine.find(&run)).await.map(drop) })).await;
        match came {
            // What else is wrong with it the build will tell.
            Came::Failed(failure) if failure.kind() != Kind::Unreachable => Ok(Step::Go(Phase::Build)),
            came => self.engine_did(came, limit, (engine.name(), "there to build for"), Phase::Build),
        }
    }

    /// Tries until it works, until it cannot work, or until it is too late.
    async fn attempt<'a, T>(
        &self,
        limit: Duration,
        mut work: impl FnMut() -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Came<T> {
        let late = Instant::now() + limit;
        let mut pause = self.pace.pause;
        let name = self.executor.engine.name();
        loop {
            let outcome = tokio::select! {
                outcome = timeout_at(late, work()) => outcome,
                interruption = self.interrupted() => return Came::Interrupted(interruption),
            };
            match outcome {
                Ok(Ok(done)) => return Came::Done(done),
                Ok(Err(failure)) if failure.kind() == Kind::Unreachable && Instant::now() + pause < late => {
                    self.say(format!("waiting for {name}: {failure}"));
                    self.note(format!("waiting for {name}: {failure}"));
                }
                Ok(Err(failure)) => return Came::Failed(failure),
                Err(_) => return Came::Late,
            }
            tokio::select! {
                () = sleep(pause) => {}
                interruption = self.interrupted() => return Came::Interrupted(interruption),
            }
            pause = (pause * 2).min(self.pace.longest);
        }
    }

    fn engine_did(
        &mut self,
        came: Came<()>,
        limit: Duration,
        (what, done): (&str, &str),
        next: Phase,
    ) -> Result<Step, Halt> {
        match came {
            Came::Done(()) => Ok(Step::Go(next)),
            Came::Failed(failure) => self.failed(what, &failure),
            Came::Late => {
                let limit = limit.as_secs();
                let reason = format!("{what}: it was not {done} within {limit} s");
                self.ended(Ending::Failed { reason, passing: true, code: Kind::System.exit_code() })
            }
            Came::Interrupted(interruption) => {
                self.wished(interruption)?;
                // It may have started already.
                if next == Phase::Run { Ok(Step::Go(Phase::Run)) } else { self.ended(Ending::Stopped) }
            }
        }
    }

    /// Waits for the end of the run, and brings it about where somebody wants that.
    pub(super) async fn attend(&mut self) -> Result<Step, Halt> {
        if let Some(watch) = &self.watch {
            watch.run_begins();
        }
        if self.record().wish.is_some() {
            return self.stop_run().await;
        }
        self.say("running");
        let ended = tokio::select! {
            outcome = self.outcome() => Ok(outcome),
            interruption = self.interrupted() => Err(interruption),
            reason = self.overdue() => Err(Interruption::Wish(Wish::Limit { reason })),
        };
        match ended {
            Ok(outcome) => self.ran(outcome).await,
            Err(interruption) => {
                self.wished(interruption)?;
                if let Some(Wish::Limit { reason }) = &self.record().wish {
                    self.say(format!("ending the run: {reason}"));
                }
                self.stop_run().await
            }
        }
    }

    /// How the run ended; an engine that is away, or there and silent, is waited for.
    pub(super) async fn outcome(&self) -> Option<Outcome> {
        let (engine, run) = (&self.executor.engine, &self.record().run);
        let (mut failures, mut pause, mut waiting) = (0, self.pace.pause, false);
        loop {
            let failure = match self.answered(engine.find(run)).await {
                // Its engine came back without it, and it goes on.
                Ok(Found::Absent) if self.is_alive() => {
                    sleep(self.pace.pause).await;
                    continue;
                }
                Ok(Found::Absent) => return None,
                Ok(Found::Ended(outcome)) => return Some(outcome),
                Ok(Found::Running) => {
                    if std::mem::take(&mut waiting) {
                        self.say("running");
                    }
                    // A wait may take for ever; whether anybody is there to end it is asked beside it.
                    tokio::select! {
                        outcome = engine.wait(run) => match outcome {
                            Ok(outcome) => return Some(outcome),
                            Err(failure) => failure,
                        },
                        failure = self.unanswered() => failure,
                    }
                }
                Err(failure) => failure,
            };
            if failure.kind() != Kind::Unreachable {
                failures += 1;
            }
            if failures >= FAILURES {
                return Some(Outcome::Lost { reason: format!("{} does not tell of it: {failure}", engine.name()) });
            }
            waiting = true;
            self.say(format!("waiting for {}, which does not answer", engine.name()));
            self.note(format!("waiting for {}: {failure}", engine.name()));
            sleep(pause).await;
            pause = (pause * 2).min(self.pace.longest);
        }
    }

    /// Whether the in-image program has begun, whatever the engine says.
    fn has_begun(&self) -> bool {
        LeftEnd::of(&self.entry.spool()) != LeftEnd::Nothing
    }

    /// Whether the in-image program goes on, whatever the engine says: it has its spool until it ends.
    pub(super) fn is_alive(&self) -> bool {
        let spool = self.entry.spool();
        LeftEnd::of(&spool) == LeftEnd::Promised && matches!(Spool::adopt(&spool), Err(SpoolError::InUse(_)))
    }

    /// An engine's answer to a question that takes no time.
    pub(super) async fn answered<T>(&self, question: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
        timeout(self.pace.probe, question).await.unwrap_or_else(|_| Err(Silent.into()))
    }

    /// Asks for the run now and then; comes when that is not answered, or the run has not been there for long enough that
    /// whoever waits for it should have told.
    async fn unanswered(&self) -> Failure {
        let (engine, run) = (&self.executor.engine, &self.record().run);
        let mut over = false;
        loop {
            sleep(self.pace.probe).await;
            match self.answered(engine.find(run)).await {
                Ok(Found::Running) => over = false,
                Ok(_) if over => return Silent.into(),
                Ok(_) => over = true,
                Err(failure) => return failure,
            }
        }
    }

    /// Comes when a run is to be left as it is: at once where that is asked for; where a stop is asked for, once its
    /// engine has not answered for a while.
    pub(super) async fn deserted(&self) {
        if self.asked_to_end().await != Ask::Stop {
            return;
        }
        let (engine, run) = (&self.executor.engine, &self.record().run);
        let mut missed = 0;
        loop {
            let answered = tokio::select! {
                found = timeout(self.pace.leave, engine.find(run)) => matches!(found, Ok(Ok(_))),
                () = self.detached() => return,
            };
            missed = if answered { 0 } else { missed + 1 };
            if missed > 1 {
                return;
            }
            tokio::select! {
                () = sleep(self.pace.leave) => {}
                () = self.detached() => return,
            }
        }
    }

    /// What the in-image program knows and we do not: it looks at the server too, and may have seen first that the task is to
    /// stop. And a program that ended itself in the very moment in which its time was over was in time.
    fn learn_why(&mut self, left: LeftEnd) -> Result<(), Halt> {
        let LeftEnd::End(ProgramEnd { code, cause, .. }) = left else { return Ok(()) };
        match (&self.record().wish, cause) {
            (None, EndCause::Server) => {
                self.entry.update(|it| it.wish = Some(Wish::Stop { by: WishedBy::Server }))?;
            }
            (Some(Wish::Limit { .. }), EndCause::Itself) if code == 0 => self.entry.update(|it| it.wish = None)?,
            _ => {}
        }
        Ok(())
    }

    /// Writes down how the run ended. Without an outcome there is none of this id in the engine.
    pub(super) async fn ran(&mut self, outcome: Option<Outcome>) -> Result<Step, Halt> {
        let left = LeftEnd::of(&self.entry.spool());
        self.learn_why(left)?;
        let asked = self.record().wish.is_some();
        let told = match outcome {
            None if asked && !matches!(left, LeftEnd::End(_)) => return self.ended(Ending::Stopped),
            None => Outcome::Lost { reason: "it is gone, and nobody knows how it ended".to_owned() },
            Some(outcome) => outcome,
        };
        let contained = self.executor.engine.name() != EngineKind::Native.name();
        let outcome = known::best(told, left, Place { contained, asked });
        if let Some(code) = known::aborted(&outcome, left).filter(|_| !asked) {
            return self.ended(Ending::Aborted { code });
        }
        let wrong = !matches!(outcome, Outcome::Exited { code: 0, .. });
        let lost_gpu = if wrong && self.record().wish.is_none() { self.lost_gpu().await } else { None };
        self.ended(Ending::Ran { outcome, lost_gpu })
    }

    /// A device of the task that was there and is not any more.
    pub(super) async fn lost_gpu(&self) -> Option<String> {
        let gpus = self.record().gpus.clone();
        if gpus.is_empty() {
            return None;
        }
        // A driver that hangs says nothing of the devices.
        let found = timeout(COUNTING, tokio::task::spawn_blocking(move || lost(&gpus))).await;
        found.map_or(None, Result::unwrap_or_default)
    }
}

/// Whether an engine says that somebody else has a port that was free a moment ago.
fn is_port_taken(failure: &Failure) -> bool {
    let said = failure.to_string().to_lowercase();
    ["port is already allocated", "address already in use", "ports are not available"]
        .iter()
        .any(|it| said.contains(it))
}

/// A device that was there and is not any more, for people.
fn lost(gpus: &GpuSet) -> Option<String> {
    match gpu::discover() {
        Ok(Discovery::Found(inventory)) => {
            let gone = gpus.devices.iter().find(|it| !inventory.has(it))?;
            let told = format!("device {} ({}) is not there any more", gone.short(), gone.id());
            Some(match inventory.lost(gone) {
                Some(lost) if lost.short() == gone.short() => format!("{told}: {}", lost.reason),
                Some(lost) => format!("{told}: GPU {} is lost: {}", lost.short(), lost.reason),
                None => told,
            })
        }
        Ok(Discovery::NoDriver(why)) => Some(why),
        Err(error) => Some(Failure::from(error).to_string()),
    }
}

//! From the container's end to the task's: what it printed reaches the server, then how it ended, then nothing is left
//! but what `agent logs` shows.

use std::sync::Mutex;
use std::time::Duration;

use fs_err as fs;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::lines::Lines;
use super::server::{self, NO_CHANGE, NO_QUEUE, RACE, Seen};
use super::{Ask, Ending, Halt, Step, Unit, UnitEnd, building, container, locked};
use crate::clearml::events::Level;
use crate::clearml::tasks::{self, Change};
use crate::clearml::{ApiError, Client};
use crate::daemon::journal::{Phase, Verdict, Wish};
use crate::daemon::settle::{self, Known};
use crate::error::Failure;
use crate::run::{Found, Outcome, RunId};
use crate::spool::{DrainError, EndCause, LeftEnd, Spool, SpoolError, drain};

/// How long a run that has ended may hold on to its spool.
const HELD: Duration = Duration::from_secs(30);
/// How long an engine may take to forget a run, before that is left to a later start.
const FORGETTING: Duration = Duration::from_secs(60);

impl Unit {
    /// Sends what the run left in its spool, however long that takes.
    pub(super) async fn drain(&mut self) -> Result<Step, Halt> {
        self.make_sure_of_the_end().await?;
        self.send_the_rest().await?;
        if let Some(watch) = self.watch.take() {
            // A message that comes late follows no status of ours then: the unit is left where it is.
            tokio::select! {
                () = watch.end() => {}
                () = self.dismissed() => return Err(Halt::Detached),
            }
        }
        Ok(Step::Go(Phase::Settle))
    }

    async fn send_the_rest(&mut self) -> Result<(), Halt> {
        let lines = match self.lines.take() {
            Some(lines) => Some(lines),
            None => self.adopt_lines().await?,
        };
        let Some(mut lines) = lines else { return Ok(()) };
        lines.hush().await;
        if let Some((level, text)) = self.last_line() {
            lines.add(level, &text);
        }
        tokio::select! {
            sent = self.send(lines.spool()) => sent?,
            // What is soon over is not worth a word.
            () = self.say_later("sending the rest of the console") => {}
        }
        lines.close().await;
        Ok(())
    }

    /// Says what the unit does once that has taken a while; never comes.
    async fn say_later(&self, text: &str) {
        sleep(self.pace.say).await;
        self.say(text);
        std::future::pending::<()>().await;
    }

    /// Sends what is in a spool, until the server has all of it that it ever will.
    async fn send(&self, spool: &Mutex<Spool>) -> Result<(), Halt> {
        let client = &self.executor.client;
        let mut pause = self.pace.pause;
        let stalled = self.stalled(spool);
        tokio::pin!(stalled);
        loop {
            let outcome = tokio::select! {
                outcome = drain(spool, client) => outcome,
                () = &mut stalled => return Err(Halt::Detached),
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(DrainError::Server(error))
                    if error.is_passing() || matches!(error, ApiError::Credentials { .. }) =>
                {
                    self.note(format!("console lines wait for the server: {}", Failure::from(error)));
                }
                Err(error) => {
                    // Nothing that waiting mends; the copy on this machine is there all the same.
                    self.note(format!("the rest of the console is not sent: {}", Failure::from(error)));
                    return Ok(());
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut stalled => return Err(Halt::Detached),
            }
            pause = (pause * 2).min(self.pace.longest);
        }
    }

    /// Comes when sending is to be left: at once when everything is; where a stop was asked for, once the server has
    /// taken nothing more for a while.
    async fn stalled(&self, spool: &Mutex<Spool>) {
        if self.asked_to_end().await != Ask::Stop {
            return;
        }
        loop {
            let before = locked(spool).progress();
            tokio::select! {
                () = sleep(self.pace.leave) => {}
                () = self.detached() => return,
            }
            if locked(spool).progress() == before {
                return;
            }
        }
    }

    /// A run that may have started, and whose end nobody saw, is ended first: no status before that.
    async fn make_sure_of_the_end(&mut self) -> Result<(), Halt> {
        let over = matches!(
            self.record().end,
            Some(Ending::Ran { outcome: Outcome::Exited { .. }, .. } | Ending::Aborted { .. })
        );
        if over || !self.record().may_run {
            return Ok(());
        }
        // It must not run a second time as long as nobody knows that the first has ended.
        if let Some(why) = self.brought_to_an_end().await? {
            self.note(format!("the run may go on: {why}"));
            let goes_on = self.is_alive().then_some(why);
            self.entry.update(|it| (it.end, it.goes_on) = (it.end.take().map(settle::for_good), goes_on))?;
        }
        Ok(())
    }

    /// Ends what may still run; why it may go on where nobody knows that it has ended. An engine that never comes back must
    /// not keep the task from its end.
    async fn brought_to_an_end(&self) -> Result<Option<String>, Halt> {
        let (engine, run) = (&self.executor.engine, &self.record().run);
        let (late, mut pause) = (Instant::now() + self.executor.settings.limits.start, self.pace.pause);
        let deserted = self.deserted();
        tokio::pin!(deserted);
        loop {
            let ended = async {
                match self.answered(engine.find(run)).await? {
                    Found::Running => self.told_to_stop().await.map(|()| None),
                    Found::Absent if self.is_alive() => Ok(self.end_forgotten().await),
                    Found::Absent | Found::Ended(_) => Ok(None),
                }
            };
            let ended = tokio::select! {
                ended = ended => ended,
                () = &mut deserted => return Err(Halt::Detached),
            };
            let failure: Failure = match ended {
                Ok(goes_on) => return Ok(goes_on),
                Err(failure) => failure,
            };
            self.say(format!("waiting for {} to tell whether the run has ended", engine.name()));
            self.note(format!("waiting for {}: {failure}", engine.name()));
            if Instant::now() >= late {
                return Ok(Some(format!("{} does not tell of it: {failure}", engine.name())));
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut deserted => return Err(Halt::Detached),
            }
            pause = (pause * 2).min(self.pace.longest);
        }
    }

    async fn adopt_lines(&self) -> Result<Option<Lines>, Halt> {
        let late = Instant::now() + HELD;
        loop {
            match Spool::adopt(&self.entry.spool()) {
                Ok(spool) => return Ok(spool.map(|it| Lines::adopt(&self.entry, it))),
                Err(SpoolError::InUse(_)) if Instant::now() < late && self.record().goes_on.is_none() => {}
                Err(error) => {
                    self.note(format!("the rest of the console is not sent: {}", Failure::from(error)));
                    return Ok(None);
                }
            }
            tokio::select! {
                () = sleep(Duration::from_millis(50)) => {}
                () = self.dismissed() => return Err(Halt::Detached),
            }
        }
    }

    /// Whether the in-image program knew why its program ended, and has said that.
    fn program_said(&self) -> bool {
        matches!(LeftEnd::of(&self.entry.spool()), LeftEnd::End(end) if end.cause != EndCause::Asked)
    }

    /// What the in-image program cannot have said itself.
    fn last_line(&self) -> Option<(Level, String)> {
        match (self.record().wish.as_ref(), self.record().end.as_ref()?) {
            (Some(Wish::Stop { .. }), Ending::Stopped) if !self.record().may_run => {
                Some((Level::Error, "User aborted: stopping task before it ran".to_owned()))
            }
            (Some(Wish::Limit { reason }), _) => Some((Level::Error, format!("Process failed: {reason}"))),
            (Some(Wish::Stop { by }), _) if !self.program_said() => {
                Some((Level::Error, format!("User aborted: stopping task ({})", settle::stop_reason(*by))))
            }
            (Some(Wish::Leave { status }), _) if !self.program_said() => {
                Some((Level::Error, format!("The task was ended elsewhere: it is {status}")))
            }
            (Some(_), _) => None,
            (
                None,
                Ending::Ran { outcome: Outcome::Exited { out_of_memory: false, .. }, lost_gpu: None }
                | Ending::Aborted { .. },
            ) => None,
            (None, end) => Some((Level::Error, format!("Process failed: {}", settle::reason(end)))),
        }
    }

    /// Tells the server how it ended, and forgets what nobody needs any more.
    pub(super) async fn settle(&mut self) -> Result<Step, Halt> {
        let client = self.executor.client.clone();
        let task = self.record().task.clone();
        self.outwait_late_messages().await?;
        loop {
            let seen = self.insist("to settle the task", || server::look(&client, &task)).await?;
            if self.record().verdict.as_ref().is_some_and(|it| is_told(it, seen.as_ref(), &self.record().run)) {
                break;
            }
            let mut verdict = self.judge(seen.as_ref());
            if let (Verdict::Again { reason }, Some(queue)) = (&verdict, &self.record().queue)
                && !self.insist("about the queue", || server::has_queue(&client, queue)).await?
            {
                // There is no way back; for ever is no answer either.
                verdict = Verdict::Failed { reason: format!("{reason}; the queue {queue} it came from is gone") };
            }
            self.entry.update(|it| it.verdict = Some(verdict.clone()))?;
            if self.tell(&client, &verdict).await? {
                break;
            }
        }
        if let Some(Verdict::Leave { status }) = &self.record().verdict {
            self.note(format!("the task is {status}, and that stands"));
        }
        self.forget().await;
        Ok(Step::Go(Phase::Done))
    }

    /// A message that a killed process had on its way would set a task that has ended back to `in_progress`: no call of the
    /// API writes a message on the condition that the task still runs. So the end is told once it must have arrived.
    async fn outwait_late_messages(&self) -> Result<(), Halt> {
        let Some(since) = self.resumed else { return Ok(()) };
        tokio::select! {
            () = sleep_until(since + self.pace.late) => Ok(()),
            () = self.detached() => Err(Halt::Detached),
        }
    }

    fn judge(&self, seen: Option<&Seen>) -> Verdict {
        let record = self.record();
        if record.quiet {
            let status = seen.map_or_else(|| "deleted".to_owned(), |it| it.state.status.clone());
            return Verdict::Leave { status };
        }
        if let Some(again @ Verdict::Again { .. }) = &record.verdict
            && seen.is_some_and(|it| it.state.status == "stopped")
        {
            // Half-way back into its queue.
            return again.clone();
        }
        // A unit without an end was never begun: the process was killed in between.
        let end = record.end.as_ref().unwrap_or(&Ending::Stopped);
        let verdict = settle::settle(&Known {
            state: seen.map(|it| &it.state),
            taken_over: seen.is_some_and(|it| it.is_taken_from(&record.run)),
            end,
            wish: record.wish.as_ref(),
            attempt: record.attempt,
            retries: self.executor.settings.retries,
        });
        match (verdict, &record.goes_on) {
            (Verdict::Stopped { reason }, Some(why)) => Verdict::Stopped { reason: format!("{reason}; {why}") },
            (Verdict::Failed { reason }, Some(why)) if !reason.contains(why) => {
                Verdict::Failed { reason: format!("{reason}; {why}") }
            }
            (verdict, _) => verdict,
        }
    }

    /// Forgets the run in its engine, and what was lent to it.
    async fn forget(&self) {
        let engine = &self.executor.engine;
        let forgetting = async {
            if let Err(failure) = engine.remove(&self.record().run).await {
                self.note(format!("{} does not remove the run: {failure}", engine.name()));
            }
            if let Some(image) = &self.record().image {
                self.executor.images().used(image);
            }
        };
        // What is not removed now is when a daemon starts.
        tokio::select! {
            _ = timeout(FORGETTING, forgetting) => {}
            () = self.dismissed() => {}
        }
        let directory = self.entry.directory();
        for name in container::LENT.iter().chain(&[building::LOCK]) {
            let _ = fs::remove_file(directory.join(name));
        }
        let _ = fs::remove_dir_all(directory.join(container::HOME));
        let _ = self.executor.journal.prune();
    }

    /// Sends a verdict; `false` where the task has changed meanwhile and the verdict must be thought over.
    async fn tell(&self, client: &Client, verdict: &Verdict) -> Result<bool, Halt> {
        let message = self.changed_by();
        let task = self.record().task.clone();
        let outcome = self.insist("to take the task's end", || async {
            let change = |reason| self.change(reason, &message);
            let answer = match verdict {
                Verdict::Completed => tasks::completed(client, change("worker execution done")).await,
                Verdict::Stopped { reason } => tasks::stopped(client, change(reason)).await,
                Verdict::Failed { reason } => tasks::failed(client, change(reason)).await,
                Verdict::Again { reason } => self
                    .try_again(client, Change { task: &task, ..change(reason) })
                    .await
                    .map(|()| serde_json::Value::Null),
                Verdict::Leave { .. } => return Ok(true),
            };
            match answer {
                Err(error) if [NO_CHANGE, RACE, NO_QUEUE].iter().any(|it| error.is(*it)) => Ok(false),
                Err(ApiError::UnknownTask { .. }) => Ok(false),
                answer => answer.map(|_| true),
            }
        });
        outcome.await
    }

    /// Counts the attempt and puts the task back into its queue, by changes that the server's table has.
    async fn try_again(&self, client: &Client, change: Change<'_>) -> Result<(), ApiError> {
        let attempt = self.record().attempt + 1;
        match &self.record().queue {
            Some(queue) => {
                // Asked for again when an answer was lost: by now it may wait there, or be somebody else's.
                let seen = server::look(client, change.task).await?;
                if seen.is_some_and(|it| it.state.status == "queued" || it.is_taken_from(&self.record().run)) {
                    return Ok(());
                }
                server::mark(client, change.task, None, attempt).await?;
                tasks::stopped(client, change).await?;
                server::enqueue(client, queue, change.task, change.reason).await
            }
            None => server::mark(client, change.task, Some(&self.record().run), attempt).await,
        }
    }

    /// What became of it.
    pub(super) fn done(&self) -> Result<Step, Halt> {
        let exit_code = settle::exit_code(self.record());
        let settled = |status: &str, reason: &str| UnitEnd::Settled {
            status: status.to_owned(),
            reason: reason.to_owned(),
            exit_code,
            machinery: status == "failed" && self.record().end.as_ref().is_some_and(settle::is_of_machinery),
        };
        let end = match self.record().verdict.as_ref() {
            Some(Verdict::Completed) => settled("completed", "worker execution done"),
            Some(Verdict::Stopped { reason }) => settled("stopped", reason),
            Some(Verdict::Failed { reason }) => settled("failed", reason),
            Some(Verdict::Again { reason }) => match self.record().queue {
                Some(_) => UnitEnd::Requeued { reason: reason.clone() },
                None => UnitEnd::Again { reason: reason.clone(), attempt: self.record().attempt + 1 },
            },
            Some(Verdict::Leave { status }) => UnitEnd::Left { status: status.clone(), exit_code },
            None => UnitEnd::Left { status: "unknown".to_owned(), exit_code },
        };
        Ok(Step::End(end))
    }
}

/// Whether the server has heard a verdict already: it was sent before a kill.
fn is_told(verdict: &Verdict, seen: Option<&Seen>, run: &RunId) -> bool {
    let Some(seen) = seen else { return false };
    let status = seen.state.status.as_str();
    match verdict {
        Verdict::Completed => status == "completed",
        Verdict::Stopped { .. } => status == "stopped",
        Verdict::Failed { .. } => status == "failed",
        Verdict::Again { .. } => status == "queued" || seen.is_taken_from(run),
        Verdict::Leave { .. } => false,
    }
}

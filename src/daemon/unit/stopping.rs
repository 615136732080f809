//! The end of a run that somebody wants.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::running::Silent;
use super::{Halt, Step, Unit};
use crate::clearml::callback;
use crate::daemon::journal::{Wish, WishedBy};
use crate::error::Failure;
use crate::run::Outcome;

/// How long an engine may take to kill a run, after the time that the run itself may take.
const KILLING: Duration = Duration::from_secs(60);

impl Unit {
    /// Ends the run: it is asked to, and killed after a while.
    pub(super) async fn stop_run(&mut self) -> Result<Step, Halt> {
        let outcome = tokio::select! {
            outcome = self.stopped() => outcome,
            () = self.deserted() => return Err(Halt::Detached),
        };
        self.ran(outcome).await
    }

    async fn stopped(&self) -> Option<Outcome> {
        if self.record().wish == Some(Wish::Stop { by: WishedBy::Server }) {
            // The task may have something of its own to do first.
            let most = self.executor.settings.limits.abort_callback;
            let done = callback::done(&self.executor.client, &self.record().task, self.pace.poll, most);
            tokio::select! {
                outcome = self.outcome() => return outcome,
                () = done => {}
            }
        }
        let name = self.executor.engine.name();
        let (late, mut pause) = (Instant::now() + self.executor.settings.limits.start, self.pace.pause);
        while let Err(failure) = self.told_to_stop().await {
            self.note(format!("waiting for {name} to stop the run: {failure}"));
            if Instant::now() >= late {
                return Some(Outcome::Lost { reason: format!("{name} does not stop it: {failure}") });
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.pace.longest);
        }
        if self.is_forgotten().await
            && let Some(reason) = self.end_forgotten().await
        {
            return Some(Outcome::Lost { reason });
        }
        let lost = || Some(Outcome::Lost { reason: format!("{name} stopped it and does not tell how it ended") });
        timeout_at(late + KILLING, self.outcome()).await.unwrap_or_else(|_| lost())
    }

    /// Has the engine stop the run, once.
    pub(super) async fn told_to_stop(&self) -> Result<(), Failure> {
        let grace = self.executor.settings.limits.grace;
        let stopped = timeout(grace + KILLING, self.executor.engine.stop(&self.record().run, grace)).await;
        stopped.unwrap_or_else(|_| Err(Silent.into()))
    }
}

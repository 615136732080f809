//! What a unit hears while it waits: what somebody wants of it, and how long whoever does not answer is waited for then.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::{Ask, Halt, Interruption, Unit};
use crate::clearml::ApiError;
use crate::daemon::journal::{Phase, Wish, WishedBy};
use crate::error::Failure;

impl Unit {
    /// Writes down what somebody wants; leaves everything where that was asked.
    pub(super) fn wished(&mut self, interruption: Interruption) -> Result<(), Halt> {
        match interruption {
            Interruption::Detach => Err(Halt::Detached),
            Interruption::Wish(wish) => Ok(self.entry.update(|it| it.wish = Some(wish))?),
        }
    }

    /// Comes when somebody wants something.
    pub(super) async fn interrupted(&self) -> Interruption {
        let server = async {
            match &self.watch {
                Some(watch) => watch.wish().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ask = asked(self.asks.clone(), |it| it != Ask::Nothing) => match ask {
                Ask::Detach => Interruption::Detach,
                _ => Interruption::Wish(Wish::Stop { by: WishedBy::User }),
            },
            wish = server => Interruption::Wish(wish),
        }
    }

    /// Comes when everything is to be left as it is.
    pub(super) async fn detached(&self) {
        asked(self.asks.clone(), |it| it == Ask::Detach).await;
    }

    /// Comes when a wait for somebody who does not answer is to end: at once when everything is to be left as it is, and
    /// a little after a stop was asked for. The unit stays in the journal then, for whoever goes on with it.
    pub(super) async fn dismissed(&self) {
        if self.asked_to_end().await == Ask::Stop {
            tokio::select! {
                () = tokio::time::sleep(self.pace.leave) => {}
                () = self.detached() => {}
            }
        }
    }

    /// Comes when somebody on this machine asks for anything; what it is.
    pub(super) async fn asked_to_end(&self) -> Ask {
        let ask = asked(self.asks.clone(), |it| it != Ask::Nothing).await;
        if ask == Ask::Stop {
            self.stopping.store(true, Ordering::Relaxed);
        }
        ask
    }

    /// A stop that was asked for here and could not be carried out is carried out by whoever goes on with the unit.
    pub(super) fn remember_the_stop(&mut self) -> Result<(), Failure> {
        let undecided = self.record().wish.is_none() && self.record().end.is_none();
        if undecided && self.stopping.load(Ordering::Relaxed) {
            self.entry.update(|it| it.wish = Some(Wish::Stop { by: WishedBy::User }))?;
        }
        Ok(())
    }

    /// Calls the server until it answers. Credentials it does not take any more are waited for once a task is taken:
    /// the task must not be lost for them.
    pub(super) async fn insist<T, F>(&self, what: &str, mut call: impl FnMut() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let patient = self.record().phase > Phase::Taken;
        let mut pause = self.pace.pause;
        let dismissed = self.dismissed();
        tokio::pin!(dismissed);
        loop {
            let outcome = tokio::select! {
                outcome = call() => outcome,
                () = &mut dismissed => return Err(Halt::Detached),
            };
            match outcome {
                Err(error) if error.is_passing() || (patient && matches!(error, ApiError::Credentials { .. })) => {
                    self.note(format!("waiting for the server {what}: {}", Failure::from(error)));
                }
                outcome => return Ok(outcome?),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut dismissed => return Err(Halt::Detached),
            }
            pause = (pause * 2).min(self.pace.longest);
        }
    }
}

/// Comes when something like this is asked; never, once whoever could ask is gone.
async fn asked(mut asks: watch::Receiver<Ask>, wanted: impl Fn(Ask) -> bool) -> Ask {
    let found = asks.wait_for(|it| wanted(*it)).await.map(|it| *it).ok();
    match found {
        Some(ask) => ask,
        None => std::future::pending().await,
    }
}

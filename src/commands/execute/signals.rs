//! The signals that ask `agent execute` to end: the first stops the run, the second kills it, the third leaves it as it is.
//! Where nothing runs, or its engine does not answer, the second already leaves everything as it is. A terminal that closes is
//! one of them, unless the signal was ignored at the start (`nohup`).

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::daemon::Ask;
use crate::error::Failure;
use crate::process::Hangup;
use crate::run::{Engine, RunId};

/// How long an engine may take to kill a run.
const KILLING: Duration = Duration::from_secs(5);

/// What a signal is about.
pub(super) struct Current {
    pub(super) run: RunId,
    pub(super) engine: Arc<dyn Engine>,
    /// Whether it may run now.
    pub(super) runs: bool,
}

/// The signals, heard from the moment this is made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Hangup,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: Hangup::listen()?,
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.hangup.recv() => {}
        }
    }

    /// Does what they ask for.
    pub(super) async fn obey(&mut self, ask: &watch::Sender<Ask>, current: &watch::Receiver<Current>) {
        self.next().await;
        let _ = ask.send(Ask::Stop);
        self.next().await;
        let (run, engine, runs) = {
            let it = current.borrow();
            (it.run.clone(), Arc::clone(&it.engine), it.runs)
        };
        if runs {
            let killed = tokio::select! {
                killed = tokio::time::timeout(KILLING, engine.stop(&run, Duration::ZERO)) => matches!(killed, Ok(Ok(()))),
                () = self.next() => false,
            };
            // Its unit tells the server what became of it.
            if killed {
                self.next().await;
            }
        }
        let _ = ask.send(Ask::Detach);
        std::future::pending::<()>().await;
    }
}

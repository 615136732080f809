//! A program from its start to its end: signals are forwarded, orphans reaped, a wish to stop is obeyed.

use std::future::pending;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use super::GuestError;
use super::child::{Child, End, Program};
use super::environment;
use super::settings::Settings;
use crate::process::Hangup;

/// What Ctrl-C sends.
const INT: i32 = Signal::INT.as_raw();
/// How long before we are killed ourselves a program that was asked to end is killed: for the last lines and the status.
const FAREWELL: Duration = Duration::from_secs(4);

/// Signals that are passed on and mean nothing to us.
const PASSED_ON: &[Signal] = &[Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT, Signal::TSTP, Signal::ALARM];

/// What ended a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It ended by itself.
    Itself,
    /// Somebody asked us to end, at this moment.
    Asked(Instant),
    /// The server wishes it.
    Server,
}

/// The code of a program that its user broke off, as the original has it: less than none by two.
const ABORTED: u8 = 254;

/// A program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) end: End,
    pub(super) cause: Cause,
    /// The exit code.
    pub(super) code: u8,
}

impl Ended {
    /// Whether the program says by its end that its user broke it off, and nobody asked for that: `SIGINT` of its own (Ctrl-C
    /// on a terminal goes to its group alone), or the code that the original takes for it.
    pub(super) fn is_aborted(&self) -> bool {
        self.cause == Cause::Itself && matches!(self.end, End::Code(ABORTED) | End::Signal(INT))
    }
}

/// Every signal we hear. Made before the program starts, so that none is missed.
pub(super) struct Signals {
    child: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hangup: Hangup,
    others: tokio::sync::mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, GuestError> {
        let (sender, others) = tokio::sync::mpsc::unbounded_channel();
        let listen = |kind| signal(kind).map_err(GuestError::Runtime);
        for kind in PASSED_ON {
            let mut stream = listen(SignalKind::from_raw(kind.as_raw()))?;
            let sender = sender.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(*kind).is_ok() {} });
        }
        Ok(Self {
            child: listen(SignalKind::child())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: Hangup::listen().map_err(GuestError::Runtime)?,
            others,
        })
    }
}

impl Signals {
    /// Comes when somebody asks us to end while no program runs.
    pub(super) async fn asked_to_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for a program's end. Each message of `stop` is a wish of the server to end it; `grace` is what we have between
/// being asked to end and being killed.
pub(super) async fn supervise(child: &Child, signals: &mut Signals, stop: &mut Receiver<()>, grace: Duration) -> Ended {
    let grace = grace.saturating_sub(FAREWELL).max(Duration::from_secs(1));
    let mut cause = Cause::Itself;
    // When it got a signal that asks many programs to end, and others for their configuration or their threads.
    let mut nudged: Option<Instant> = None;
    let mut kill_at: Option<Instant> = None;
    let mut wishes = true;
    loop {
        // Before waiting as well as after: it may have ended before we listened.
        if let Some(end) = child.reap() {
            // What it left behind in its group would keep the pipes open, or run on for nobody.
            child.signal(Signal::KILL);
            let nudge = nudged.filter(|it| cause == Cause::Itself && it.elapsed() <= grace);
            let cause = nudge.map_or(cause, Cause::Asked);
            return Ended { end, cause, code: end.code() };
        }
        let late = async {
            match kill_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = signals.child.recv() => {}
            _ = signals.terminate.recv() => {
                // The second time means it. Whoever stops a task on the server comes here by both ways, and means it once:
                // many a program gives up its clean-up at a second TERM.
                if matches!(cause, Cause::Asked(_)) && kill_at.is_some() {
                    child.signal(Signal::KILL);
                } else if kill_at.is_none() {
                    child.signal(Signal::TERM);
                }
                kill_at.get_or_insert_with(|| Instant::now() + grace);
                cause = asked(cause);
            }
            _ = signals.interrupt.recv() => { child.signal(Signal::INT); cause = asked(cause); }
            _ = signals.quit.recv() => { child.signal(Signal::QUIT); nudged = Some(Instant::now()); }
            () = signals.hangup.recv() => { child.signal(Signal::HUP); nudged = Some(Instant::now()); }
            Some(other) = signals.others.recv() => child.signal(other),
            wish = stop.recv(), if wishes => match wish {
                Some(()) => {
                    if kill_at.is_none() {
                        child.signal(Signal::TERM);
                    }
                    kill_at.get_or_insert_with(|| Instant::now() + grace);
                    if cause == Cause::Itself {
                        cause = Cause::Server;
                    }
                }
                None => wishes = false,
            },
            () = late => {
                child.signal(Signal::KILL);
                kill_at = None;
            }
        }
    }
}

fn asked(cause: Cause) -> Cause {
    match cause {
        Cause::Asked(_) => cause,
        _ => Cause::Asked(Instant::now()),
    }
}

/// Runs a command in the environment, its input and output untouched.
pub(super) async fn command(settings: &Settings, words: &[String]) -> Result<Ended, GuestError> {
    let program =
        Program { words: words.to_vec(), directory: None, environment: environment::common(settings), captured: false };
    let mut signals = Signals::listen()?;
    let child = program.start()?;
    let (_sender, mut stop) = tokio::sync::mpsc::channel(1);
    Ok(supervise(&child, &mut signals, &mut stop, settings.grace).await)
}

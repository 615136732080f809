//! Stopping daemons of this machine: TERM, patience, TERM, patience, KILL.
//!
//! The first TERM stops what runs and reports it. The second, as from an impatient person, makes the daemon leave what
//! still runs as it is; so does KILL. A run that was left goes on, and the next daemon of this machine attends it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{InstanceError, Instances, Record};

/// How long a daemon with one task may take to stop it and report; one with many.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(120));
/// How long it may take to leave everything as it is.
const FAREWELL: Duration = Duration::from_secs(20);
/// How long the kernel may take.
const LAST: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It stopped and reported what ran.
    Clean,
    /// It had to be told twice, or killed: what it ran may go on.
    Forced,
}

/// Stops a daemon and waits until it has ended.
///
/// # Errors
/// [`InstanceError::Signal`] when it must not be signalled, or outlives KILL.
pub fn stop(instances: &Instances, daemon: &Record) -> Result<Stopped, InstanceError> {
    let first = if daemon.about.many { PATIENCE.1 } else { PATIENCE.0 };
    stop_within(instances, daemon, [first, FAREWELL, LAST])
}

pub(super) fn stop_within(
    instances: &Instances,
    daemon: &Record,
    patience: [Duration; 3],
) -> Result<Stopped, InstanceError> {
    let steps = [(Signal::TERM, Stopped::Clean), (Signal::TERM, Stopped::Forced), (Signal::KILL, Stopped::Forced)];
    for ((signal, outcome), patience) in steps.into_iter().zip(patience) {
        send(instances, daemon, signal)?;
        if ended(instances, daemon, patience)? {
            return Ok(outcome);
        }
    }
    Err(failed(daemon, io::Error::other("it outlives KILL")))
}

/// Asks a daemon to take no more tasks and to end when those that run have ended; does not wait for that.
///
/// # Errors
/// [`InstanceError::Signal`]
pub fn drain(instances: &Instances, daemon: &Record) -> Result<(), InstanceError> {
    send(instances, daemon, Signal::USR1)
}

/// One that has ended meanwhile needs no signal; one that holds its lock and is not found is in another container.
fn send(instances: &Instances, daemon: &Record, signal: Signal) -> Result<(), InstanceError> {
    match daemon.process.signal(signal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if instances.is_alive(&daemon.worker)? {
                return Err(failed(daemon, io::Error::other("no such process here")));
            }
            Ok(())
        }
        other => other.map_err(|error| failed(daemon, error)),
    }
}

fn ended(instances: &Instances, daemon: &Record, patience: Duration) -> Result<bool, InstanceError> {
    let start = Instant::now();
    loop {
        if !instances.is_alive(&daemon.worker)? {
            return Ok(true);
        }
        if start.elapsed() >= patience {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
}

fn failed(daemon: &Record, source: io::Error) -> InstanceError {
    InstanceError::Signal { worker: daemon.worker.clone(), process: daemon.process.pid, source }
}

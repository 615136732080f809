//! What people ask of a running daemon: signals.
//!
//! | signal | meaning |
//! |---|---|
//! | TERM, INT | stop what runs, report it as stopped, end; a second one leaves what still runs as it is |
//! | USR1 | take no more, finish what runs, end |
//! | USR2 | end at once and leave what runs as it is: the next daemon attends it |
//! | HUP | nothing: a terminal that closes does not end a daemon |

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is asked, the stronger the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// Finish what runs, take no more.
    Drain,
    /// Stop what runs.
    Stop,
    /// Leave what runs as it is.
    Detach,
}

/// The signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
    detach: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they are heard here.
    ///
    /// # Errors
    /// Whatever the kernel gives.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined1())?,
            detach: signal(SignalKind::user_defined2())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that asks for something.
    pub async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop,
                _ = self.interrupt.recv() => return Asked::Stop,
                _ = self.drain.recv() => return Asked::Drain,
                _ = self.detach.recv() => return Asked::Detach,
                _ = self.hang_up.recv() => {}
            }
        }
    }
}

/// What counts after one more wish: a second wish to stop is impatience.
#[must_use]
pub fn and_then(before: Option<Asked>, asked: Asked) -> Asked {
    match before {
        Some(Asked::Stop) if asked == Asked::Stop => Asked::Detach,
        Some(before) => before.max(asked),
        None => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_only_grow_and_a_second_stop_leaves_things_as_they_are() {
        use Asked::{Detach, Drain, Stop};
        for (before, asked, expected) in [
            (None, Drain, Drain),
            (Some(Drain), Stop, Stop),
            (Some(Stop), Drain, Stop),
            (Some(Stop), Stop, Detach),
            (Some(Detach), Stop, Detach),
            (Some(Drain), Drain, Drain),
        ] {
            assert_eq!(and_then(before, asked), expected, "{before:?} {asked:?}");
        }
    }
}

//! A process of this machine that cannot be mistaken for a later one of the same number.

use std::io;

use fs_err as fs;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process id, and when the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// Clock ticks between the machine's start and its own.
    pub started: u64,
}

impl ProcessId {
    /// This process.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// The process that has a number now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, started: started(pid)? })
    }

    /// Signals the process, and never another one.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `PermissionDenied` when it is somebody else's.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        // Held while it is looked at, so that the number cannot become another's in between.
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(gone)?;
        if started(self.pid)? != self.started {
            return Err(io::ErrorKind::NotFound.into());
        }
        pidfd_send_signal(&process, signal).map_err(gone)
    }
}

fn gone(errno: rustix::io::Errno) -> io::Error {
    if errno == rustix::io::Errno::SRCH { io::ErrorKind::NotFound.into() } else { errno.into() }
}

/// Field 22 of `/proc/<pid>/stat`; the second field, the program's name, may hold blanks and parentheses.
fn started(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let field = text.rsplit_once(')').and_then(|it| it.1.split_whitespace().nth(19)).and_then(|it| it.parse().ok());
    field.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_meant_is_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let later = ProcessId { started: id.started + 1, ..id };
        assert_eq!(later.signal(Signal::KILL).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(child.try_wait().unwrap().is_none());
        id.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_eq!(id.signal(Signal::KILL).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(ProcessId::own().unwrap().pid, std::process::id());
    }
}

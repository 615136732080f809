//! The process of a build: this program again, in a group of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStderr;
use tokio::time::{Instant, sleep};

use crate::daemon::journal::Builder;
use crate::process::{Group, exit_code};

/// How long a build that is to end may take to remove what it began.
const FAREWELL: Duration = Duration::from_secs(10);

/// A build that goes on; ended when dropped.
pub(super) struct Child {
    group: Group,
    errors: BufReader<ChildStderr>,
    /// A line that has no end yet.
    unfinished: Vec<u8>,
}

impl Child {
    /// Starts it; it finds what is told on its standard input, where that is a pipe.
    pub(super) fn start((mut command, told): (Command, Option<String>)) -> std::io::Result<Self> {
        let mut group = Group::start(&mut command)?;
        if let (Some(mut input), Some(told)) = (group.child().stdin.take(), told) {
            // Less than a pipe holds, or it ended at once and says why itself.
            let _ = input.write_all(told.as_bytes());
        }
        let stderr = group.child().stderr.take().ok_or_else(|| std::io::Error::other("it has no standard error"))?;
        Ok(Self { group, errors: BufReader::new(ChildStderr::from_std(stderr)?), unfinished: Vec::new() })
    }

    /// The next line of its standard error; what is no text in it is replaced. May be dropped and called again.
    pub(super) async fn line(&mut self) -> Option<String> {
        let read = self.errors.read_until(b'\n', &mut self.unfinished).await;
        if read.is_err() || self.unfinished.is_empty() {
            return None;
        }
        let line = std::mem::take(&mut self.unfinished);
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Whether its process has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.group.try_wait(), Ok(None))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Waits for its end; its exit code.
    pub(super) async fn ended(&mut self) -> i32 {
        loop {
            match self.group.try_wait() {
                Ok(Some(status)) => return exit_code(status),
                Ok(None) => sleep(Duration::from_millis(10)).await,
                Err(_) => return 1,
            }
        }
    }

    /// Ends it: it is asked to, so that it can end what runs in containers for it, and killed after a while.
    pub(super) async fn cancel(&mut self) {
        self.group.signal(Signal::TERM);
        let _ = tokio::time::timeout(FAREWELL, self.ended()).await;
        self.group.kill();
    }
}

/// Ends a build that an earlier process of ours began and did not outlive.
pub(super) async fn end_leftover(builder: Builder) {
    let same = || started(builder.pid) == Some(builder.started);
    let Some(pid) = i32::try_from(builder.pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    let late = Instant::now() + FAREWELL;
    while same() {
        let signal = if Instant::now() < late { Signal::TERM } else { Signal::KILL };
        if rustix::process::kill_process_group(pid, signal).is_err() {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// When a process started, in ticks since the kernel did; `None` for one that has ended.
pub(super) fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_id() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let at = started(child.id()).unwrap();
        assert_eq!(started(child.id()), Some(at));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }
}

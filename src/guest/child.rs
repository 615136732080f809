//! Starting a program in a process group of its own, and learning of its end as the reaper of all orphans.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};

use super::GuestError;
use crate::launch::{Launch, expand};

/// What to start.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Program and arguments.
    pub(super) words: Vec<String>,
    /// Working directory; none: ours.
    pub(super) directory: Option<String>,
    /// All of its environment.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// Whether its output passes through us.
    pub(super) captured: bool,
}

/// A started program.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    /// Standard output and error, where they pass through us.
    pub(super) pipes: Option<(OwnedFd, OwnedFd)>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(i32),
}

impl End {
    /// The exit code a shell would tell.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        }
    }
}

impl Program {
    /// The task's program as it was recorded. Variables in its words and its directory are what they are in the
    /// environment it gets; code for `-c` is left to who runs it.
    pub(super) fn of_task(launch: &Launch, environment: BTreeMap<OsString, OsString>) -> Self {
        let variable = |name: &str| environment.get(OsStr::new(name)).map(|it| it.to_string_lossy().into_owned());
        let mut options = launch.program.iter().skip(1).take_while(|it| it.starts_with('-'));
        let words = if options.any(|it| it == "-c") {
            launch.program.clone()
        } else {
            launch.program.iter().map(|it| expand(it, variable)).collect()
        };
        let directory = Some(expand(&launch.directory, variable));
        Self { words, directory, environment, captured: true }
    }

    /// Starts it. A terminal on standard input becomes its own.
    pub(super) fn start(&self) -> Result<Child, GuestError> {
        let name = self.words.first().cloned().unwrap_or_default();
        let failed = |source| GuestError::Start { program: name.clone(), source };
        // Where we are not PID 1, what loses its parent below us still comes to us.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let mut command = Command::new(&name);
        command.args(self.words.iter().skip(1)).env_clear().envs(&self.environment).process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.captured {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(io::Error::other("it has no process id")))?;
        let pipes = child.stdout.take().map(OwnedFd::from).zip(child.stderr.take().map(OwnedFd::from));
        let stdin = io::stdin();
        if rustix::termios::isatty(stdin.as_fd()) && rustix::termios::tcsetpgrp(stdin.as_fd(), pid).is_ok() {
            // It may have stopped already for reading a terminal that was not its own yet.
            let _ = kill_process_group(pid, Signal::CONT);
        }
        Ok(Child { pid, pipes })
    }
}

impl Child {
    /// Sends a signal to its whole group; one that is gone is no error.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
    }

    /// Reaps everything that has ended; tells if the program itself was among it.
    pub(super) fn reap(&self) -> Option<End> {
        let mut end = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid != self.pid {
                continue;
            }
            if let Some(code) = status.exit_status() {
                end = Some(End::Code(u8::try_from(code).unwrap_or(u8::MAX)));
            } else if let Some(signal) = status.terminating_signal() {
                end = Some(End::Signal(signal));
            }
        }
        end
    }
}

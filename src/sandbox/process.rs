//! A program that goes on by itself: its own first process, with our streams.
//!
//! Stages die with the thread that started them, so a thread of its own starts this one and stays until it ends.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::child::{READY, Stage, Streams, unexpected};
use super::job::{Reply, Run, Work};
use super::way::Way;
use super::{Refused, SandboxError};

/// A running program; ended (KILL) with all that runs in its sandbox when dropped.
pub struct Process {
    pid: i32,
    line: UnixStream,
    end: Mutex<End>,
    thread: Option<JoinHandle<()>>,
}

/// What a program runs in besides its sandbox.
pub(super) struct Around {
    pub(super) network: bool,
    /// Directories of control groups.
    pub(super) control_groups: Vec<PathBuf>,
}

/// How it ended, once that is known.
enum End {
    Open(mpsc::Receiver<Result<i32, SandboxError>>),
    Known(i32),
}

impl Process {
    /// Starts it and returns once the program itself runs.
    pub(super) fn start(way: &Way, run: Run, around: Around, streams: Streams) -> Result<Self, SandboxError> {
        allowed(way)?;
        let starting = |source| SandboxError::Start { source };
        let way = way.clone();
        let (begun, begins) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let body = move || match begin(&way, run, &around, streams) {
            Ok((stage, pid, line)) => {
                let _ = begun.send(Ok((pid, line)));
                let _ = tell.send(follow(&stage));
            }
            Err(error) => drop(begun.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("sandbox run".to_owned()).spawn(body).map_err(starting)?;
        let (pid, line) =
            begins.recv().map_err(|_| starting(std::io::Error::other("the thread of the run ended")))??;
        Ok(Self { pid, line, end: Mutex::new(End::Open(told)), thread: Some(thread) })
    }

    /// Sends a signal to the program; one that has ended already is no error.
    pub fn signal(&self, signal: Signal) {
        let gone = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| !gone) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// The program's process id, as this process sees it.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its end: its exit code, or 128 and the number of the signal that ended it. `None` when it goes on
    /// after `patience`.
    ///
    /// # Errors
    /// [`SandboxError::Stage`] when it could not be started after all.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Option<i32>, SandboxError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match &*end {
            End::Known(code) => return Ok(Some(*code)),
            End::Open(told) => told,
        };
        let lost = || SandboxError::Start { source: std::io::Error::other("the run was lost sight of") };
        let ended = match patience {
            None => told.recv().map_err(|_| lost())?,
            Some(patience) => match told.recv_timeout(patience) {
                Ok(ended) => ended,
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(None),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(lost()),
            },
        };
        let code = ended?;
        *end = End::Known(code);
        Ok(Some(code))
    }
}

/// Refuses a way in which no program goes on by itself.
pub(super) fn allowed(way: &Way) -> Result<(), SandboxError> {
    if matches!(way, Way::Docker { .. }) {
        let reason = "an image is better run by the engine itself".to_owned();
        return Err(SandboxError::NoWay { refused: vec![Refused { way: way.name(), reason }] });
    }
    Ok(())
}

fn begin(way: &Way, run: Run, around: &Around, streams: Streams) -> Result<(Stage, i32, UnixStream), SandboxError> {
    let stage = Stage::start_in(&around.control_groups, way, &Work::Run(Box::new(run)), around.network, streams)?;
    // Two processes say these: the second stage may have made the places before the first one tells of it.
    let mut started = None;
    loop {
        match (stage.hear(Some(READY))?, started) {
            (Reply::Started { pid }, _) => started = Some(pid),
            (Reply::Made(_), _) => {}
            (Reply::Begun, Some(pid)) => {
                let line = stage.line()?;
                return Ok((stage, pid, line));
            }
            (other, _) => return Err(unexpected(other)),
        }
    }
}

fn follow(stage: &Stage) -> Result<i32, SandboxError> {
    loop {
        if let Reply::Exited { code } = stage.hear(None)? {
            return Ok(code);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The thread hears nothing more, lets the stage go, and that ends it.
        let _ = self.line.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

//! What a monitor leaves in its run's directory, and what that means to others.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::fs::{FileLock, Sharing, write_whole};
use crate::run::spec::Outcome;

/// The version of these files.
const VERSION: u32 = 1;
const STARTED: &str = "monitor.json";
const EXIT: &str = "exit.json";

/// A process, also after its number has been given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::run) struct Process {
    pid: i32,
    /// When it started, in clock ticks since boot.
    ticks: u64,
}

/// `monitor.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::run) struct Started {
    version: u32,
    /// The kernel's name for the time since it started.
    boot: String,
    /// The image's first process.
    pub(in crate::run) program: Option<Process>,
    /// The control groups' directories.
    #[serde(default)]
    groups: Vec<PathBuf>,
}

/// `exit.json`
#[derive(Serialize, Deserialize)]
struct Exit {
    version: u32,
    outcome: Outcome,
    /// When, in seconds since 1970.
    ended: i64,
}

/// How a run is, by its files.
#[derive(Debug)]
pub(in crate::run) enum State {
    /// No monitor, and never one that started anything.
    Absent,
    /// A monitor makes ready: itself, once it has said so.
    Starting(Option<Process>),
    /// The program runs.
    Running(Started),
    /// It has ended.
    Ended(Outcome),
}

impl Process {
    /// A process that is there now.
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; 22 is the start time (proc_pid_stat(5)).
        let (_, rest) = stat.rsplit_once(") ")?;
        Some(Self { pid, ticks: rest.split(' ').nth(19)?.parse().ok()? })
    }

    /// A handle on it that no other process can come to mean; `None` when it is gone.
    pub(in crate::run) fn open(&self) -> Option<OwnedFd> {
        let handle = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        (Self::of(self.pid) == Some(*self)).then_some(handle)
    }
}

impl Started {
    /// What is true now of a run whose first process this is.
    pub(super) fn of(program: i32, groups: Vec<PathBuf>) -> Self {
        Self { version: VERSION, boot: boot(), program: Process::of(program), groups }
    }
}

/// The lock's path.
pub(super) fn lock(directory: &Path) -> PathBuf {
    directory.join("monitor.lock")
}

/// Writes into the lock who holds it.
pub(super) fn sign(lock: &FileLock) -> io::Result<()> {
    let own = Process::of(rustix::process::getpid().as_raw_nonzero().get());
    let mut file = lock.file().file();
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&own)?)
}

/// Whether a run has been started here before.
pub(super) fn taken(directory: &Path) -> bool {
    [STARTED, EXIT].iter().any(|it| directory.join(it).exists())
}

pub(super) fn publish_started(directory: &Path, started: &Started) -> io::Result<()> {
    write_whole(&directory.join(STARTED), &serde_json::to_vec(started)?, 0o600)
}

pub(super) fn publish_exit(directory: &Path, outcome: &Outcome) -> io::Result<()> {
    let exit = Exit { version: VERSION, outcome: outcome.clone(), ended: jiff::Timestamp::now().as_second() };
    write_whole(&directory.join(EXIT), &serde_json::to_vec(&exit)?, 0o600)
}

/// How the run of a directory is.
pub(in crate::run) fn state(directory: &Path) -> io::Result<State> {
    let ended = || Ok::<_, io::Error>(read::<Exit>(&directory.join(EXIT))?.map(|it| State::Ended(it.outcome)));
    if let Some(ended) = ended()? {
        return Ok(ended);
    }
    let lock = lock(directory);
    if !lock.exists() {
        return Ok(State::Absent);
    }
    let held = FileLock::try_acquire(&lock, Sharing::Shared)?.is_none();
    let started = read::<Started>(&directory.join(STARTED))?;
    if held {
        return Ok(match started {
            Some(started) => State::Running(started),
            // Half written, or not yet.
            None => State::Starting(fs::read(&lock).ok().and_then(|it| serde_json::from_slice(&it).ok()).flatten()),
        });
    }
    // It may have ended between the two looks.
    if let Some(ended) = ended()? {
        return Ok(ended);
    }
    Ok(match started {
        None => State::Absent,
        Some(it) if it.boot != boot() => State::Ended(lost("the machine was restarted")),
        Some(_) => State::Ended(lost("its monitor was killed, and the run with it")),
    })
}

fn lost(reason: &str) -> Outcome {
    Outcome::Lost { reason: reason.to_owned() }
}

/// Waits until the monitor has cleared up behind its run; false when it does not get done.
pub(in crate::run) fn release(directory: &Path, patience: Duration) -> io::Result<bool> {
    match FileLock::acquire(&lock(directory), Sharing::Exclusive, patience) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes the records of a run that has ended, and the control groups that a killed monitor left.
pub(in crate::run) fn clear(directory: &Path) -> io::Result<()> {
    for group in read::<Started>(&directory.join(STARTED))?.into_iter().flat_map(|it| it.groups) {
        let _ = fs::remove_dir(group);
    }
    for path in [directory.join(STARTED), directory.join(EXIT), lock(directory)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| crate::fs::named(&error.into(), path))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_how_a_run_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(matches!(state(path).unwrap(), State::Absent));
        let held = FileLock::try_acquire(&lock(path), Sharing::Exclusive).unwrap().unwrap();
        sign(&held).unwrap();
        let State::Starting(Some(it)) = state(path).unwrap() else { panic!("not starting") };
        assert!(it.open().is_some());
        assert!(Process { ticks: it.ticks + 1, ..it }.open().is_none());
        let own = rustix::process::getpid().as_raw_nonzero().get();
        publish_started(path, &Started::of(own, Vec::new())).unwrap();
        assert!(matches!(state(path).unwrap(), State::Running(_)) && taken(path));
        drop(held);
        let State::Ended(Outcome::Lost { reason }) = state(path).unwrap() else { panic!("not lost") };
        assert!(reason.contains("monitor was killed"), "{reason}");
        let before = Started { boot: "another".to_owned(), ..Started::of(own, Vec::new()) };
        publish_started(path, &before).unwrap();
        let State::Ended(Outcome::Lost { reason }) = state(path).unwrap() else { panic!("not lost") };
        assert!(reason.contains("machine was restarted"), "{reason}");
        let outcome = Outcome::Exited { code: 3, out_of_memory: false };
        publish_exit(path, &outcome).unwrap();
        assert!(matches!(state(path).unwrap(), State::Ended(it) if it == outcome));
        clear(path).unwrap();
        assert!(matches!(state(path).unwrap(), State::Absent));
    }
}

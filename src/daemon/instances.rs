//! The daemons of this machine: who runs, under which worker id, and how each is told to stop.
//!
//! ```text
//! <state>/workers
//! ├── lock                 held for the moments in which daemons come and are looked for
//! ├── <worker id>.lock     held (flock) by the daemon for as long as it lives, however it ends
//! └── <worker id>.json     the Record: what it says of itself; replaced as a whole (format 1)
//! ```
//!
//! Whoever holds the lock is alive: no process id is believed for that. A record without a holder is what a killed daemon
//! left, and is removed by whoever finds it. A worker id has one holder, so that a machine never runs two workers of one
//! name. Nothing here asks a server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::fs::{FileLock, Sharing, create_private_dir, write_whole};
use crate::run::EngineKind;

mod identity;
mod process;
mod stop;

pub use identity::Identity;
pub use process::ProcessId;
pub use stop::{Stopped, drain, stop};

/// The version of a record's format.
const FORMAT: u32 = 1;
/// How long another process may take to look at the directory.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a daemon says of itself when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What runs its images.
    pub engine: EngineKind,
    /// Its queues as they were named, with their GPUs where those are shared.
    pub queues: Vec<String>,
    /// When it works; absent: always.
    pub schedule: Option<String>,
    /// Whether it runs many tasks at once.
    pub many: bool,
    /// Where what it tells goes, where it is in the background.
    pub log: Option<PathBuf>,
    /// Where Prometheus may ask it.
    pub metrics: Option<String>,
}

/// What a daemon does now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// What queue tags and the worker's property make of its schedule, by what forces it: `worker`, or a queue's name.
    pub forced: Vec<Forced>,
    /// Whether it takes no more tasks.
    pub draining: bool,
    /// The tasks it runs.
    pub running: Vec<Running>,
}

/// Something that counts more than a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// `worker`, or the queue's name.
    pub by: String,
    /// Whether tasks are taken.
    pub on: bool,
}

/// A task that a daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub task: String,
    /// The queue it came from.
    pub queue: Option<String>,
    /// How far it is.
    pub phase: String,
}

/// A daemon of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The worker's id.
    pub worker: String,
    /// What it is made of.
    pub identity: Identity,
    /// The smallest number that no other daemon had when it started.
    pub slot: usize,
    /// The process.
    pub process: ProcessId,
    /// When it started, RFC 3339.
    pub since: String,
    /// What it said of itself.
    pub about: About,
    /// What it does.
    pub now: Now,
}

/// Why there is no daemon under a worker id, or nothing is known of the daemons.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another daemon has the id.
    #[error("the worker `{worker}` runs on this machine already (process {process})")]
    Taken {
        /// The id.
        worker: String,
        /// Its process.
        process: u32,
    },
    /// A record of another version of this program, with a living daemon.
    #[error("`{}` is no record of a daemon of format {FORMAT}", .0.display())]
    Format(PathBuf),
    /// A process is there and must not be signalled.
    #[error("cannot signal the worker `{worker}` (process {process})")]
    Signal {
        /// The worker's id.
        worker: String,
        /// Its process.
        process: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("cannot use the records of this machine's daemons at `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for InstanceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Taken { .. } => Kind::Conflict,
            Self::Format(_) => Kind::Input,
            Self::Signal { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Kind::Denied,
            Self::Signal { .. } => Kind::System,
            Self::Io { source, .. } => Kind::of_io(source),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Taken { worker, .. } => vec![format!(
                "`agent daemon --stop {worker}` stops it; CLEARML_WORKER_ID or CLEARML_WORKER_NAME gives this one \
                 another id."
            )],
            Self::Format(_) => vec!["Look after it with the program's version that started it.".to_owned()],
            Self::Signal { .. } => {
                vec!["Stop it as the user who started it, or in the container it runs in.".to_owned()]
            }
            Self::Io { .. } => vec!["AGENT_STATE_DIR names another directory for them.".to_owned()],
        }
    }
}

/// The daemons of this machine.
#[derive(Debug, Clone)]
pub struct Instances {
    directory: PathBuf,
}

/// This process as a daemon; forgotten when dropped.
#[derive(Debug)]
pub struct Instance {
    directory: PathBuf,
    record: Mutex<Record>,
    worker: String,
    slot: usize,
    _lock: FileLock,
}

impl Instances {
    /// The daemons below a state directory; makes it where it is not there.
    ///
    /// # Errors
    /// [`InstanceError::Io`]
    pub fn open(state: &Path) -> Result<Self, InstanceError> {
        let directory = state.join("workers");
        create_private_dir(&directory).map_err(|source| InstanceError::Io { path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    /// Makes this process a daemon, in the smallest slot that is free.
    ///
    /// # Errors
    /// [`InstanceError::Taken`] when its id has a holder.
    pub fn claim(&self, identity: &Identity, about: About) -> Result<Instance, InstanceError> {
        let _all = self.lock()?;
        let running = self.alive()?;
        let slot = (0..).find(|it| running.iter().all(|other| other.slot != *it)).unwrap_or_default();
        let worker = identity.worker_id(slot);
        let taken = |process| InstanceError::Taken { worker: worker.clone(), process };
        if let Some(other) = running.iter().find(|it| it.worker == worker) {
            return Err(taken(other.process.pid));
        }
        let lock = FileLock::try_acquire(&self.path(&worker, "lock"), Sharing::Exclusive);
        let lock = lock.map_err(self.failed())?.ok_or_else(|| taken(0))?;
        let record = Record {
            format: FORMAT,
            worker: worker.clone(),
            identity: identity.clone(),
            slot,
            process: ProcessId::own().map_err(self.failed())?,
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            about,
            now: Now::default(),
        };
        self.write(&record)?;
        Ok(Instance { directory: self.directory.clone(), record: Mutex::new(record), worker, slot, _lock: lock })
    }

    /// The daemons that live, by slot.
    ///
    /// # Errors
    /// [`InstanceError::Io`], [`InstanceError::Format`]
    pub fn running(&self) -> Result<Vec<Record>, InstanceError> {
        let _all = self.lock()?;
        self.alive()
    }

    /// Whether a worker's daemon lives.
    ///
    /// # Errors
    /// [`InstanceError::Io`]
    pub fn is_alive(&self, worker: &str) -> Result<bool, InstanceError> {
        let _all = self.lock()?;
        self.is_held(worker)
    }

    /// The daemons that live; what others left is removed. The directory is locked.
    fn alive(&self) -> Result<Vec<Record>, InstanceError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(self.failed())? {
            let path = entry.map_err(self.failed())?.path();
            let Some(stem) = path.file_name().and_then(|it| it.to_str()).and_then(|it| it.strip_suffix(".lock")) else {
                continue;
            };
            let record = self.directory.join(format!("{stem}.json"));
            if FileLock::try_acquire(&path, Sharing::Exclusive).map_err(self.failed())?.is_some() {
                for left in [&record, &path] {
                    let _ = fs::remove_file(left);
                }
                continue;
            }
            match fs::read(&record) {
                Ok(bytes) => {
                    let read = serde_json::from_slice::<Record>(&bytes).ok().filter(|it| it.format == FORMAT);
                    records.push(read.ok_or(InstanceError::Format(record))?);
                }
                // It is about to end.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed()(error)),
            }
        }
        records.sort_by_key(|it| it.slot);
        Ok(records)
    }

    fn is_held(&self, worker: &str) -> Result<bool, InstanceError> {
        let path = self.path(worker, "lock");
        Ok(path.exists() && FileLock::try_acquire(&path, Sharing::Exclusive).map_err(self.failed())?.is_none())
    }

    fn lock(&self) -> Result<FileLock, InstanceError> {
        FileLock::acquire(&self.directory.join("lock"), Sharing::Exclusive, PATIENCE).map_err(self.failed())
    }

    fn write(&self, record: &Record) -> Result<(), InstanceError> {
        write(&self.directory, record).map_err(self.failed())
    }

    fn path(&self, worker: &str, kind: &str) -> PathBuf {
        path(&self.directory, worker, kind)
    }

    fn failed(&self) -> impl Fn(io::Error) -> InstanceError {
        let path = self.directory.clone();
        move |source| InstanceError::Io { path: path.clone(), source }
    }
}

impl Instance {
    /// The worker's id.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Tells what this daemon does, for `agent daemon --status`; nothing is written where nothing has changed.
    ///
    /// # Errors
    /// [`InstanceError::Io`]
    pub fn tell(&self, now: Now) -> Result<(), InstanceError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.now == now {
            return Ok(());
        }
        record.now = now;
        write(&self.directory, &record).map_err(|source| InstanceError::Io { path: self.directory.clone(), source })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The lock goes with this value; its file is removed by whoever looks next.
        let _ = fs::remove_file(path(&self.directory, &self.worker, "json"));
    }
}

fn write(directory: &Path, record: &Record) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(record)?;
    write_whole(&path(directory, &record.worker, "json"), &bytes, 0o600)
}

/// Where a worker's file is: its id, with what a file's name cannot hold written as `%XX`; a long one is cut and told
/// apart by its digest.
fn path(directory: &Path, worker: &str, kind: &str) -> PathBuf {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_:,.".contains(&it);
    let mut name = String::new();
    for (at, byte) in worker.bytes().enumerate() {
        if plain(byte) && (at > 0 || byte != b'.') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    // `lock` alone is the directory's.
    if name.len() > 150 {
        name = format!("{}%{}", &name[..100], Digest::of(worker.as_bytes()).hex());
    }
    directory.join(format!("{name}.{kind}"))
}

#[cfg(test)]
mod tests;

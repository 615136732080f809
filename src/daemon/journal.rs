//! What is going on on this machine, on disk: each step of a unit is written down before it is taken, so that whoever
//! starts after a kill at any instant knows where it was.
//!
//! ```text
//! <state>/runs                       0700
//! └── <run id>
//!     ├── unit.json                  the Record, replaced as a whole (format 1)
//!     ├── lock                       held (flock) by the process that attends the unit, for as long as it does
//!     ├── agent.lock, build.json     what the build wrote
//!     ├── clearml.conf, …            lent to the run, gone when it is over
//!     └── spool                      console lines and output (`spool`); the only part a run may write to
//! ```
//!
//! A directory is made under another name and renamed once its record is whole: what has no record is no unit. A unit
//! whose lock is free and whose phase is not the last one belongs to nobody, and whoever gets the lock goes on with it.
//! Units that are over stay for `agent logs` and are removed, oldest first, when there are too many. Nothing here asks a
//! server or an engine.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fs_err as fs;

use super::unit::Claim;
use crate::fs::{FileLock, Sharing, create_private_dir, sync_parent};
use crate::run::RunId;

mod entry;
mod error;
mod prune;
mod record;
mod words;

pub use entry::{Entry, Journalled};
use entry::{read, write};
pub use error::JournalError;
use error::failed;
pub use record::{Builder, Ending, FORMAT, Phase, Record, Verdict, Wish, WishedBy};
pub(super) use record::{boot, now};
pub use words::{Side, Words};

/// How long whoever only looks at a lock may have it.
const GLANCE: Duration = Duration::from_millis(200);

/// The journal. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runs: PathBuf,
    /// Units that this process has claimed and not begun to attend.
    held: Mutex<HashMap<RunId, Entry>>,
}

/// What a look at the journal found.
#[derive(Debug)]
pub struct Found<T> {
    /// The units.
    pub units: Vec<T>,
    /// Those that cannot be read.
    pub unreadable: Vec<JournalError>,
}

impl Journal {
    /// Opens the journal below a state directory; makes it where it is not there.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        let runs = state.join("runs");
        create_private_dir(&runs).map_err(failed(&runs))?;
        Ok(Self(Arc::new(Inner { runs, held: Mutex::default() })))
    }

    /// Writes down that a task is about to be taken from its queue. The unit is this process's from now on.
    ///
    /// # Errors
    /// [`JournalError`]
    pub fn intend(&self, claim: &Claim, engine: &str, server: &str) -> Result<(), JournalError> {
        let entry = self.create(&Record::new(claim, engine, server))?;
        self.held().insert(claim.run.clone(), entry);
        Ok(())
    }

    /// Writes down that the task has been taken, so that after a kill nobody takes it for still waiting.
    ///
    /// # Errors
    /// [`JournalError`]; a claim that was not written down is no error.
    pub fn taken(&self, run: &RunId) -> Result<(), JournalError> {
        self.held().get_mut(run).map_or(Ok(()), |entry| entry.update(|it| it.popped = true))
    }

    /// Writes down that the task's end is somebody else's to tell the server.
    ///
    /// # Errors
    /// [`JournalError`]; a claim that was not written down is no error.
    pub fn quiet(&self, run: &RunId) -> Result<(), JournalError> {
        self.held().get_mut(run).map_or(Ok(()), |entry| entry.update(|it| it.quiet = true))
    }

    /// Forgets a claim: somebody else was quicker.
    ///
    /// # Errors
    /// [`JournalError`]
    pub fn forget(&self, run: &RunId) -> Result<(), JournalError> {
        let entry = self.held().remove(run);
        entry.map_or(Ok(()), |it| it.remove())
    }

    /// The unit of a claim: the one written down before, else a new one. Its task has been taken.
    pub(super) fn begin(&self, claim: &Claim, engine: &str, server: &str) -> Result<Entry, JournalError> {
        let held = self.held().remove(&claim.run);
        let mut entry = match held {
            Some(entry) => entry,
            None => self.create(&Record::new(claim, engine, server))?,
        };
        if !entry.record.popped {
            entry.update(|it| it.popped = true)?;
        }
        Ok(entry)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Entry>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, record: &Record) -> Result<Entry, JournalError> {
        let (aside, directory) = (self.0.runs.join(format!(".new-{}", record.run)), self.directory(&record.run));
        create_private_dir(&aside).map_err(failed(&aside))?;
        let lock = FileLock::try_acquire(&aside.join("lock"), Sharing::Exclusive).map_err(failed(&aside))?;
        let lock = lock.ok_or_else(|| JournalError::Attended { run: record.run.clone() })?;
        write(&aside, record)?;
        fs::rename(&aside, &directory).map_err(failed(&directory))?;
        sync_parent(&directory).map_err(failed(&directory))?;
        Ok(Entry { directory, record: record.clone(), _lock: lock })
    }

    /// Units that are `wanted`, that nobody attends and that are not over, oldest first. They are this process's now; one
    /// that it does not go on with is free again when dropped.
    ///
    /// # Errors
    /// [`JournalError::Io`] when the journal cannot be listed.
    pub fn abandoned(&self, wanted: impl Fn(&Record) -> bool) -> Result<Found<Journalled>, JournalError> {
        let mut found = Found { units: Vec::new(), unreadable: Vec::new() };
        for directory in self.directories()? {
            match self.adopt(&directory, &wanted) {
                Ok(Some(entry)) => found.units.push(Journalled { entry }),
                Ok(None) => {}
                Err(error) => found.unreadable.push(error),
            }
        }
        found.units.sort_by_key(|it| it.entry.record.began);
        Ok(found)
    }

    fn adopt(&self, directory: &Path, wanted: &dyn Fn(&Record) -> bool) -> Result<Option<Entry>, JournalError> {
        match read(directory)? {
            Some(record) if self.may_adopt(&record) && wanted(&record) => self.take(directory),
            _ => Ok(None),
        }
    }

    /// Whether a unit is not over, and none that this process is about to attend.
    fn may_adopt(&self, record: &Record) -> bool {
        record.phase != Phase::Done && !self.held().contains_key(&record.run)
    }

    /// Locks a unit, if nobody has and it is not over. Others look at locks for a moment: they are waited for.
    fn take(&self, directory: &Path) -> Result<Option<Entry>, JournalError> {
        let lock = match FileLock::acquire(&directory.join("lock"), Sharing::Exclusive, GLANCE) {
            Ok(lock) => lock,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(directory)(error)),
        };
        // It may have gone on, or be gone, since it was read.
        let record = read(directory)?.filter(|it| it.phase != Phase::Done);
        Ok(record.map(|record| Entry { directory: directory.to_owned(), record, _lock: lock }))
    }

    /// What is known of units that are `wanted`, that nobody attends and that are not over, oldest first. They stay
    /// nobody's: whoever goes on with one takes it with [`Self::attend`].
    ///
    /// # Errors
    /// [`JournalError::Io`] when the journal cannot be listed.
    pub fn unattended(&self, wanted: impl Fn(&Record) -> bool) -> Result<Found<Record>, JournalError> {
        let mut found = self.all()?;
        found.units.retain(|it| self.may_adopt(it) && wanted(it) && !self.is_attended(&it.run));
        found.units.reverse();
        Ok(found)
    }

    /// Takes a unit; nothing where another process was quicker, or it is over.
    ///
    /// # Errors
    /// [`JournalError`]
    pub fn attend(&self, run: &RunId) -> Result<Option<Journalled>, JournalError> {
        let directory = self.directory(run);
        if self.held().contains_key(run) || !directory.exists() {
            return Ok(None);
        }
        Ok(self.take(&directory)?.map(|entry| Journalled { entry }))
    }

    /// All units, attended or over, newest first.
    ///
    /// # Errors
    /// [`JournalError::Io`] when the journal cannot be listed.
    pub fn all(&self) -> Result<Found<Record>, JournalError> {
        let mut found = Found { units: Vec::new(), unreadable: Vec::new() };
        for directory in self.directories()? {
            match read(&directory) {
                Ok(record) => found.units.extend(record),
                Err(error) => found.unreadable.push(error),
            }
        }
        found.units.sort_by_key(|it| std::cmp::Reverse(it.began));
        Ok(found)
    }

    /// What is known of one unit; nothing where it is not kept any more.
    ///
    /// # Errors
    /// [`JournalError`] where it cannot be read.
    pub fn record(&self, run: &RunId) -> Result<Option<Record>, JournalError> {
        read(&self.directory(run))
    }

    /// Whether a process attends a unit now.
    #[must_use]
    pub fn is_attended(&self, run: &RunId) -> bool {
        let path = self.directory(run).join("lock");
        path.exists() && FileLock::try_acquire(&path, Sharing::Shared).is_ok_and(|it| it.is_none())
    }

    /// A unit's directory.
    #[must_use]
    pub fn directory(&self, run: &RunId) -> PathBuf {
        self.0.runs.join(run.as_str())
    }

    /// Where a unit's console is: see [`crate::spool::OutputReader`].
    #[must_use]
    pub fn spool(&self, run: &RunId) -> PathBuf {
        self.directory(run).join("spool")
    }

    fn directories(&self) -> Result<Vec<PathBuf>, JournalError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0.runs).map_err(failed(&self.0.runs))? {
            let entry = entry.map_err(failed(&self.0.runs))?;
            if entry.file_name().to_str().is_some_and(|it| it.parse::<RunId>().is_ok()) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;

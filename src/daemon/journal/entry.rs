//! One unit of the journal: its directory, its lock and its record.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::error::failed;
use super::{Ending, FORMAT, JournalError, Phase, Record};
use crate::error::Kind;
use crate::fs::{FileLock, write_whole};

/// How often a unit's own code may break before the task's end is that.
const BROKEN: u32 = 3;

/// A unit's directory, locked by this process.
#[derive(Debug)]
pub struct Entry {
    pub(super) directory: PathBuf,
    pub(super) record: Record,
    pub(super) _lock: FileLock,
}

/// A unit whose process ended before it was over; locked by this one now.
#[derive(Debug)]
pub struct Journalled {
    pub(in crate::daemon) entry: Entry,
}

impl Journalled {
    /// What it may have failed for, again and again.
    pub(in crate::daemon) fn broke(&mut self, why: &str) -> Result<(), JournalError> {
        self.entry.update(|it| {
            it.broken += 1;
            if it.broken >= BROKEN && it.end.is_none() {
                let reason = format!("a defect of this program: {why}");
                it.end = Some(Ending::Failed { reason, passing: false, code: Kind::Internal.exit_code() });
                it.enter(it.phase.max(Phase::Drain));
            }
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.entry.record
    }

    /// Takes back a wish to stop, where the task has not been taken yet.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn withdraw(&mut self) -> Result<(), JournalError> {
        let record = &self.entry.record;
        if record.phase == Phase::Taken && record.wish.is_some() {
            self.entry.update(|it| it.wish = None)?;
        }
        Ok(())
    }
}

impl Entry {
    /// What is known of it.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The unit's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The part of it that its run may write to.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    /// Changes what is known: on disk first.
    ///
    /// # Errors
    /// [`JournalError::Io`]; nothing is changed then.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), JournalError> {
        let mut record = self.record.clone();
        change(&mut record);
        write(&self.directory, &record)?;
        self.record = record;
        Ok(())
    }

    /// Removes the unit and all it has.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn remove(&self) -> Result<(), JournalError> {
        // The record goes first: without it nobody takes the rest for a unit.
        let record = self.directory.join("unit.json");
        fs::remove_file(&record).map_err(failed(&record))?;
        fs::remove_dir_all(&self.directory).map_err(failed(&self.directory))
    }
}

pub(super) fn write(directory: &Path, record: &Record) -> Result<(), JournalError> {
    let path = directory.join("unit.json");
    let bytes = serde_json::to_vec_pretty(record).map_err(|it| failed(&path)(it.into()))?;
    write_whole(&path, &bytes, 0o600).map_err(failed(&path))
}

/// The record of a directory; `None` where there is none.
pub(super) fn read(directory: &Path) -> Result<Option<Record>, JournalError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }

    let path = directory.join("unit.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path)(error)),
    };
    let wrong = |source| JournalError::Record { path: path.clone(), source };
    let head: Head = serde_json::from_slice(&bytes).map_err(wrong)?;
    if head.format != FORMAT {
        return Err(JournalError::Format { path, found: head.format });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

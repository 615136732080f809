//! Whose lines a spool holds, and which process has it.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FORMAT, SpoolError, read_small};
use crate::fs::{FileLock, Sharing};

/// Whose lines a spool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The task's id.
    pub task: String,
    /// The worker's id.
    pub worker: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OwnerFile {
    pub(super) format: u32,
    #[serde(flatten)]
    pub(super) owner: Owner,
}

/// Takes a spool for this process.
pub(super) fn lock(directory: &Path) -> Result<FileLock, SpoolError> {
    match FileLock::acquire(&directory.join("lock"), Sharing::Exclusive, Duration::ZERO) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SpoolError::InUse(directory.to_owned())),
        Err(source) => Err(SpoolError::Io { path: directory.to_owned(), source }),
    }
}

/// The owner of what is in a directory; `None` where that is no spool yet.
pub(super) fn read_owner(directory: &Path) -> Result<Option<Owner>, SpoolError> {
    let bytes = match read_small(&directory.join("owner.json")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SpoolError::Io { path: directory.to_owned(), source }),
    };
    let file: Option<OwnerFile> = serde_json::from_slice(&bytes).ok();
    let file = file.filter(|it| it.format == FORMAT).ok_or_else(|| SpoolError::Format(directory.to_owned()))?;
    Ok(Some(file.owner))
}

//! Leases: what lasts longer than anybody should have the whole store for itself. A native run stands on unpacked layers
//! for as long as it goes on; its lease names them, and what it names is not collected.
//!
//! A lease is a file of `leases`, one path below the store a line, locked (flock) by whoever holds it. It is made while
//! its holder works in the store, so that no collection sees half of one; a holder that was killed holds nothing any more,
//! and the next collection removes what it left.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{Store, StoreError};
use crate::fs::{FileLock, Sharing};

/// Where they are.
const LEASES: &str = "leases";

/// Keeps what it names from being collected while it lives, also after the store itself has been let go.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _lock: FileLock,
}

impl Store {
    /// Leases what lies at these paths below the store.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn lease(&self, paths: impl IntoIterator<Item = PathBuf>) -> Result<Lease, StoreError> {
        let failed = |it| self.failed(it);
        let directory = self.root.join(LEASES);
        let file = tempfile::Builder::new().prefix("run-").tempfile_in(&directory).map_err(failed)?;
        let (mut file, path) = file.keep().map_err(|it| failed(it.error))?;
        let lock = FileLock::try_acquire(&path, Sharing::Exclusive).map_err(failed)?;
        let lease = lock.map(|lock| Lease { path: path.clone(), _lock: lock });
        let lease = lease.ok_or_else(|| StoreError::Busy { name: path.display().to_string() })?;
        for path in paths {
            if let Ok(below) = path.strip_prefix(self.root.as_ref()) {
                writeln!(file, "{}", below.display()).map_err(failed)?;
            }
        }
        Ok(lease)
    }

    /// The same store for whoever has a lease of its own on all it still needs: others may collect the rest.
    #[must_use]
    pub fn let_go(&self) -> Self {
        Self { _lease: None, ..self.clone() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What is leased, and by nobody who was killed. Only for whoever has the store to itself.
pub(super) fn leased(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut leased = BTreeSet::new();
    let entries = match fs::read_dir(root.join(LEASES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(leased),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if FileLock::try_acquire(&path, Sharing::Exclusive)?.is_some() {
            fs::remove_file(&path)?;
        } else {
            match fs::read_to_string(&path) {
                Ok(text) => leased.extend(text.lines().map(|it| root.join(it))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(leased)
}

//! Which units that are over go.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::error::failed;
use super::{Journal, JournalError, Phase};
use crate::run::RunId;

/// How many units that are over stay, for `agent logs`.
const KEPT: usize = 200;
/// How many bytes they may have together.
const KEPT_BYTES: u64 = 2 << 30;
/// How old what is half-made must be before it is taken for left behind.
pub(super) const HALF_MADE: Duration = Duration::from_secs(3600);

impl Journal {
    /// Removes units that are over, oldest first, until the rest is few enough; and what was never finished making.
    ///
    /// # Errors
    /// [`JournalError::Io`] when the journal cannot be listed. What cannot be removed stays.
    pub fn prune(&self) -> Result<(), JournalError> {
        self.prune_to(KEPT, KEPT_BYTES)
    }

    pub(super) fn prune_to(&self, most: usize, bytes: u64) -> Result<(), JournalError> {
        let (mut kept, mut size) = (0, 0);
        for record in self.all()?.units.iter().filter(|it| it.phase == Phase::Done) {
            let directory = self.directory(&record.run);
            let own = size_of(&directory);
            // The newest stays, however large it is, and leaves room for others; what goes takes none.
            if kept > 0 && (kept >= most || size + own > bytes) {
                let _ = fs::remove_dir_all(&directory);
            } else {
                kept += 1;
                size += if kept == 1 { own.min(bytes / 2) } else { own };
            }
        }
        for entry in fs::read_dir(&self.0.runs).map_err(failed(&self.0.runs))?.flatten() {
            let age = entry.metadata().and_then(|it| it.modified()).ok();
            let age = age.and_then(|it| SystemTime::now().duration_since(it).ok()).unwrap_or_default();
            let name = entry.file_name();
            let begun = name.to_string_lossy().starts_with(".new-");
            // A unit gets its name with its record in it, and loses that first.
            let is_run = name.to_str().is_some_and(|it| it.parse::<RunId>().is_ok());
            if age > HALF_MADE && (begun || (is_run && has_no_record(&entry.path()))) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

fn has_no_record(directory: &Path) -> bool {
    fs::symlink_metadata(directory.join("unit.json")).is_err_and(|it| it.kind() == io::ErrorKind::NotFound)
}

fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(it) if it.is_dir() => size_of(&entry.path()),
            _ => entry.metadata().map_or(0, |it| it.len()),
        })
        .sum()
}

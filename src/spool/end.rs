//! How a program ended, as the in-image process saw it: what its engine tells of the container may be less.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fs::write_whole;

const FILE: &str = "end.json";

/// `<spool>/end.json`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramEnd {
    /// The exit code.
    pub code: u8,
    /// Whether the kernel killed something of the run for memory.
    pub out_of_memory: bool,
}

impl ProgramEnd {
    /// Leaves it in a spool's directory.
    ///
    /// # Errors
    /// Whatever writing gives.
    pub fn leave(&self, spool: &Path) -> io::Result<()> {
        write_whole(&spool.join(FILE), &serde_json::to_vec(self)?, 0o644)
    }

    /// What was left in a spool's directory; none where nothing was, or nothing that can be read.
    #[must_use]
    pub fn of(spool: &Path) -> Option<Self> {
        serde_json::from_slice(&super::read_small(&spool.join(FILE)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_found_as_it_was_left_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ProgramEnd::of(dir.path()), None);
        let end = ProgramEnd { code: 255, out_of_memory: true };
        end.leave(dir.path()).unwrap();
        assert_eq!(ProgramEnd::of(dir.path()), Some(end));
        let other = dir.path().join("other");
        fs_err::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(dir.path().join(FILE), other.join(FILE)).unwrap();
        assert_eq!(ProgramEnd::of(&other), None);
    }
}

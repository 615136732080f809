//! How a program ended, as the in-image process saw it: what its engine tells of the container may be less.
//!
//! The in-image process first promises to leave that. Without a promise (an older one, a spool that cannot be written)
//! it means nothing that there is no end; with one, the process did not live to see it.

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
    /// Whether the kernel killed something for memory meanwhile, in the control group that the in-image process is in.
    pub out_of_memory: bool,
    /// Who brought it about.
    #[serde(default)]
    pub cause: EndCause,
}

/// Who brought a program's end about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The program itself.
    #[default]
    Itself,
    /// The program itself, which says by its end that its user broke it off.
    Aborted,
    /// A signal from outside the container.
    Asked,
    /// The server: somebody stopped the task there, or ended it.
    Server,
}

/// What an in-image process has left of its program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftEnd {
    /// Nothing, and nothing was promised.
    Nothing,
    /// The promise alone.
    Promised,
    /// The end.
    End(ProgramEnd),
}

/// As it lies on disk.
#[derive(Serialize, Deserialize)]
struct Promise {
    promised: bool,
}

impl ProgramEnd {
    /// Promises in a spool's directory that an end will be left there.
    ///
    /// # Errors
    /// Whatever writing gives; then nothing is promised.
    pub fn promise(spool: &Path) -> io::Result<()> {
        write_whole(&spool.join(FILE), &serde_json::to_vec(&Promise { promised: true })?, 0o644)
    }

    /// Leaves it in a spool's directory; where that cannot be, the promise is taken back.
    ///
    /// # Errors
    /// Whatever writing gives.
    pub fn leave(&self, spool: &Path) -> io::Result<()> {
        let path = spool.join(FILE);
        write_whole(&path, &serde_json::to_vec(self)?, 0o644).inspect_err(|_| {
            let _ = fs_err::remove_file(&path);
        })
    }
}

impl LeftEnd {
    /// What was left in a spool's directory; nothing where there is nothing that can be read.
    #[must_use]
    pub fn of(spool: &Path) -> Self {
        let Ok(bytes) = super::read_small(&spool.join(FILE)) else { return Self::Nothing };
        match (serde_json::from_slice(&bytes), serde_json::from_slice(&bytes)) {
            (Ok(end), _) => Self::End(end),
            (_, Ok(Promise { promised: true })) => Self::Promised,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_found_as_it_was_left_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LeftEnd::of(dir.path()), LeftEnd::Nothing);
        ProgramEnd::promise(dir.path()).unwrap();
        assert_eq!(LeftEnd::of(dir.path()), LeftEnd::Promised);
        let end = ProgramEnd { code: 255, out_of_memory: true, cause: EndCause::Asked };
        end.leave(dir.path()).unwrap();
        assert_eq!(LeftEnd::of(dir.path()), LeftEnd::End(end));
        let other = dir.path().join("other");
        fs_err::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(dir.path().join(FILE), other.join(FILE)).unwrap();
        assert_eq!(LeftEnd::of(&other), LeftEnd::Nothing);
        fs_err::write(dir.path().join(FILE), "{}").unwrap();
        assert_eq!(LeftEnd::of(dir.path()), LeftEnd::Nothing);
    }
}

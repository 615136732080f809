//! What the agent itself says in a run's console, kept for `agent logs`: beside the spool, out of the program's reach.
//!
//! Two files of the unit's directory, lines of text as the server gets them: `before.log` of the phases before the run,
//! `after.log` of those after it. What lies between is the program's output, which the spool has.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

/// How many bytes are kept of each; a build says some kilobytes.
const LIMIT: u64 = 1 << 20;

/// On which side of the program's output something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the run.
    Before,
    /// After it.
    After,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Before => "before.log",
            Self::After => "after.log",
        }
    }
}

/// The words of one side.
#[derive(Debug)]
pub struct Words {
    path: PathBuf,
    /// How much of them was read.
    read: u64,
}

impl Words {
    /// Those of a unit's directory.
    #[must_use]
    pub fn new(unit: &Path, side: Side) -> Self {
        Self { path: unit.join(side.name()), read: 0 }
    }

    /// Adds lines; beyond a mebibyte nothing. What is said again right after itself, by a process that goes on with the
    /// run, is there once.
    ///
    /// # Errors
    /// What keeps the file from being written.
    pub fn add(&self, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
        let (size, text) = (file.metadata()?.len(), format!("{}\n", text.trim_end()));
        let mut last = vec![0; text.len()];
        if let Some(start) = size.checked_sub(text.len() as u64) {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut last)?;
        }
        if size < LIMIT && last != text.as_bytes() {
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// The whole lines that were added since the last call.
    ///
    /// # Errors
    /// What keeps the file from being read; that there is none is no error.
    pub fn read_next(&mut self) -> io::Result<Vec<String>> {
        let mut file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.take(LIMIT * 2).read_to_end(&mut bytes)?;
        bytes.truncate(bytes.iter().rposition(|it| *it == b'\n').map_or(0, |it| it + 1));
        self.read += bytes.len() as u64;
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_read_once_and_each_side_has_its_own() {
        let unit = tempfile::tempdir().unwrap();
        let (before, mut reader) = (Words::new(unit.path(), Side::Before), Words::new(unit.path(), Side::Before));
        assert_eq!(reader.read_next().unwrap(), Vec::<String>::new());
        before.add("one\ntwo\n").unwrap();
        assert_eq!(reader.read_next().unwrap(), ["one", "two"]);
        assert_eq!(reader.read_next().unwrap(), Vec::<String>::new());
        fs::OpenOptions::new().append(true).open(unit.path().join("before.log")).unwrap().write_all(b"thr").unwrap();
        assert_eq!(reader.read_next().unwrap(), Vec::<String>::new());
        before.add("ee").unwrap();
        assert_eq!(reader.read_next().unwrap(), ["three"]);
        before.add("three").unwrap();
        assert_eq!(reader.read_next().unwrap(), Vec::<String>::new());
        assert_eq!(Words::new(unit.path(), Side::After).read_next().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let unit = tempfile::tempdir().unwrap();
        let words = Words::new(unit.path(), Side::After);
        let long = "x".repeat(usize::try_from(LIMIT).unwrap());
        words.add(&long).unwrap();
        words.add("more").unwrap();
        assert_eq!(Words::new(unit.path(), Side::After).read_next().unwrap(), [long]);
    }
}

//! What a program printed, byte for byte, kept on this machine within a number of bytes: for `agent logs`, and for whoever
//! watches a run from outside.
//!
//! ```text
//! <spool>/output
//! ├── 00000000000000000000.raw     standard output and error as they came; the name is the place of the first byte
//! └── 00000000000001048576.raw     the one that is being written
//! ```
//!
//! Places count from the run's first byte on, also across what was dropped for want of room, so that a reader that was
//! away knows how much it missed. One writer; any number of readers. The directory may be written to by a program we do
//! not trust: no link in it is followed.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

/// Where it is below a spool.
pub const OUTPUT: &str = "output";
/// How many files share the room: one is what is lost at once when there is no more.
const SEGMENTS: u64 = 8;
/// The most that is read at once.
const READ: usize = 256 << 10;

/// When the last of a run's output was kept in a spool; none where there is none.
#[must_use]
pub fn last_output(spool: &Path) -> Option<SystemTime> {
    let directory = spool.join(OUTPUT);
    let last = *starts(&directory).ok()?.last()?;
    fs::symlink_metadata(path(&directory, last)).ok()?.modified().ok()
}

/// The writing end.
#[derive(Debug)]
pub struct OutputWriter {
    directory: PathBuf,
    limit: u64,
    start: u64,
    file: fs::File,
    written: u64,
    /// Whether there was no room for something: nothing is kept from there on.
    failed: bool,
}

impl OutputWriter {
    /// Goes on behind what is in a spool already; at most about `limit` bytes are kept.
    ///
    /// # Errors
    /// Whatever making the directory or the file gives.
    pub fn open(spool: &Path, limit: u64) -> io::Result<Self> {
        let directory = spool.join(OUTPUT);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut start = 0;
        if let Some(last) = starts(&directory)?.last() {
            start = last + fs::symlink_metadata(path(&directory, *last))?.len();
        }
        let file = create(&directory, start)?;
        Ok(Self { directory, limit, start, file, written: 0, failed: false })
    }

    /// Keeps bytes. After an error nothing more is kept; when the last of it came is.
    ///
    /// # Errors
    /// Whatever writing gives, once; part of the bytes may be kept.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failed {
            // A full disk has room for that, and a program that prints is not silent.
            return self.file.file().set_modified(SystemTime::now());
        }
        self.keep(bytes).inspect_err(|_| self.failed = true)
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() as u64 > self.limit / SEGMENTS {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let start = self.start + self.written;
        self.file = create(&self.directory, start)?;
        (self.start, self.written) = (start, 0);
        let starts = starts(&self.directory)?;
        let extra = starts.len().saturating_sub(usize::try_from(SEGMENTS).unwrap_or(usize::MAX));
        for start in starts.into_iter().take(extra) {
            fs::remove_file(path(&self.directory, start))?;
        }
        Ok(())
    }
}

/// The reading end: what is there, from a place on.
#[derive(Debug)]
pub struct OutputReader {
    spool: PathBuf,
    place: u64,
}

/// Some of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes before it are not there any more.
    pub missing: u64,
    /// The bytes, never none.
    pub bytes: Vec<u8>,
}

impl OutputReader {
    /// Reads from the first byte on.
    #[must_use]
    pub fn new(spool: &Path) -> Self {
        Self { spool: spool.to_owned(), place: 0 }
    }

    /// Reads only about the last `bytes`.
    #[must_use]
    pub fn last(spool: &Path, bytes: u64) -> Self {
        let end = starts(&spool.join(OUTPUT)).ok().and_then(|it| it.last().copied()).map_or(0, |start| {
            let length = fs::symlink_metadata(path(&spool.join(OUTPUT), start)).map_or(0, |it| it.len());
            start + length
        });
        Self { spool: spool.to_owned(), place: end.saturating_sub(bytes) }
    }

    /// The next bytes; `None` where there are none yet.
    ///
    /// # Errors
    /// Whatever reading gives; an output that was never begun has no bytes.
    pub fn read_next(&mut self) -> io::Result<Option<Piece>> {
        let starts = match starts(&self.spool.join(OUTPUT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let missing = starts.first().map_or(0, |first| first.saturating_sub(self.place));
        self.place += missing;
        let Some(start) = starts.iter().rev().find(|it| **it <= self.place) else { return Ok(None) };
        let next = starts.iter().find(|it| **it > self.place);
        let mut file = match crate::fs::open_below(&self.spool, &format!("{OUTPUT}/{}", name(*start))) {
            // Dropped between the listing and now: the next call finds what follows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        file.seek(SeekFrom::Start(self.place - start))?;
        let mut bytes = Vec::new();
        let most = next.map_or(READ as u64, |next| (next - self.place).min(READ as u64));
        file.take(most).read_to_end(&mut bytes)?;
        self.place += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(Piece { missing, bytes }))
    }
}

fn starts(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|it| it.strip_suffix(".raw")).and_then(|it| it.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn name(start: u64) -> String {
    format!("{start:020}.raw")
}

fn path(directory: &Path, start: u64) -> PathBuf {
    directory.join(name(start))
}

fn create(directory: &Path, start: u64) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    // An empty one of an earlier process may be there; a link is never followed.
    options.create(true).append(true).mode(0o644);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path(directory, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut OutputReader) -> (u64, Vec<u8>) {
        let (mut missing, mut bytes) = (0, Vec::new());
        while let Some(piece) = reader.read_next().unwrap() {
            missing += piece.missing;
            bytes.extend(piece.bytes);
        }
        (missing, bytes)
    }

    #[test]
    fn bytes_come_back_as_they_were_across_openings() {
        let dir = tempfile::tempdir().unwrap();
        assert!(OutputReader::new(dir.path()).read_next().unwrap().is_none());
        let mut reader = OutputReader::new(dir.path());
        let mut writer = OutputWriter::open(dir.path(), 1 << 20).unwrap();
        writer.write(b"one\r\xff").unwrap();
        assert_eq!(all(&mut reader), (0, b"one\r\xff".to_vec()));
        drop(writer);
        let mut writer = OutputWriter::open(dir.path(), 1 << 20).unwrap();
        writer.write(b"two").unwrap();
        assert_eq!(all(&mut reader), (0, b"two".to_vec()));
        assert_eq!(all(&mut OutputReader::new(dir.path())), (0, b"one\r\xfftwo".to_vec()));
        assert_eq!(all(&mut OutputReader::last(dir.path(), 4)), (0, b"\xfftwo".to_vec()));
    }

    #[test]
    fn what_cannot_be_kept_still_tells_when_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = OutputWriter::open(dir.path(), 1 << 20).unwrap();
        writer.write(b"kept").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH;
        writer.file.file().set_modified(long_ago).unwrap();
        assert_eq!(last_output(dir.path()), Some(long_ago));
        writer.failed = true;
        writer.write(b"lost").unwrap();
        assert!(last_output(dir.path()).unwrap() > long_ago);
        assert_eq!(all(&mut OutputReader::new(dir.path())), (0, b"kept".to_vec()));
    }

    #[test]
    fn room_is_bounded_and_what_is_lost_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = OutputWriter::open(dir.path(), 800).unwrap();
        let mut reader = OutputReader::new(dir.path());
        for number in 0..100_u8 {
            writer.write(&[number; 50]).unwrap();
        }
        let (missing, bytes) = all(&mut reader);
        assert_eq!(missing + bytes.len() as u64, 5000);
        assert!(bytes.len() <= 800 && bytes.ends_with(&[99; 50]) && missing > 4000);
    }

    #[test]
    fn a_link_that_somebody_put_there_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(OUTPUT)).unwrap();
        fs::write(dir.path().join("secret"), "host").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), path(&dir.path().join(OUTPUT), 0)).unwrap();
        assert!(OutputReader::new(dir.path()).read_next().is_err());
        assert!(OutputWriter::open(dir.path(), 100).unwrap().start > 0);
        assert!(create(&dir.path().join(OUTPUT), 0).is_err());
    }
}

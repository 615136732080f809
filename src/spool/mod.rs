//! Console lines on their way to the server, kept on disk until it has them.
//!
//! ```text
//! <directory>
//! ├── owner.json         whose lines these are: format, task, worker
//! ├── lock               held by the process that writes or drains
//! ├── output             what the program printed, byte for byte (`output`)
//! ├── end.json           how the program ended, before that the promise to say so (`end`)
//! ├── 00000007.lines     records, oldest segment first; the highest number is being written
//! ├── 00000008.lines
//! └── sent               "<segment> <offset>[ <segment> <offset> <time> <digest>] <time>": what the server has, what was
//!                        on its way when this was written, and the time of the last event the server has
//! ```
//!
//! A record is its length (u32, little endian), the CRC-32 of its bytes (u32) and a JSON [`Line`]. It is written in one
//! call, so that a process killed at any instant leaves at most one torn record at a segment's end, which readers skip;
//! a later opening begins a new segment. Bytes are bounded: when there are too many, the oldest segment is dropped, and
//! has one line in its place that says how many lines are lost. A batch is noted before it is sent and after the server has it, so that after a
//! kill in between [`drain`] can ask the server which of the two it was: lines arrive once.

use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::clearml::events::{self, Level, Line};
use crate::digest::Digest;
use crate::fs::{FileLock, Sharing};

mod drain;
mod end;
mod error;
mod output;
mod owner;
mod records;
mod sent;

pub use drain::{DrainError, drain};
pub use end::{EndCause, LeftEnd, ProgramEnd};
pub use error::SpoolError;
pub use output::{OUTPUT, OutputReader, OutputWriter, Piece, last_output};
pub use owner::Owner;
use owner::{OwnerFile, lock, read_owner};
use records::{Records, create_segment, segment_path, segments};
use sent::{Flight, Place, read_sent};

/// The version of the format.
const FORMAT: u32 = 1;
/// How many segments share the room: one is what is lost at once when there is no more.
const SEGMENTS: u64 = 8;
/// No record is longer; what says so is torn.
const RECORD: usize = 4 << 20;
const HEADER: usize = 8;
/// What follows the number in the line that stands where lines were dropped.
const DROPPED: &str = " console lines were dropped here: the server was away and the spool was full\n";
/// No file besides the segments is longer.
const SMALL: u64 = 64 << 10;

/// Lines that wait, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The lines.
    pub lines: Vec<Line>,
    to: Place,
    /// The time of the server's last event.
    after: i64,
    /// How often anything had been dropped by then.
    drops: u64,
}

impl Batch {
    /// What is sent of it: the lines glued into events, all later than what the server has. Many lines share a moment, and
    /// are read in several batches.
    #[must_use]
    pub fn events(&self) -> Vec<Line> {
        events::glue(&self.lines, self.after)
    }
}

/// An open spool: one process at a time.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    owner: Owner,
    limit: u64,
    sent: Place,
    /// The time of the last event that the server has.
    last: i64,
    flight: Option<Flight>,
    segment: u64,
    file: fs::File,
    written: u64,
    dropped: u64,
    /// How often.
    drops: u64,
    _lock: FileLock,
}

impl Spool {
    /// Opens or creates a spool for `owner` of at most `limit` bytes. Lines that an earlier process left are kept.
    ///
    /// # Errors
    /// [`SpoolError`]; a spool of another task is [`SpoolError::Format`].
    pub fn open(directory: &Path, owner: Owner, limit: u64) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Io { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = lock(directory)?;
        let path = directory.join("owner.json");
        match read_owner(directory)? {
            Some(there) if there.task != owner.task => return Err(SpoolError::Format(directory.to_owned())),
            _ => {
                let file = OwnerFile { format: FORMAT, owner: owner.clone() };
                let text = serde_json::to_vec(&file).map_err(|it| failed(it.into()))?;
                crate::fs::write_whole(&path, &text, 0o644).map_err(failed)?;
            }
        }
        Self::with_lock(directory, owner, limit, lock)
    }

    /// Makes a directory in which somebody else, whoever it is on this machine or in a container, may open a spool: what
    /// keeps others out is the directory above it.
    ///
    /// # Errors
    /// [`SpoolError::Io`]
    pub fn prepare(directory: &Path) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::Io { path: directory.to_owned(), source };
        let open_to_all = |path: &Path, mode| fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        for directory in [directory.to_owned(), directory.join(OUTPUT)] {
            fs::create_dir_all(&directory).map_err(failed)?;
            // A run that was started before may have put a link in its place, and what that leads to is not opened to all.
            if !fs::symlink_metadata(&directory).map_err(failed)?.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
            open_to_all(&directory, 0o777).map_err(failed)?;
        }
        // Whoever opens it first makes it for itself alone.
        let lock = directory.join("lock");
        drop(FileLock::try_acquire(&lock, Sharing::Shared).map_err(failed)?);
        open_to_all(&lock, 0o666).map_err(failed)
    }

    /// Opens what another process left, to send the rest of it; `None` where there is none.
    ///
    /// # Errors
    /// [`SpoolError`]; [`SpoolError::InUse`] while the other still runs.
    pub fn adopt(directory: &Path) -> Result<Option<Self>, SpoolError> {
        let Some(owner) = read_owner(directory)? else { return Ok(None) };
        let lock = lock(directory)?;
        Self::with_lock(directory, owner, u64::MAX, lock).map(Some)
    }

    fn with_lock(directory: &Path, owner: Owner, limit: u64, lock: FileLock) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Io { path: directory.to_owned(), source };
        let segments = segments(directory).map_err(failed)?;
        let oldest = segments.first().copied().unwrap_or(1);
        let segment = segments.last().map_or(1, |it| it + 1);
        let noted = read_sent(directory).unwrap_or((Place { segment: oldest, offset: 0 }, None, i64::MIN));
        let (sent, flight, last) = noted;
        let file = create_segment(directory, segment).map_err(failed)?;
        let mut spool = Self {
            directory: directory.to_owned(),
            owner,
            limit,
            sent: sent.max(Place { segment: oldest, offset: 0 }),
            last,
            flight,
            segment,
            file,
            written: 0,
            dropped: 0,
            drops: 0,
            _lock: lock,
        };
        spool.forget_sent().map_err(failed)?;
        Ok(spool)
    }

    /// Whose lines these are.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Keeps a line.
    ///
    /// # Errors
    /// Whatever writing gives; nothing of the line is kept then.
    pub fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = serde_json::to_vec(line)?;
        if self.written > 0 && self.written + bytes.len() as u64 > self.limit / SEGMENTS {
            self.rotate()?;
        }
        let record = record_of(&bytes);
        if let Err(error) = self.file.write_all(&record) {
            // Part of the record may be there: cut it off, so that what follows can be read.
            self.file.set_len(self.written)?;
            self.file.seek(SeekFrom::Start(self.written))?;
            return Err(error);
        }
        self.written += record.len() as u64;
        Ok(())
    }

    /// The oldest lines that the server does not have, up to about `bytes` of them as they are sent; `None` when it has all.
    ///
    /// # Errors
    /// Whatever reading gives.
    pub fn next(&mut self, bytes: usize) -> io::Result<Option<Batch>> {
        let mut batch = Batch { lines: Vec::new(), to: self.sent, after: self.last, drops: self.drops };
        let mut size = 0;
        for segment in segments(&self.directory)?.into_iter().filter(|it| *it >= self.sent.segment) {
            let offset = if segment == self.sent.segment { self.sent.offset } else { 0 };
            let mut reader = Records::open(&self.directory, segment, offset)?;
            while size < bytes {
                let Some(line) = reader.next()? else { break };
                size += escaped(&line.msg);
                batch.lines.push(line);
                batch.to = Place { segment, offset: reader.offset };
            }
            if size >= bytes {
                break;
            }
        }
        Ok((!batch.lines.is_empty()).then_some(batch))
    }

    /// Notes that a batch is about to be sent.
    ///
    /// # Errors
    /// Whatever writing gives.
    pub fn sending(&mut self, batch: &Batch) -> io::Result<()> {
        let Some(last) = batch.events().pop() else { return Ok(()) };
        let (timestamp, digest) = (last.timestamp, Digest::of(&last.msg).hex());
        self.flight = Some(Flight { to: batch.to, timestamp, digest, since: SystemTime::now() });
        self.note()
    }

    /// Notes that the server has a batch, and forgets it.
    ///
    /// # Errors
    /// Whatever writing gives.
    pub fn sent(&mut self, batch: &Batch) -> io::Result<()> {
        let last = batch.events().pop().map_or(self.last, |it| it.timestamp);
        // What was dropped while it was on its way has another line in its place now.
        let replaced = batch.drops != self.drops && batch.to.segment <= self.sent.segment;
        self.advance(if replaced { self.sent } else { batch.to }, last)
    }

    /// How far the server has it: changes whenever it takes something.
    #[must_use]
    pub const fn progress(&self) -> (u64, u64) {
        (self.sent.segment, self.sent.offset)
    }

    /// How many lines were lost for want of room since this was opened.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    fn advance(&mut self, to: Place, last: i64) -> io::Result<()> {
        self.sent = self.sent.max(to);
        self.last = self.last.max(last);
        self.flight = None;
        self.note()?;
        self.forget_sent()
    }

    fn note(&self) -> io::Result<()> {
        let mut text = format!("{} {}", self.sent.segment, self.sent.offset);
        if let Some(it) = &self.flight {
            text.push_str(&format!(" {} {} {} {}", it.to.segment, it.to.offset, it.timestamp, it.digest));
        }
        text.push_str(&format!(" {}", self.last));
        // No fsync: the page cache outlives a killed process, and that is what this is for. Under a new name, since whoever
        // runs in the container may write here and must not lead us elsewhere.
        // Readable, since it may be somebody else who goes on.
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().prefix(".sent-").permissions(readable).tempfile_in(&self.directory)?;
        file.write_all(text.as_bytes())?;
        file.persist(self.directory.join("sent")).map_err(|error| error.error)?;
        Ok(())
    }

    fn forget_sent(&mut self) -> io::Result<()> {
        for segment in segments(&self.directory)? {
            let done = segment < self.sent.segment
                || (segment < self.segment
                    && Records::open(&self.directory, segment, self.place(segment))?.next()?.is_none());
            if segment >= self.segment || !done {
                break;
            }
            fs::remove_file(segment_path(&self.directory, segment))?;
        }
        Ok(())
    }

    fn place(&self, segment: u64) -> u64 {
        if segment == self.sent.segment { self.sent.offset } else { 0 }
    }

    /// Begins a new segment; drops the oldest one when there is no more room.
    fn rotate(&mut self) -> io::Result<()> {
        self.segment += 1;
        self.file = create_segment(&self.directory, self.segment)?;
        self.written = 0;
        let there = segments(&self.directory)?;
        // In the place of those that went before stands a line that says so.
        let gap = there.first().map(|it| self.gap(*it)).transpose()?.flatten();
        let oldest = usize::from(gap.is_some());
        if (there.len() - oldest) as u64 <= SEGMENTS {
            return Ok(());
        }
        let segment = there[oldest];
        let mut reader = Records::open(&self.directory, segment, self.place(segment))?;
        let (mut lost, mut timestamp) = (0, 0);
        while let Some(line) = reader.next()? {
            lost += 1;
            timestamp = line.timestamp;
        }
        if lost == 0 {
            // Whoever opened it wrote nothing.
            return fs::remove_file(segment_path(&self.directory, segment));
        }
        self.dropped += lost;
        self.drops += 1;
        let msg = format!("{}{DROPPED}", lost + gap.unwrap_or(0));
        let line = serde_json::to_vec(&Line { timestamp, level: Level::Warning, msg })?;
        let said = crate::fs::write_whole(&segment_path(&self.directory, segment), &record_of(&line), 0o644);
        if said.is_err() {
            // The disk is full: the room is needed more than the word.
            fs::remove_file(segment_path(&self.directory, segment))?;
            self.sent = self.sent.max(Place { segment: segment + 1, offset: 0 });
            self.flight = None;
            return self.note();
        }
        if gap.is_some() {
            fs::remove_file(segment_path(&self.directory, there[0]))?;
        }
        self.sent = Place { segment, offset: 0 };
        self.flight = None;
        self.note()
    }

    /// How many lines the one line of a segment says were dropped; none of one that has others.
    fn gap(&self, segment: u64) -> io::Result<Option<u64>> {
        let mut reader = Records::open(&self.directory, segment, 0)?;
        let Some(line) = reader.next()?.filter(|it| it.level == Level::Warning) else { return Ok(None) };
        Ok(line.msg.strip_suffix(DROPPED).and_then(|it| it.parse().ok()))
    }
}

/// Opens a file of a spool. A program that we do not trust may have put it there: no link is followed, and nobody is waited
/// for.
fn open_plain(path: &Path) -> io::Result<fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    options.open(path)
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How long a text is in JSON: what is sent in one call arrives or does not, and two calls may part.
fn escaped(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' | 8..=10 | 12 | 13 => 2,
        0..32 => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}

/// A record as it lies on disk.
fn record_of(bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + bytes.len());
    record.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend(crc32fast::hash(bytes).to_le_bytes());
    record.extend(bytes);
    record
}

#[cfg(test)]
mod tests;

//! What the program prints: passed on as it comes, and kept line by line for the server; under an executor also byte for
//! byte where it mounts a spool.
//!
//! A thread of its own reads both pipes, because writing to our own output ([`super::passing`]) may block for as long as
//! nobody reads it, and signals and the server must not wait for that. What is read is kept before it is passed on.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::passing::{Passing, Target};
use crate::clearml::events::{Level, Line};
use crate::spool::{OutputWriter, Spool};

/// How long a line without an end waits for it.
const UNFINISHED: Duration = Duration::from_secs(5);
/// A line without an end is cut here.
const LONGEST: usize = 64 * 1024;
/// How often a quiet console looks whether it is finished.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where lines are kept.
#[derive(Debug)]
pub(super) enum Keep {
    /// On their way to a server.
    Spool(Arc<Mutex<Spool>>),
    /// In a file (offline).
    File(Mutex<fs::File>),
    /// Nowhere: no directory is writable.
    Nowhere,
}

/// Keeps lines in the order of their times.
#[derive(Debug)]
pub(super) struct Recorder {
    keep: Keep,
    last: AtomicI64,
    failed: AtomicBool,
}

impl Recorder {
    pub(super) fn new(keep: Keep) -> Arc<Self> {
        Arc::new(Self { keep, last: AtomicI64::new(0), failed: AtomicBool::new(false) })
    }

    /// A recorder into a file of a directory.
    pub(super) fn to_file(path: &PathBuf) -> io::Result<Arc<Self>> {
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self::new(Keep::File(Mutex::new(file))))
    }

    /// Keeps a line.
    pub(super) fn record(&self, level: Level, text: &str) {
        self.put(level, format!("{text}\n"));
    }

    /// Keeps a line or a part of one; a full disk is told once, and the program goes on.
    fn put(&self, level: Level, msg: String) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_millis() as i64);
        // A clock that is set back must not bring lines out of order.
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        let line = Line { timestamp: now.max(last), level, msg };
        let kept = match &self.keep {
            Keep::Spool(spool) => spool.lock().unwrap_or_else(PoisonError::into_inner).append(&line),
            Keep::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.msg.as_bytes()),
            Keep::Nowhere => Ok(()),
        };
        if let Err(error) = kept
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            super::tell(&format!("agent: warning: console lines are not kept: {error}\n"));
        }
    }

    /// Says something of our own: on standard error and in the record.
    pub(super) fn note(&self, level: Level, text: &str) {
        let word = match level {
            Level::Debug | Level::Info => "",
            Level::Warning => "warning: ",
            Level::Error => "error: ",
        };
        self.record(level, text);
        // Whoever should read that may be away.
        super::tell(&format!("agent: {word}{text}\n"));
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Console {
    finish: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Console {
    /// Starts to read both pipes. What comes is also kept in `copy`, where there is one.
    pub(super) fn start(pipes: (OwnedFd, OwnedFd), recorder: &Arc<Recorder>, copy: Option<OutputWriter>) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let (stop, recorder) = (Arc::clone(&finish), Arc::clone(recorder));
        let thread = std::thread::spawn(move || {
            let output = Stream::new(pipes.0, Target::Output);
            let errors = Stream::new(pipes.1, Target::Errors);
            pump([output, errors], &recorder, copy, &stop);
        });
        Self { finish, thread }
    }

    /// Reads what is left after the program's end, and no longer than `limit`: whoever inherited the pipes may keep
    /// them open.
    pub(super) async fn finish(self, limit: Duration) {
        self.finish.store(true, Ordering::Relaxed);
        let late = Instant::now() + limit;
        while !self.thread.is_finished() && Instant::now() < late {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The output's copy on this machine.
struct Copied {
    writer: Option<OutputWriter>,
    /// Whether it is kept no more.
    failed: bool,
}

struct Stream {
    file: Option<std::fs::File>,
    target: Target,
    unfinished: Vec<u8>,
    /// When the first of it came.
    since: Instant,
    /// Whether the beginning of this line is recorded already.
    begun: bool,
}

impl Stream {
    fn new(pipe: OwnedFd, target: Target) -> Self {
        Self { file: Some(pipe.into()), target, unfinished: Vec::new(), since: Instant::now(), begun: false }
    }

    /// Takes what there is and records what is whole; what is to be passed on.
    fn take<'a>(&mut self, buffer: &'a mut [u8], recorder: &Recorder, copy: &mut Copied) -> &'a [u8] {
        let Some(file) = &mut self.file else { return &[] };
        let size = match file.read(buffer) {
            Ok(0) => 0,
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return &[],
            Err(_) => 0,
        };
        if size == 0 {
            self.file = None;
            self.end(recorder);
            return &[];
        }
        if let Some(Err(error)) = copy.writer.as_mut().map(|it| it.write(&buffer[..size]))
            && !std::mem::replace(&mut copy.failed, true)
        {
            let text = format!("the output is not kept on this machine any more: {error}");
            recorder.record(Level::Warning, &text);
        }
        let mut rest = &buffer[..size];
        while let Some(end) = rest.iter().position(|it| *it == b'\n') {
            self.unfinished.extend_from_slice(&rest[..end]);
            self.record(self.unfinished.len(), true, recorder);
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            if self.unfinished.is_empty() {
                self.since = Instant::now();
            }
            self.unfinished.extend_from_slice(rest);
        }
        if self.unfinished.len() > LONGEST {
            self.record(whole(&self.unfinished[..LONGEST]), false, recorder);
        }
        &buffer[..size]
    }

    /// Records so much of the line, to its end or not.
    fn record(&mut self, size: usize, ended: bool, recorder: &Recorder) {
        let rest = self.unfinished.split_off(size);
        let line = std::mem::replace(&mut self.unfinished, rest);
        let mut text = clean(&line);
        // What is recorded cannot be written over any more.
        if self.begun && goes_back(&line) {
            text.insert(0, '\n');
        }
        if ended {
            text.push('\n');
        }
        self.begun = !ended;
        if !text.is_empty() {
            recorder.put(Level::Debug, text);
        }
    }

    /// Records what there is of a line that has waited for its end; part of a character waits on.
    fn flush(&mut self, recorder: &Recorder) {
        let size = whole(&self.unfinished);
        if size > 0 {
            self.record(size, false, recorder);
            self.since = Instant::now();
        }
    }

    /// Nothing more comes: records what is left.
    fn end(&mut self, recorder: &Recorder) {
        if self.begun || !self.unfinished.is_empty() {
            self.record(self.unfinished.len(), true, recorder);
        }
    }
}

fn pump(mut streams: [Stream; 2], recorder: &Recorder, copy: Option<OutputWriter>, finish: &AtomicBool) {
    let mut buffer = vec![0; 16 * 1024];
    // Nobody misses what is kept.
    let mut passing = if copy.is_some() { Passing::beside() } else { Passing::default() };
    let mut copy = Copied { writer: copy, failed: false };
    while streams.iter().any(|it| it.file.is_some()) {
        let ready = readable(&streams);
        let quiet = !ready.contains(&true);
        for (stream, _) in streams.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let target = stream.target;
            passing.pass_on(target, stream.take(&mut buffer, recorder, &mut copy));
        }
        if copy.failed {
            // It is to be had here alone from now on, and waits for whoever reads it.
            passing = passing.at_once();
        }
        for stream in &mut streams {
            if stream.since.elapsed() > UNFINISHED {
                stream.flush(recorder);
            }
        }
        if quiet && finish.load(Ordering::Relaxed) {
            break;
        }
    }
    for stream in &mut streams {
        stream.end(recorder);
    }
    passing.finish();
}

/// Which streams have something, or have ended; waits a moment for one.
fn readable(streams: &[Stream; 2]) -> [bool; 2] {
    let open: Vec<(usize, BorrowedFd<'_>)> =
        streams.iter().enumerate().filter_map(|(index, it)| Some((index, it.file.as_ref()?.as_fd()))).collect();
    let mut polled: Vec<PollFd<'_>> = open.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
    let mut ready = [false; 2];
    if poll(&mut polled, Some(&TICK)).is_ok() {
        for ((index, _), fd) in open.iter().zip(&polled) {
            ready[*index] = !fd.revents().is_empty();
        }
    }
    ready
}

/// How much of it ends between two characters; all of it where that is no text.
fn whole(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(4);
    let last = bytes[start..].iter().rposition(|it| it & 0xc0 != 0x80).map(|it| start + it);
    match last {
        Some(at) if std::str::from_utf8(&bytes[at..]).is_err_and(|error| error.error_len().is_none()) => at,
        _ => bytes.len(),
    }
}

/// Whether a line goes back to its start and on from there.
fn goes_back(line: &[u8]) -> bool {
    let end = line.iter().rposition(|it| *it != b'\r').map_or(0, |it| it + 1);
    line[..end].contains(&b'\r')
}

/// A line as the server gets it: of a progress bar, which goes back to the line's start, only the last state.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    text.rsplit('\r').next().unwrap_or_default().replace('\u{8}', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{OutputReader, Owner};

    #[test]
    fn of_a_progress_bar_the_last_state_is_kept() {
        assert_eq!(clean(b" 10%\r 50%\r100%"), "100%");
        assert_eq!(clean(b" 10%\r 50%\r"), " 50%");
        assert_eq!(clean(b"dos\r"), "dos");
        assert_eq!(clean(b"spin/\x08-\x08"), "spin/-");
        assert_eq!(clean(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn lines_are_recorded_whole_and_in_the_order_of_their_times() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner { task: "t".to_owned(), worker: "w".to_owned() };
        let spool = Arc::new(Mutex::new(Spool::open(dir.path(), owner, 1 << 24).unwrap()));
        let recorder = Recorder::new(Keep::Spool(Arc::clone(&spool)));
        let writer = Some(OutputWriter::open(dir.path(), 1 << 24).unwrap());
        let mut copy = Copied { writer, failed: false };
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut stream = Stream::new(reader, Target::Nowhere);
        let mut writer = std::fs::File::from(writer);
        // "ä" split between two reads; a line far too long; a line without an end.
        let long = "é".repeat(2 * LONGEST);
        for bytes in [b"one\nt\xc3".as_slice(), b"\xa4w\n", long.as_bytes(), b"\nlast"] {
            for piece in bytes.chunks(8192) {
                writer.write_all(piece).unwrap();
                stream.take(&mut [0; 8192], &recorder, &mut copy);
            }
        }
        drop(writer);
        stream.take(&mut [0; 64], &recorder, &mut copy);
        let mut kept = Vec::new();
        let mut reader = OutputReader::new(dir.path());
        while let Some(piece) = reader.read_next().unwrap() {
            kept.extend(piece.bytes);
        }
        assert!(kept == format!("one\ntäw\n{long}\nlast").into_bytes(), "the copy differs");
        let batch = spool.lock().unwrap().next(usize::MAX).unwrap().unwrap();
        let lengths: Vec<usize> = batch.lines.iter().map(|it| it.msg.chars().count()).collect();
        assert_eq!(lengths[..2], [4, 4]);
        assert!(lengths.len() > 5 && lengths.iter().all(|it| *it <= LONGEST), "{lengths:?}");
        let all: String = batch.lines.iter().map(|it| it.msg.as_str()).collect();
        assert!(all == format!("one\ntäw\n{long}\nlast\n"), "the lines differ");
        assert!(batch.lines.windows(2).all(|it| it[0].timestamp <= it[1].timestamp));
    }

    #[test]
    fn a_line_that_waited_for_its_end_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner { task: "t".to_owned(), worker: "w".to_owned() };
        let spool = Arc::new(Mutex::new(Spool::open(dir.path(), owner, 1 << 24).unwrap()));
        let recorder = Recorder::new(Keep::Spool(Arc::clone(&spool)));
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut stream = Stream::new(reader, Target::Nowhere);
        let mut writer = std::fs::File::from(writer);
        // Each piece waits too long for the next one: dots, half a character, a progress bar, bytes that are no text.
        for bytes in [&b"load"[..], b"ing \xf0\x9f", b"\x98\x80 done\n 1%", b"\r 2%", b"\r\n", b"\xff\x80", b"\xc3"] {
            writer.write_all(bytes).unwrap();
            stream.take(&mut [0; 64], &recorder, &mut Copied { writer: None, failed: false });
            stream.flush(&recorder);
        }
        drop(writer);
        stream.take(&mut [0; 64], &recorder, &mut Copied { writer: None, failed: false });
        let batch = spool.lock().unwrap().next(usize::MAX).unwrap().unwrap();
        let texts: Vec<&str> = batch.lines.iter().map(|it| it.msg.as_str()).collect();
        let expected = ["load", "ing ", "\u{1f600} done\n", " 1%", "\n 2%", "\n", "\u{fffd}\u{fffd}", "\u{fffd}\n"];
        assert_eq!(texts, expected);
    }
}

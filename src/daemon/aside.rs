//! Telling people without waiting for them. A reader may stall (a pager, a terminal that is held, a full pipe), and must
//! not keep a unit or the dispatcher from its work: what is shown goes through threads of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::report::{Event, Reporter, SharedReporter};
use crate::spool::{OutputReader, Piece};

/// How many messages wait for a reader; what comes on top of them is counted and not shown.
const WAITING: usize = 1024;
/// How long the end of a program waits for its last messages to be read.
const LAST: Duration = Duration::from_secs(1);

/// A reporter that never waits for whoever reads what it tells.
pub struct Aside {
    tell: RwLock<Option<SyncSender<Event>>>,
    lost: Arc<AtomicU64>,
    done: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Aside {
    /// Hands on to another reporter, from a thread of its own.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn of(reporter: SharedReporter) -> std::io::Result<Arc<Self>> {
        let (tell, hear) = mpsc::sync_channel::<Event>(WAITING);
        let (end, done) = mpsc::sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let missed = Arc::clone(&lost);
        std::thread::Builder::new().name("reports".to_owned()).spawn(move || {
            for event in hear {
                reporter.report(event);
                let count = missed.swap(0, Ordering::Relaxed);
                if count > 0 {
                    reporter.warning(format!("{count} messages were not shown: nobody read them"));
                }
            }
            let _ = end.send(());
        })?;
        Ok(Arc::new(Self { tell: RwLock::new(Some(tell)), lost, done: std::sync::Mutex::new(done) }))
    }

    /// Waits a moment for what was told to be read; nothing is told after that.
    pub fn finish(&self) {
        drop(self.tell.write().unwrap_or_else(PoisonError::into_inner).take());
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match done.recv_timeout(LAST) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

impl Reporter for Aside {
    fn report(&self, event: Event) {
        let tell = self.tell.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(TrySendError::Full(_))) = tell.as_ref().map(|it| it.try_send(event)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a run prints, on its way to people.
#[derive(Debug)]
pub struct Showing {
    over: Arc<AtomicBool>,
    thread: Thread,
    all: oneshot::Receiver<()>,
}

/// Shows what comes into a run's output, looking `every` so often.
///
/// # Errors
/// There can be no more threads.
pub fn show(
    mut reader: OutputReader,
    every: Duration,
    mut show: impl FnMut(std::io::Result<Piece>) + Send + 'static,
) -> std::io::Result<Showing> {
    let over = Arc::new(AtomicBool::new(false));
    let (end, all) = oneshot::channel();
    let ended = Arc::clone(&over);
    let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        loop {
            // Before the reading: what was printed until then is shown.
            let last = ended.load(Ordering::Acquire);
            loop {
                match reader.read_next() {
                    Ok(Some(piece)) => show(Ok(piece)),
                    Ok(None) => break,
                    Err(error) => {
                        show(Err(error));
                        break;
                    }
                }
            }
            if last {
                break;
            }
            std::thread::park_timeout(every);
        }
        let _ = end.send(());
    })?;
    Ok(Showing { over, thread: thread.thread().clone(), all })
}

impl Showing {
    /// The run is over. Comes when all that it printed has been shown.
    pub async fn finish(mut self) {
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
        let _ = (&mut self.all).await;
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        // Who does not wait for the rest leaves it to the thread.
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::spool::OutputWriter;

    /// A reader that takes nothing until it is let go.
    #[derive(Default)]
    struct Stalled {
        gate: Mutex<()>,
        heard: Mutex<Vec<Event>>,
    }

    impl Reporter for Stalled {
        fn report(&self, event: Event) {
            drop(self.gate.lock().unwrap());
            self.heard.lock().unwrap().push(event);
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stalls_and_what_it_missed_is_counted() {
        let reader = Arc::new(Stalled::default());
        let held = reader.gate.lock().unwrap();
        let aside = Aside::of(Arc::clone(&reader) as SharedReporter).unwrap();
        for number in 0..2 * WAITING {
            (&*aside as &dyn Reporter).note(number.to_string());
        }
        drop(held);
        aside.finish();
        (&*aside as &dyn Reporter).note("too late");
        let heard = reader.heard.lock().unwrap();
        assert_eq!(heard[0], Event::Note("0".to_owned()));
        let lost: usize = heard
            .iter()
            .filter_map(|it| match it {
                Event::Warning(text) => text.split(' ').next()?.parse::<usize>().ok(),
                _ => None,
            })
            .sum();
        let shown = heard.iter().filter(|it| matches!(it, Event::Note(_))).count();
        assert_eq!(shown + lost, 2 * WAITING, "{lost} lost");
        assert!(shown >= WAITING && lost > 0, "{shown} {lost}");
    }

    #[tokio::test]
    async fn all_that_was_printed_is_shown_by_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = OutputWriter::open(dir.path(), 1 << 20).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let reader = OutputReader::new(dir.path());
        let showing = show(reader, Duration::from_secs(3600), move |piece| {
            into.lock().unwrap().extend(piece.unwrap().bytes);
        });
        writer.write(b"one\n").unwrap();
        writer.write(b"two\n").unwrap();
        showing.unwrap().finish().await;
        assert_eq!(*seen.lock().unwrap(), b"one\ntwo\n");
    }
}

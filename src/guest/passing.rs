//! What the program prints, passed on to our own output.
//!
//! Whoever should read that may be away, an engine for one, and the program must not wait for it where its output is kept
//! byte for byte elsewhere: then it is passed on beside, and what nobody reads in time is left out, which is said.

use std::io::{self, Write as _};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many pieces wait at the most: of 16 KiB each.
const WAITING: usize = 256;
/// How long a piece waits for its place among them, before nobody is taken to read.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long what waits at the end may take.
const LAST: Duration = Duration::from_millis(500);

/// Where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Output,
    Errors,
    #[cfg(test)]
    Nowhere,
    /// Nobody reads it.
    #[cfg(test)]
    Stuck,
    /// Counts what is read.
    #[cfg(test)]
    Counted(&'static std::sync::atomic::AtomicU64),
}

impl Target {
    fn write(self, bytes: &[u8]) {
        // A reader that is gone must not stop the program.
        let _ = match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(bytes).and_then(|()| output.flush())
            }
            Self::Errors => io::stderr().lock().write_all(bytes),
            #[cfg(test)]
            Self::Nowhere => Ok(()),
            #[cfg(test)]
            Self::Stuck => loop {
                std::thread::park();
            },
            #[cfg(test)]
            Self::Counted(count) => {
                count.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
        };
    }
}

/// What is to go where.
type Piece = (Target, Vec<u8>);

/// Passes on at once, or beside.
#[derive(Debug, Default)]
pub(super) struct Passing {
    beside: Option<Beside>,
    /// Bytes that nobody read in time.
    missed: u64,
}

/// Who passes on beside.
#[derive(Debug)]
struct Beside {
    sender: SyncSender<Piece>,
    thread: JoinHandle<()>,
    patience: Duration,
}

impl Passing {
    /// Passes on beside.
    pub(super) fn beside() -> Self {
        Self::beside_with(PATIENCE)
    }

    /// The same with another patience.
    fn beside_with(patience: Duration) -> Self {
        let (sender, receiver) = sync_channel::<Piece>(WAITING);
        let thread = std::thread::spawn(move || receiver.into_iter().for_each(|(target, bytes)| target.write(&bytes)));
        Self { beside: Some(Beside { sender, thread, patience }), missed: 0 }
    }

    pub(super) fn pass_on(&mut self, target: Target, bytes: &[u8]) {
        let Some(Beside { sender, patience, .. }) = &self.beside else { return target.write(bytes) };
        if self.missed > 0 {
            let said = format!("\nagent: {} bytes of the output were not read here\n", self.missed);
            if sender.try_send((target, said.into_bytes())).is_ok() {
                self.missed = 0;
            }
        }
        let late = (self.missed == 0).then(|| Instant::now() + *patience);
        let mut piece = (target, bytes.to_vec());
        loop {
            match sender.try_send(piece) {
                Err(TrySendError::Full(back)) if late.is_some_and(|it| Instant::now() < it) => {
                    piece = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TrySendError::Full(_)) => {
                    self.missed += bytes.len() as u64;
                    return;
                }
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Passes on at once from now on; what still waits comes first.
    pub(super) fn at_once(self) -> Self {
        if let Some(Beside { sender, thread, .. }) = self.beside {
            drop(sender);
            let _ = thread.join();
        }
        Self::default()
    }

    /// Passes on what waits, as long as somebody reads it.
    pub(super) fn finish(self) {
        let Some(Beside { sender, thread, .. }) = self.beside else { return };
        drop(sender);
        let late = Instant::now() + LAST;
        while !thread.is_finished() && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let mut passing = Passing::beside();
        let began = Instant::now();
        for _ in 0..4 * WAITING {
            passing.pass_on(Target::Stuck, b"0123456789");
        }
        assert!(passing.missed > 20 * WAITING as u64, "{}", passing.missed);
        passing.finish();
        assert!(began.elapsed() < Duration::from_secs(30), "it waits");
    }

    #[test]
    fn everything_is_passed_on_where_it_is_read() {
        static READ: AtomicU64 = AtomicU64::new(0);
        // However late the other thread has its turn.
        let mut passing = Passing::beside_with(Duration::from_secs(60));
        for _ in 0..4 * WAITING {
            passing.pass_on(Target::Counted(&READ), b"0123456789");
        }
        assert_eq!(passing.missed, 0);
        let Beside { sender, thread, .. } = passing.beside.take().unwrap();
        assert!(!thread.is_finished());
        drop(sender);
        thread.join().unwrap();
        assert_eq!(READ.load(Ordering::Relaxed), 40 * WAITING as u64);
    }
}

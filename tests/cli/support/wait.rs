//! Waiting for what happens elsewhere.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that should take a moment: machines are busy at times.
const LIMIT: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
///
/// # Panics
/// If there is none within the limit; the message says for what it waited.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {LIMIT:?} in vain: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

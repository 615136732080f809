//! Waiting for what happens elsewhere.

use std::thread;
use std::time::{Duration, Instant};

use super::scaled;

/// How long anything may take that should take a moment: machines are busy at times.
fn limit() -> Duration {
    Duration::from_secs(scaled("AGENT_TEST_PATIENCE", 120))
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// If there is none within the limit; the message says for what it waited.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let limit = limit();
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Whether a program runs whose command line has this in it.
pub(crate) fn runs(text: &str) -> bool {
    let processes = fs_err::read_dir("/proc").unwrap();
    let lines = processes.flatten().filter_map(|it| fs_err::read(it.path().join("cmdline")).ok());
    lines.map(|it| String::from_utf8_lossy(&it).replace('\0', " ")).any(|it| it.contains(text))
}

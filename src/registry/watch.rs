//! Whether an upload goes on: a large one may take hours, but never stands still for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many times longer a registry may take to say that it has a blob: some read it again first.
const STORING: u32 = 15;

/// What an upload did last.
#[derive(Debug, Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    moved: Instant,
    sent: bool,
}

impl Watch {
    /// Of an upload that begins.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { moved: Instant::now(), sent: false })))
    }

    /// Of an upload whose bytes are all there.
    pub(super) fn of_sent() -> Self {
        let watch = Self::new();
        watch.sent();
        watch
    }

    /// More was taken.
    pub(super) fn moved(&self) {
        self.state().moved = Instant::now();
    }

    /// All was taken.
    pub(super) fn sent(&self) {
        *self.state() = State { moved: Instant::now(), sent: true };
    }

    /// Ends when nothing has happened for too long.
    pub(super) async fn stalled(&self, silence: Duration) {
        loop {
            let left = {
                let state = self.state();
                let limit = if state.sent { silence * STORING } else { silence };
                limit.saturating_sub(state.moved.elapsed())
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

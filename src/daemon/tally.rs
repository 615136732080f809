//! What a daemon has done since it started, beside what [`super::metrics`] shows: counters that any thread may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters. They only grow.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tasks taken from queues.
    pub(super) taken: Count,
    /// Runs of an earlier process that are attended again.
    pub(super) adopted: Count,
    /// Tasks that went back because the machinery failed.
    pub(super) requeued: Count,
    /// Runs that could not be attended.
    pub(super) broken: Count,
    /// Tasks of others that were taken and never started.
    pub(super) orphans: Count,
    /// Images that were ready before their task's turn.
    pub(super) built_ahead: Count,
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl Tally {
    /// The counters by name.
    #[must_use]
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let of = |counter: &Count| counter.0.load(Ordering::Relaxed) as f64;
        vec![
            ("tasks_taken", of(&self.taken)),
            ("tasks_adopted", of(&self.adopted)),
            ("tasks_requeued", of(&self.requeued)),
            ("runs_broken", of(&self.broken)),
            ("orphans_put_back", of(&self.orphans)),
            ("images_built_ahead", of(&self.built_ahead)),
        ]
    }
}

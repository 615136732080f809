//! What a daemon has done since it started, for whoever asks: counters that any thread may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters.
#[derive(Debug, Default)]
pub struct Tally {
    taken: AtomicU64,
    adopted: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    stopped: AtomicU64,
    requeued: AtomicU64,
    broken: AtomicU64,
    orphans: AtomicU64,
    built_ahead: AtomicU64,
    server_errors: AtomicU64,
    running: AtomicU64,
    idle_milliseconds: AtomicU64,
}

/// The counters at one moment, by the names they are shown under.
pub type Figures = Vec<(&'static str, f64)>;

impl Tally {
    pub(super) fn taken(&self) {
        add(&self.taken, 1);
    }

    pub(super) fn adopted(&self) {
        add(&self.adopted, 1);
    }

    /// A task got a status; one that somebody else gave it is not counted.
    pub(super) fn settled(&self, status: &str) {
        match status {
            "completed" => add(&self.completed, 1),
            "failed" => add(&self.failed, 1),
            "stopped" => add(&self.stopped, 1),
            _ => {}
        }
    }

    pub(super) fn requeued(&self) {
        add(&self.requeued, 1);
    }

    pub(super) fn broken(&self) {
        add(&self.broken, 1);
    }

    pub(super) fn orphans(&self, count: usize) {
        add(&self.orphans, count as u64);
    }

    pub(super) fn built_ahead(&self) {
        add(&self.built_ahead, 1);
    }

    pub(super) fn server_error(&self) {
        add(&self.server_errors, 1);
    }

    pub(super) fn running(&self, count: usize) {
        self.running.store(count as u64, Ordering::Relaxed);
    }

    /// So many GPUs waited so long for their image.
    pub(super) fn idle(&self, gpus: usize, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        add(&self.idle_milliseconds, milliseconds.saturating_mul(gpus as u64));
    }

    /// Tasks that run now.
    #[must_use]
    pub fn running_now(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// GPU seconds spent on building and pulling, while nothing could run.
    #[must_use]
    pub fn gpu_idle_seconds(&self) -> f64 {
        self.idle_milliseconds.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// The counters that only grow, by name.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        vec![
            ("tasks_taken", of(&self.taken)),
            ("tasks_adopted", of(&self.adopted)),
            ("tasks_completed", of(&self.completed)),
            ("tasks_failed", of(&self.failed)),
            ("tasks_stopped", of(&self.stopped)),
            ("tasks_requeued", of(&self.requeued)),
            ("runs_broken", of(&self.broken)),
            ("orphans_put_back", of(&self.orphans)),
            ("images_built_ahead", of(&self.built_ahead)),
            ("server_errors", of(&self.server_errors)),
            ("gpu_idle_seconds", self.gpu_idle_seconds()),
        ]
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_seconds_are_devices_times_time() {
        let tally = Tally::default();
        tally.idle(2, Duration::from_millis(1500));
        tally.idle(0, Duration::from_secs(9));
        tally.settled("completed");
        tally.settled("closed");
        let figures = tally.figures();
        let of = |name: &str| figures.iter().find(|it| it.0 == name).unwrap().1;
        assert_eq!((of("gpu_idle_seconds"), of("tasks_completed"), of("tasks_failed")), (3.0, 1.0, 0.0));
    }
}

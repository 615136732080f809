//! What a daemon does, for Prometheus: plain numbers that the dispatcher keeps, and the page that shows them.
//!
//! | metric | meaning |
//! |---|---|
//! | `agent_tasks_total` by `status` | tasks that ended here since the start, by the status they got |
//! | `agent_units` by `phase` | tasks that are here now, by how far they are |
//! | `agent_build_seconds` | how long builds took: sum and number |
//! | `agent_gpu_idle_seconds_total` | GPU seconds for which a task had its GPUs and was not ready to run |
//! | `agent_queue_length` by `queue` | tasks that wait, as last seen |
//! | `agent_poll_errors_total` | looks at the queues that failed |
//!
//! Whatever else is counted ([`Metrics::with`]) is shown as `agent_<name>_total`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod page;

use page::Page;
pub use page::{ListenError, serve};

/// Counters that somebody else keeps: their names, and what they are at now.
pub type Counters = dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync;

/// The numbers. Any thread may change them.
#[derive(Default)]
pub struct Metrics {
    ended: Mutex<BTreeMap<String, u64>>,
    phases: Mutex<BTreeMap<String, u64>>,
    queues: Mutex<BTreeMap<String, u64>>,
    builds: AtomicU64,
    build_milliseconds: AtomicU64,
    gpu_idle_milliseconds: AtomicU64,
    poll_errors: AtomicU64,
    more: Option<Box<Counters>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render())
    }
}

impl Metrics {
    /// The numbers, and counters that somebody else keeps.
    #[must_use]
    pub fn with(more: Box<Counters>) -> Self {
        Self { more: Some(more), ..Self::default() }
    }

    /// A task ended with a status.
    pub fn ended(&self, status: &str) {
        *lock(&self.ended).entry(status.to_owned()).or_default() += 1;
    }

    /// A unit went on from a phase to the next; it has none before it begins and after it is over.
    pub fn moved(&self, from: Option<&str>, to: Option<&str>) {
        let mut phases = lock(&self.phases);
        if let Some(count) = from.and_then(|it| phases.get_mut(it)) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *phases.entry(to.to_owned()).or_default() += 1;
        }
    }

    /// A build took so long.
    pub fn built(&self, time: Duration) {
        self.builds.fetch_add(1, Ordering::Relaxed);
        add(&self.build_milliseconds, time);
    }

    /// So many GPUs waited so long for their task to be ready.
    pub fn idle(&self, gpus: usize, time: Duration) {
        add(&self.gpu_idle_milliseconds, time.saturating_mul(u32::try_from(gpus).unwrap_or(u32::MAX)));
    }

    /// What waits in the queues, by name; a queue that is not named is not served any more.
    pub fn queues(&self, lengths: impl IntoIterator<Item = (String, u64)>) {
        *lock(&self.queues) = lengths.into_iter().collect();
    }

    /// A look at the queues failed.
    pub fn poll_error(&self) {
        self.poll_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The page, in the text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Page::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("agent_build_info", "This program.").value(&version, 1.0);
        page.counter("agent_tasks_total", "Tasks that ended here, by status.").values("status", &lock(&self.ended));
        page.gauge("agent_units", "Tasks that are here now, by phase.").values("phase", &lock(&self.phases));
        page.gauge("agent_queue_length", "Tasks that wait, as last seen.").values("queue", &lock(&self.queues));
        let seconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1000.0;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        page.summary("agent_build_seconds", "How long builds took.", (seconds(&self.build_milliseconds), &self.builds));
        page.counter(
            "agent_gpu_idle_seconds_total",
            "GPU seconds for which a task had its GPUs and was not ready to run.",
        )
        .value(&[], seconds(&self.gpu_idle_milliseconds));
        page.counter("agent_poll_errors_total", "Looks at the queues that failed.")
            .value(&[], count(&self.poll_errors));
        for (name, value) in self.more.iter().flat_map(|it| it()) {
            page.counter(&format!("agent_{name}_total"), &format!("{}.", name.replace('_', " "))).value(&[], value);
        }
        page.text()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_number() {
        let metrics = Metrics::with(Box::new(|| vec![("tasks_taken", 3.0)]));
        metrics.ended("completed");
        metrics.ended("completed");
        metrics.ended("failed");
        metrics.moved(None, Some("build"));
        metrics.moved(None, Some("build"));
        metrics.moved(Some("build"), Some("run"));
        metrics.built(Duration::from_millis(1250));
        metrics.idle(2, Duration::from_millis(500));
        metrics.queues([("a \"b\"\n\\".to_owned(), 7)]);
        metrics.poll_error();
        let shown = metrics.render().replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
        insta::assert_snapshot!(shown, @r#"
        # HELP agent_build_info This program.
        # TYPE agent_build_info gauge
        agent_build_info{version="[VERSION]"} 1
        # HELP agent_tasks_total Tasks that ended here, by status.
        # TYPE agent_tasks_total counter
        agent_tasks_total{status="completed"} 2
        agent_tasks_total{status="failed"} 1
        # HELP agent_units Tasks that are here now, by phase.
        # TYPE agent_units gauge
        agent_units{phase="build"} 1
        agent_units{phase="run"} 1
        # HELP agent_queue_length Tasks that wait, as last seen.
        # TYPE agent_queue_length gauge
        agent_queue_length{queue="a \"b\"\n\\"} 7
        # HELP agent_build_seconds How long builds took.
        # TYPE agent_build_seconds summary
        agent_build_seconds_sum 1.25
        agent_build_seconds_count 1
        # HELP agent_gpu_idle_seconds_total GPU seconds for which a task had its GPUs and was not ready to run.
        # TYPE agent_gpu_idle_seconds_total counter
        agent_gpu_idle_seconds_total 1
        # HELP agent_poll_errors_total Looks at the queues that failed.
        # TYPE agent_poll_errors_total counter
        agent_poll_errors_total 1
        # HELP agent_tasks_taken_total tasks taken.
        # TYPE agent_tasks_taken_total counter
        agent_tasks_taken_total 3
        "#);
        metrics.queues([]);
        assert!(!metrics.render().contains("agent_queue_length{"));
    }
}

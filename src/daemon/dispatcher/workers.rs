//! Workers of runs beside each other that the server still lists when their runs are over: a server that was away did not
//! hear of the end, a daemon that was killed did not tell. The server forgets them by itself after minutes; until then
//! people see a worker that is none. Only those of services are told of later: their names are one task's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Dispatcher;
use crate::clearml::ApiError;
use crate::daemon::worker::Worker;

/// Whether the server may list such workers.
#[derive(Debug, Clone)]
pub(super) struct Stale(Arc<AtomicBool>);

impl Stale {
    /// What an earlier process left is not known.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Tells the server that a worker is gone; where it does not hear, it is told later.
    pub(super) async fn unregister(&self, worker: &Worker, id: &str) {
        if worker.unregister(id).await.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// What the server lists, where that is of interest.
    pub(super) async fn listed(&self, worker: &Worker) -> Result<Vec<String>, ApiError> {
        if !self.0.swap(false, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let listed = worker.listed().await;
        if listed.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
        listed
    }

    pub(super) fn later(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// Tells the server that workers of ours are gone that it lists and that run nothing. `left` are workers of runs that
    /// go on and that nobody attends.
    pub(super) fn unregister_stale(&mut self, listed: Vec<String>, left: &BTreeSet<String>) {
        for id in self.stale_of(listed, left) {
            let (stale, worker) = (self.looks.stale.clone(), self.desk.worker.clone());
            self.errands.spawn(async move { stale.unregister(&worker, &id).await });
        }
    }

    fn stale_of(&self, listed: Vec<String>, left: &BTreeSet<String>) -> Vec<String> {
        // Services have names that nobody else has. A worker that is named by its GPUs may be another daemon's.
        let services = format!("{}:service:", self.desk.worker.id());
        let beside = |it: &String| it.starts_with(&services);
        let runs = |it: &String| left.contains(it) || self.running.values().any(|running| running.job().worker == *it);
        listed.into_iter().filter(|it| beside(it) && !runs(it)).collect()
    }

    /// The same for the last time, where nothing runs any more.
    pub(super) async fn unregister_all(&mut self) {
        let (stale, worker) = (self.looks.stale.clone(), self.desk.worker.clone());
        let listed = stale.listed(&worker).await.unwrap_or_default();
        for id in self.stale_of(listed, &BTreeSet::new()) {
            stale.unregister(&worker, &id).await;
        }
        stale.unregister(&worker, worker.id()).await;
    }
}

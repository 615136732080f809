//! How many tasks run at once, and who gets which GPUs. Pure: nothing here asks the driver.

use std::collections::{BTreeMap, BTreeSet};

use super::allocate::{AllocateError, Pool};
use super::queues::{Fit, Queue};
use super::settings::Slots;
use super::work::Job;
use crate::gpu::{GpuDevice, GpuSet, Inventory};
use crate::run::RunId;

/// The places of a daemon.
#[derive(Debug, Clone)]
pub struct Places {
    slots: Slots,
    /// The daemon's worker id, and its name before the colon.
    worker: String,
    name: String,
    /// All GPUs there are for its tasks.
    gpus: GpuSet,
    /// Who has which of them, where they are shared.
    pool: Pool,
    taken: BTreeMap<RunId, GpuSet>,
    /// The workers that runs of ours have been.
    workers: BTreeSet<String>,
    /// Short names of GPUs that the driver lists no more.
    missing: Vec<String>,
}

impl Places {
    /// All free.
    ///
    /// # Errors
    /// GPUs are to be shared and there are none.
    pub fn new(slots: Slots, worker: &str, name: &str, gpus: GpuSet) -> Result<Self, AllocateError> {
        let (worker, name) = (worker.to_owned(), name.to_owned());
        let pool = if slots == Slots::Dynamic { Pool::new(&gpus)? } else { Pool::default() };
        let (taken, workers, missing) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Ok(Self { slots, worker, name, gpus, pool, taken, workers, missing })
    }

    /// Whether GPUs are shared among tasks.
    #[must_use]
    pub fn shares_gpus(&self) -> bool {
        self.slots == Slots::Dynamic
    }

    /// The pattern of the workers whose runs may have GPUs of ours.
    #[must_use]
    pub fn others(&self) -> String {
        format!("{}:gpu*", self.name)
    }

    /// Takes note of which GPUs are there, and of who else uses those that are shared: programs on them, and workers that the
    /// server lists.
    pub fn observe(&mut self, inventory: &Inventory, workers: &[String]) {
        self.missing = self.gpus.devices.iter().filter(|it| !inventory.has(it)).map(GpuDevice::short).collect();
        let prefix = format!("{}:gpu", self.name);
        let others = workers.iter().filter(|it| !self.workers.contains(*it));
        let devices = others.filter_map(|it| it.strip_prefix(&prefix)).flat_map(|it| it.split(','));
        self.pool.observe(inventory, &devices.map(|it| it.replace('.', ":")).collect());
    }

    /// Takes over what a copy of these places has observed; who has what is known better here.
    pub fn learn(&mut self, other: &Self) {
        self.missing.clone_from(&other.missing);
        if self.shares_gpus() {
            let mut pool = other.pool.clone();
            for run in other.taken.keys().filter(|it| !self.taken.contains_key(it)) {
                pool.release(run);
            }
            for (run, gpus) in &self.taken {
                let _ = pool.hold(run, gpus);
            }
            self.pool = pool;
        }
    }

    /// GPUs that the driver lists no more, by their short names. Without one of them a task for all would fail.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Whether no further task can start whatever it needs.
    #[must_use]
    pub fn full(&self) -> bool {
        match self.slots {
            Slots::One => !self.taken.is_empty(),
            Slots::Services(limit) => limit.is_some_and(|it| self.taken.len() >= it),
            // What others use may be free at the next look.
            Slots::Dynamic => self.ours() >= self.gpus.devices.len(),
        }
    }

    /// Whether a queue's next task would have what it needs.
    #[must_use]
    pub fn fit(&self, queue: &Queue) -> Fit {
        match self.slots {
            Slots::Dynamic => {
                let (least, free) = (range(queue).0, self.pool.free().len());
                if self.gpus.devices.len() < least {
                    Fit::Never
                } else if free + self.ours() < least {
                    Fit::Foreign
                } else if free < least {
                    Fit::Later
                } else {
                    Fit::Now
                }
            }
            _ if self.full() => Fit::Later,
            _ if !self.missing.is_empty() => Fit::Foreign,
            _ => Fit::Now,
        }
    }

    /// What a task of a queue that fits would get: as which worker it runs, with which GPUs.
    #[must_use]
    pub fn offer(&self, run: RunId, task: &str, queue: &Queue) -> Job {
        let (worker, gpus) = match self.slots {
            Slots::One => (self.worker.clone(), self.gpus.clone()),
            Slots::Services(_) => (format!("{}:service:{task}", self.worker), GpuSet::default()),
            Slots::Dynamic => {
                let devices: Vec<_> = self.pool.free().into_iter().take(range(queue).1).cloned().collect();
                let names: Vec<String> = devices.iter().map(|it| it.short().replace(':', ".")).collect();
                (format!("{}:gpu{}", self.name, names.join(",")), GpuSet { devices })
            }
        };
        Job { run, task: task.to_owned(), queue: Some(queue.id.clone()), worker, gpus }
    }

    /// Notes that a run has its place: one that was offered it, or that an earlier process started.
    pub fn hold(&mut self, job: &Job) {
        // Devices that are not the worker's any more, or another run's: it has them all the same.
        let _ = self.shares_gpus() && self.pool.hold(&job.run, &job.gpus);
        self.workers.insert(job.worker.clone());
        self.taken.insert(job.run.clone(), job.gpus.clone());
    }

    /// Whether a run is one of this daemon's: by the worker it runs as.
    #[must_use]
    pub fn owns(&self, worker: &str) -> bool {
        let below = |prefix: String| worker.starts_with(&prefix);
        match self.slots {
            Slots::One => worker == self.worker,
            Slots::Services(_) => worker == self.worker || below(format!("{}:service:", self.worker)),
            Slots::Dynamic => {
                let ours = |it: &str| self.gpus.devices.iter().any(|device| device.short().replace(':', ".") == it);
                let gpus = worker.strip_prefix(&format!("{}:gpu", self.name));
                worker == self.worker || gpus.is_some_and(|it| it.split(',').all(ours))
            }
        }
    }

    /// Frees a run's place.
    pub fn leave(&mut self, run: &RunId) {
        self.taken.remove(run);
        self.pool.release(run);
    }

    /// How many GPUs runs of ours have.
    fn ours(&self) -> usize {
        self.taken.values().map(|it| it.devices.len()).sum()
    }

    /// The GPUs nobody uses.
    #[must_use]
    pub fn free(&self) -> Vec<&GpuDevice> {
        self.pool.free()
    }

    /// The GPUs nobody uses, for the worker's property `available_gpus`.
    #[must_use]
    pub fn available(&self) -> String {
        self.pool.available()
    }
}

/// How many GPUs a queue's tasks get: least and most.
fn range(queue: &Queue) -> (usize, usize) {
    let (least, most) = queue.gpus.unwrap_or((1, 1));
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
    (usize::try_from(least).unwrap_or(usize::MAX).max(1), most)
}

#[cfg(test)]
mod tests;

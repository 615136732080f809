//! How many tasks run at once, and who gets which GPUs. Pure: nothing here asks the driver.

use std::collections::BTreeMap;

use super::queues::{Fit, Queue};
use super::settings::Slots;
use super::work::Job;
use crate::gpu::{GpuDevice, GpuSet};
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
    /// GPUs that programs of others use.
    foreign: Vec<String>,
    taken: BTreeMap<RunId, GpuSet>,
}

impl Places {
    /// All free.
    #[must_use]
    pub fn new(slots: Slots, worker: &str, name: &str, gpus: GpuSet) -> Self {
        let (worker, name) = (worker.to_owned(), name.to_owned());
        Self { slots, worker, name, gpus, foreign: Vec::new(), taken: BTreeMap::new() }
    }

    /// Whether no further task can start whatever it needs.
    #[must_use]
    pub fn full(&self) -> bool {
        match self.slots {
            Slots::One => !self.taken.is_empty(),
            Slots::Services(limit) => limit.is_some_and(|it| self.taken.len() >= it),
            Slots::Dynamic => self.free().next().is_none(),
        }
    }

    /// Notes which devices programs of others use (ids as [`GpuDevice::id`] gives them): they are not handed out.
    pub fn occupied_by_others(&mut self, devices: Vec<String>) {
        self.foreign = devices;
    }

    /// Whether a queue's next task would have what it needs.
    #[must_use]
    pub fn fit(&self, queue: &Queue) -> Fit {
        match self.slots {
            Slots::Dynamic => {
                let least = range(queue).0;
                if self.gpus.devices.len() < least {
                    Fit::Never
                } else if self.free().count() < least {
                    Fit::Later
                } else {
                    Fit::Now
                }
            }
            _ if self.full() => Fit::Later,
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
                let devices: Vec<GpuDevice> = self.free().take(range(queue).1).cloned().collect();
                let names: Vec<String> = devices.iter().map(|it| it.short().replace(':', ".")).collect();
                (format!("{}:gpu{}", self.name, names.join(",")), GpuSet { devices })
            }
        };
        Job { run, task: task.to_owned(), queue: Some(queue.id.clone()), worker, gpus }
    }

    /// Notes that a run has its place: one that was offered it, or that an earlier process started.
    pub fn hold(&mut self, job: &Job) {
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
    }

    /// The GPUs nobody uses, as the worker's property `available_gpus` has them: `index_fraction`, comma-separated.
    #[must_use]
    pub fn available(&self) -> String {
        self.free().map(|it| format!("{}_1", it.short())).collect::<Vec<_>>().join(",")
    }

    fn free(&self) -> impl Iterator<Item = &GpuDevice> {
        let taken = |it: &&GpuDevice| {
            let ours = self.taken.values().any(|set| set.devices.iter().any(|other| other.id() == it.id()));
            ours || self.foreign.iter().any(|other| other == it.id())
        };
        self.gpus.devices.iter().filter(move |it| !taken(it))
    }
}

/// How many GPUs a queue's tasks get: least and most.
fn range(queue: &Queue) -> (usize, usize) {
    let (least, most) = queue.gpus.unwrap_or((1, 1));
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
    (usize::try_from(least).unwrap_or(usize::MAX).max(1), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(count: u32) -> GpuSet {
        let device = |index| GpuDevice { index, uuid: format!("GPU-{index}"), instance: None };
        GpuSet { devices: (0..count).map(device).collect() }
    }

    fn queue(gpus: Option<(u32, u32)>) -> Queue {
        Queue { id: "q".to_owned(), name: "queue".to_owned(), gpus }
    }

    fn take(places: &mut Places, queue: &Queue) -> Job {
        let job = places.offer(RunId::new().unwrap(), "t", queue);
        places.hold(&job);
        job
    }

    #[test]
    fn one_place_has_all_gpus() {
        let mut places = Places::new(Slots::One, "vm:gpu0,1", "vm", gpus(2));
        assert_eq!((places.full(), places.fit(&queue(None))), (false, Fit::Now));
        let job = take(&mut places, &queue(None));
        assert_eq!((job.worker.as_str(), job.gpus.devices.len()), ("vm:gpu0,1", 2));
        assert_eq!((places.full(), places.fit(&queue(None))), (true, Fit::Later));
        places.leave(&job.run);
        assert!(!places.full());
    }

    #[test]
    fn services_have_workers_of_their_own_and_a_limit() {
        let mut places = Places::new(Slots::Services(Some(2)), "vm:cpu:0", "vm", gpus(1));
        let job = take(&mut places, &queue(None));
        assert_eq!((job.worker.as_str(), job.gpus.is_empty()), ("vm:cpu:0:service:t", true));
        assert!(!places.full());
        take(&mut places, &queue(None));
        assert!(places.full());
        let mut any = Places::new(Slots::Services(None), "w", "w", gpus(0));
        for _ in 0..100 {
            take(&mut any, &queue(None));
        }
        assert!(!any.full());
    }

    #[test]
    fn dynamic_places_share_the_gpus_by_least_and_most() {
        let mut places = Places::new(Slots::Dynamic, "vm:dgpu0,1,2,3", "vm", gpus(4));
        let (small, large, huge) = (queue(Some((1, 1))), queue(Some((2, 4))), queue(Some((5, 8))));
        assert_eq!([&small, &large, &huge].map(|it| places.fit(it)), [Fit::Now, Fit::Now, Fit::Never]);
        let one = take(&mut places, &small);
        assert_eq!((one.worker.as_str(), places.available().as_str()), ("vm:gpu0", "1_1,2_1,3_1"));
        let three = take(&mut places, &large);
        assert_eq!(three.worker, "vm:gpu1,2,3");
        assert!(places.full());
        places.leave(&one.run);
        assert_eq!([&small, &large].map(|it| places.fit(it)), [Fit::Now, Fit::Later]);
        places.occupied_by_others(vec!["GPU-0".to_owned()]);
        assert_eq!((places.fit(&small), places.available().as_str()), (Fit::Later, ""));
    }

    #[test]
    fn runs_of_an_earlier_process_are_known_by_their_worker() {
        let one = Places::new(Slots::One, "vm:0", "vm", gpus(1));
        assert!(one.owns("vm:0") && !one.owns("vm:01") && !one.owns("vm:0:service:t"));
        let services = Places::new(Slots::Services(None), "vm:cpu:0", "vm", gpus(0));
        assert!(services.owns("vm:cpu:0:service:t") && !services.owns("vm:cpu:1:service:t"));
        let dynamic = Places::new(Slots::Dynamic, "vm:dgpu0,1", "vm", gpus(2));
        assert!(dynamic.owns("vm:gpu1") && dynamic.owns("vm:gpu0,1") && !dynamic.owns("vm:gpu1,2"));
    }
}

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::daemon::queues::{Seen, Turn, choose};
use crate::gpu::Gpu;

fn gpus(count: u32) -> GpuSet {
    let device = |index| GpuDevice { index, uuid: format!("GPU-{index}"), instance: None };
    GpuSet { devices: (0..count).map(device).collect() }
}

fn inventory(count: u32, busy: &[u32]) -> Inventory {
    let gpu = |index: u32| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "G".to_owned(),
        brand: None,
        minor: None,
        memory_total: None,
        memory_used: None,
        compute_capability: None,
        utilization: None,
        temperature: None,
        processes: if busy.contains(&index) { vec![7] } else { Vec::new() },
        mig: false,
        instances: Vec::new(),
    };
    Inventory {
        driver: "1".to_owned(),
        cuda: "12.4".to_owned(),
        devices: (0..count).map(gpu).collect(),
        lost: Vec::new(),
    }
}

fn queue(gpus: Option<(u32, u32)>) -> Queue {
    Queue { id: "q".to_owned(), name: "queue".to_owned(), gpus, named: false }
}

fn take(places: &mut Places, queue: &Queue) -> Job {
    let job = places.offer(RunId::new().unwrap(), "t", queue);
    places.hold(&job);
    job
}

#[test]
fn one_place_has_all_gpus() {
    let mut places = Places::new(Slots::One, "vm:gpu0,1", "vm", gpus(2)).unwrap();
    assert_eq!((places.full(), places.fit(&queue(None))), (false, Fit::Now));
    let job = take(&mut places, &queue(None));
    assert_eq!((job.worker.as_str(), job.gpus.devices.len()), ("vm:gpu0,1", 2));
    assert_eq!((places.full(), places.fit(&queue(None))), (true, Fit::Later));
    places.leave(&job.run);
    assert!(!places.full());
}

#[test]
fn a_place_whose_gpus_are_not_all_there_waits_for_them() {
    let mut places = Places::new(Slots::One, "vm:gpu0,1,2", "vm", gpus(3)).unwrap();
    let mut copy = places.clone();
    copy.observe(&inventory(2, &[0]), &[]);
    places.learn(&copy);
    assert_eq!((places.fit(&queue(None)), places.missing()), (Fit::Foreign, &["2".to_owned()][..]));
    copy.observe(&inventory(3, &[0]), &[]);
    places.learn(&copy);
    assert_eq!((places.fit(&queue(None)), places.missing()), (Fit::Now, &[][..]), "programs on them are not looked at");
}

#[test]
fn services_have_workers_of_their_own_and_a_limit() {
    let mut places = Places::new(Slots::Services(Some(2)), "vm:cpu:0", "vm", gpus(1)).unwrap();
    let job = take(&mut places, &queue(None));
    assert_eq!((job.worker.as_str(), job.gpus.is_empty()), ("vm:cpu:0:service:t", true));
    assert!(!places.full());
    take(&mut places, &queue(None));
    assert!(places.full());
    let mut any = Places::new(Slots::Services(None), "w", "w", gpus(0)).unwrap();
    for _ in 0..100 {
        take(&mut any, &queue(None));
    }
    assert!(!any.full());
}

#[test]
fn dynamic_places_share_the_gpus_by_least_and_most() {
    let mut places = Places::new(Slots::Dynamic, "vm:dgpu0,1,2,3", "vm", gpus(4)).unwrap();
    let (small, large, huge) = (queue(Some((1, 1))), queue(Some((2, 4))), queue(Some((5, 8))));
    assert_eq!([&small, &large, &huge].map(|it| places.fit(it)), [Fit::Now, Fit::Now, Fit::Never]);
    let one = take(&mut places, &small);
    assert_eq!((one.worker.as_str(), places.available().as_str()), ("vm:gpu0", "1_,2_,3_"));
    let three = take(&mut places, &large);
    assert_eq!(three.worker, "vm:gpu1,2,3");
    assert!(places.full());
    places.leave(&one.run);
    assert_eq!([&small, &large].map(|it| places.fit(it)), [Fit::Now, Fit::Later]);
    // Somebody else's worker, then somebody else's program, on the one that is free.
    let mut copy = places.clone();
    copy.observe(&inventory(4, &[1, 2, 3]), &["vm:gpu0".to_owned(), "vm:gpu1,2,3".to_owned()]);
    assert_eq!(copy.fit(&small), Fit::Now, "workers that were ours are not others");
    for (busy, workers) in [(vec![], vec!["vm:gpu0".to_owned()]), (vec![0], vec![])] {
        let mut fresh = Places::new(Slots::Dynamic, "vm:dgpu0,1,2,3", "vm", gpus(4)).unwrap();
        fresh.observe(&inventory(4, &busy), &workers);
        assert_eq!(fresh.available(), "1_,2_,3_");
    }
    copy.observe(&inventory(4, &[0]), &[]);
    places.learn(&copy);
    assert_eq!((places.fit(&small), places.available().as_str()), (Fit::Later, ""));
    places.leave(&three.run);
    assert_eq!([&small, &queue(Some((4, 4)))].map(|it| places.fit(it)), [Fit::Now, Fit::Foreign]);
}

#[test]
fn runs_of_an_earlier_process_are_known_by_their_worker() {
    let one = Places::new(Slots::One, "vm:0", "vm", gpus(1)).unwrap();
    assert!(one.owns("vm:0") && !one.owns("vm:01") && !one.owns("vm:0:service:t"));
    let services = Places::new(Slots::Services(None), "vm:cpu:0", "vm", gpus(0)).unwrap();
    assert!(services.owns("vm:cpu:0:service:t") && !services.owns("vm:cpu:1:service:t"));
    let dynamic = Places::new(Slots::Dynamic, "vm:dgpu0,1", "vm", gpus(2)).unwrap();
    assert!(dynamic.owns("vm:gpu1") && dynamic.owns("vm:gpu0,1") && !dynamic.owns("vm:gpu1,2"));
}

/// What happens in a daemon's life.
#[derive(Debug, Clone)]
enum Event {
    Serve,
    End(usize),
    Arrive(usize),
    Strangers(Vec<u32>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Serve),
        2 => (0_usize..8).prop_map(Event::End),
        3 => (0_usize..4).prop_map(Event::Arrive),
        1 => vec(0_u32..8, 0..4).prop_map(Event::Strangers),
    ]
}

fn shares() -> impl Strategy<Value = Vec<(u32, u32)>> {
    vec((1_u32..6, 0_u32..4).prop_map(|(least, more)| (least, least + more)), 1..5)
}

/// What came of a look at the queues.
#[derive(Debug, PartialEq)]
enum Served {
    /// A queue's task got these.
    Took(usize, Vec<u32>),
    /// Something waits for what our own runs have.
    Waits,
    /// Nothing waits that could be served.
    Idle,
}

/// A daemon without anything but its places, which decides as the dispatcher does.
struct Daemon {
    places: Places,
    queues: Vec<Queue>,
    waiting: Vec<usize>,
    turn: Turn,
    running: Vec<Job>,
    strangers: Vec<u32>,
}

impl Daemon {
    fn new(count: u32, shares: &[(u32, u32)], fair: bool) -> Self {
        Self {
            places: Places::new(Slots::Dynamic, "vm:dgpu", "vm", gpus(count)).unwrap(),
            queues: shares.iter().map(|it| queue(Some(*it))).collect(),
            waiting: vec![0; shares.len()],
            turn: Turn::new(fair),
            running: Vec::new(),
            strangers: Vec::new(),
        }
    }

    fn held(&self) -> Vec<u32> {
        self.running.iter().flat_map(|it| &it.gpus.devices).map(|it| it.index).collect()
    }

    fn observe(&mut self) {
        let busy: Vec<u32> = self.strangers.iter().copied().chain(self.held()).collect();
        self.places.observe(&inventory(8, &busy), &[]);
    }

    fn serve(&mut self) -> Served {
        self.observe();
        let seen = |count: &usize| Some(Seen { tags: Vec::new(), entries: vec!["t".to_owned(); *count] });
        let seen: Vec<_> = self.waiting.iter().map(seen).collect();
        let fits: Vec<Fit> = self.queues.iter().map(|it| self.places.fit(it)).collect();
        let Some(chosen) = choose(&seen, |_| true, &fits, self.turn) else {
            let waits = self.waiting.iter().zip(&fits).any(|it| *it.0 > 0 && *it.1 == Fit::Later);
            return if waits { Served::Waits } else { Served::Idle };
        };
        let job = take(&mut self.places, &self.queues[chosen]);
        self.turn.served(chosen);
        self.waiting[chosen] -= 1;
        let given = job.gpus.devices.iter().map(|it| it.index).collect();
        self.running.push(job);
        Served::Took(chosen, given)
    }

    fn end(&mut self, which: usize) {
        if !self.running.is_empty() {
            let job = self.running.remove(which % self.running.len());
            self.places.leave(&job.run);
        }
    }
}

#[test]
fn a_queue_gets_its_most_or_what_is_free_and_keeps_what_is_free_for_its_least() {
    let mut daemon = Daemon::new(4, &[(1, 3), (1, 1)], false);
    daemon.waiting = vec![5, 5];
    assert_eq!(daemon.serve(), Served::Took(0, vec![0, 1, 2]));
    assert_eq!(daemon.serve(), Served::Took(0, vec![3]));
    assert_eq!(daemon.serve(), Served::Waits);
    let mut daemon = Daemon::new(4, &[(4, 4), (1, 1)], false);
    daemon.waiting = vec![0, 1];
    assert_eq!(daemon.serve(), Served::Took(1, vec![0]));
    daemon.waiting = vec![1, 9];
    assert_eq!(daemon.serve(), Served::Waits);
    // But what waits for strangers keeps nobody waiting, nor does what nobody can serve.
    daemon.strangers = vec![2];
    assert_eq!(daemon.serve(), Served::Took(1, vec![1]));
    let mut daemon = Daemon::new(4, &[(5, 5), (1, 1)], false);
    daemon.waiting = vec![1, 9];
    assert_eq!(daemon.serve(), Served::Took(1, vec![0]));
}

proptest! {
    #[test]
    fn no_device_is_given_twice_and_all_come_back(
        count in 1_u32..8, shares in shares(), fair in any::<bool>(), events in vec(event(), 1..60),
    ) {
        let mut daemon = Daemon::new(count, &shares, fair);
        for event in events {
            match event {
                Event::Serve => {
                    if let Served::Took(queue, gpus) = daemon.serve() {
                        let given = u32::try_from(gpus.len()).unwrap();
                        prop_assert!(shares[queue].0 <= given && given <= shares[queue].1);
                        prop_assert!(gpus.iter().all(|it| !daemon.strangers.contains(it)));
                    }
                }
                Event::End(which) => daemon.end(which),
                Event::Arrive(queue) => daemon.waiting[queue % shares.len()] += 1,
                // Nobody starts on a device that a run of ours has.
                Event::Strangers(them) => {
                    let held = daemon.held();
                    daemon.strangers = them.into_iter().filter(|it| !held.contains(it)).collect();
                }
            }
            let mut given = daemon.held();
            given.sort_unstable();
            let whole = given.len();
            given.dedup();
            prop_assert_eq!(given.len(), whole, "given twice");
            prop_assert!(given.iter().all(|it| *it < count));
        }
        while !daemon.running.is_empty() {
            daemon.end(0);
        }
        daemon.strangers.clear();
        daemon.observe();
        prop_assert_eq!(daemon.places.free().len(), count as usize);
    }

    #[test]
    fn a_queue_that_fits_is_served_within_its_turn(count in 1_u32..8, shares in shares(), busy in 0_usize..8) {
        // Every queue always has work; runs end one after another. Each queue that fits is served before any other has
        // been served more often than there are queues in a round.
        let mut daemon = Daemon::new(count, &shares, true);
        let fits: Vec<usize> = (0..shares.len()).filter(|it| shares[*it].0 <= count).collect();
        if fits.is_empty() {
            return Ok(());
        }
        let mut served = vec![0_usize; shares.len()];
        let rounds = 6 * (shares.len() + busy) * (count as usize + 1);
        for _ in 0..rounds {
            daemon.waiting.fill(1);
            match daemon.serve() {
                Served::Took(queue, _) => served[queue] += 1,
                Served::Waits => daemon.end(busy),
                Served::Idle => prop_assert!(false, "a queue that fits was passed over"),
            }
        }
        let counts: Vec<usize> = fits.iter().map(|it| served[*it]).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(*least > 0 && most - least <= 1, "{counts:?}");
    }

    #[test]
    fn the_first_queue_is_served_as_soon_as_it_can_be(count in 1_u32..8, shares in shares(), which in 0_usize..8) {
        let mut daemon = Daemon::new(count, &shares, false);
        let Some(first) = (0..shares.len()).find(|it| shares[*it].0 <= count) else { return Ok(()) };
        // Others fill the worker, then the first queue has a task: nothing else is served before it.
        daemon.waiting.fill(9);
        daemon.waiting[first] = 0;
        while matches!(daemon.serve(), Served::Took(..)) {}
        daemon.waiting[first] = 1;
        loop {
            match daemon.serve() {
                Served::Took(queue, _) => {
                    prop_assert_eq!(queue, first);
                    break;
                }
                Served::Waits => daemon.end(which),
                Served::Idle => prop_assert!(false, "passed over"),
            }
        }
    }
}

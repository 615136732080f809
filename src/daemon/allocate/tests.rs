use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::gpu::{Gpu, GpuInstance, MigInstance};

fn device(index: u32) -> GpuDevice {
    GpuDevice { index, uuid: format!("GPU-{index}"), instance: None }
}

fn set(indices: impl IntoIterator<Item = u32>) -> GpuSet {
    GpuSet { devices: indices.into_iter().map(device).collect() }
}

fn pool(count: u32) -> Pool {
    Pool::new(&set(0..count)).unwrap()
}

fn run(number: u32) -> RunId {
    format!("{number:032x}").parse().unwrap()
}

fn demand(share: &str, waiting: usize) -> Demand {
    Demand { share: share.parse().unwrap(), waiting }
}

fn inventory(busy: &[(u32, &[u32])], count: u32) -> Inventory {
    let gpu = |index: u32| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: String::new(),
        brand: None,
        minor: Some(index),
        memory_total: None,
        memory_used: None,
        compute_capability: None,
        utilization: None,
        temperature: None,
        processes: busy.iter().filter(|it| it.0 == index).flat_map(|it| it.1.to_vec()).collect(),
        mig: false,
        instances: Vec::new(),
    };
    Inventory { driver: String::new(), cuda: String::new(), devices: (0..count).map(gpu).collect() }
}

fn take(queue: usize, indices: impl IntoIterator<Item = u32>) -> Next {
    Next::Take { queue, gpus: set(indices) }
}

#[test]
fn shares_are_numbers_or_ranges_of_whole_gpus() {
    assert_eq!("2".parse(), Ok(Share { least: 2, most: 2 }));
    assert_eq!("1-4".parse(), Ok(Share { least: 1, most: 4 }));
    let refused = |text: &str| text.parse::<Share>().unwrap_err().to_string();
    insta::assert_snapshot!(refused("0.5"), @"queue share `0.5`: parts of a GPU are not given, whole GPUs and MIG instances are");
    insta::assert_snapshot!(refused("0.5-1"), @"queue share `0.5-1`: parts of a GPU are not given, whole GPUs and MIG instances are");
    insta::assert_snapshot!(refused("0"), @"queue share `0` is neither a number of GPUs nor a range of such: a task gets at least one");
    insta::assert_snapshot!(refused("4-1"), @"queue share `4-1` is neither a number of GPUs nor a range of such: it ends before it begins");
    insta::assert_snapshot!(refused("x"), @"queue share `x` is neither a number of GPUs nor a range of such: it is not a whole number");
}

#[test]
fn the_queue_of_highest_priority_gets_its_most_or_what_is_free() {
    let mut pool = pool(4);
    let queues = [demand("1-3", 5), demand("1", 5)];
    assert_eq!(pool.next(&queues, Order::Priority), take(0, 0..3));
    assert!(pool.hold(&run(1), &set(0..3)));
    assert_eq!(pool.next(&queues, Order::Priority), take(0, [3]));
    assert_eq!(pool.available(), "3_");
    assert!(pool.hold(&run(2), &set([3])));
    assert_eq!(pool.next(&queues, Order::Priority), Next::Wait { queue: 0, lacking: 1 });
    pool.release(&run(1));
    assert_eq!(pool.available(), "0_,1_,2_");
    assert_eq!(pool.next(&[demand("4", 0), demand("1", 0)], Order::Priority), Next::Idle);
}

#[test]
fn a_large_task_is_not_kept_out_by_small_ones() {
    let mut pool = pool(4);
    assert!(pool.hold(&run(1), &set([0])));
    let queues = [demand("4", 1), demand("1", 9)];
    assert_eq!(pool.next(&queues, Order::Priority), Next::Wait { queue: 0, lacking: 1 });
    // But what nobody can serve, and what waits for strangers, keeps nobody waiting.
    assert_eq!(pool.next(&[demand("5", 1), demand("1", 9)], Order::Priority), take(1, [1]));
    pool.observe(&inventory(&[(2, &[77])], 4), &BTreeSet::new());
    assert_eq!(pool.next(&queues, Order::Priority), take(1, [1]));
}

#[test]
fn queues_take_turns_when_asked_to() {
    let pool = pool(2);
    let queues = [demand("1", 9), demand("2", 0), demand("1", 9)];
    assert_eq!(pool.next(&queues, Order::Turns(None)), take(0, [0]));
    assert_eq!(pool.next(&queues, Order::Turns(Some(0))), take(2, [0]));
    assert_eq!(pool.next(&queues, Order::Turns(Some(2))), take(0, [0]));
}

#[test]
fn devices_that_others_use_are_not_given() {
    let mut pool = pool(4);
    assert!(pool.hold(&run(1), &set([0])));
    // Programs on 0 are our run's; 1 is a stranger's, 3 another worker's.
    let seen = inventory(&[(0, &[10]), (1, &[11])], 4);
    pool.observe(&seen, &["3".to_owned()].into());
    assert_eq!(pool.available(), "2_");
    // What our run left running keeps its device until it is gone.
    pool.release(&run(1));
    pool.observe(&seen, &BTreeSet::new());
    assert_eq!(pool.available(), "2_,3_");
    pool.observe(&inventory(&[], 4), &BTreeSet::new());
    assert_eq!(pool.available(), "0_,1_,2_,3_");
    // A device that fell off the bus serves nobody.
    pool.observe(&inventory(&[], 3), &BTreeSet::new());
    assert_eq!(pool.available(), "0_,1_,2_");
}

#[test]
fn instances_are_devices_of_their_own() {
    let part =
        |index: u32| GpuDevice { instance: Some(GpuInstance { index, uuid: format!("MIG-{index}") }), ..device(0) };
    let mut pool = Pool::new(&GpuSet { devices: vec![part(1), part(0), device(1)] }).unwrap();
    let mut seen = inventory(&[(0, &[5])], 2);
    let instance = |index: u32, processes: &[u32]| MigInstance {
        index,
        uuid: format!("MIG-{index}"),
        name: None,
        memory_total: None,
        processes: processes.to_vec(),
    };
    seen.devices[0].mig = true;
    seen.devices[0].instances = vec![instance(0, &[]), instance(1, &[5])];
    assert_eq!(pool.available(), "0:0_,0:1_,1_");
    pool.observe(&seen, &BTreeSet::new());
    assert_eq!(pool.available(), "0:0_,1_");
}

#[test]
fn what_can_never_be_served_is_refused_at_once() {
    assert_eq!(
        pool(2).check("big", "3-4".parse().unwrap()).unwrap_err().to_string(),
        "queue `big` asks for at least 3 GPUs for a task, and this worker has 2"
    );
    assert!(pool(2).check("fits", "1-4".parse().unwrap()).is_ok());
    assert_eq!(Pool::new(&GpuSet::default()).unwrap_err(), AllocateError::NoDevices);
}

#[test]
fn devices_of_another_run_or_worker_are_not_held() {
    let mut pool = pool(2);
    assert!(pool.hold(&run(1), &set([0])));
    let before = pool.clone();
    assert!(!pool.hold(&run(2), &set([0, 1])));
    assert!(!pool.hold(&run(2), &set([7])));
    assert_eq!(pool, before);
    // The same run again: what was journalled and may have happened is repeated safely.
    assert!(pool.hold(&run(1), &set([0])));
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

fn shares() -> impl Strategy<Value = Vec<Share>> {
    vec((1_u32..6, 0_u32..4).prop_map(|(least, more)| Share { least, most: least + more }), 1..5)
}

/// A daemon without anything but its pool.
struct Daemon {
    pool: Pool,
    demands: Vec<Demand>,
    running: Vec<(RunId, GpuSet)>,
    strangers: Vec<u32>,
    started: u32,
}

impl Daemon {
    fn new(count: u32, shares: &[Share]) -> Self {
        let demands = shares.iter().map(|it| Demand { share: *it, waiting: 0 }).collect();
        Self { pool: pool(count), demands, running: Vec::new(), strangers: Vec::new(), started: 0 }
    }

    fn observe(&mut self) {
        let mut busy: Vec<(u32, &[u32])> = self.strangers.iter().map(|it| (*it, &[1][..])).collect();
        busy.extend(self.running.iter().flat_map(|it| &it.1.devices).map(|it| (it.index, &[2][..])));
        self.pool.observe(&inventory(&busy, 8), &BTreeSet::new());
    }

    /// The queue that was served.
    fn serve(&mut self, order: Order) -> Next {
        self.observe();
        let next = self.pool.next(&self.demands, order);
        if let Next::Take { queue, gpus } = &next {
            self.started += 1;
            let id = run(self.started);
            assert!(self.pool.hold(&id, gpus));
            self.demands[*queue].waiting -= 1;
            self.running.push((id, gpus.clone()));
        }
        next
    }

    fn end(&mut self, which: usize) {
        if !self.running.is_empty() {
            let (id, _) = self.running.remove(which % self.running.len());
            self.pool.release(&id);
        }
    }
}

proptest! {
    #[test]
    fn no_device_is_given_twice_and_all_come_back(
        count in 1_u32..8, shares in shares(), turns in any::<bool>(), events in vec(event(), 1..60),
    ) {
        let mut daemon = Daemon::new(count, &shares);
        let mut last = None;
        for event in events {
            match event {
                Event::Serve => {
                    let order = if turns { Order::Turns(last) } else { Order::Priority };
                    if let Next::Take { queue, gpus } = daemon.serve(order) {
                        last = Some(queue);
                        let given = u32::try_from(gpus.devices.len()).unwrap();
                        prop_assert!(shares[queue].least <= given && given <= shares[queue].most);
                        prop_assert!(gpus.devices.iter().all(|it| !daemon.strangers.contains(&it.index)));
                    }
                }
                Event::End(which) => daemon.end(which),
                Event::Arrive(queue) => daemon.demands[queue % shares.len()].waiting += 1,
                // Nobody starts on a device that a run of ours has.
                Event::Strangers(them) => {
                    let held: Vec<u32> = daemon.running.iter().flat_map(|it| &it.1.devices).map(|it| it.index).collect();
                    daemon.strangers = them.into_iter().filter(|it| !held.contains(it)).collect();
                }
            }
            let mut given: Vec<u32> = daemon.running.iter().flat_map(|it| &it.1.devices).map(|it| it.index).collect();
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
        prop_assert_eq!(daemon.pool.free().len(), count as usize);
    }

    #[test]
    fn a_queue_that_fits_is_served_within_its_turn(count in 1_u32..8, shares in shares(), busy in 0_usize..8) {
        // Every queue always has work; runs end one after another. Each queue that fits is served before any other has
        // been served more often than there are queues in a round.
        let mut daemon = Daemon::new(count, &shares);
        let fits: Vec<usize> = (0..shares.len()).filter(|it| shares[*it].least <= count).collect();
        prop_assume!(!fits.is_empty());
        let mut served = vec![0_usize; shares.len()];
        let mut last = None;
        let rounds = 6 * (shares.len() + busy) * (count as usize + 1);
        for _ in 0..rounds {
            for demand in &mut daemon.demands {
                demand.waiting = 1;
            }
            match daemon.serve(Order::Turns(last)) {
                Next::Take { queue, .. } => {
                    served[queue] += 1;
                    last = Some(queue);
                }
                Next::Wait { queue, lacking } => {
                    prop_assert!(lacking > 0 && shares[queue].least <= count);
                    daemon.end(busy);
                }
                Next::Idle => prop_assert!(false, "a queue that fits was passed over"),
            }
        }
        let counts: Vec<usize> = fits.iter().map(|it| served[*it]).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(*least > 0 && most - least <= 1, "{counts:?}");
    }

    #[test]
    fn the_first_queue_is_served_as_soon_as_it_can_be(count in 1_u32..8, shares in shares(), which in 0_usize..8) {
        let mut daemon = Daemon::new(count, &shares);
        let Some(first) = (0..shares.len()).find(|it| shares[*it].least <= count) else { return Ok(()) };
        // Others fill the worker, then the first queue has a task: nothing else is served before it.
        for demand in &mut daemon.demands {
            demand.waiting = 9;
        }
        daemon.demands[first].waiting = 0;
        while matches!(daemon.serve(Order::Priority), Next::Take { .. }) {}
        daemon.demands[first].waiting = 1;
        loop {
            match daemon.serve(Order::Priority) {
                Next::Take { queue, .. } => {
                    prop_assert_eq!(queue, first);
                    break;
                }
                Next::Wait { queue, .. } => {
                    prop_assert_eq!(queue, first);
                    daemon.end(which);
                }
                Next::Idle => prop_assert!(false, "passed over"),
            }
        }
    }
}

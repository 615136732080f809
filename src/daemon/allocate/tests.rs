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
    Inventory { driver: String::new(), cuda: String::new(), devices: (0..count).map(gpu).collect(), lost: Vec::new() }
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
fn without_devices_there_is_nothing_to_share() {
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

use super::*;

fn gpu(index: u32, instances: Option<u32>) -> Gpu {
    let instance = |number| MigInstance {
        index: number,
        uuid: format!("MIG-{index}{number}cafe"),
        name: None,
        memory_total: None,
        processes: Vec::new(),
    };
    Gpu {
        index,
        uuid: format!("GPU-{index}beef"),
        name: "NVIDIA H100".to_owned(),
        brand: None,
        minor: Some(index),
        memory_total: None,
        memory_used: None,
        compute_capability: None,
        utilization: None,
        temperature: None,
        processes: Vec::new(),
        mig: instances.is_some(),
        instances: (0..instances.unwrap_or(0)).map(instance).collect(),
    }
}

/// Two whole devices, one with three instances, one without any.
fn machine() -> Discovery {
    Discovery::Found(Inventory {
        driver: "550.54.14".to_owned(),
        cuda: "12.4".to_owned(),
        devices: vec![gpu(0, None), gpu(1, None), gpu(2, Some(3)), gpu(3, Some(0))],
        lost: Vec::new(),
    })
}

fn names(ask: &str) -> Result<Vec<String>, String> {
    let set = ask.parse().and_then(|ask| resolve(&ask, &machine())).map_err(|it| it.to_string())?;
    Ok(set.devices.iter().map(GpuDevice::short).collect())
}

fn refused(ask: &str) -> String {
    names(ask).unwrap_err()
}

#[test]
fn lists_ranges_instances_and_uuids_mean_devices_in_the_order_they_were_named() {
    for (ask, expected) in [
        ("0", vec!["0"]),
        ("1,0", vec!["1", "0"]),
        ("0-1", vec!["0", "1"]),
        (" 1 , 2:0 ", vec!["1", "2:0"]),
        ("2.1", vec!["2:1"]),
        ("2:0-1,0", vec!["2:0", "2:1", "0"]),
        ("2", vec!["2:0", "2:1", "2:2"]),
        ("0-2", vec!["0", "1", "2:0", "2:1", "2:2"]),
        ("GPU-1beef", vec!["1"]),
        ("GPU-1", vec!["1"]),
        ("MIG-22cafe,GPU-0beef", vec!["2:2", "0"]),
        ("GPU-2beef", vec!["2:0", "2:1", "2:2"]),
        ("ALL", vec!["0", "1", "2:0", "2:1", "2:2"]),
        ("none", vec![]),
    ] {
        assert_eq!(names(ask).unwrap(), expected, "{ask}");
    }
}

#[test]
fn what_cannot_be_had_is_named_with_what_there_is() {
    insta::assert_snapshot!(refused("4"), @"there is no GPU `4`: there are 0, 1, 2 and 3");
    insta::assert_snapshot!(refused("0-2,4"), @"there is no GPU `4`: there are 0, 1, 2 and 3");
    insta::assert_snapshot!(refused("2:7"), @"there is no GPU `2:7`: there are 2:0, 2:1 and 2:2");
    insta::assert_snapshot!(refused("0:1"), @"there is no GPU `0:1`: there is no instance: GPU 0 is not partitioned (MIG)");
    insta::assert_snapshot!(refused("3"), @"GPU 3 is partitioned (MIG) and has no instance: nothing can run on it");
    insta::assert_snapshot!(refused("3:0"), @"there is no GPU `3:0`: there is no instance");
    insta::assert_snapshot!(refused("GPU-9"), @"there is no GPU `GPU-9`: there are GPU-0beef, GPU-1beef, GPU-2beef, GPU-3beef, MIG-20cafe, MIG-21cafe and MIG-22cafe");
    insta::assert_snapshot!(refused("MIG-2"), @"GPU `MIG-2` may be any of MIG-20cafe, MIG-21cafe, MIG-22cafe");
}

#[test]
fn one_device_twice_is_refused_whatever_its_spellings() {
    insta::assert_snapshot!(refused("0,0"), @"GPU 0 is asked for twice: as `0` and as `0`");
    insta::assert_snapshot!(refused("1,GPU-1"), @"GPU 1 is asked for twice: as `1` and as `GPU-1`");
    insta::assert_snapshot!(refused("2,2:1"), @"GPU 2:1 is asked for twice: as `2` and as `2:1`");
}

#[test]
fn what_cannot_be_read_is_told_with_the_reason() {
    for (ask, reason) in [
        ("", "an item is empty"),
        ("0,,1", "an item is empty"),
        ("x", "`x` is no index, range, instance or UUID"),
        ("-1", "`-1` is no index, range, instance or UUID"),
        ("0:", "`0:` is no index, range, instance or UUID"),
        ("0.5.1", "`0.5.1` is no index, range, instance or UUID"),
        ("3-1", "`3-1` ends before it begins"),
        ("0-99999999", "`0-99999999` has more than 4096 devices"),
        ("0,all", "`all` stands alone"),
    ] {
        assert_eq!(refused(ask), format!("GPUs `{ask}` cannot be read: {reason}"));
    }
}

#[test]
fn without_a_driver_only_what_was_asked_for_is_missed() {
    let none = Discovery::NoDriver("no NVIDIA driver on this machine".to_owned());
    let set = |ask: &Ask| resolve(ask, &none).map(|it| it.devices.len()).map_err(|it| it.to_string());
    assert_eq!((set(&Ask::Unsaid), set(&Ask::None)), (Ok(0), Ok(0)));
    insta::assert_snapshot!(set(&Ask::All).unwrap_err(), @"GPUs `all` are asked for and cannot be had: no NVIDIA driver on this machine");
    insta::assert_snapshot!(set(&Ask::These(vec!["0".to_owned()])).unwrap_err(), @"GPUs `0` are asked for and cannot be had: no NVIDIA driver on this machine");
    let empty = Discovery::Found(Inventory {
        driver: String::new(),
        cuda: String::new(),
        devices: Vec::new(),
        lost: Vec::new(),
    });
    assert!(resolve(&Ask::Unsaid, &empty).unwrap().is_empty());
    assert!(matches!(resolve(&Ask::All, &empty), Err(GpuError::NoDevices { .. })));
}

#[test]
fn a_set_has_the_spellings_of_workers_and_of_containers() {
    let set = resolve(&"0,2:1".parse().unwrap(), &machine()).unwrap();
    assert_eq!(set.worker_part(), "gpu0,2.1");
    assert_eq!(set.visible_devices(), "GPU-0beef,MIG-21cafe");
    assert_eq!(GpuSet::default().worker_part(), "cpu");
    assert_eq!(GpuSet::default().visible_devices(), "void");
}

#[test]
fn one_that_is_lost_is_named_so_and_left_out_of_all() {
    let lost = |index, instance| LostGpu { index, instance, reason: "it fell off the bus".to_owned() };
    let Discovery::Found(mut inventory) = machine() else { unreachable!() };
    inventory.lost = vec![lost(2, Some(3)), lost(4, None)];
    let found = Discovery::Found(inventory.clone());
    let refused = |ask: &str| resolve(&ask.parse().unwrap(), &found).unwrap_err().to_string();
    assert_eq!(refused("0,4"), "GPU 4 is lost: it fell off the bus");
    assert_eq!(refused("4:0"), "GPU 4 is lost: it fell off the bus");
    assert_eq!(refused("2:3"), "GPU 2:3 is lost: it fell off the bus");
    assert!(refused("5").starts_with("there is no GPU `5`: there are 0, 1"), "{}", refused("5"));
    assert!(refused("GPU-5").ends_with(", and lost: 2:3, 4"), "{}", refused("GPU-5"));
    assert_eq!(resolve(&Ask::All, &found).unwrap().devices.len(), 5);
    let all_lost = Discovery::Found(Inventory { devices: Vec::new(), ..inventory });
    assert!(matches!(resolve(&Ask::All, &all_lost), Err(GpuError::Lost { .. })));
    assert!(resolve(&Ask::Unsaid, &all_lost).unwrap().is_empty());
}

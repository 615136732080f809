//! What is rarely asked for, in Podman's words; and limits of resources.

use serde_json::{Map, Value, json};

use super::{ContainerSpec, namespace};

/// The period of CPU quotas, in microseconds.
const PERIOD: u64 = 100_000;

/// Adds it to a request; what Podman does not take is named.
pub(super) fn fill(spec: &ContainerSpec, set: &mut dyn FnMut(&str, Value)) -> Result<(), String> {
    refuse(spec)?;
    set("volumes_from", json!(spec.volumes_from));
    set("expose", expose(spec)?);
    if spec.publish_all {
        set("publish_image_ports", json!(true));
    }
    set("dns_server", json!(spec.dns));
    set("dns_option", json!(spec.dns_options));
    set("dns_search", json!(spec.dns_search));
    set("sysctl", json!(spec.sysctls));
    set("annotations", json!(spec.annotations));
    set("storage_opts", json!(spec.storage));
    if spec.log_driver.is_some() || !spec.log_options.is_empty() {
        set("log_configuration", json!({"driver": spec.log_driver, "options": spec.log_options}));
    }
    set("cgroup_parent", json!(spec.cgroup_parent));
    set("cgroupns", spec.cgroupns.as_deref().map_or(Value::Null, namespace));
    set("userns", spec.userns.as_deref().map_or(Value::Null, namespace));
    set("utsns", spec.uts.as_deref().map_or(Value::Null, namespace));
    if spec.unmasked {
        set("unmask", json!(["ALL"]));
    }
    if let Some(health) = &spec.health {
        let mut check = Map::new();
        for (name, value) in [
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("Retries", health.retries),
            ("StartPeriod", health.start_period),
        ] {
            check.extend(value.map(|it| (name.to_owned(), json!(it))));
        }
        if !health.test.is_empty() {
            check.insert("Test".to_owned(), json!(health.test));
        }
        set("healthconfig", check.into());
    }
    set("oom_score_adj", json!(spec.limits.oom_score));
    let weights = spec.limits.io_weights.iter().map(|(path, weight)| (path.clone(), json!({ "weight": weight })));
    set("weightDevice", weights.collect::<Map<_, _>>().into());
    for (name, rates) in [
        ("throttleReadBpsDevice", &spec.limits.read_bytes),
        ("throttleWriteBpsDevice", &spec.limits.write_bytes),
        ("throttleReadIOPSDevice", &spec.limits.reads),
        ("throttleWriteIOPSDevice", &spec.limits.writes),
    ] {
        let rates = rates.iter().map(|(path, rate)| (path.clone(), json!({ "rate": rate })));
        set(name, rates.collect::<Map<_, _>>().into());
    }
    Ok(())
}

/// Names what cannot be asked of Podman this way; whoever makes a container of switches has refused it before.
fn refuse(spec: &ContainerSpec) -> Result<(), String> {
    let lacks = [
        (!spec.links.is_empty(), "--link"),
        (spec.domain.is_some(), "--domainname"),
        (spec.volume_driver.is_some(), "--volume-driver"),
        (!spec.device_cgroup_rules.is_empty(), "--device-cgroup-rule"),
        (!spec.attachment.link_local.is_empty(), "--link-local-ip"),
        (spec.health.as_ref().is_some_and(|it| it.start_interval.is_some()), "--health-start-interval"),
    ];
    match lacks.into_iter().find(|it| it.0) {
        Some((_, switch)) => Err(format!("`{switch}` cannot be asked of Podman")),
        None => Ok(()),
    }
}

fn expose(spec: &ContainerSpec) -> Result<Value, String> {
    let mut ports = Map::new();
    for text in &spec.exposed {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        port.parse::<u16>().map_err(|_| format!("`{text}` is no port"))?;
        ports.insert(port.to_owned(), json!(protocol));
    }
    Ok(ports.into())
}

/// Limits of memory, CPUs, processes and block I/O.
pub(super) fn limits(spec: &ContainerSpec) -> Value {
    let asked = &spec.limits;
    let filled = |pairs: Vec<(&str, Option<Value>)>| -> Map<String, Value> {
        pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    };
    // As much swap as memory, as Docker gives.
    let swap = asked.memory_swap.map(|it| json!(it)).or_else(|| spec.memory.map(|it| json!(it.saturating_mul(2))));
    let memory = filled(vec![
        ("limit", spec.memory.map(|it| json!(it))),
        ("swap", swap),
        ("reservation", asked.memory_reservation.map(|it| json!(it))),
        ("swappiness", asked.swappiness.map(|it| json!(it))),
        ("disableOOMKiller", asked.never_oom_killed.map(|it| json!(it))),
    ]);
    let nano = spec.nano_cpus.map(|it| json!(u128::from(it) * u128::from(PERIOD) / 1_000_000_000));
    let cpu = filled(vec![
        ("shares", asked.cpu_shares.map(|it| json!(it))),
        ("period", asked.cpu_period.map(|it| json!(it)).or_else(|| spec.nano_cpus.map(|_| json!(PERIOD)))),
        ("quota", asked.cpu_quota.map(|it| json!(it)).or(nano)),
        ("realtimePeriod", asked.realtime_period.map(|it| json!(it))),
        ("realtimeRuntime", asked.realtime_runtime.map(|it| json!(it))),
        ("cpus", spec.cpuset.as_ref().map(|it| json!(it))),
        ("mems", asked.cpuset_mems.as_ref().map(|it| json!(it))),
    ]);
    let groups = [
        ("memory", memory),
        ("cpu", cpu),
        ("pids", filled(vec![("limit", asked.pids.map(|it| json!(it)))])),
        ("blockIO", filled(vec![("weight", asked.io_weight.map(|it| json!(it)))])),
    ];
    let groups = groups.into_iter().filter(|it| !it.1.is_empty());
    groups.map(|(name, it)| (name.to_owned(), Value::from(it))).collect::<Map<_, _>>().into()
}

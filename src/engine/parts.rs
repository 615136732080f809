//! What of a container is rarely asked for: limits of resources, how it is attached to its network, its health.

use std::collections::BTreeMap;

use bollard::models;

use super::spec::{ContainerSpec, filled};

/// Limits of resources besides memory and CPUs; empty and `None` mean the engine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap together, in bytes; -1 for any.
    pub memory_swap: Option<i64>,
    /// Memory it is pushed back to when memory is short, in bytes.
    pub memory_reservation: Option<u64>,
    /// How readily its memory is swapped, 0 to 100.
    pub swappiness: Option<i64>,
    /// Relative weight of its CPU time.
    pub cpu_shares: Option<i64>,
    /// Length of a CPU period, in microseconds.
    pub cpu_period: Option<i64>,
    /// CPU time in a period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// Length of a real-time period, in microseconds.
    pub realtime_period: Option<i64>,
    /// Real-time CPU time in a period, in microseconds.
    pub realtime_runtime: Option<i64>,
    /// Memory nodes it may use, `0-1`.
    pub cpuset_mems: Option<String>,
    /// Number of processes; -1 for any.
    pub pids: Option<i64>,
    /// Relative weight of its block I/O.
    pub io_weight: Option<u16>,
    /// The same for devices: path, weight.
    pub io_weights: Vec<(String, u16)>,
    /// Bytes read in a second: path of the device, number.
    pub read_bytes: Vec<(String, u64)>,
    /// Bytes written in a second.
    pub write_bytes: Vec<(String, u64)>,
    /// Reads in a second.
    pub reads: Vec<(String, u64)>,
    /// Writes in a second.
    pub writes: Vec<(String, u64)>,
    /// How readily the kernel ends it for memory, -1000 to 1000.
    pub oom_score: Option<i64>,
    /// Whether the kernel may not end it for memory.
    pub never_oom_killed: Option<bool>,
}

/// How a container is attached to its network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Further names in the network.
    pub aliases: Vec<String>,
    /// Its IPv4 address.
    pub ipv4: Option<String>,
    /// Its IPv6 address.
    pub ipv6: Option<String>,
    /// Link-local addresses.
    pub link_local: Vec<String>,
    /// Its MAC address.
    pub mac: Option<String>,
}

/// How an engine tells whether a container is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `["NONE"]` for no check, `["CMD-SHELL", command]`; empty: the image's own.
    pub test: Vec<String>,
    /// Nanoseconds between checks.
    pub interval: Option<i64>,
    /// Nanoseconds a check may take.
    pub timeout: Option<i64>,
    /// Failures in a row until it is unwell.
    pub retries: Option<i64>,
    /// Nanoseconds at the beginning in which failures do not count.
    pub start_period: Option<i64>,
    /// Nanoseconds between checks at the beginning.
    pub start_interval: Option<i64>,
}

impl Limits {
    pub(super) fn fill(&self, host: &mut models::HostConfig) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let throttle = |list: &[(String, u64)]| {
            let device = |(path, rate): &(String, u64)| models::ThrottleDevice {
                path: Some(path.clone()),
                rate: Some(signed(*rate)),
            };
            filled(list.iter().map(device).collect())
        };
        let weight = |(path, weight): &(String, u16)| models::ResourcesBlkioWeightDevice {
            path: Some(path.clone()),
            weight: Some((*weight).into()),
        };
        host.memory_swap = self.memory_swap;
        host.memory_reservation = self.memory_reservation.map(signed);
        host.memory_swappiness = self.swappiness;
        host.cpu_shares = self.cpu_shares;
        host.cpu_period = self.cpu_period;
        host.cpu_quota = self.cpu_quota;
        host.cpu_realtime_period = self.realtime_period;
        host.cpu_realtime_runtime = self.realtime_runtime;
        host.cpuset_mems.clone_from(&self.cpuset_mems);
        host.pids_limit = self.pids;
        host.blkio_weight = self.io_weight;
        host.blkio_weight_device = filled(self.io_weights.iter().map(weight).collect());
        host.blkio_device_read_bps = throttle(&self.read_bytes);
        host.blkio_device_write_bps = throttle(&self.write_bytes);
        host.blkio_device_read_iops = throttle(&self.reads);
        host.blkio_device_write_iops = throttle(&self.writes);
        host.oom_score_adj = self.oom_score;
        host.oom_kill_disable = self.never_oom_killed;
    }
}

/// The rest of what the engine's machine decides: names, networks, volumes, what is shown of the kernel.
pub(super) fn fill(spec: &ContainerSpec, host: &mut models::HostConfig) {
    let map = |it: &BTreeMap<String, String>| (!it.is_empty()).then(|| it.clone().into_iter().collect());
    spec.limits.fill(host);
    host.annotations = map(&spec.annotations);
    host.cgroup_parent.clone_from(&spec.cgroup_parent);
    host.cgroupns_mode = spec.cgroupns.as_deref().map(|it| match it {
        "host" => models::HostConfigCgroupnsModeEnum::HOST,
        "private" => models::HostConfigCgroupnsModeEnum::PRIVATE,
        _ => models::HostConfigCgroupnsModeEnum::EMPTY,
    });
    host.device_cgroup_rules = filled(spec.device_cgroup_rules.clone());
    host.dns = filled(spec.dns.clone());
    host.dns_options = filled(spec.dns_options.clone());
    host.dns_search = filled(spec.dns_search.clone());
    host.links = filled(spec.links.clone());
    if spec.log_driver.is_some() || !spec.log_options.is_empty() {
        let config = spec.log_options.clone().into_iter().collect();
        host.log_config = Some(models::HostConfigLogConfig { typ: spec.log_driver.clone(), config: Some(config) });
    }
    host.publish_all_ports = spec.publish_all.then_some(true);
    host.storage_opt = map(&spec.storage);
    host.sysctls = map(&spec.sysctls);
    host.userns_mode.clone_from(&spec.userns);
    host.uts_mode.clone_from(&spec.uts);
    host.volume_driver.clone_from(&spec.volume_driver);
    host.volumes_from = filled(spec.volumes_from.clone());
    if spec.unmasked {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
}

/// How it is attached, if anything is asked of that.
pub(super) fn networking(spec: &ContainerSpec) -> Option<models::NetworkingConfig> {
    let asked = &spec.attachment;
    if *asked == Attachment::default() {
        return None;
    }
    let addresses = asked.ipv4.is_some() || asked.ipv6.is_some() || !asked.link_local.is_empty();
    let endpoint = models::EndpointSettings {
        aliases: filled(asked.aliases.clone()),
        mac_address: asked.mac.clone(),
        ipam_config: addresses.then(|| models::EndpointIpamConfig {
            ipv4_address: asked.ipv4.clone(),
            ipv6_address: asked.ipv6.clone(),
            link_local_ips: filled(asked.link_local.clone()),
        }),
        ..models::EndpointSettings::default()
    };
    let network = spec.network.clone().unwrap_or_else(|| "default".to_owned());
    Some(models::NetworkingConfig { endpoints_config: Some([(network, endpoint)].into_iter().collect()) })
}

/// How it is told whether it is well.
pub(super) fn health(health: &Health) -> models::HealthConfig {
    models::HealthConfig {
        test: filled(health.test.clone()),
        interval: health.interval,
        timeout: health.timeout,
        retries: health.retries,
        start_period: health.start_period,
        start_interval: health.start_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::body;

    #[test]
    fn what_was_asked_stands_in_the_request_and_nothing_else() {
        let none = serde_json::to_value(body(&ContainerSpec::default())).unwrap();
        for absent in ["Sysctls", "Dns", "MemorySwap", "LogConfig", "MaskedPaths", "PidsLimit", "CgroupnsMode"] {
            assert!(none["HostConfig"].get(absent).is_none(), "{absent}");
        }
        assert!(none.get("NetworkingConfig").is_none() && none.get("Healthcheck").is_none());
        let spec = ContainerSpec {
            network: Some("lab".to_owned()),
            attachment: Attachment { ipv4: Some("10.0.0.7".to_owned()), ..Attachment::default() },
            sysctls: [("net.core.somaxconn".to_owned(), "1024".to_owned())].into(),
            limits: Limits { memory_swap: Some(-1), reads: vec![("/dev/sda".to_owned(), 7)], ..Limits::default() },
            cgroupns: Some("host".to_owned()),
            log_driver: Some("none".to_owned()),
            health: Some(Health { test: vec!["NONE".to_owned()], ..Health::default() }),
            volumes: vec!["/scratch".to_owned()],
            unmasked: true,
            ..ContainerSpec::default()
        };
        let asked = serde_json::to_value(body(&spec)).unwrap();
        let host = &asked["HostConfig"];
        assert_eq!(asked["NetworkingConfig"]["EndpointsConfig"]["lab"]["IPAMConfig"]["IPv4Address"], "10.0.0.7");
        assert_eq!((&host["Sysctls"]["net.core.somaxconn"], &host["MemorySwap"]), (&"1024".into(), &(-1).into()));
        assert_eq!(host["BlkioDeviceReadIOps"][0]["Rate"], 7);
        assert_eq!((&host["CgroupnsMode"], &host["LogConfig"]["Type"]), (&"host".into(), &"none".into()));
        assert_eq!(host["MaskedPaths"], serde_json::json!([]));
        assert_eq!(asked["Healthcheck"]["Test"][0], "NONE");
        assert!(asked["Volumes"].to_string().contains("/scratch"));
    }
}

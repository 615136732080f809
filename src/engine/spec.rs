//! What a container is made of, and how an engine is told.

use std::collections::BTreeMap;

use bollard::models;

use super::parts::{self, Attachment, Health, Limits};
use crate::secret::Secret;

/// What a container is made of. Empty and `None` mean the image's or the engine's own default.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Name or id of the image; it must be there.
    pub image: String,
    /// The container's name.
    pub name: Option<String>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Environment; values may be secrets and go through the API only.
    pub env: BTreeMap<String, Secret>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Directories and files of the engine's machine.
    pub binds: Vec<Bind>,
    /// Temporary file systems: mount point, then options.
    pub tmpfs: BTreeMap<String, String>,
    /// `host`, `none`, `bridge`, a network's name.
    pub network: Option<String>,
    /// `uid[:gid]` or a name.
    pub user: Option<String>,
    /// Absolute working directory.
    pub directory: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Lines for `/etc/hosts`, `name:address`.
    pub extra_hosts: Vec<String>,
    /// Published ports: container port (`8080/tcp`), then address (may be empty) and port of the host.
    pub ports: BTreeMap<String, Vec<(String, String)>>,
    /// `host` and the like.
    pub ipc: Option<String>,
    /// `host`, `container:ID`.
    pub pid: Option<String>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPU limit in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// CPUs it may use, `0-3`.
    pub cpuset: Option<String>,
    /// Resource limits: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Security options.
    pub security: Vec<String>,
    /// Groups to join.
    pub groups: Vec<String>,
    /// Whether it has all privileges.
    pub privileged: bool,
    /// Whether its root is read-only.
    pub read_only: bool,
    /// Whether the engine's own init is PID 1.
    pub init: Option<bool>,
    /// OCI runtime, `nvidia`.
    pub runtime: Option<String>,
    /// Devices: path on the host, path in the container, permissions.
    pub devices: Vec<(String, String, String)>,
    /// GPUs and other devices that a driver of the engine provides.
    pub device_requests: Vec<DeviceRequest>,
    /// Seconds between TERM and KILL when it is stopped.
    pub stop_timeout: Option<u32>,
    /// Further options of binds by their target: `z`, `rshared`, `nocopy`.
    pub bind_options: BTreeMap<String, Vec<String>>,
    /// Volumes without a name, by their target.
    pub volumes: Vec<String>,
    /// What makes volumes that are not there.
    pub volume_driver: Option<String>,
    /// Containers whose volumes it has too.
    pub volumes_from: Vec<String>,
    /// Further limits.
    pub limits: Limits,
    /// How it is attached to its network.
    pub attachment: Attachment,
    /// How it is told whether it is well; absent: as the image says.
    pub health: Option<Health>,
    /// Ports that are told and not published, `80/tcp`.
    pub exposed: Vec<String>,
    /// Whether every port that is told is published.
    pub publish_all: bool,
    /// Older links to other containers, `name:alias`.
    pub links: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// Domains that names are looked for in.
    pub dns_search: Vec<String>,
    /// Domain name.
    pub domain: Option<String>,
    /// Kernel settings of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Annotations for the OCI runtime.
    pub annotations: BTreeMap<String, String>,
    /// Options of its storage.
    pub storage: BTreeMap<String, String>,
    /// Where the engine keeps its output.
    pub log_driver: Option<String>,
    /// Options of that.
    pub log_options: BTreeMap<String, String>,
    /// Rules for devices, `c 81:* rmw`.
    pub device_cgroup_rules: Vec<String>,
    /// The control group it lies in.
    pub cgroup_parent: Option<String>,
    /// `host`, `private`.
    pub cgroupns: Option<String>,
    /// `host`, or Podman's own.
    pub userns: Option<String>,
    /// `host`.
    pub uts: Option<String>,
    /// Whether all of `/proc` and `/sys` is shown.
    pub unmasked: bool,
}

/// A directory or file of the engine's machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Absolute path on the engine's machine, or a volume's name.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Devices that a driver of the engine provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// `nvidia`, `cdi`; empty for whichever has the capabilities.
    pub driver: String,
    /// Device ids, indices, or CDI names. Empty asks for all.
    pub ids: Vec<String>,
    /// `["gpu"]`.
    pub capabilities: Vec<String>,
}

/// The request that creates it.
pub(super) fn body(spec: &ContainerSpec) -> models::ContainerCreateBody {
    let env = spec.env.iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect();
    models::ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        env: Some(env),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.directory.clone(),
        domainname: spec.domain.clone(),
        exposed_ports: filled(spec.ports.keys().chain(&spec.exposed).cloned().collect()),
        volumes: filled(spec.volumes.clone()),
        healthcheck: spec.health.as_ref().map(parts::health),
        networking_config: parts::networking(spec),
        labels: Some(spec.labels.clone().into_iter().collect()),
        stop_timeout: spec.stop_timeout.map(i64::from),
        host_config: Some(host_config(spec)),
        ..models::ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec) -> models::HostConfig {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let ulimit = |(name, soft, hard): &(String, i64, i64)| models::ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(*soft),
        hard: Some(*hard),
    };
    let device = |(host, inside, access): &(String, String, String)| models::DeviceMapping {
        path_on_host: Some(host.clone()),
        path_in_container: Some(inside.clone()),
        cgroup_permissions: Some(access.clone()),
    };
    let mut host = models::HostConfig {
        binds: filled(spec.binds.iter().map(|it| bind(spec, it)).collect()),
        tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
        network_mode: spec.network.clone(),
        extra_hosts: filled(spec.extra_hosts.clone()),
        port_bindings: Some(ports(spec)),
        ipc_mode: spec.ipc.clone(),
        pid_mode: spec.pid.clone(),
        shm_size: spec.shm_size.map(signed),
        memory: spec.memory.map(signed),
        nano_cpus: spec.nano_cpus.map(signed),
        cpuset_cpus: spec.cpuset.clone(),
        ulimits: filled(spec.ulimits.iter().map(ulimit).collect()),
        cap_add: filled(spec.cap_add.clone()),
        cap_drop: filled(spec.cap_drop.clone()),
        security_opt: filled(spec.security.clone()),
        group_add: filled(spec.groups.clone()),
        privileged: Some(spec.privileged),
        readonly_rootfs: Some(spec.read_only),
        init: spec.init,
        runtime: spec.runtime.clone(),
        devices: filled(spec.devices.iter().map(device).collect()),
        device_requests: filled(spec.device_requests.iter().map(device_request).collect()),
        ..models::HostConfig::default()
    };
    parts::fill(spec, &mut host);
    host
}

fn bind(spec: &ContainerSpec, bind: &Bind) -> String {
    let further = spec.bind_options.get(&bind.target).into_iter().flatten().map(String::as_str);
    let options: Vec<&str> = bind.read_only.then_some("ro").into_iter().chain(further).collect();
    let colon = if options.is_empty() { "" } else { ":" };
    format!("{}:{}{colon}{}", bind.source, bind.target, options.join(","))
}

fn ports(spec: &ContainerSpec) -> models::PortMap {
    let binding = |(address, port): &(String, String)| models::PortBinding {
        host_ip: Some(address.clone()).filter(|it| !it.is_empty()),
        host_port: Some(port.clone()),
    };
    spec.ports.iter().map(|(inside, outside)| (inside.clone(), Some(outside.iter().map(binding).collect()))).collect()
}

fn device_request(ask: &DeviceRequest) -> models::DeviceRequest {
    models::DeviceRequest {
        driver: Some(ask.driver.clone()),
        count: ask.ids.is_empty().then_some(-1),
        device_ids: filled(ask.ids.clone()),
        capabilities: filled(ask.capabilities.clone()).map(|it| vec![it]),
        options: None,
    }
}

pub(super) fn filled<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_left_to_the_engine() {
        let json = serde_json::to_value(body(&ContainerSpec { image: "x".to_owned(), ..ContainerSpec::default() }));
        let json = json.unwrap();
        for absent in ["Entrypoint", "Cmd", "User", "WorkingDir"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        assert!(json["HostConfig"].get("DeviceRequests").is_none());
    }

    #[test]
    fn secrets_reach_the_engine_and_no_debug_output() {
        let mut spec = ContainerSpec { image: "x".to_owned(), ..ContainerSpec::default() };
        spec.env.insert("KEY".to_owned(), Secret::new("hush"));
        assert_eq!(body(&spec).env.unwrap(), ["KEY=hush"]);
        assert!(!format!("{spec:?}").contains("hush"));
    }

    #[test]
    fn all_gpus_are_a_count_and_some_are_a_list() {
        let ask = |ids: &[&str]| DeviceRequest {
            driver: "nvidia".to_owned(),
            ids: ids.iter().map(ToString::to_string).collect(),
            capabilities: vec!["gpu".to_owned()],
        };
        assert_eq!(device_request(&ask(&[])).count, Some(-1));
        let two = device_request(&ask(&["0", "GPU-1"]));
        assert_eq!((two.count, two.device_ids.unwrap().len()), (None, 2));
    }
}

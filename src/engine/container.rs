//! Containers of a Docker engine: created, started, listened to, waited for, stopped, found again by label.

use std::collections::{BTreeMap, HashMap};

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::models;
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, InspectContainerOptions, KillContainerOptions,
    ListContainersOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
    WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};

use super::{Docker, EngineError};
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

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChunk {
    /// Of its standard output.
    Out(Bytes),
    /// Of its standard error.
    Err(Bytes),
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs now.
    pub running: bool,
    /// Its exit code, once it has run and ended.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// The engine's own words on why it did not start.
    pub error: Option<String>,
}

impl Docker {
    /// Creates a container and tells its id.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a missing image, a taken name, a device that is not there.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let options = CreateContainerOptions { name: spec.name.clone(), ..CreateContainerOptions::default() };
        let created = self
            .client
            .create_container(Some(options), body(spec))
            .await
            .map_err(|error| self.refused(&format!("create a container of `{}`", spec.image), error))?;
        Ok(created.id)
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when its program is missing or a device or mount cannot be had.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let started = self.client.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|error| self.refused("start the container", error))
    }

    /// Its output from the beginning, and on until it ends if `follow`.
    pub fn logs(&self, id: &str, follow: bool) -> impl Stream<Item = Result<LogChunk, EngineError>> + Send + use<> {
        let options = LogsOptions { follow, stdout: true, stderr: true, ..LogsOptions::default() };
        let this = self.clone();
        let chunks: std::pin::Pin<Box<dyn Stream<Item = Result<LogOutput, BollardError>> + Send>> =
            Box::pin(self.client.logs(id, Some(options)));
        chunks.map(move |chunk| match chunk {
            Ok(LogOutput::StdErr { message }) => Ok(LogChunk::Err(message)),
            Ok(other) => Ok(LogChunk::Out(other.into_bytes())),
            Err(error) => Err(this.refused("give the container's output", error)),
        })
    }

    /// Waits until it is not running and tells its exit code.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such container or the engine goes away.
    pub async fn wait(&self, id: &str) -> Result<i64, EngineError> {
        let mut answers = Box::pin(self.client.wait_container(id, None::<WaitContainerOptions>));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // bollard takes an exit code other than 0 for an error.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(self.refused("wait for the container", error)),
            None => {
                let state = self.state(id).await?;
                state.and_then(|it| it.exit_code).ok_or_else(|| EngineError::Answer {
                    endpoint: self.endpoint.clone(),
                    what: "wait".to_owned(),
                    detail: "no exit code".to_owned(),
                })
            }
        }
    }

    /// TERM, then KILL after `grace` seconds. One that is stopped or gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn stop(&self, id: &str, grace: u32) -> Result<(), EngineError> {
        let options = StopContainerOptions { t: i32::try_from(grace).ok(), signal: None };
        gone_is_done(self.client.stop_container(id, Some(options)).await)
            .map_err(|error| self.refused("stop the container", error))
    }

    /// Sends a signal (`SIGTERM`). One that does not run is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.client.kill_container(id, Some(options)).await {
            // 409: it is not running.
            Err(BollardError::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            other => gone_is_done(other).map_err(|error| self.refused("signal the container", error)),
        }
    }

    /// Removes it, running or not, with its anonymous volumes. One that is gone already is no error.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not do it.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        gone_is_done(self.client.remove_container(id, Some(options)).await)
            .map_err(|error| self.refused("remove the container", error))
    }

    /// How a container is, `None` when there is none of that id or name.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn state(&self, id: &str) -> Result<Option<ContainerState>, EngineError> {
        match self.client.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(state(found))),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.refused("inspect the container", error)),
        }
    }

    /// A tar of a path of a container, running or not; `None` when there is nothing. For small files.
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn copy_out(&self, id: &str, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut chunks = Box::pin(self.client.download_from_container(id, Some(options)));
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
                Err(error) => return Err(self.refused(&format!("copy `{path}`"), error)),
            }
        }
        Ok(Some(archive))
    }

    /// The containers, running or not, that carry a label (`key` or `key=value`).
    ///
    /// # Errors
    /// [`EngineError`] when the engine does not answer.
    pub async fn labelled(&self, label: &str) -> Result<Vec<ContainerState>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.refused("list its containers", error))?;
        let mut states = Vec::new();
        for id in listed.into_iter().filter_map(|it| it.id) {
            states.extend(self.state(&id).await?);
        }
        Ok(states)
    }
}

fn gone_is_done(result: Result<(), BollardError>) -> Result<(), BollardError> {
    match result {
        Err(BollardError::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        other => other,
    }
}

fn state(found: models::ContainerInspectResponse) -> ContainerState {
    let labels = found.config.and_then(|it| it.labels).unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let ended = state.finished_at.as_deref().is_some_and(|it| !it.starts_with("0001-"));
    let running = state.running.unwrap_or_default();
    ContainerState {
        id: found.id.unwrap_or_default(),
        labels: labels.into_iter().collect(),
        running,
        exit_code: state.exit_code.filter(|_| ended && !running),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.filter(|it| !it.is_empty()),
    }
}

fn body(spec: &ContainerSpec) -> models::ContainerCreateBody {
    let env = spec.env.iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect();
    models::ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        env: Some(env),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.directory.clone(),
        exposed_ports: filled(spec.ports.keys().cloned().collect()),
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
    models::HostConfig {
        binds: filled(spec.binds.iter().map(bind).collect()),
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
    }
}

fn bind(bind: &Bind) -> String {
    format!("{}:{}{}", bind.source, bind.target, if bind.read_only { ":ro" } else { "" })
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

fn filled<T>(list: Vec<T>) -> Option<Vec<T>> {
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

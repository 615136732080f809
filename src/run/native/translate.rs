//! What a container is asked to be, for a run without an engine: what can be had, and in words what cannot.

use std::collections::BTreeMap;
use std::path::Path;

use super::{NativeSpec, Room};
use crate::engine::ContainerSpec;
use crate::error::Failure;
use crate::gpu::cdi::ContainerEdits;
use crate::launch;
use crate::run::spec::RunSpec;
use crate::sandbox::{Bind, Limit};

/// What was asked for and cannot be had, each a sentence for people.
#[derive(Debug, Default)]
pub(super) struct Left(pub(super) Vec<String>);

/// The native form of a run; layers and configuration of its image are left to fill in.
pub(super) fn translate(spec: &RunSpec) -> Result<(NativeSpec, Left), Failure> {
    let asked = &spec.container;
    let (mut native, left) = of_container(asked);
    let mut left = Left(left);
    native.env.entry("AGENT_SPOOL".to_owned()).or_insert_with(|| launch::SPOOL.to_owned());
    if asked.hostname.is_none() {
        native.hostname = spec.id.as_str()[..12].to_owned();
    }
    native.name = format!("agent-{}", spec.id);
    let (edits, notes) = crate::gpu::cdi::edits(&spec.gpus)?;
    left.0.extend(notes);
    apply(&mut native, &edits);
    // These count over everything: a run sees the devices it was given.
    native.env.extend(spec.gpus.environment());
    Ok((native, left))
}

/// The native form of a container's settings, and what of them cannot be had, each a sentence for people.
#[must_use]
pub fn of_container(asked: &ContainerSpec) -> (NativeSpec, Vec<String>) {
    let mut left = Left::default();
    let env: BTreeMap<String, String> =
        asked.env.iter().map(|(name, it)| (name.clone(), it.reveal().to_owned())).collect();
    let native = NativeSpec {
        entrypoint: asked.entrypoint.clone(),
        arguments: asked.command.clone().unwrap_or_default(),
        env,
        user: asked.user.clone(),
        binds: binds(asked, &mut left),
        read_only: asked.read_only,
        hostname: asked.hostname.clone().unwrap_or_else(|| "agent".to_owned()),
        directory: asked.directory.clone(),
        groups: groups(asked, &mut left),
        offline: asked.network.as_deref() == Some("none"),
        tmpfs: asked.tmpfs.iter().map(|(path, options)| (path.clone(), options.clone())).collect(),
        shm: asked.shm_size,
        limits: asked.ulimits.iter().map(limit).collect(),
        room: Room {
            memory: asked.memory,
            nano_cpus: asked.nano_cpus,
            cpuset: asked.cpuset.clone(),
            pids: asked.limits.pids,
        },
        ..NativeSpec::default()
    };
    leave(asked, &mut left);
    (native, left.0)
}

/// Directories and files of this machine, devices among them.
fn binds(asked: &ContainerSpec, left: &mut Left) -> Vec<Bind> {
    let mut binds = Vec::new();
    for bind in &asked.binds {
        if !bind.source.starts_with('/') {
            left.0.push(format!("the volume `{}` means nothing without an engine", bind.source));
        } else if Path::new(&bind.source).exists() {
            let (source, target) = (bind.source.clone().into(), bind.target.clone());
            binds.push(Bind { source, target, writable: !bind.read_only });
        } else {
            left.0.push(format!("the run asks for `{}`, which is not here", bind.source));
        }
    }
    for (host, inside, _) in &asked.devices {
        if Path::new(host).exists() {
            let target = if inside.is_empty() { host.clone() } else { inside.clone() };
            binds.push(Bind { source: host.into(), target, writable: true });
        } else {
            left.0.push(format!("the run asks for the device `{host}`, which is not here"));
        }
    }
    binds
}

/// Further groups by number; names are the image's own business, which is not looked into for this.
fn groups(asked: &ContainerSpec, left: &mut Left) -> Vec<u32> {
    let mut numbers = Vec::new();
    for group in &asked.groups {
        match group.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => left.0.push(format!("the group `{group}` can be joined by its number only in a native run")),
        }
    }
    numbers
}

/// Below zero stands for none.
fn limit((name, soft, hard): &(String, i64, i64)) -> Limit {
    Limit { name: name.clone(), soft: u64::try_from(*soft).ok(), hard: u64::try_from(*hard).ok() }
}

/// Names what a native run does not do. Its network, processes and names are the host's without being asked.
fn leave(asked: &ContainerSpec, left: &mut Left) {
    let network = asked.network.as_deref().unwrap_or("host");
    let mut not = |there: bool, what: &str| {
        if there {
            left.0.push(format!("a native run does not have {what}"));
        }
    };
    not(!["host", "none", "bridge", "default"].contains(&network), &format!("the network `{network}`"));
    not(!asked.extra_hosts.is_empty(), "further host names (`--add-host`)");
    not(asked.pid.as_deref().is_some_and(|it| it != "private"), "others' processes (`--pid`)");
    not(asked.ipc.as_deref().is_some_and(|it| it.starts_with("container:")), "others' IPC (`--ipc`)");
    not(!asked.cap_add.is_empty(), "more capabilities (`--cap-add`)");
    not(asked.privileged, "all privileges (`--privileged`)");
    for id in asked.device_requests.iter().filter(|it| it.driver == "cdi").flat_map(|it| &it.ids) {
        not(true, &format!("the device `{id}`: it gives GPUs of NVIDIA and device files (`--device /dev/…`) alone"));
    }
    not(asked.runtime.as_deref().is_some_and(|it| it != "nvidia"), "another runtime (`--runtime`)");
}

/// Adds what GPUs take. What the run was given itself stays.
fn apply(native: &mut NativeSpec, edits: &ContainerEdits) {
    for node in &edits.device_nodes {
        native.binds.push(Bind { source: node.host_path.clone(), target: node.path.clone(), writable: true });
    }
    for mount in &edits.mounts {
        let (source, target) = (mount.source.clone(), mount.target.clone());
        native.binds.push(Bind { source, target, writable: !mount.read_only });
    }
    for (name, value) in &edits.env {
        native.env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    native.links.extend(edits.links.iter().map(|it| (it.path.clone(), it.target.clone())));
    native.libraries.extend(edits.library_directories.iter().cloned());
    native.groups.extend(edits.groups.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::gpu::GpuSet;
    use crate::gpu::cdi::{DeviceNode, Link, Mount};
    use crate::run::{RunId, RunImage};

    fn spec(container: ContainerSpec) -> RunSpec {
        RunSpec {
            id: RunId::new().unwrap(),
            image: RunImage { name: "x".to_owned(), manifest: Digest::of("m"), config: Digest::of("c") },
            container,
            gpus: GpuSet::default(),
            only_told_gpus: false,
            directory: std::env::temp_dir(),
        }
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let container = ContainerSpec {
            network: Some("team".to_owned()),
            privileged: true,
            binds: vec![
                crate::engine::Bind { source: "cache".to_owned(), target: "/c".to_owned(), read_only: false },
                crate::engine::Bind { source: "/no/such".to_owned(), target: "/d".to_owned(), read_only: false },
                crate::engine::Bind { source: "/tmp".to_owned(), target: "/e".to_owned(), read_only: true },
            ],
            ulimits: vec![("nofile".to_owned(), 1024, -1)],
            ..ContainerSpec::default()
        };
        let (native, Left(left)) = translate(&spec(container)).unwrap();
        assert_eq!(native.binds, [Bind { source: "/tmp".into(), target: "/e".to_owned(), writable: false }]);
        assert_eq!(native.limits, [Limit { name: "nofile".to_owned(), soft: Some(1024), hard: None }]);
        assert_eq!(native.env["NVIDIA_VISIBLE_DEVICES"], "void");
        for word in ["`cache`", "`/no/such`", "`team`", "--privileged"] {
            assert!(left.iter().any(|it| it.contains(word)), "{word} in {left:?}");
        }
        assert_eq!(left.len(), 4, "{left:?}");
    }

    #[test]
    fn gpus_come_as_devices_mounts_links_and_directories_of_libraries() {
        let mut native = NativeSpec::default();
        native.env.insert("A".to_owned(), "own".to_owned());
        let edits = ContainerEdits {
            device_nodes: vec![DeviceNode {
                path: "/dev/nvidia0".to_owned(),
                host_path: "/dev/nvidia3".into(),
                permissions: "rw".to_owned(),
            }],
            mounts: vec![Mount {
                source: "/lib/libcuda.so.1".into(),
                target: "/l/libcuda.so.1".to_owned(),
                read_only: true,
            }],
            env: [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())].into(),
            links: vec![Link { path: "/l/libcuda.so".to_owned(), target: "libcuda.so.1".to_owned() }],
            library_directories: vec!["/l".to_owned()],
            groups: vec![44],
        };
        apply(&mut native, &edits);
        assert_eq!(native.binds[0].target, "/dev/nvidia0");
        assert!(native.binds[0].writable && !native.binds[1].writable);
        assert_eq!((native.env["A"].as_str(), native.env["B"].as_str()), ("own", "2"));
        assert_eq!((native.links.len(), native.libraries.len(), native.groups.as_slice()), (1, 1, &[44][..]));
    }
}

//! A container as Podman's own API is told (`SpecGenerator`).

use serde_json::{Map, Value, json};

use super::ContainerSpec;

mod further;

/// The request that creates it; what Podman does not take is named.
pub(super) fn body(spec: &ContainerSpec) -> Result<Value, String> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            body.insert(name.to_owned(), value);
        }
    };
    set("image", json!(spec.image));
    set("name", json!(spec.name));
    set("entrypoint", json!(spec.entrypoint));
    set("command", json!(spec.command));
    set("env", spec.env.iter().map(|(name, it)| (name.clone(), json!(it.reveal()))).collect::<Map<_, _>>().into());
    set("labels", json!(spec.labels));
    let (mounts, volumes) = mounts(spec);
    set("mounts", mounts.into());
    set("volumes", volumes.into());
    if let Some(network) = &spec.network {
        match network.as_str() {
            "host" | "none" | "bridge" | "private" | "slirp4netns" | "pasta" => set("netns", namespace(network)),
            it if it.starts_with("container:") || it.starts_with("ns:") => set("netns", namespace(network)),
            "default" => {}
            name => {
                set("netns", json!({"nsmode": "bridge"}));
                set("networks", json!({ name: attachment(spec) }));
            }
        }
    }
    set("user", json!(spec.user));
    set("work_dir", json!(spec.directory));
    set("hostname", json!(spec.hostname));
    set("hostadd", json!(spec.extra_hosts));
    set("portmappings", ports(spec)?.into());
    set("ipcns", spec.ipc.as_deref().map_or(Value::Null, namespace));
    set("pidns", spec.pid.as_deref().map_or(Value::Null, namespace));
    set("shm_size", json!(spec.shm_size));
    set("resource_limits", further::limits(spec));
    let limit = |(name, soft, hard): &(String, i64, i64)| json!({"type": name, "soft": unsigned(*soft), "hard": unsigned(*hard)});
    set("r_limits", spec.ulimits.iter().map(limit).collect::<Vec<_>>().into());
    set("cap_add", json!(spec.cap_add));
    set("cap_drop", json!(spec.cap_drop));
    for option in &spec.security {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match name {
            // What stands without a profile.
            "seccomp" if value == "builtin" => {}
            "seccomp" => set("seccomp_profile_path", json!(value)),
            "apparmor" => set("apparmor_profile", json!(value)),
            "label" => set("selinux_opts", json!([value])),
            "no-new-privileges" => set("no_new_privileges", json!(value != "false")),
            _ => return Err(format!("Podman does not know the security option `{option}`")),
        }
    }
    set("groups", json!(spec.groups));
    set("privileged", json!(spec.privileged));
    set("read_only_filesystem", json!(spec.read_only));
    set("init", json!(spec.init));
    set("oci_runtime", json!(spec.runtime));
    set("devices", devices(spec)?.into());
    further::fill(spec, &mut set)?;
    set("stop_timeout", json!(spec.stop_timeout));
    set("stop_signal", spec.stop_signal.as_deref().map(number).transpose()?.map_or(Value::Null, Value::from));
    Ok(body.into())
}

/// Mounts by path, and volumes by name.
fn mounts(spec: &ContainerSpec) -> (Vec<Value>, Vec<Value>) {
    let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
    for bind in &spec.binds {
        let mut options = vec![if bind.read_only { "ro" } else { "rw" }];
        options.extend(spec.bind_options.get(&bind.target).into_iter().flatten().map(String::as_str));
        if bind.source.starts_with('/') {
            options.insert(0, "rbind");
            mounts.push(json!({
                "type": "bind", "source": bind.source, "destination": bind.target, "options": options,
            }));
        } else {
            volumes.push(json!({"Name": bind.source, "Dest": bind.target, "Options": options}));
        }
    }
    volumes.extend(spec.volumes.iter().map(|it| json!({"Name": "", "Dest": it, "Options": []})));
    for (target, options) in &spec.tmpfs {
        let options: Vec<&str> = options.split(',').filter(|it| !it.is_empty()).collect();
        mounts.push(json!({"type": "tmpfs", "source": "tmpfs", "destination": target, "options": options}));
    }
    (mounts, volumes)
}

fn attachment(spec: &ContainerSpec) -> Value {
    let asked = &spec.attachment;
    let mut attached = Map::new();
    if !asked.aliases.is_empty() {
        attached.insert("aliases".to_owned(), json!(asked.aliases));
    }
    let addresses: Vec<&String> = asked.ipv4.iter().chain(&asked.ipv6).collect();
    if !addresses.is_empty() {
        attached.insert("static_ips".to_owned(), json!(addresses));
    }
    if let Some(mac) = &asked.mac {
        attached.insert("static_mac".to_owned(), json!(mac));
    }
    attached.into()
}

/// `host`, `container:ID`.
fn namespace(text: &str) -> Value {
    match text.split_once(':') {
        Some(("ns", path)) => json!({"nsmode": "path", "value": path}),
        Some((mode, value)) => json!({"nsmode": mode, "value": value}),
        None => json!({ "nsmode": text }),
    }
}

fn ports(spec: &ContainerSpec) -> Result<Vec<Value>, String> {
    let mut mappings = Vec::new();
    for (inside, outside) in &spec.ports {
        let (port, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let number = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port"));
        let port = number(port)?;
        for (address, there) in outside {
            // None given: any that is free.
            let there = if there.is_empty() { 0 } else { number(there)? };
            mappings.push(json!({
                "container_port": port, "host_port": there, "host_ip": address, "protocol": protocol,
            }));
        }
    }
    Ok(mappings)
}

/// Devices of the host, and CDI names among the device requests.
fn devices(spec: &ContainerSpec) -> Result<Vec<Value>, String> {
    let mut devices = Vec::new();
    for (host, inside, access) in &spec.devices {
        let parts: Vec<&str> =
            [host, inside, access].into_iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
        devices.push(json!({ "path": parts.join(":") }));
    }
    for ask in &spec.device_requests {
        if ask.driver != "cdi" {
            return Err("Podman gives devices by their CDI names only".to_owned());
        }
        devices.extend(ask.ids.iter().map(|it| json!({ "path": it })));
    }
    Ok(devices)
}

/// -1 stands for no limit.
fn unsigned(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

fn number(signal: &str) -> Result<i32, String> {
    let known = [("TERM", 15), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("HUP", 1), ("USR1", 10), ("USR2", 12)];
    let name = signal.trim_start_matches("SIG");
    let found = known.iter().find(|it| it.0 == name).map(|it| it.1);
    found.or_else(|| signal.parse().ok()).ok_or_else(|| format!("`{signal}` is no signal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Bind, DeviceRequest};
    use crate::secret::Secret;

    #[test]
    fn what_is_not_asked_for_is_left_to_podman() {
        let body = body(&ContainerSpec { image: "x".to_owned(), ..ContainerSpec::default() }).unwrap();
        assert_eq!(body, json!({"image": "x", "privileged": false, "read_only_filesystem": false}));
    }

    #[test]
    fn what_is_asked_for_is_said_in_podmans_words() {
        let mut spec = ContainerSpec {
            image: "x".to_owned(),
            network: Some("host".to_owned()),
            memory: Some(1 << 30),
            nano_cpus: Some(1_500_000_000),
            ulimits: vec![("nofile".to_owned(), 10, -1)],
            security: vec!["label=disable".to_owned(), "no-new-privileges".to_owned()],
            devices: vec![("/dev/fuse".to_owned(), "/dev/fuse".to_owned(), "rw".to_owned())],
            device_requests: vec![DeviceRequest {
                driver: "cdi".to_owned(),
                ids: vec!["nvidia.com/gpu=0".to_owned()],
                capabilities: Vec::new(),
            }],
            stop_signal: Some("SIGTERM".to_owned()),
            ..ContainerSpec::default()
        };
        spec.env.insert("KEY".to_owned(), Secret::new("hush"));
        spec.binds = vec![
            Bind { source: "/a:b".to_owned(), target: "/c".to_owned(), read_only: true },
            Bind { source: "cache".to_owned(), target: "/d".to_owned(), read_only: false },
        ];
        spec.ports.insert("80/udp".to_owned(), vec![(String::new(), "8080".to_owned())]);
        let body = body(&spec).unwrap();
        assert_eq!(body["env"]["KEY"], "hush");
        assert_eq!(body["netns"]["nsmode"], "host");
        assert_eq!(body["resource_limits"]["cpu"]["quota"], 150_000);
        assert_eq!(body["resource_limits"]["memory"]["swap"], 2_u64 << 30);
        assert_eq!(body["r_limits"][0], json!({"type": "nofile", "soft": 10, "hard": u64::MAX}));
        assert_eq!(body["mounts"][0]["source"], "/a:b");
        assert_eq!(body["volumes"][0]["Name"], "cache");
        assert_eq!(body["devices"], json!([{"path": "/dev/fuse:/dev/fuse:rw"}, {"path": "nvidia.com/gpu=0"}]));
        assert_eq!((&body["stop_signal"], &body["portmappings"][0]["protocol"]), (&json!(15), &json!("udp")));
        spec.security = vec!["systempaths=unconfined".to_owned()];
        assert!(super::body(&spec).unwrap_err().contains("systempaths"));
    }
}

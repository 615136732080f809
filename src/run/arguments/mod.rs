//! Switches of container arguments into typed settings of a container.
//!
//! A switch that cannot be followed is an error that names it, or a warning where leaving it out changes nothing that the
//! task could rely on ([`crate::switches::known`] says which and why): dropped silently, a run would be another one than
//! was asked for. What may stand there at all was decided before.

mod limits;
mod mounts;
mod values;

use std::io;

use super::EngineKind;
use super::ports::Publish;
use crate::engine::{ContainerSpec, DeviceRequest};
use crate::error::{Explain, Kind};
use crate::secret::{Secret, strip_userinfo};
use crate::switches::{Fate, Switch, SwitchError};

/// Container arguments that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// They cannot be read.
    #[error(transparent)]
    Grammar(#[from] SwitchError),
    /// A switch that no run may have.
    #[error("the container argument `{switch}` is refused{place}: {reason}")]
    Refused {
        /// The switch.
        switch: String,
        /// Where, for people: ` in Podman`, or nothing for everywhere.
        place: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A value that is none.
    #[error("`{value}` is no value of the container argument `{switch}`: {reason}")]
    Value {
        /// The switch.
        switch: String,
        /// Its value.
        value: String,
        /// What is wrong or expected.
        reason: &'static str,
    },
    /// A file that a switch names.
    #[error("cannot read `{path}`, which the container argument `{switch}` names: {reason}")]
    File {
        /// The switch.
        switch: String,
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl Explain for ArgumentError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Grammar(error) => error.hints(),
            Self::Refused { place: "", .. } => vec!["Remove it from the container arguments.".to_owned()],
            Self::Refused { .. } => {
                vec!["Remove it from the container arguments, or run the task in Docker, which follows it.".to_owned()]
            }
            Self::Value { .. } => vec!["Write it as `docker run` takes it.".to_owned()],
            Self::File { .. } => vec!["Name a file of this machine that the agent may read.".to_owned()],
        }
    }
}

/// Who wrote the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever made the task: names no files of this machine but as mounts.
    Task,
    /// Whoever runs the agent.
    Agent,
}

/// Who says which GPUs a run sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpus {
    /// Whoever starts it: arguments have no say.
    Assigned,
    /// The arguments.
    Asked,
}

/// What decides how switches are followed.
pub struct Rules<'a> {
    /// What runs the container.
    pub engine: EngineKind,
    /// Who says which GPUs it sees.
    pub gpus: Gpus,
    /// The value of a variable that an argument only names.
    pub variable: &'a dyn Fn(Side, &str) -> Option<String>,
    /// The text of a file that an argument of the agent's own names.
    pub read: &'a dyn Fn(&str) -> io::Result<String>,
}

/// What has been made of switches.
#[derive(Debug, Default)]
pub struct Followed {
    /// The container; its ports are in `published`.
    pub container: ContainerSpec,
    /// Ports that are to be published.
    pub published: Vec<Publish>,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

/// Adds what a text asks for to a container of an engine, as it stands.
///
/// # Errors
/// [`ArgumentError`] at the first that cannot be followed.
pub fn apply(spec: &mut ContainerSpec, text: &str) -> Result<(), ArgumentError> {
    let no_file = |_: &str| Err(io::ErrorKind::Unsupported.into());
    let rules = Rules { engine: EngineKind::Docker, gpus: Gpus::Asked, variable: &|_, _| None, read: &no_file };
    let mut followed = Followed { container: std::mem::take(spec), ..Followed::default() };
    for switch in crate::switches::parse(text)? {
        follow(&mut followed, &switch, Side::Task, &rules)?;
    }
    followed.published.iter().for_each(|it| it.add_to(&mut followed.container));
    *spec = followed.container;
    Ok(())
}

/// The switches of a text that no run in an engine may have, as errors.
///
/// # Errors
/// [`SwitchError`]
pub fn refused(text: &str, engine: EngineKind) -> Result<Vec<ArgumentError>, SwitchError> {
    Ok(crate::switches::parse(text)?.iter().filter_map(|it| may_stand(it, engine).err()).collect())
}

/// Whether a run in an engine may be asked for a switch, whatever its value is.
///
/// # Errors
/// [`ArgumentError::Refused`]
pub fn may_stand(switch: &Switch, engine: EngineKind) -> Result<(), ArgumentError> {
    let known = switch.known();
    let Fate::Refused(reason) = engine.fate(known) else { return Ok(()) };
    let followed_in_docker = engine == EngineKind::Podman && !matches!(known.docker, Fate::Refused(_));
    let place = if followed_in_docker { " in Podman" } else { "" };
    Err(ArgumentError::Refused { switch: switch.spelled().to_owned(), place, reason })
}

/// Adds what one switch asks for.
///
/// # Errors
/// [`ArgumentError`]
pub fn follow(made: &mut Followed, switch: &Switch, side: Side, rules: &Rules<'_>) -> Result<(), ArgumentError> {
    let native = rules.engine == EngineKind::Native;
    let known = switch.known();
    let left_out = |why: &str| format!("container argument `{}` is left out: {why}", switch.spelled());
    match rules.engine.fate(known) {
        Fate::Refused(_) => return may_stand(switch, rules.engine),
        Fate::LeftOut(why) => {
            // What it would be told to have, it has.
            if switch.value() != Some("no") || known.name != "restart" {
                made.warnings.push(left_out(why));
            }
            return Ok(());
        }
        Fate::Needless(_) => return Ok(()),
        Fate::Followed | Fate::Partly(_) => {}
    }
    let told = match (known.name, side) {
        ("env-file" | "label-file", Side::Task) => Some("it names a file of one machine"),
        ("gpus", _) if rules.gpus == Gpus::Assigned => Some("which GPUs a run sees is for whoever starts it to say"),
        ("device", _) if rules.gpus == Gpus::Assigned && names_gpu(switch) => {
            Some("which GPUs a run sees is for whoever starts it to say")
        }
        ("network", _) if native && !["host", "none"].contains(&value(switch)) => Some("the network is the host's"),
        ("mount", _) if native && mounts::is_volume(value(switch)) => {
            Some("natively only directories of this machine and memory count")
        }
        ("volume", _) if native && !(value(switch).starts_with('/') && value(switch).contains(':')) => {
            Some("natively only directories of this machine count")
        }
        _ => None,
    };
    if let Some(why) = told {
        made.warnings.push(left_out(why));
        return Ok(());
    }
    if native && switch.name() == "network" && value(switch) == "host" {
        made.container.network = None;
        return Ok(());
    }
    if known.flag { set_flag(made, switch) } else { set(made, switch, side, rules) }
}

fn value(switch: &Switch) -> &str {
    switch.value().unwrap_or_default()
}

fn names_gpu(switch: &Switch) -> bool {
    let device = value(switch);
    // However the path is spelled; and of any class that the vendor's generators write.
    device.starts_with('/') && device.contains("/nvidia") || device.contains("nvidia.com/")
}

fn set_flag(made: &mut Followed, switch: &Switch) -> Result<(), ArgumentError> {
    let on = match switch.value() {
        None | Some("true" | "TRUE" | "True" | "t" | "T" | "1") => true,
        Some("false" | "FALSE" | "False" | "f" | "F" | "0") => false,
        Some(_) => return Err(bad(switch, "true or false")),
    };
    let spec = &mut made.container;
    match switch.name() {
        "privileged" => spec.privileged = on,
        "read-only" => spec.read_only = on,
        "init" => spec.init = Some(on),
        "publish-all" => spec.publish_all = on,
        "oom-kill-disable" => spec.limits.never_oom_killed = Some(on),
        "no-healthcheck" if on => spec.health.get_or_insert_default().test = vec!["NONE".to_owned()],
        _ => {}
    }
    Ok(())
}

fn set(made: &mut Followed, switch: &Switch, side: Side, rules: &Rules<'_>) -> Result<(), ArgumentError> {
    let value = value(switch);
    let spec = &mut made.container;
    let text = || Some(value.to_owned());
    let word = || value.to_owned();
    match switch.name() {
        "add-host" => spec.extra_hosts.push(values::host(switch)?),
        "annotation" => values::pair(&mut spec.annotations, switch)?,
        "cap-add" => spec.cap_add.push(word()),
        "cap-drop" => spec.cap_drop.push(word()),
        "cgroup-parent" => spec.cgroup_parent = text(),
        "cgroupns" if ["host", "private"].contains(&value) => spec.cgroupns = text(),
        "cgroupns" => return Err(bad(switch, "host or private")),
        "device" => device(spec, switch)?,
        "device-cgroup-rule" => spec.device_cgroup_rules.push(word()),
        "dns" => spec.dns.push(values::address(switch)?),
        "dns-option" => spec.dns_options.push(word()),
        "dns-search" => spec.dns_search.push(word()),
        "domainname" => spec.domain = text(),
        "env" => variable(spec, switch, side, rules)?,
        "env-file" => variables(spec, switch, side, rules)?,
        "expose" => spec.exposed.extend(values::exposed(switch)?),
        "gpus" => spec.device_requests.push(values::gpus(switch)?),
        "group-add" => spec.groups.push(word()),
        "hostname" => spec.hostname = text(),
        "ip" => spec.attachment.ipv4 = Some(values::address(switch)?),
        "ip6" => spec.attachment.ipv6 = Some(values::address(switch)?),
        "ipc" => spec.ipc = text(),
        "label" => label(spec, value),
        "label-file" => values::lines(&read(switch, rules)?).for_each(|line| label(spec, line)),
        "link" => spec.links.push(word()),
        "link-local-ip" => spec.attachment.link_local.push(values::address(switch)?),
        "log-driver" => spec.log_driver = text(),
        "log-opt" => values::pair(&mut spec.log_options, switch)?,
        "mac-address" => spec.attachment.mac = text(),
        "mount" => mounts::mount(spec, switch)?,
        "name" => spec.name = text(),
        "network" => network(spec, switch, rules.engine)?,
        "network-alias" => spec.attachment.aliases.push(word()),
        "pid" => spec.pid = text(),
        "publish" => {
            let wanted = "[[address:]port:]port[/protocol], ports or ranges of the same length";
            made.published.push(Publish::parse(value).ok_or_else(|| bad(switch, wanted))?);
        }
        "runtime" => spec.runtime = text(),
        "security-opt" => security(spec, switch, side, rules)?,
        "storage-opt" => values::pair(&mut spec.storage, switch)?,
        "sysctl" => values::pair(&mut spec.sysctls, switch)?,
        "tmpfs" => mounts::tmpfs(spec, switch)?,
        "user" => spec.user = text(),
        "userns" => spec.userns = text(),
        "uts" => spec.uts = text(),
        "volume" => mounts::volume(spec, switch)?,
        "volume-driver" => spec.volume_driver = text(),
        "volumes-from" => spec.volumes_from.push(word()),
        "workdir" if value.starts_with('/') => spec.directory = text(),
        "workdir" => return Err(bad(switch, "an absolute path")),
        _ => limits::set(spec, switch)?,
    }
    Ok(())
}

/// A value that cannot be followed. What is wrong with a secret is told without it.
fn bad(switch: &Switch, reason: &'static str) -> ArgumentError {
    let value = match switch.assignment() {
        Some((name, _)) => name.to_owned(),
        None => strip_userinfo(value(switch)),
    };
    ArgumentError::Value { switch: switch.spelled().to_owned(), value, reason }
}

fn read(switch: &Switch, rules: &Rules<'_>) -> Result<String, ArgumentError> {
    read_file(switch, value(switch), rules)
}

fn read_file(switch: &Switch, path: &str, rules: &Rules<'_>) -> Result<String, ArgumentError> {
    (rules.read)(path).map_err(|error| ArgumentError::File {
        switch: switch.spelled().to_owned(),
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn variable(spec: &mut ContainerSpec, switch: &Switch, side: Side, rules: &Rules<'_>) -> Result<(), ArgumentError> {
    let Some((name, value)) = switch.assignment().filter(|it| !it.0.trim().is_empty()) else {
        return Err(bad(switch, "NAME=value, or NAME for the value it has here"));
    };
    let found = value.map(str::to_owned).or_else(|| (rules.variable)(side, name));
    if let Some(value) = found {
        spec.env.insert(name.to_owned(), Secret::new(value));
    }
    Ok(())
}

fn variables(spec: &mut ContainerSpec, switch: &Switch, side: Side, rules: &Rules<'_>) -> Result<(), ArgumentError> {
    for line in values::lines(&read(switch, rules)?) {
        let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value.to_owned())));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(bad(switch, "a file with lines NAME=value"));
        }
        if let Some(value) = value.or_else(|| (rules.variable)(side, name)) {
            spec.env.insert(name.to_owned(), Secret::new(value));
        }
    }
    Ok(())
}

fn label(spec: &mut ContainerSpec, text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    spec.labels.insert(name.to_owned(), value.to_owned());
}

/// `host`, a network's name, or `name=lab,alias=db,ip=10.0.0.7`.
fn network(spec: &mut ContainerSpec, switch: &Switch, engine: EngineKind) -> Result<(), ArgumentError> {
    let value = value(switch);
    if !value.contains('=') {
        spec.network = Some(value.to_owned());
        return Ok(());
    }
    for (name, value) in value.split(',').filter_map(|it| it.split_once('=')) {
        match name {
            "name" => spec.network = Some(value.to_owned()),
            "alias" => spec.attachment.aliases.push(value.to_owned()),
            "ip" => spec.attachment.ipv4 = Some(value.to_owned()),
            "ip6" => spec.attachment.ipv6 = Some(value.to_owned()),
            "mac-address" => spec.attachment.mac = Some(value.to_owned()),
            "link-local-ip" if engine == EngineKind::Podman => {
                return Err(bad(switch, "Podman's networks give no link-local addresses; `ip` is one of the network"));
            }
            "link-local-ip" => spec.attachment.link_local.push(value.to_owned()),
            _ => return Err(bad(switch, "of name, alias, ip, ip6, mac-address and link-local-ip")),
        }
    }
    Ok(())
}

/// `/dev/x[:/dev/y[:rwm]]`, or a name of the container device interface, `vendor.com/class=name`.
fn device(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let value = value(switch);
    if !value.starts_with('/') && value.contains('/') && value.contains('=') {
        let request = DeviceRequest { driver: "cdi".to_owned(), ids: vec![value.to_owned()], capabilities: Vec::new() };
        spec.device_requests.push(request);
        return Ok(());
    }
    let parts: Vec<&str> = value.split(':').collect();
    let (host, inside, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, access] if is_access(access) => (*host, *host, *access),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, access] if is_access(access) => (*host, *inside, *access),
        _ => return Err(bad(switch, "path[:path[:rwm]]")),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(bad(switch, "path[:path[:rwm]], with absolute paths"));
    }
    spec.devices.push((host.to_owned(), inside.to_owned(), access.to_owned()));
    Ok(())
}

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.chars().all(|it| "rwm".contains(it))
}

/// A profile in a file is sent as its text: the engine reads no files for us.
fn security(spec: &mut ContainerSpec, switch: &Switch, side: Side, rules: &Rules<'_>) -> Result<(), ArgumentError> {
    let value = value(switch);
    let profile = value.strip_prefix("seccomp=").or_else(|| value.strip_prefix("seccomp:"));
    match profile {
        _ if value == "systempaths=unconfined" => spec.unmasked = true,
        Some("unconfined" | "builtin") | None => spec.security.push(value.to_owned()),
        Some(_) if side == Side::Task => {
            return Err(bad(switch, "a profile is a file of one machine; only unconfined and builtin are none"));
        }
        Some(path) => {
            let text = read_file(switch, path, rules)?;
            let json: serde_json::Value =
                serde_json::from_str(&text).map_err(|_| bad(switch, "a file with a seccomp profile in JSON"))?;
            // Podman reads the file itself.
            let profile = if rules.engine == EngineKind::Podman { path.to_owned() } else { json.to_string() };
            spec.security.push(format!("seccomp={profile}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

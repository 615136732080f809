//! `docker run` switches, as tasks and configurations write them, into typed settings of a container.
//!
//! Nothing is handed to a shell or another program. A switch that is not understood is an error that names it: dropped
//! silently, a run would be another one than was asked for. Environment variables are the lock's business and may stand
//! here only for an executor's own arguments.

use crate::engine::{Bind, ContainerSpec, DeviceRequest};
use crate::error::{Explain, Kind};
use crate::secret::Secret;

/// Container arguments that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Quotes that do not end.
    #[error("the container arguments `{text}` have a quote without its end")]
    Quotes {
        /// The arguments.
        text: String,
    },
    /// A switch we do not follow.
    #[error("the container argument `{switch}` is not supported")]
    Unknown {
        /// The switch.
        switch: String,
    },
    /// A value that is none.
    #[error("`{value}` is no value of the container argument `{switch}`: {reason}")]
    Value {
        /// The switch.
        switch: String,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A switch whose value is missing.
    #[error("the container argument `{switch}` has no value")]
    Missing {
        /// The switch.
        switch: String,
    },
}

impl Explain for ArgumentError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown { .. } => vec!["Remove it from the task's container arguments.".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// Switches that stand alone.
const FLAGS: [&str; 12] = [
    "--privileged",
    "--read-only",
    "--init",
    "--rm",
    "--tty",
    "--interactive",
    "--detach",
    "-t",
    "-i",
    "-d",
    "--no-healthcheck",
    "--sig-proxy",
];

/// Switches without a meaning for a native run, or that it follows without being asked: the network, the processes and
/// the shared memory's room are the host's, and nothing of it stays.
const NATIVE: [&str; 22] = [
    "--add-host",
    "--detach",
    "--hostname",
    "--init",
    "--interactive",
    "--ipc",
    "--label",
    "--name",
    "--no-healthcheck",
    "--publish",
    "--rm",
    "--shm-size",
    "--sig-proxy",
    "--stop-timeout",
    "--tty",
    "-d",
    "-h",
    "-i",
    "-l",
    "-p",
    "-t",
    "--workdir",
];

/// A switch and its value, where it has one.
type Switch = (String, Option<String>);

/// Adds what the arguments ask for to a container.
///
/// # Errors
/// [`ArgumentError`] at the first that cannot be followed.
pub fn apply(spec: &mut ContainerSpec, text: &str) -> Result<(), ArgumentError> {
    switches(text)?.iter().try_for_each(|it| follow(spec, it))
}

/// Adds what a native run can follow: directories of this machine, variables, the user, a read-only root. Tells the
/// switches that it cannot.
///
/// # Errors
/// [`ArgumentError`], as [`apply`].
pub fn apply_natively(spec: &mut ContainerSpec, text: &str) -> Result<Vec<String>, ArgumentError> {
    let mut left_out = Vec::new();
    for switch in switches(text)? {
        let mut asked = ContainerSpec::default();
        follow(&mut asked, &switch)?;
        let (name, value) = (switch.0.as_str(), switch.1.as_deref());
        let network = matches!(name, "--network" | "--net") && value == Some("host");
        // A volume's name means nothing without an engine.
        let here = asked.binds.iter().all(|it| it.source.starts_with('/'));
        match name {
            "-v" | "--volume" | "--mount" if here && asked.tmpfs.is_empty() => spec.binds.extend(asked.binds),
            "-e" | "--env" => spec.env.extend(asked.env),
            "-u" | "--user" => spec.user = asked.user,
            "--read-only" => spec.read_only = asked.read_only,
            _ if network || NATIVE.contains(&name) => {}
            _ => left_out.push(name.to_owned()),
        }
    }
    Ok(left_out)
}

/// The switches of a text, each checked to have a value if it needs one.
fn switches(text: &str) -> Result<Vec<Switch>, ArgumentError> {
    let words = crate::process::words(text).ok_or_else(|| ArgumentError::Quotes { text: text.to_owned() })?;
    let mut words = words.into_iter();
    let mut switches = Vec::new();
    while let Some(word) = words.next() {
        let (switch, glued) = split(&word)?;
        for flag in expand(&switch) {
            let value = match &glued {
                _ if FLAGS.contains(&flag.as_str()) => glued.clone(),
                Some(value) => Some(value.clone()),
                None => Some(words.next().ok_or_else(|| ArgumentError::Missing { switch: flag.clone() })?),
            };
            switches.push((flag, value));
        }
    }
    Ok(switches)
}

fn follow(spec: &mut ContainerSpec, (switch, value): &Switch) -> Result<(), ArgumentError> {
    if FLAGS.contains(&switch.as_str()) {
        return set_flag(spec, switch, value.as_deref());
    }
    set(spec, switch, value.as_deref().unwrap_or_default())
}

/// A switch, and the value in the same word: `--name=x`, `-v/a:/b`.
fn split(word: &str) -> Result<(String, Option<String>), ArgumentError> {
    if word.starts_with("--") && word.len() > 2 {
        return Ok(match word.split_once('=') {
            Some((switch, value)) => (switch.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        });
    }
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (Some('-'), Some(letter)) if letter != '-' => {
            let rest = letters.as_str();
            let alone = rest.is_empty() || word[1..].chars().all(|it| "tid".contains(it));
            let value = rest.strip_prefix('=').unwrap_or(rest);
            Ok(if alone { (word.to_owned(), None) } else { (format!("-{letter}"), Some(value.to_owned())) })
        }
        _ => Err(ArgumentError::Unknown { switch: word.to_owned() }),
    }
}

/// `-it` is `-i -t`.
fn expand(switch: &str) -> Vec<String> {
    if switch.starts_with("--") || switch.len() == 2 {
        return vec![switch.to_owned()];
    }
    switch.chars().skip(1).map(|it| format!("-{it}")).collect()
}

fn set_flag(spec: &mut ContainerSpec, switch: &str, value: Option<&str>) -> Result<(), ArgumentError> {
    let on = match value {
        None | Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(value) => return Err(bad(switch, value, "true or false")),
    };
    match switch {
        "--privileged" => spec.privileged = on,
        "--read-only" => spec.read_only = on,
        "--init" => spec.init = Some(on),
        // How the caller's terminal is attached and what becomes of the container is decided by who runs it.
        _ => {}
    }
    Ok(())
}

fn set(spec: &mut ContainerSpec, switch: &str, value: &str) -> Result<(), ArgumentError> {
    let text = || Some(value.to_owned());
    match switch {
        "--network" | "--net" => spec.network = text(),
        "-v" | "--volume" => spec.binds.push(volume(switch, value)?),
        "--mount" => mount(spec, value)?,
        "--tmpfs" => {
            let (path, options) = value.split_once(':').unwrap_or((value, ""));
            spec.tmpfs.insert(path.to_owned(), options.to_owned());
        }
        "-p" | "--publish" => publish(spec, switch, value)?,
        "--shm-size" => spec.shm_size = Some(bytes(switch, value)?),
        "-m" | "--memory" => spec.memory = Some(bytes(switch, value)?),
        "--cpus" => spec.nano_cpus = Some(cpus(switch, value)?),
        "--cpuset-cpus" => spec.cpuset = text(),
        "--ulimit" => spec.ulimits.push(ulimit(switch, value)?),
        "--cap-add" => spec.cap_add.push(value.to_owned()),
        "--cap-drop" => spec.cap_drop.push(value.to_owned()),
        "--security-opt" => spec.security.push(value.to_owned()),
        "--group-add" => spec.groups.push(value.to_owned()),
        "--runtime" => spec.runtime = text(),
        "--device" => spec.devices.push(device(switch, value)?),
        "--gpus" => spec.device_requests.push(gpus(switch, value)?),
        "-u" | "--user" => spec.user = text(),
        "-w" | "--workdir" => spec.directory = text(),
        "-h" | "--hostname" => spec.hostname = text(),
        "--add-host" => spec.extra_hosts.push(value.to_owned()),
        "--ipc" => spec.ipc = text(),
        "--pid" => spec.pid = text(),
        "--name" => spec.name = text(),
        "--stop-timeout" => {
            spec.stop_timeout = Some(value.parse().map_err(|_| bad(switch, value, "a number of seconds"))?);
        }
        "-l" | "--label" => {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            spec.labels.insert(name.to_owned(), value.to_owned());
        }
        "-e" | "--env" => {
            // A name alone means the caller's own value, which is not ours to pass on.
            if let Some((name, value)) = value.split_once('=') {
                spec.env.insert(name.to_owned(), Secret::new(value));
            }
        }
        _ => return Err(ArgumentError::Unknown { switch: switch.to_owned() }),
    }
    Ok(())
}

fn bad(switch: &str, value: &str, reason: &'static str) -> ArgumentError {
    ArgumentError::Value { switch: switch.to_owned(), value: value.to_owned(), reason }
}

/// `source:target[:options]`; without a source, an anonymous volume is meant, which only a mount can say.
fn volume(switch: &str, value: &str) -> Result<Bind, ArgumentError> {
    let mut parts = value.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let options = parts.next().unwrap_or_default();
    if source.is_empty() || !target.starts_with('/') || parts.next().is_some() {
        return Err(bad(switch, value, "source:/target[:ro]"));
    }
    let read_only = options.split(',').any(|it| it == "ro");
    Ok(Bind { source: source.to_owned(), target: target.to_owned(), read_only })
}

fn mount(spec: &mut ContainerSpec, value: &str) -> Result<(), ArgumentError> {
    let (mut kind, mut source, mut target, mut read_only) = ("volume", "", "", false);
    for field in value.split(',') {
        match field.split_once('=').unwrap_or((field, "")) {
            ("type", it) => kind = it,
            ("source" | "src", it) => source = it,
            ("target" | "destination" | "dst", it) => target = it,
            ("readonly" | "ro", it) => read_only = it != "false",
            ("bind-propagation" | "consistency", _) => {}
            _ => return Err(bad("--mount", value, "only type, source, target and readonly are supported")),
        }
    }
    match kind {
        _ if !target.starts_with('/') => Err(bad("--mount", value, "its target is not an absolute path")),
        "tmpfs" => {
            spec.tmpfs.insert(target.to_owned(), String::new());
            Ok(())
        }
        "bind" | "volume" if !source.is_empty() => {
            spec.binds.push(Bind { source: source.to_owned(), target: target.to_owned(), read_only });
            Ok(())
        }
        _ => Err(bad("--mount", value, "its type or source is missing")),
    }
}

/// `[[address:]port:]port[/protocol]`.
fn publish(spec: &mut ContainerSpec, switch: &str, value: &str) -> Result<(), ArgumentError> {
    let (addresses, protocol) = value.rsplit_once('/').unwrap_or((value, "tcp"));
    let (outer, inner) = addresses.rsplit_once(':').unwrap_or(("", addresses));
    let (address, port) = outer.rsplit_once(':').unwrap_or(("", outer));
    let is_port = |it: &str| it.parse::<u16>().is_ok();
    if !is_port(inner) || !(port.is_empty() || is_port(port)) {
        return Err(bad(switch, value, "[[address:]port:]port[/protocol], no ranges"));
    }
    let entry = spec.ports.entry(format!("{inner}/{protocol}")).or_default();
    entry.push((address.trim_matches(['[', ']']).to_owned(), port.to_owned()));
    Ok(())
}

/// `512m`, `8g`, `1024`.
fn bytes(switch: &str, value: &str) -> Result<u64, ArgumentError> {
    let lower = value.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let digits = lower.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad(switch, value, "a size such as 512m or 8g")),
    };
    let number: f64 = digits.parse().map_err(|_| bad(switch, value, "a size such as 512m or 8g"))?;
    let size = number * f64::from(shift).exp2();
    if !(size.is_finite() && (0.0..1e18).contains(&size)) {
        return Err(bad(switch, value, "a size such as 512m or 8g"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was looked at")]
    let size = size as u64;
    Ok(size)
}

fn cpus(switch: &str, value: &str) -> Result<u64, ArgumentError> {
    let number: f64 = value.parse().map_err(|_| bad(switch, value, "a number of processors"))?;
    if !(number > 0.0 && number < 1e6) {
        return Err(bad(switch, value, "a number of processors"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was looked at")]
    let nano = (number * 1e9) as u64;
    Ok(nano)
}

fn ulimit(switch: &str, value: &str) -> Result<(String, i64, i64), ArgumentError> {
    let wrong = || bad(switch, value, "name=soft[:hard]");
    let (name, limits) = value.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |it: &str| it.parse::<i64>().map_err(|_| wrong());
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}

fn device(switch: &str, value: &str) -> Result<(String, String, String), ArgumentError> {
    let mut parts = value.split(':');
    let host = parts.next().filter(|it| !it.is_empty()).ok_or_else(|| bad(switch, value, "path[:path[:rwm]]"))?;
    let inside = parts.next().unwrap_or(host);
    Ok((host.to_owned(), inside.to_owned(), parts.next().unwrap_or("rwm").to_owned()))
}

/// `all`, a number, `device=0,1`, with or without quotes around.
fn gpus(switch: &str, value: &str) -> Result<DeviceRequest, ArgumentError> {
    let value = value.trim_matches(['"', '\'']);
    let ids: Vec<String> = match value.strip_prefix("device=") {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None if value == "all" => Vec::new(),
        None => {
            let count: usize = value.parse().map_err(|_| bad(switch, value, "all, a number or device=LIST"))?;
            (0..count).map(|it| it.to_string()).collect()
        }
    };
    Ok(DeviceRequest { driver: "nvidia".to_owned(), ids, capabilities: vec!["gpu".to_owned()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ContainerSpec, ArgumentError> {
        let mut spec = ContainerSpec::default();
        apply(&mut spec, text).map(|()| spec)
    }

    #[test]
    fn switches_of_every_form_are_understood() {
        let spec = parsed(
            "-it --rm --network=host --ipc host -v /data:/data:ro --volume cache:/c -p 127.0.0.1:8080:80 -p 53/udp \
             --shm-size 8g -m512m --cpus 1.5 --ulimit memlock=-1 --gpus '\"device=0,GPU-1\"' -l a=b -u 1000:1000 \
             --mount type=bind,source=/x,target=/y,readonly --add-host db:10.0.0.1 -eKEY=value --privileged=false",
        )
        .unwrap();
        assert_eq!((spec.network.as_deref(), spec.ipc.as_deref()), (Some("host"), Some("host")));
        let binds: Vec<_> =
            spec.binds.iter().map(|it| (it.source.as_str(), it.target.as_str(), it.read_only)).collect();
        assert_eq!(binds, [("/data", "/data", true), ("cache", "/c", false), ("/x", "/y", true)]);
        assert_eq!(spec.ports["80/tcp"], [("127.0.0.1".to_owned(), "8080".to_owned())]);
        assert!(spec.ports.contains_key("53/udp"));
        assert_eq!((spec.shm_size, spec.memory, spec.nano_cpus), (Some(8 << 30), Some(512 << 20), Some(1_500_000_000)));
        assert_eq!(spec.ulimits, [("memlock".to_owned(), -1, -1)]);
        assert_eq!(spec.device_requests[0].ids, ["0", "GPU-1"]);
        assert_eq!((spec.labels["a"].as_str(), spec.env["KEY"].reveal()), ("b", "value"));
        assert!(!spec.privileged);
    }

    #[test]
    fn a_native_run_follows_what_it_can_and_names_the_rest() {
        let mut spec = ContainerSpec::default();
        let text = "--ipc=host --network host -it --shm-size=8g -v /data:/data:ro -v cache:/c -u 7:8 --read-only -e A=1 \
                    --mount type=tmpfs,target=/t --gpus all --memory 8g --net none";
        let left_out = apply_natively(&mut spec, text).unwrap();
        assert_eq!(left_out, ["-v", "--mount", "--gpus", "--memory", "--net"]);
        assert_eq!((spec.binds.len(), spec.user.as_deref(), spec.read_only), (1, Some("7:8"), true));
        assert_eq!(spec.env["A"].reveal(), "1");
        assert!(apply_natively(&mut spec, "--odd 1").is_err() && apply_natively(&mut spec, "--network").is_err());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("--cgroup-parent x", "`--cgroup-parent` is not supported"),
            ("image", "`image` is not supported"),
            ("--network", "`--network` has no value"),
            ("-v /a", "`-v`"),
            ("-m lots", "`-m`"),
            ("-p 80-90:80", "no ranges"),
            ("-v 'x", "quote"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

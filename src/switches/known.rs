//! Every switch of `docker run`, and what becomes of it: followed, or deliberately not, with the reason.
//!
//! `docs/container-arguments.md` shows this table.

/// A switch of `docker run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its long name, without dashes.
    pub name: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// Whether it stands alone; it may still be given `=true` or `=false`.
    pub flag: bool,
    /// What runs in Docker make of it.
    pub docker: Fate,
    /// What runs in Podman make of it.
    pub podman: Fate,
    /// What native runs make of it.
    pub natively: Fate,
}

/// What becomes of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Followed,
    /// It is done but for what this says.
    Partly(&'static str),
    /// Nothing needs to be done, for this reason.
    Needless(&'static str),
    /// It is left out and a warning says so, for this reason.
    LeftOut(&'static str),
    /// The run is refused, for this reason.
    Refused(&'static str),
}

use Fate::{Followed, LeftOut, Needless, Partly, Refused};

const NETWORK: Fate = Needless("the network is the host's");
const NO_NETWORK: Fate = LeftOut("the network is the host's");
const NO_LIMIT: Fate = LeftOut("limits of the machine's resources are an engine's");
const GROUPS: Fate =
    Partly("where this machine lets us make control groups (docs/running.md); else a warning says why not");
const NO_ENGINE: Fate = LeftOut("only an engine has this");
const TERMINAL: Fate = Needless("whoever starts the run has its terminal and its output");
const HEALTH: Fate = Needless("nobody asks for the health of a native run");
const WINDOWS: Fate = Refused("it is for Windows containers");

const fn value(name: &'static str, engines: Fate, natively: Fate) -> Known {
    Known { name, short: None, flag: false, docker: engines, podman: engines, natively }
}

const fn flag(name: &'static str, engines: Fate, natively: Fate) -> Known {
    Known { flag: true, ..value(name, engines, natively) }
}

/// Docker follows it, and Podman cannot.
const fn in_docker(name: &'static str, podman: &'static str, natively: Fate) -> Known {
    Known { podman: Refused(podman), ..value(name, Followed, natively) }
}

const fn short(letter: char, known: Known) -> Known {
    Known { short: Some(letter), ..known }
}

/// Further names of switches.
const ALIASES: [(&str, &str); 3] = [("net", "network"), ("net-alias", "network-alias"), ("dns-opt", "dns-option")];

/// The table, by name.
pub const KNOWN: &[Known] = &[
    value("add-host", Followed, NETWORK),
    value("annotation", Followed, NO_ENGINE),
    short('a', value("attach", TERMINAL, TERMINAL)),
    value("blkio-weight", Followed, NO_LIMIT),
    value("blkio-weight-device", Followed, NO_LIMIT),
    value("cap-add", Followed, LeftOut("a native run has the capabilities of its user namespace")),
    value("cap-drop", Followed, LeftOut("a native run has the capabilities of its user namespace")),
    value("cgroup-parent", Followed, NO_LIMIT),
    value("cgroupns", Followed, NO_ENGINE),
    value("cidfile", Needless("runs are found by their label"), Needless("runs are found by their id")),
    value("cpu-count", WINDOWS, WINDOWS),
    value("cpu-percent", WINDOWS, WINDOWS),
    value("cpu-period", Followed, NO_LIMIT),
    value("cpu-quota", Followed, NO_LIMIT),
    value("cpu-rt-period", Followed, NO_LIMIT),
    value("cpu-rt-runtime", Followed, NO_LIMIT),
    short('c', value("cpu-shares", Followed, NO_LIMIT)),
    value("cpus", Followed, GROUPS),
    value("cpuset-cpus", Followed, GROUPS),
    value("cpuset-mems", Followed, NO_LIMIT),
    short('d', flag("detach", TERMINAL, TERMINAL)),
    value("detach-keys", TERMINAL, TERMINAL),
    value("device", Followed, Partly("files of devices; devices by name are an engine's")),
    in_docker("device-cgroup-rule", "rules are not asked of Podman; `--device` gives a device", NO_ENGINE),
    value("device-read-bps", Followed, NO_LIMIT),
    value("device-read-iops", Followed, NO_LIMIT),
    value("device-write-bps", Followed, NO_LIMIT),
    value("device-write-iops", Followed, NO_LIMIT),
    flag(
        "disable-content-trust",
        Needless("images are known by their digests"),
        Needless("images are known by their digests"),
    ),
    value("dns", Followed, NO_NETWORK),
    value("dns-option", Followed, NO_NETWORK),
    value("dns-search", Followed, NO_NETWORK),
    in_docker("domainname", "Podman has no such name; `--hostname name.domain` gives both", NO_ENGINE),
    value(
        "entrypoint",
        Refused("the image's entrypoint is what runs and reports the task"),
        Refused("the image's entrypoint is what runs and reports the task"),
    ),
    short('e', value("env", Followed, Followed)),
    value(
        "env-file",
        Partly("the agent's own arguments only: a task's names a file of one machine and is left out"),
        Partly("the agent's own arguments only: a task's names a file of one machine and is left out"),
    ),
    value("expose", Followed, NETWORK),
    value(
        "gpus",
        Partly("by `agent run`; under a worker the worker's own count, and this is left out with a warning"),
        LeftOut("which GPUs a run sees is for whoever starts it to say"),
    ),
    value("group-add", Followed, Partly("groups by their numbers")),
    value("health-cmd", Followed, HEALTH),
    value("health-interval", Followed, HEALTH),
    value("health-retries", Followed, HEALTH),
    in_docker("health-start-interval", "Podman's API has no such interval; `--health-interval` counts always", HEALTH),
    value("health-start-period", Followed, HEALTH),
    value("health-timeout", Followed, HEALTH),
    flag("help", Refused("it starts nothing"), Refused("it starts nothing")),
    short('h', value("hostname", Followed, Followed)),
    flag("init", Followed, Needless("the image's first process reaps")),
    short('i', flag("interactive", TERMINAL, TERMINAL)),
    value("io-maxbandwidth", WINDOWS, WINDOWS),
    value("io-maxiops", WINDOWS, WINDOWS),
    value("ip", Followed, NO_NETWORK),
    value("ip6", Followed, NO_NETWORK),
    value("ipc", Followed, Needless("shared memory is the run's own, with room for half of the machine's memory")),
    value("isolation", WINDOWS, WINDOWS),
    value("kernel-memory", LeftOut("engines do not know it any more"), LeftOut("engines do not know it any more")),
    short('l', value("label", Followed, Needless("nobody asks for the labels of a native run"))),
    value(
        "label-file",
        Partly("the agent's own arguments only: a task's names a file of one machine and is left out"),
        Needless("nobody asks for the labels of a native run"),
    ),
    in_docker("link", "Podman has no links; containers of one `--network` find each other by name", NO_NETWORK),
    in_docker("link-local-ip", "Podman's networks give no such addresses; `--ip` gives one of the network", NO_NETWORK),
    value("log-driver", Followed, Needless("a native run's output goes to whoever started it")),
    value("log-opt", Followed, Needless("a native run's output goes to whoever started it")),
    value("mac-address", Followed, NO_NETWORK),
    short('m', value("memory", Followed, GROUPS)),
    value("memory-reservation", Followed, NO_LIMIT),
    value("memory-swap", Followed, NO_LIMIT),
    value("memory-swappiness", Followed, NO_LIMIT),
    value("mount", Partly("types bind, volume and tmpfs"), Partly("types bind and tmpfs")),
    value("name", Followed, Needless("runs are found by their id")),
    value(
        "network",
        Partly("one network; the last that is named"),
        Partly("`host`, which it is, and `none`; others are left out"),
    ),
    value("network-alias", Followed, NO_NETWORK),
    flag("no-healthcheck", Followed, HEALTH),
    flag("oom-kill-disable", Followed, NO_LIMIT),
    value("oom-score-adj", Followed, NO_LIMIT),
    value("pid", Followed, LeftOut("a native run's processes are its own")),
    value("pids-limit", Followed, GROUPS),
    value(
        "platform",
        Needless("the image's platform is chosen when it is built (`--platform`)"),
        Needless("the image's platform is chosen when it is built (`--platform`)"),
    ),
    flag("privileged", Followed, LeftOut("a native run has no more rights than whoever starts it")),
    short('p', value("publish", Followed, NETWORK)),
    short('P', flag("publish-all", Followed, NETWORK)),
    value(
        "pull",
        Needless("the image is built; its base is asked for anew by every build"),
        Needless("the image is built; its base is asked for anew by every build"),
    ),
    short('q', flag("quiet", TERMINAL, TERMINAL)),
    flag("read-only", Followed, Followed),
    value(
        "restart",
        LeftOut("whoever runs the task decides what becomes of it once it has ended"),
        LeftOut("whoever runs the task decides what becomes of it once it has ended"),
    ),
    flag("rm", Needless("a run is removed once it has been reported"), Needless("nothing of a native run stays")),
    value("runtime", Followed, NO_ENGINE),
    value(
        "security-opt",
        Partly("a file with a seccomp profile only in the agent's own arguments"),
        LeftOut("only an engine has this"),
    ),
    value("shm-size", Followed, Followed),
    flag("sig-proxy", TERMINAL, TERMINAL),
    value(
        "stop-signal",
        LeftOut("the image's first process is asked to end with TERM and tells the program"),
        LeftOut("the image's first process is asked to end with TERM and tells the program"),
    ),
    value("stop-timeout", Followed, Needless("whoever stops a run says how long it waits")),
    value("storage-opt", Followed, NO_ENGINE),
    value("sysctl", Followed, NO_ENGINE),
    value("tmpfs", Followed, Followed),
    short('t', flag("tty", TERMINAL, TERMINAL)),
    value("ulimit", Followed, Followed),
    flag(
        "use-api-socket",
        Refused("it hands the engine's socket and its credentials to the task"),
        Refused("it hands the engine's socket and its credentials to the task"),
    ),
    short('u', value("user", Followed, Followed)),
    value("userns", Followed, NO_ENGINE),
    value("uts", Followed, NO_ENGINE),
    short('v', value("volume", Followed, Partly("directories and files of this machine, no named volumes"))),
    in_docker(
        "volume-driver",
        "Podman is told it when the volume is made (`podman volume create --driver`)",
        NO_ENGINE,
    ),
    value("volumes-from", Followed, NO_ENGINE),
    short('w', value("workdir", Followed, Followed)),
];

/// The switch of a long name without dashes.
#[must_use]
pub fn long(name: &str) -> Option<&'static Known> {
    let name = ALIASES.iter().find(|it| it.0 == name).map_or(name, |it| it.1);
    KNOWN.iter().find(|it| it.name == name)
}

/// The switch of a letter.
#[must_use]
pub fn short_of(letter: char) -> Option<&'static Known> {
    KNOWN.iter().find(|it| it.short == Some(letter))
}

/// The switch that a word of a configuration names: `entrypoint`, `--net`, `-v`, `v`, `--network=host`.
#[must_use]
pub fn named(word: &str) -> Option<&'static Known> {
    let name = word.trim().trim_start_matches('-').split(['=', ' ']).next().unwrap_or_default();
    let mut letters = name.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => short_of(letter),
        _ => long(name),
    }
}

/// The table, for `docs/container-arguments.md`.
#[must_use]
pub fn reference_table() -> String {
    let mut page = String::from("| switch | in Docker and Podman | natively |\n|---|---|---|\n");
    for known in KNOWN {
        let letter = known.short.map(|it| format!("`-{it}`, ")).unwrap_or_default();
        let aliases = ALIASES.iter().filter(|it| it.1 == known.name).map(|it| format!(", `--{}`", it.0));
        let natively = known.natively.phrase();
        let engines = if known.docker == known.podman {
            known.docker.phrase()
        } else {
            format!("in Docker {}; in Podman {}", known.docker.phrase(), known.podman.phrase())
        };
        page.push_str(&format!(
            "| {letter}`--{}`{} | {engines} | {natively} |\n",
            known.name,
            aliases.collect::<String>()
        ));
    }
    page
}

impl Fate {
    fn phrase(self) -> String {
        match self {
            Followed => "followed".to_owned(),
            Partly(how) => format!("followed: {how}"),
            Needless(why) => format!("not needed: {why}"),
            LeftOut(why) => format!("left out with a warning: {why}"),
            Refused(why) => format!("refused: {why}"),
        }
    }
}

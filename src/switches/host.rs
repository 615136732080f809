//! Switches that give a container something of its host: its files, devices and processes, rights over it, what others run
//! there. What is listed as harmless is; anything else is taken to reach the host.

use super::Switch;

/// Switches that give nothing of the host, whatever their value; and those that begin so.
const HARMLESS: &[&str] = &[
    "add-host",
    "attach",
    "cap-drop",
    "cidfile",
    "cpus",
    "detach",
    "detach-keys",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "disable-content-trust",
    "domainname",
    "entrypoint",
    "env",
    "env-file",
    "expose",
    "gpus",
    "group-add",
    "help",
    "hostname",
    "init",
    "interactive",
    "ip",
    "ip6",
    "isolation",
    "kernel-memory",
    "label",
    "label-file",
    "link-local-ip",
    "mac-address",
    "name",
    "network-alias",
    "no-healthcheck",
    "pids-limit",
    "platform",
    "publish",
    "publish-all",
    "pull",
    "quiet",
    "read-only",
    "restart",
    "rm",
    "shm-size",
    "sig-proxy",
    "stop-signal",
    "stop-timeout",
    "storage-opt",
    "sysctl",
    "tmpfs",
    "tty",
    "ulimit",
    "use-api-socket",
    "user",
    "workdir",
];
const HARMLESS_BEGINNINGS: [&str; 6] = ["blkio-", "cpu-", "cpuset-", "dns", "health-", "memory"];

impl Switch {
    /// Whether it gives a container something of its host.
    #[must_use]
    pub fn reaches_host(&self) -> bool {
        let (name, value) = (self.name(), self.value().unwrap_or_default());
        if HARMLESS.contains(&name) || HARMLESS_BEGINNINGS.iter().any(|it| name.starts_with(it)) {
            return false;
        }
        let is_off = ["false", "FALSE", "False", "f", "F", "0"].contains(&value);
        let harmless = match name {
            _ if self.known().flag => is_off,
            // A volume of its own, without a name.
            "volume" => !value.contains(':'),
            "mount" => is_own_mount(value),
            "network" => ["none", "bridge", "default"].contains(&value),
            "ipc" => ["", "none", "private", "shareable"].contains(&value),
            "pid" | "uts" | "userns" | "cgroupns" => ["", "private"].contains(&value),
            "security-opt" => value.starts_with("no-new-privileges"),
            "oom-score-adj" => value.trim().parse::<u32>().is_ok(),
            _ => false,
        };
        !harmless
    }
}

/// Whether `--mount` means memory, or a volume without a name.
fn is_own_mount(value: &str) -> bool {
    // Read as whoever follows it reads it: blanks around a field's name do not count, and the last one does.
    let named = |it: &'_ str| it.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned()));
    let fields: Vec<(String, String)> = value.split(',').filter_map(named).collect();
    let field = |names: &[&str]| fields.iter().rev().find(|it| names.contains(&it.0.as_str())).map(|it| it.1.as_str());
    match field(&["type"]) {
        Some("tmpfs") => true,
        Some("volume") | None => field(&["source", "src"]).is_none_or(str::is_empty),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{known, parse};

    fn reaching(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().filter(|it| it.reaches_host()).flat_map(super::Switch::words).collect()
    }

    #[test]
    fn what_gives_the_host_away_is_told_from_the_rest() {
        for text in [
            "--privileged",
            "-v /:/host",
            "-v/:/host:ro",
            "--volume=cache:/c",
            "--mount type=bind,src=/,dst=/host",
            "--mount src=cache,dst=/c",
            "--mount 'type =bind,source =/,dst=/host'",
            "--mount 'type=bind,type=tmpfs,type =bind,source=/,dst=/host'",
            "--mount 'source=,src =cache,dst=/c'",
            "--device /dev/sda",
            "--device-cgroup-rule 'b *:* rwm'",
            "--cap-add SYS_ADMIN",
            "--security-opt seccomp=unconfined",
            "--security-opt systempaths=unconfined",
            "--pid host",
            "--pid=container:db",
            "--ipc host",
            "--uts=host",
            "--userns=host",
            "--cgroupns host",
            "--net host",
            "--network=container:db",
            "--network lab",
            "--volumes-from db",
            "--runtime odd",
            "--cgroup-parent /",
            "--link db",
            "--oom-kill-disable",
            "--oom-score-adj=-1000",
            "--log-driver odd",
            "--annotation a=b",
        ] {
            assert_eq!(reaching(text).len(), parse(text).unwrap()[0].words().len(), "{text}");
        }
    }

    #[test]
    fn what_a_container_has_of_its_own_is_harmless() {
        let text = "--privileged=false -v /scratch --mount type=tmpfs,dst=/t --mount dst=/v --ipc=private --net none \
                    --security-opt no-new-privileges --shm-size 8g -m 4g --cpus 2 --ulimit nofile=9:9 -u 1000 -w /x \
                    --tmpfs /t -e A=/:/ --gpus all --cap-drop ALL --oom-score-adj 100 --dns 1.1.1.1 -p 80 --pids-limit 9";
        assert_eq!(reaching(text), Vec::<String>::new());
        // Whoever adds a switch decides what it is: nothing here is a slip of the pen.
        for name in super::HARMLESS {
            assert!(known::long(name).is_some_and(|it| it.name == *name), "{name}");
        }
    }
}

//! Control groups of native runs: limits of memory, processors and processes, and whether memory was the end of something.
//!
//! A group lies below the one this process is in, so that limits above it go on to count; where that cannot be, beside it
//! or at the top. A service manager gives a service groups of its own where it is told to (`Delegate=` in systemd).

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::machine::cgroup::{self, Place, Version};

/// The time in which processors are shared out, in microseconds.
const PERIOD: u64 = 100_000;

/// What a run may use of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Processors by their numbers, `0-3`.
    pub cpuset: Option<String>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// The groups of a run: one, or one for each controller of version 1.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug)]
struct Group {
    path: PathBuf,
    version: Version,
}

/// What is limited by one controller.
struct Controller {
    name: &'static str,
    /// For people.
    what: &'static str,
    /// Files to write in version 1, and in version 2. Of memory a kernel may have the first one only.
    one: Vec<File>,
    two: Vec<File>,
}

type File = (&'static str, String);

impl Room {
    fn controllers(&self) -> Vec<Controller> {
        let mut wanted = Vec::new();
        let same = |file: &'static str, value: &str| vec![(file, value.to_owned())];
        if let Some(bytes) = self.memory {
            // As much swap as memory, as Docker gives; kernels that do not account for swap have no such file.
            let both = bytes.saturating_mul(2).to_string();
            let one = vec![("memory.limit_in_bytes", bytes.to_string()), ("memory.memsw.limit_in_bytes", both)];
            let two = vec![("memory.max", bytes.to_string()), ("memory.swap.max", bytes.to_string())];
            wanted.push(Controller { name: "memory", what: "memory", one, two });
        }
        if let Some(nano) = self.nano_cpus {
            let quota = (nano / 10_000).max(1_000);
            let one = vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
            let two = vec![("cpu.max", format!("{quota} {PERIOD}"))];
            wanted.push(Controller { name: "cpu", what: "processor time", one, two });
        }
        if let Some(cpus) = &self.cpuset {
            let set = || same("cpuset.cpus", cpus);
            wanted.push(Controller { name: "cpuset", what: "processors", one: set(), two: set() });
        }
        if let Some(pids) = self.pids.filter(|it| *it > 0) {
            let set = || same("pids.max", &pids.to_string());
            wanted.push(Controller { name: "pids", what: "number of processes", one: set(), two: set() });
        }
        wanted
    }
}

impl Groups {
    /// Makes the groups that limit a run to its room; and says what cannot be limited here, and why.
    pub(super) fn limited(name: &str, room: &Room) -> (Self, Vec<String>) {
        let (mut groups, mut warnings) = (Self::default(), Vec::new());
        let wanted = room.controllers();
        if wanted.is_empty() {
            return (groups, warnings);
        }
        for controller in wanted {
            let made = match cgroup::own(controller.name) {
                Some(place) => groups.add(name, &controller, &place),
                None => Err("no control groups for that are mounted".to_owned()),
            };
            if let Err(reason) = made {
                let what = controller.what;
                warnings.push(format!("the run's {what} cannot be limited here: {reason}"));
            }
        }
        (groups, warnings)
    }

    fn add(&mut self, name: &str, controller: &Controller, place: &Place) -> Result<(), String> {
        let version = place.version;
        let mut refused = "it lies nowhere".to_owned();
        for parent in parents(place).into_iter().filter(|it| it.is_dir()) {
            let path = parent.join(name);
            let is_new = self.0.iter().all(|it| it.path != path);
            match below(&parent, &path, controller, version) {
                Ok(()) if is_new => {
                    self.0.push(Group { path, version });
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(error) => {
                    refused = error.to_string();
                    if is_new {
                        let _ = fs::remove_dir(&path);
                    }
                }
            }
        }
        Err(refused)
    }

    /// Their directories.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|it| it.path.clone()).collect()
    }

    /// Whether the kernel killed something in them for memory.
    pub(super) fn ran_out(&self) -> bool {
        self.0.iter().any(|it| cgroup::kills(&it.path, it.version).is_some_and(|it| it > 0))
    }
}

/// Where a group might be made, best first.
fn parents(place: &Place) -> Vec<PathBuf> {
    let beside = place.group.parent().filter(|it| it.starts_with(&place.top)).map(Path::to_owned);
    let mut parents = vec![place.group.clone()];
    parents.extend(beside);
    parents.push(place.top.clone());
    parents.dedup();
    parents
}

fn below(parent: &Path, path: &Path, controller: &Controller, version: Version) -> std::io::Result<()> {
    let (name, files) = (controller.name, if version == Version::One { &controller.one } else { &controller.two });
    if version == Version::Two {
        // Refused while processes are in it; then children may have been given it already.
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"));
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    if name == "cpuset" && version == Version::One {
        // Without memory of its own nothing can be put into such a group.
        fs::write(path.join("cpuset.mems"), fs::read_to_string(parent.join("cpuset.mems"))?.trim())?;
    }
    for (number, (file, value)) in files.iter().enumerate() {
        let optional = number > 0 && name == "memory";
        match fs::write(path.join(file), value) {
            Err(_) if optional => {}
            other => other?,
        }
    }
    Ok(())
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_below_our_own_or_above() {
        let place = |group: &str| Place { version: Version::One, top: "/g".into(), group: group.into() };
        assert_eq!(parents(&place("/g/a/b")), ["/g/a/b", "/g/a", "/g"].map(PathBuf::from));
        assert_eq!(parents(&place("/g/a")), ["/g/a", "/g"].map(PathBuf::from));
        assert_eq!(parents(&place("/g")), ["/g"].map(PathBuf::from));
    }

    #[test]
    fn limits_are_written_as_either_version_has_them() {
        let room =
            Room { memory: Some(1 << 20), nano_cpus: Some(1_500_000_000), cpuset: Some("0".to_owned()), pids: Some(9) };
        let shown = |version: u8| -> Vec<String> {
            let all = room.controllers();
            let files = all.iter().flat_map(|it| if version == 1 { &it.one } else { &it.two });
            files.map(|(file, value)| format!("{file}={value}")).collect()
        };
        assert_eq!(
            shown(1),
            [
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=2097152",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpuset.cpus=0",
                "pids.max=9"
            ]
        );
        let second =
            ["memory.max=1048576", "memory.swap.max=1048576", "cpu.max=150000 100000", "cpuset.cpus=0", "pids.max=9"];
        assert_eq!(shown(2), second);
        assert!(Room { pids: Some(-1), ..Room::default() }.controllers().is_empty());
    }
}

//! Control groups of native runs: a memory limit, and whether it was the end of something.
//!
//! Both kinds are known: version 1, where memory has a hierarchy of its own, and version 2. A group lies below the one
//! this process is in, so that limits above it go on to count; where that cannot be, beside it or at the top.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// Where control groups are seen.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A group with a memory limit.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// Makes a group that may use `memory` bytes, or says why there can be none.
    pub(super) fn limited(name: &str, memory: u64) -> Result<Self, String> {
        let mounts = fs::read_to_string(MOUNTS).map_err(|error| error.to_string())?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let (version, parents) =
            places(&mounts, &own).ok_or_else(|| "no control groups for memory are mounted".to_owned())?;
        let mut refused = String::new();
        for parent in parents.iter().filter(|it| it.is_dir()) {
            match Self::below(parent, name, version, memory) {
                Ok(group) => return Ok(group),
                Err(error) => refused = error.to_string(),
            }
        }
        Err(refused)
    }

    fn below(parent: &Path, name: &str, version: Version, memory: u64) -> std::io::Result<Self> {
        if version == Version::Two {
            // Refused while processes are in it; then children may have been given it already.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let group = Self { path, version };
        let set = |file: &str, value: u64| fs::write(group.path.join(file), value.to_string());
        match version {
            Version::One => {
                set("memory.limit_in_bytes", memory)?;
                // As much swap as memory, as Docker gives; kernels that do not account for swap have no such file.
                let _ = set("memory.memsw.limit_in_bytes", memory.saturating_mul(2));
            }
            Version::Two => {
                set("memory.max", memory)?;
                let _ = set("memory.swap.max", memory);
            }
        }
        Ok(group)
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel killed something in it for memory.
    pub(super) fn ran_out(&self) -> bool {
        let file = if self.version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        killed(&text) > 0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn killed(text: &str) -> u64 {
    text.lines().find_map(|it| it.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// The kind of the groups that limit memory, and where one might be made, best first.
fn places(mounts: &str, own: &str) -> Option<(Version, Vec<PathBuf>)> {
    // "36 35 98:0 /root /mount/point options - type source super,options" (proc_pid_mountinfo(5))
    let mut found: Option<(Version, &str, &str)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ").unwrap_or((line, ""));
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let (Some(root), Some(point)) = (before.get(3), before.get(4)) else { continue };
        match (after.first(), after.last()) {
            (Some(&"cgroup"), Some(options)) if options.split(',').any(|it| it == "memory") => {
                found = Some((Version::One, root, point));
                break;
            }
            (Some(&"cgroup2"), _) if found.is_none() => found = Some((Version::Two, root, point)),
            _ => {}
        }
    }
    let (version, root, point) = found?;
    // "4:memory:/path" or "0::/path" (cgroups(7))
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            Version::One => controllers.split(',').any(|it| it == "memory"),
            Version::Two => controllers.is_empty(),
        };
        is_it.then_some(path)
    })?;
    let point = Path::new(point);
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new("")).to_owned();
    let here = if below.as_os_str().is_empty() { point.to_owned() } else { point.join(&below) };
    let mut parents = vec![here.clone()];
    parents.extend(here.parent().filter(|it| it.starts_with(point)).map(Path::to_owned));
    parents.push(point.to_owned());
    parents.dedup();
    Some((version, parents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_either_version() {
        let first = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:7 - cgroup cgroup rw,memory\n\
                     32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/\n4:memory:/a/b\n0::/\n";
        let (version, parents) = places(first, own).unwrap();
        assert_eq!(version, Version::One);
        let expected = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"];
        assert_eq!(parents, expected.map(PathBuf::from));
        let second = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let (version, parents) = places(second, "0::/user.slice/x.scope\n").unwrap();
        assert_eq!(version, Version::Two);
        assert_eq!(parents[0], PathBuf::from("/sys/fs/cgroup/user.slice/x.scope"));
        assert!(places("1 2 0:1 / / rw - ext4 /dev/sda rw\n", own).is_none());
    }

    #[test]
    fn kills_for_memory_are_counted() {
        assert_eq!(killed("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(killed("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n"), 0);
    }
}

//! Control groups: which one this process is in, and what the kernel tells of one.
//!
//! Both kinds are known: version 1, where every controller has a hierarchy of its own, and version 2.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// Where control groups are seen.
const MOUNTS: &str = "/proc/self/mountinfo";
/// The groups of this process.
const OWN: &str = "/proc/self/cgroup";

/// The kind of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// The group of this process for one controller, as it can be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The hierarchy's kind.
    pub version: Version,
    /// Where the hierarchy is mounted, or as much of it as is seen.
    pub top: PathBuf,
    /// The group itself; the top where it cannot be seen.
    pub group: PathBuf,
}

/// Where this process's group for a controller (`memory`, `cpu`, `cpuset`, `pids`) is; `None` where none is mounted.
#[must_use]
pub fn own(controller: &str) -> Option<Place> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    find(&read(MOUNTS), &read(OWN), controller)
}

fn find(mounts: &str, own: &str, controller: &str) -> Option<Place> {
    let first = mounted(mounts, &|kind, options| kind == "cgroup" && options.split(',').any(|it| it == controller));
    let (version, hierarchies) = match first {
        it if it.is_empty() => (Version::Two, mounted(mounts, &|kind, _| kind == "cgroup2")),
        it => (Version::One, it),
    };
    // "4:memory:/path" or "0::/path" (cgroups(7))
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_it = match version {
            Version::One => controllers.split(',').any(|it| it == controller),
            Version::Two => controllers.is_empty(),
        };
        is_it.then_some(Path::new(path))
    })?;
    // A container may see a hierarchy from its own group or from the machine's root, and both where the machine's is
    // mounted into it.
    let seen = hierarchies.iter().find_map(|(root, top)| Some((top, path.strip_prefix(root).ok()?)));
    let (top, below) = seen.or_else(|| Some((&hierarchies.first()?.1, Path::new(""))))?;
    let group = if below.as_os_str().is_empty() { (*top).to_owned() } else { top.join(below) };
    Some(Place { version, top: (*top).to_owned(), group })
}

/// The root and the place of each mount whose kind and options are wanted.
fn mounted<'a>(mounts: &'a str, is_wanted: &dyn Fn(&str, &str) -> bool) -> Vec<(&'a Path, &'a Path)> {
    // "36 35 98:0 /root /mount/point options - type source super,options" (proc_pid_mountinfo(5))
    let entry = |line: &'a str| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (kind, options) = (system.split(' ').next()?, system.split(' ').next_back()?);
        is_wanted(kind, options).then_some((Path::new(mount.next()?), Path::new(mount.next()?)))
    };
    mounts.lines().filter_map(entry).collect()
}

/// How many processes the kernel has killed for memory in a group; `None` where the group does not tell.
#[must_use]
pub fn kills(group: &Path, version: Version) -> Option<u64> {
    let file = if version == Version::One { "memory.oom_control" } else { "memory.events" };
    killed(&fs::read_to_string(group.join(file)).ok()?)
}

fn killed(text: &str) -> Option<u64> {
    text.lines().find_map(|it| it.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:7 - cgroup cgroup rw,memory\n\
        32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const SECOND: &str = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    fn place(version: Version, top: &str, group: &str) -> Option<Place> {
        Some(Place { version, top: top.into(), group: group.into() })
    }

    #[test]
    fn the_group_is_found_in_either_version() {
        let own = "9:name=systemd:/\n4:cpuacct,memory:/a/b\n0::/\n";
        let expected = place(Version::One, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b");
        assert_eq!(find(FIRST, own, "memory"), expected);
        // In no line of its own: it is not known.
        assert_eq!(find(FIRST, own, "cpu"), None);
        let expected = place(Version::Two, "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/x.scope");
        assert_eq!(find(SECOND, "0::/user.slice/x.scope\n", "cpu"), expected);
        assert_eq!(find("1 2 0:1 / / rw - ext4 /dev/sda rw\n", own, "memory"), None);
    }

    #[test]
    fn a_container_finds_its_group_whatever_it_sees_the_hierarchy_from() {
        // From its own group, which it is told the machine's path of.
        let own = "31 25 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let expected = place(Version::One, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
        assert_eq!(find(own, "4:memory:/docker/x\n", "memory"), expected);
        // With a namespace of its own, and the machine's hierarchy mounted beside.
        let both = format!("29 25 0:26 /../.. /host/cgroup rw - cgroup2 cgroup rw\n{SECOND}");
        let expected = place(Version::Two, "/sys/fs/cgroup", "/sys/fs/cgroup");
        assert_eq!(find(&both, "0::/\n", "memory"), expected);
        // A group outside of what it sees.
        assert_eq!(find(SECOND.replace(" / ", " /pod ").as_str(), "0::/other\n", "memory"), expected);
    }

    #[test]
    fn kills_for_memory_are_counted() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(kills(group.path(), Version::Two), None);
        fs::write(group.path().join("memory.events"), "low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\n").unwrap();
        fs::write(group.path().join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
        assert_eq!(kills(group.path(), Version::Two), Some(0));
        assert_eq!(kills(group.path(), Version::One), Some(2));
        assert_eq!(killed("oom_kill_disable 0\n"), None);
    }
}

//! Whether the kernel killed for memory in our container: not every engine hears of it, and tells it. Without a container
//! of our own the control group may be that of others as well: then the figure means nothing, and nobody heeds it.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// Where control groups are seen.
const GROUPS: &str = "/sys/fs/cgroup";

/// How many processes the kernel has killed for memory in our control group; none where that cannot be known.
pub(super) fn kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    files(Path::new(GROUPS), &own).into_iter().find_map(|it| killed(&fs::read_to_string(it).ok()?))
}

/// The files that may tell it, best first: of the group by its own path, which a container may see from the host's root
/// or its own.
fn files(groups: &Path, own: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // "4:memory:/path", "0::/path" (cgroups(7))
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (groups.to_owned(), "memory.events"),
            it if it.split(',').any(|it| it == "memory") => (groups.join("memory"), "memory.oom_control"),
            _ => continue,
        };
        files.push(root.join(path.trim_start_matches('/')).join(file));
        files.push(root.join(file));
    }
    files
}

fn killed(text: &str) -> Option<u64> {
    text.lines().find_map(|it| it.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_kind_of_control_groups_tells_it() {
        let shown = |own: &str| -> Vec<String> {
            files(Path::new("/g"), own).into_iter().map(|it| it.display().to_string()).collect()
        };
        assert_eq!(shown("0::/\n"), ["/g/memory.events", "/g/memory.events"]);
        let both = "8:pids:/x\n4:cpu,memory:/pod/x\n0::/pod/x\n";
        let expected = [
            "/g/memory/pod/x/memory.oom_control",
            "/g/memory/memory.oom_control",
            "/g/pod/x/memory.events",
            "/g/memory.events",
        ];
        assert_eq!(shown(both), expected);
        assert_eq!(killed("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(killed("low 0\nmax 9\noom 1\noom_kill 0\n"), Some(0));
        assert_eq!(killed(""), None);
    }
}

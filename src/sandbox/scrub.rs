//! What never enters a layer: traces of when and where it was made.

use serde::{Deserialize, Serialize};

/// Directories whose files are left out; directories in them stay, since packages own some.
const EMPTIED: [&str; 6] =
    ["var/log", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists", "run"];

/// Directories emptied in layers of packages, where nothing of use can be in them.
const TEMPORARY: [&str; 2] = ["tmp", "var/tmp"];

/// Files left out: what was before, locks, and identities that every machine must have its own of.
const FILES: [&str; 12] = [
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/apt/daily_lock",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "etc/.pwd.lock",
    "etc/machine-id",
];

/// What a walk over an upper directory leaves out and changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    /// Mount points that were made for a step: left out while they are empty.
    pub(super) made: Vec<String>,
    /// Whether temporary directories are emptied too.
    pub(super) temporary: bool,
    /// Times from the first to the second (seconds since the epoch) are those of the work itself and become the one
    /// time of our layers; others come from packages and stay.
    pub(super) during: (i64, i64),
}

impl Rules {
    /// Whether a path that is no directory is left out.
    pub(super) fn drops(&self, path: &str) -> bool {
        let under = |dirs: &[&str]| dirs.iter().any(|dir| path.strip_prefix(dir).is_some_and(|it| it.starts_with('/')));
        under(&EMPTIED)
            || (self.temporary && under(&TEMPORARY))
            || FILES.contains(&path)
            || path.strip_prefix("etc/ssh/ssh_host_").is_some_and(|it| !it.contains('/'))
            || path.ends_with("/.wh..wh.plnk")
    }

    /// The time an entry gets.
    pub(super) fn clamp(&self, mtime: i64) -> i64 {
        if (self.during.0..=self.during.1).contains(&mtime) { crate::oci::layer::EPOCH } else { mtime }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_caches_and_identities_stay_out_and_their_directories_stay() {
        let rules = Rules { temporary: true, during: (100, 200), ..Rules::default() };
        for path in ["var/log/dpkg.log", "var/log/apt/term.log", "tmp/x", "etc/ssh/ssh_host_rsa_key", "etc/machine-id"]
        {
            assert!(rules.drops(path), "{path}");
        }
        for path in ["var/log", "var/logs/x", "etc/ssh/ssh_config", "var/lib/dpkg/status"] {
            assert!(!rules.drops(path), "{path}");
        }
        assert!(!Rules::default().drops("tmp/x"));
        assert_eq!((rules.clamp(99), rules.clamp(150)), (99, crate::oci::layer::EPOCH));
    }
}

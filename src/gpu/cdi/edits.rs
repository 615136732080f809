//! Changes to a container, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Changes to a container. Whoever applies them makes what mounts need: directories, empty files to bind over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEdits {
    /// Device nodes to appear.
    pub device_nodes: Vec<DeviceNode>,
    /// Files and directories of this machine to appear.
    pub mounts: Vec<Mount>,
    /// Variables, over the image's own and below those the run was given. `LD_LIBRARY_PATH` is not among them.
    pub env: BTreeMap<String, String>,
    /// Symbolic links to make, after the mounts; a link that stands there already is replaced, a file is left.
    pub links: Vec<Link>,
    /// Absolute directories inside where the dynamic loader is to look as well. They hold the driver's libraries alone.
    /// See [`ContainerEdits::library_path`].
    pub library_directories: Vec<String>,
    /// Further groups of the program (numeric), which own device nodes.
    pub groups: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside.
    pub path: String,
    /// The node on this machine.
    pub host_path: PathBuf,
    /// Permissions for the device cgroup: of `r`, `w`, `m`.
    pub permissions: String,
}

/// A file, directory or socket of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On this machine.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Absolute path inside.
    pub path: String,
    /// What it says.
    pub target: String,
}

impl ContainerEdits {
    /// `LD_LIBRARY_PATH` inside, given the one there would be: the driver's directories come last, so that an image's own
    /// choice (CUDA's forward compatibility libraries) stands. `None`: to be left as it is.
    #[must_use]
    pub fn library_path(&self, present: Option<&str>) -> Option<String> {
        let mut parts: Vec<&str> = present.unwrap_or_default().split(':').filter(|it| !it.is_empty()).collect();
        let before = parts.len();
        for directory in &self.library_directories {
            if !parts.contains(&directory.as_str()) {
                parts.push(directory);
            }
        }
        (parts.len() > before).then(|| parts.join(":"))
    }

    /// The same with mounts in place of links to mounted files, for engines that mount and cannot link. Other links are
    /// left as they are.
    #[must_use]
    pub fn without_links(mut self) -> Self {
        let mut links = std::mem::take(&mut self.links);
        // A link may lead to a link.
        for _ in 0..links.len() {
            let known = self.mounts.clone();
            links.retain(|link| {
                let target = link.resolved();
                let Some(mount) = known.iter().find(|it| it.target == target) else { return true };
                self.mounts.push(Mount { target: link.path.clone(), ..mount.clone() });
                false
            });
        }
        self.links = links;
        self
    }
}

impl Link {
    /// The absolute path it leads to.
    fn resolved(&self) -> String {
        if self.target.starts_with('/') {
            return self.target.clone();
        }
        let mut parts: Vec<&str> = self.path.split('/').filter(|it| !it.is_empty()).collect();
        parts.pop();
        for part in self.target.split('/').filter(|it| !it.is_empty() && *it != ".") {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        format!("/{}", parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(path: &str, target: &str) -> Link {
        Link { path: path.to_owned(), target: target.to_owned() }
    }

    #[test]
    fn the_drivers_directories_come_last_and_once() {
        let edits = ContainerEdits { library_directories: vec!["/d".to_owned()], ..ContainerEdits::default() };
        assert_eq!(edits.library_path(None).unwrap(), "/d");
        assert_eq!(edits.library_path(Some("/a::/b")).unwrap(), "/a:/b:/d");
        assert_eq!(edits.library_path(Some("/d:/a")), None);
        assert_eq!(ContainerEdits::default().library_path(Some("/a")), None);
    }

    #[test]
    fn links_to_mounted_files_become_mounts_through_other_links_too() {
        let mount = |target: &str| Mount { source: "/host/x.2".into(), target: target.to_owned(), read_only: true };
        let edits = ContainerEdits {
            mounts: vec![mount("/l/x.2")],
            links: vec![link("/l/x", "x.1"), link("/l/x.1", "x.2"), link("/m/x", "../l/./x.2"), link("/o", "/absent")],
            ..ContainerEdits::default()
        };
        let flat = edits.without_links();
        assert_eq!(flat.links, [link("/o", "/absent")]);
        let mut targets: Vec<&str> = flat.mounts.iter().map(|it| it.target.as_str()).collect();
        targets.sort_unstable();
        assert_eq!(targets, ["/l/x", "/l/x.1", "/l/x.2", "/m/x"]);
        assert!(flat.mounts.iter().all(|it| it.source.ends_with("x.2") && it.read_only));
    }
}

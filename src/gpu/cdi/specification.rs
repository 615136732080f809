//! CDI specifications as they lie on a machine: JSON and YAML files in a few directories.
//!
//! A device is described by the latest directory that knows it; two files of one directory that describe the same device
//! describe it not at all, as CDI has it. A file that cannot be read, or is of a version that is not known here, is a
//! warning: other files count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::{ContainerEdits, DeviceNode, KIND, Mount, hooks};

/// Where specifications lie, the most important last.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Versions whose fields are known here.
const VERSIONS: [&str; 8] = ["0.3.", "0.4.", "0.5.", "0.6.", "0.7.", "0.8.", "1.0.", "1.1."];
/// Larger than any specification, in bytes.
const LARGEST: u64 = 8 << 20;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// `containerEdits`. Fields that say nothing of devices or files (`intelRdt`, `netDevices`) are not read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<SpecifiedMount>,
    pub(super) hooks: Vec<Hook>,
    #[serde(rename = "additionalGIDs", alias = "additionalGids")]
    groups: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecifiedMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A program that a container runtime runs while it makes a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    /// When.
    pub(super) hook_name: String,
    /// The program.
    pub(super) path: String,
    /// Its arguments, its own name first.
    #[serde(default)]
    pub(super) args: Vec<String>,
}

/// The specifications of a machine.
#[derive(Debug, Clone, Default)]
pub struct Specifications {
    files: Vec<(PathBuf, Specification)>,
    /// Qualified names to file and device.
    devices: BTreeMap<String, (usize, usize)>,
    warnings: Vec<String>,
}

/// What is said of some devices.
#[derive(Debug)]
pub(super) struct Parts {
    origin: PathBuf,
    edits: Vec<Edits>,
}

impl Specifications {
    /// Those of this machine: in the directories that `AGENT_CDI_DIRS` names, else in CDI's own.
    #[must_use]
    pub fn of_machine() -> Self {
        let named = std::env::var_os("AGENT_CDI_DIRS").filter(|it| !it.is_empty());
        match named {
            Some(named) => Self::read(std::env::split_paths(&named).collect()),
            None => Self::read(DIRECTORIES.iter().map(PathBuf::from).collect()),
        }
    }

    /// Those in some directories, the most important last.
    #[must_use]
    pub fn read(directories: Vec<PathBuf>) -> Self {
        let mut known = Self::default();
        for directory in directories {
            let mut here = BTreeMap::new();
            let mut twice = BTreeSet::new();
            for path in listed(&directory) {
                match parse(&path) {
                    Ok(Some(specification)) => {
                        let file = known.files.len();
                        for (number, device) in specification.devices.iter().enumerate() {
                            let name = format!("{}={}", specification.kind, device.name);
                            if here.insert(name.clone(), (file, number)).is_some() {
                                twice.insert(name);
                            }
                        }
                        known.files.push((path, specification));
                    }
                    Ok(None) => {}
                    Err(reason) => known
                        .warnings
                        .push(format!("The CDI specification {} is left aside: {reason}.", path.display())),
                }
            }
            known.devices.extend(here);
            for name in twice {
                known.warnings.push(format!(
                    "Two CDI specifications in {} describe {name}: it is as if none did.",
                    directory.display()
                ));
                known.devices.remove(&name);
            }
        }
        known
    }

    /// What could not be read or does not count.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a device is described, by its qualified name: `nvidia.com/gpu=0`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.devices.contains_key(name)
    }

    /// What is said of some devices: of each file that describes one, its common part, then the devices'. `None` where a
    /// device is not described.
    pub(super) fn parts(&self, names: &[String]) -> Option<Parts> {
        let mut files = BTreeSet::new();
        let mut edits = Vec::new();
        let mut origin = PathBuf::new();
        for name in names {
            let (file, device) = *self.devices.get(name)?;
            let (path, specification) = self.files.get(file)?;
            if files.insert(file) {
                edits.push(specification.container_edits.clone());
                origin.clone_from(path);
            }
            edits.push(specification.devices.get(device)?.container_edits.clone());
        }
        Some(Parts { origin, edits })
    }
}

/// The specification files in a directory, by name. One that is not there has none.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|it| Some(it.ok()?.path())).collect();
    paths.retain(|it| it.extension().is_some_and(|it| it == "json" || it == "yaml"));
    paths.sort();
    paths
}

/// Reads a file; `None` for one about devices of another kind.
fn parse(path: &Path) -> Result<Option<Specification>, String> {
    let size = fs::metadata(path).map_err(|it| it.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|it| it.to_string())?;
    let specification: Specification = if path.extension().is_some_and(|it| it == "json") {
        serde_json::from_str(&text).map_err(|it| it.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|it| it.without_snippet().to_string())?
    };
    if specification.kind != KIND {
        return Ok(None);
    }
    let version = &specification.cdi_version;
    if !VERSIONS.iter().any(|it| version.starts_with(it)) {
        return Err(format!("its cdiVersion is `{version}`, and 0.3 to 1.1 are known"));
    }
    Ok(Some(specification))
}

impl Parts {
    /// The file they come from; the last where there are several.
    pub(super) fn origin(&self) -> &Path {
        &self.origin
    }

    /// What of this machine is named and not there.
    pub(super) fn missing(&self) -> Vec<String> {
        let nodes = self.edits.iter().flat_map(|it| &it.device_nodes).map(Node::on_host);
        let mounts =
            self.edits.iter().flat_map(|it| &it.mounts).filter(|it| it.is_bind()).map(|it| it.host_path.as_str());
        let mut missing: Vec<String> =
            nodes.chain(mounts).filter(|it| fs::symlink_metadata(it).is_err()).map(str::to_owned).collect();
        missing.sort();
        missing.dedup();
        missing
    }

    /// What they come to, and what of them cannot be had.
    pub(super) fn edits(&self) -> (ContainerEdits, Vec<String>) {
        let mut edits = ContainerEdits::default();
        let mut notes = Vec::new();
        for part in &self.edits {
            for variable in &part.env {
                // Without a value CDI leaves it out.
                if let Some((name, value)) = variable.split_once('=') {
                    edits.env.insert(name.to_owned(), value.to_owned());
                }
            }
            for node in &part.device_nodes {
                let node = node.edit();
                if !edits.device_nodes.contains(&node) {
                    edits.device_nodes.push(node);
                }
            }
            for mount in &part.mounts {
                if !mount.is_bind() {
                    let kind = mount.kind.as_deref().unwrap_or_default();
                    notes.push(format!("CDI: {} is left out: a mount of type {kind}.", mount.container_path));
                    continue;
                }
                let mount = mount.edit();
                if !edits.mounts.contains(&mount) {
                    edits.mounts.push(mount);
                }
            }
            edits.groups.extend(&part.groups);
        }
        edits.groups.sort_unstable();
        edits.groups.dedup();
        let all: Vec<&Hook> = self.edits.iter().flat_map(|it| &it.hooks).collect();
        hooks::translate(&all, &mut edits, &mut notes);
        (edits, notes)
    }
}

impl Node {
    fn on_host(&self) -> &str {
        self.host_path.as_deref().filter(|it| !it.is_empty()).unwrap_or(&self.path)
    }

    fn edit(&self) -> DeviceNode {
        let permissions = self.permissions.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| "rwm".to_owned());
        DeviceNode { path: self.path.clone(), host_path: self.on_host().into(), permissions }
    }
}

impl SpecifiedMount {
    fn is_bind(&self) -> bool {
        let bound = || self.options.iter().any(|it| it == "bind" || it == "rbind");
        self.kind.as_deref().is_none_or(|it| matches!(it, "" | "bind" | "none")) || bound()
    }

    /// Read-only whatever the specification says: no run writes to the driver's files. A socket is written to all the same.
    fn edit(&self) -> Mount {
        Mount { source: PathBuf::from(&self.host_path), target: self.container_path.clone(), read_only: true }
    }
}

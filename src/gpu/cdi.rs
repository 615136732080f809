//! What a container needs for its GPUs, as the Container Device Interface (CDI) describes it: device nodes, the driver's
//! files, variables.
//!
//! Podman and newer Docker engines read CDI specifications by themselves and are told [`names`]. The native engine applies
//! [`ContainerEdits`], plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::GpuSet;

/// The kind of NVIDIA's devices in CDI names.
const KIND: &str = "nvidia.com/gpu";

/// Changes to a container. Whoever applies them makes what mounts need: directories, empty files to bind over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEdits {
    /// Device nodes to appear.
    pub device_nodes: Vec<DeviceNode>,
    /// Files and directories of this machine to appear, links on the machine's side undone.
    pub mounts: Vec<Mount>,
    /// Small files to appear, over what is there (which may be below `/proc`).
    pub files: Vec<TextFile>,
    /// Variables, on top of the image's own and below those the run was given. `LD_LIBRARY_PATH` is not among them.
    pub env: BTreeMap<String, String>,
    /// Symbolic links to make; one that stands there already is replaced, a file is not.
    pub links: Vec<Link>,
    /// Absolute directories inside where the dynamic loader is to look as well: what a hook of NVIDIA's does with
    /// `ldconfig`, and we, needing no `ldconfig` of the image, with `LD_LIBRARY_PATH`. See [`ContainerEdits::library_path`].
    pub library_directories: Vec<String>,
    /// Further groups of the program (numeric), which own device nodes.
    pub groups: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside.
    pub path: String,
    /// The node on this machine, to be bound or made anew.
    pub host_path: PathBuf,
    /// Permissions for the device cgroup: `r`, `w`, `m`.
    pub permissions: String,
}

/// A file or directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On this machine.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// A file of a few lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFile {
    /// Absolute path inside.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// CDI names of the devices, for engines that read specifications by themselves: `nvidia.com/gpu=0`, `…=0:1`.
#[must_use]
pub fn names(set: &GpuSet) -> Vec<String> {
    set.devices.iter().map(|it| format!("{KIND}={}", it.short())).collect()
}

/// Why GPUs cannot be given.
#[derive(Debug, thiserror::Error)]
#[error("this program cannot give GPUs to native runs yet")]
pub struct NoEdits;

impl crate::error::Explain for NoEdits {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Usage
    }
}

/// What the devices take, and what people should know of it.
///
/// # Errors
/// [`NoEdits`] for any device.
pub fn edits(set: &GpuSet) -> Result<(ContainerEdits, Vec<String>), NoEdits> {
    if !set.is_empty() {
        return Err(NoEdits);
    }
    Ok((ContainerEdits { env: set.environment(), ..ContainerEdits::default() }, Vec::new()))
}

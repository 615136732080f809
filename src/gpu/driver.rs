//! The driver as it is installed: its libraries, programs, sockets and device nodes, wherever they lie.
//!
//! Libraries are looked for beside the NVML that this program has loaded, in the loader's cache (`/etc/ld.so.cache`) and in
//! the directories that distributions, cloud images and driver containers use. Of several versions the loaded one counts.

pub(super) mod elf;
mod loader;
#[cfg(test)]
pub(super) mod testing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::error::{Explain, Kind};

/// What computing needs of the driver: programs and their monitoring, video decoding. What draws is left out.
const LIBRARIES: [&str; 18] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvidia-allocator.so",
    "libnvidia-cfg.so",
    "libnvidia-compiler.so",
    "libnvidia-encode.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so",
    "libnvidia-nscq.so",
    "libnvidia-nvvm.so",
    "libnvidia-nvvm70.so",
    "libnvidia-opencl.so",
    "libnvidia-opticalflow.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-pkcs11.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-sandboxutils.so",
];
/// Without these nothing can run.
const NEEDED: [&str; 1] = ["libcuda.so"];
/// Programs of the driver.
const PROGRAMS: [&str; 4] = ["nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];
/// Sockets of its daemons.
const SOCKETS: [&str; 2] = ["/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket"];
/// Device nodes that every run needs, and whether it does not run without.
const CONTROL: [(&str, bool); 4] =
    [("nvidiactl", true), ("nvidia-uvm", true), ("nvidia-uvm-tools", false), ("nvidia-modeset", false)];
/// Directories of libraries, below the driver's root.
const DIRECTORIES: [&str; 11] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/usr/local/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
];
/// Directories of programs, below the driver's root.
const PROGRAM_DIRECTORIES: [&str; 5] = [
    "/usr/bin",
    "/usr/local/nvidia/bin",
    "/home/kubernetes/bin/nvidia/bin",
    "/run/current-system/sw/bin",
    "/usr/lib/wsl/lib",
];

/// Why the driver's files cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A library is not there.
    #[error("the driver's library `{name}` is in none of {looked}")]
    NoLibrary {
        /// Its name.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A device node is not there.
    #[error("the device node `{}` is missing", path.display())]
    NoNode {
        /// Its path.
        path: PathBuf,
    },
    /// The driver does not tell which node belongs to a device.
    #[error("the driver does not tell which device node belongs to GPU {device}")]
    Unknown {
        /// Short name of the device.
        device: String,
    },
}

impl Explain for DriverError {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::NoLibrary { .. } => {
                "If the driver is installed elsewhere, say where: AGENT_DRIVER_ROOT. Or describe its files in a CDI specification."
            }
            Self::NoNode { .. } => {
                "Let the driver make it: `nvidia-modprobe -u -c 0`, or run `nvidia-smi` as root once."
            }
            Self::Unknown { .. } => "Describe the devices in a CDI specification: `nvidia-ctk cdi generate`.",
        };
        vec![hint.to_owned()]
    }
}

/// The driver's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Driver {
    /// Where it is installed.
    pub root: PathBuf,
    /// Libraries: the file itself, and the name by which programs ask for it (SONAME).
    pub libraries: Vec<(PathBuf, String)>,
    /// Programs: name and file.
    pub programs: Vec<(&'static str, PathBuf)>,
    /// Sockets of its daemons: path inside and file.
    pub sockets: Vec<(&'static str, PathBuf)>,
}

/// Where the driver is installed: `AGENT_DRIVER_ROOT`, else `/`.
pub(super) fn root() -> PathBuf {
    std::env::var_os("AGENT_DRIVER_ROOT").filter(|it| !it.is_empty()).map_or_else(|| "/".into(), PathBuf::from)
}

/// Directories of a root where libraries may lie, the most telling first.
pub(super) fn directories(root: &Path) -> Vec<PathBuf> {
    let below = |it: &str| root.join(it.trim_start_matches('/'));
    let mut found: Vec<PathBuf> = Vec::new();
    if root == Path::new("/") {
        found.extend(loaded());
        let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
        found.extend(loader::directories_of(&cache, "libnvidia-ml.so.1"));
        found.extend(loader::directories_of(&cache, "libcuda.so.1"));
    }
    found.extend(DIRECTORIES.iter().map(|it| below(it)));
    let mut seen = std::collections::HashSet::new();
    found.retain(|it| seen.insert(it.clone()));
    found
}

/// Where the NVML lies that this process has loaded.
fn loaded() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path =
        maps.lines().filter_map(|it| it.find('/').map(|at| &it[at..])).find(|it| it.contains("/libnvidia-ml.so"))?;
    Path::new(path).parent().map(Path::to_owned)
}

impl Driver {
    /// Finds the files of a version of this machine's driver, the one that is loaded.
    ///
    /// # Errors
    /// [`DriverError::NoLibrary`]
    pub fn find(version: &str) -> Result<Self, DriverError> {
        Self::below(&root(), version)
    }

    /// Finds the files of a version of the driver below a root.
    pub(super) fn below(root: &Path, version: &str) -> Result<Self, DriverError> {
        Self::within(root, &directories(root), version)
    }

    fn within(root: &Path, directories: &[PathBuf], version: &str) -> Result<Self, DriverError> {
        let mut libraries: BTreeMap<PathBuf, String> = BTreeMap::new();
        for name in LIBRARIES {
            let found = directories.iter().find_map(|it| library(it, name, version));
            match found {
                Some((path, soname)) => {
                    libraries.insert(path, soname);
                }
                None if NEEDED.contains(&name) => {
                    let looked = directories.iter().filter(|it| it.is_dir()).map(|it| it.display().to_string());
                    let looked = looked.collect::<Vec<_>>().join(", ");
                    return Err(DriverError::NoLibrary { name: format!("{name}.1"), looked });
                }
                None => {}
            }
        }
        let below = |it: &str| root.join(it.trim_start_matches('/'));
        let beside = directories.iter().filter_map(|it| Some(it.parent()?.join("bin")));
        // As a shell would find them, where it is this machine's own driver.
        let path = std::env::var_os("PATH").filter(|_| root == Path::new("/")).unwrap_or_default();
        let own = PROGRAM_DIRECTORIES.iter().map(|it| below(it));
        let places: Vec<PathBuf> = own.chain(beside).chain(std::env::split_paths(&path)).collect();
        let file = |it: PathBuf| it.canonicalize().ok().filter(|it| it.is_file());
        let programs =
            PROGRAMS.iter().filter_map(|name| Some((*name, places.iter().find_map(|it| file(it.join(name)))?)));
        let sockets = SOCKETS.iter().map(|it| (*it, below(it))).filter(|it| it.1.exists());
        Ok(Self {
            root: root.to_owned(),
            libraries: libraries.into_iter().collect(),
            programs: programs.collect(),
            sockets: sockets.collect(),
        })
    }

    /// A device node of the driver, in `/dev` or where a driver container has its own.
    ///
    /// # Errors
    /// [`DriverError::NoNode`]
    pub fn node(&self, name: &str) -> Result<PathBuf, DriverError> {
        let own = self.root.join("dev").join(name);
        if own.exists() {
            return Ok(own);
        }
        let path = Path::new("/dev").join(name);
        if path.exists() { Ok(path) } else { Err(DriverError::NoNode { path }) }
    }

    /// The nodes that every run needs: name and path.
    ///
    /// # Errors
    /// [`DriverError::NoNode`] for one that nothing runs without.
    pub fn control_nodes(&self) -> Result<Vec<(&'static str, PathBuf)>, DriverError> {
        let mut nodes = Vec::new();
        for (name, needed) in CONTROL {
            match self.node(name) {
                Ok(path) => nodes.push((name, path)),
                Err(error) if needed => return Err(error),
                Err(_) => {}
            }
        }
        Ok(nodes)
    }

    /// A file below the driver's `/proc`.
    #[must_use]
    pub fn proc_file(&self, path: &str) -> PathBuf {
        let own = self.root.join("proc/driver/nvidia").join(path);
        if own.exists() { own } else { Path::new("/proc/driver/nvidia").join(path) }
    }
}

/// A library in a directory: the file of the driver's version, else the one that programs would get.
fn library(directory: &Path, name: &str, version: &str) -> Option<(PathBuf, String)> {
    let candidates = [format!("{name}.{version}"), format!("{name}.1"), name.to_owned()];
    let mut names: Vec<String> = candidates.into_iter().filter(|it| !it.ends_with('.')).collect();
    let prefix = format!("{name}.");
    let entries = fs::read_dir(directory).ok()?;
    let mut others: Vec<String> = entries
        .filter_map(|it| it.ok()?.file_name().into_string().ok())
        .filter(|it| it.starts_with(&prefix) && !names.contains(it))
        .collect();
    others.sort();
    names.extend(others);
    names.iter().find_map(|it| {
        let path = directory.join(it).canonicalize().ok()?;
        // One of another architecture has no name here.
        Some((path.clone(), elf::soname(&path)?))
    })
}

#[cfg(test)]
mod tests;

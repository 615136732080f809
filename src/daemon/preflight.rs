//! Whether an image can run here, told from its configuration and its lock alone: before a layer or a wheel is fetched.
//!
//! Checked are the architecture (of the image and of every wheel), what the image requires of the driver
//! (`NVIDIA_REQUIRE_…`, as NVIDIA's container tools do), the CUDA version its wheels were made for, and room on the disk.
//! What certainly fails is refused with the reason; what may fail is a warning.
//!
//! Called twice by a build that is for this machine: with [`glance`] when the base is known and nothing of it is fetched
//! but its configuration, and with [`preflight`] when the lock is there. For a prebuilt image: its own configuration and
//! lock.

mod require;
mod wheels;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::gpu::{Discovery, GpuSet, Inventory};
use crate::lock::Lock;
use crate::oci::Platform;
use crate::secret::Secret;
use crate::store::Store;

/// The variable that switches the check of the driver off.
const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";
/// How much larger a layer is unpacked, about.
const UNPACKED: u64 = 3;

/// The machine that is to run the image.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its architecture as images have it: `amd64`, `arm64`.
    pub architecture: String,
    /// The GPUs of the run.
    pub gpus: GpuSet,
    /// The driver and its devices, where there is one.
    pub inventory: Option<Inventory>,
    /// Room in bytes where images are kept; absent where it is not known.
    pub free: Option<u64>,
    /// Layers and wheels that are there already.
    pub present: BTreeSet<Digest>,
}

impl Machine {
    /// This machine, as it is for a run with these GPUs whose image is built from a lock in this store. For an image that
    /// is finished already nothing is fetched: leave out `free` then.
    #[must_use]
    pub fn here(gpus: &GpuSet, found: &Discovery, store: &Store, lock: &Lock) -> Self {
        let present = fetched(lock).map(|it| *it.0).filter(|it| store.has(it).is_some()).collect();
        Self { present, ..Self::empty(gpus, found, store) }
    }

    /// The same before anything is locked: what is in the store is not looked for.
    #[must_use]
    pub fn empty(gpus: &GpuSet, found: &Discovery, store: &Store) -> Self {
        let inventory = match found {
            Discovery::Found(inventory) => Some(inventory.clone()),
            Discovery::NoDriver(_) => None,
        };
        let room = rustix::fs::statvfs(store.root()).ok();
        Self {
            architecture: Platform::host().architecture,
            gpus: gpus.clone(),
            inventory,
            free: room.map(|it| it.f_bavail.saturating_mul(it.f_frsize)),
            present: BTreeSet::new(),
        }
    }
}

/// What a build from a lock fetches, with sizes: layers of the base, and wheels.
fn fetched(lock: &Lock) -> impl Iterator<Item = (&Digest, u64)> {
    let blobs = lock.base.layers.iter().filter_map(|it| it.blob.as_ref()).map(|it| (&it.digest, it.size));
    blobs.chain(lock.python.distributions.iter().map(|it| (&it.sha256, it.size)))
}

/// Something that may go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an image cannot run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// Another architecture.
    #[error("{what} is made for `{wanted}`, this machine is `{present}`")]
    Architecture {
        /// The image, or a wheel.
        what: String,
        /// What it is made for.
        wanted: String,
        /// What the machine is.
        present: String,
    },
    /// The image requires more of the driver.
    #[error("the image requires `{requirement}` ({variable}), and GPU {device} has {present}")]
    Driver {
        /// The variable that says so.
        variable: String,
        /// Its value.
        requirement: String,
        /// The device that does not meet it.
        device: String,
        /// What it has.
        present: String,
    },
    /// The wheels are made for a newer CUDA.
    #[error("{wheel} is made for CUDA {wanted}; driver {driver} runs CUDA up to {present}")]
    Cuda {
        /// Name and version of the distribution.
        wheel: String,
        /// The CUDA version.
        wanted: String,
        /// The driver's version.
        driver: String,
        /// The newest CUDA version that it runs.
        present: String,
    },
    /// The disk is too small.
    #[error("{needed} bytes have to be fetched and {free} bytes are free")]
    Space {
        /// What is missing.
        needed: u64,
        /// What is free.
        free: u64,
    },
}

impl Explain for PreflightError {
    fn kind(&self) -> Kind {
        match self {
            Self::Space { .. } => Kind::Space,
            _ => Kind::Unsatisfiable,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Architecture { present, .. } => {
                vec![format!("Use a base image for `{present}` and lock the task again, or run it elsewhere.")]
            }
            Self::Driver { .. } => vec![
                "Update the driver, use a base image made for an older CUDA version, or run the task elsewhere."
                    .to_owned(),
                "NVIDIA_DISABLE_REQUIRE=1 among the task's container arguments switches this check off.".to_owned(),
            ],
            Self::Cuda { present, .. } => vec![
                format!("Ask for a version of the package made for CUDA {present} or older, or update the driver."),
                "Without GPUs (`--cpu-only`) it may run all the same.".to_owned(),
            ],
            // The renderer knows what to do about a full disk.
            Self::Space { .. } => Vec::new(),
        }
    }
}

/// Whether an image can run on a machine. `config` is its configuration (image-spec), or its base's; `off` says that the run's
/// container does without the driver's check, whatever the lock says.
///
/// # Errors
/// [`PreflightError`]
pub fn preflight(config: &Value, lock: &Lock, off: bool, machine: &Machine) -> Result<Vec<Warning>, PreflightError> {
    let mut warnings = Vec::new();
    architecture(config, lock, machine)?;
    space(lock, machine, &mut warnings)?;
    let off = off || lock.launch.env.get(DISABLE).is_some_and(|it| is_set(it));
    let required = driver(config, off, machine, &mut warnings)?;
    match &machine.inventory {
        Some(inventory) if !machine.gpus.is_empty() => {
            // An image that the driver meets although it is made for a newer CUDA brings the libraries for that.
            let own = variables(config).find(|it| it.0 == "CUDA_VERSION").map(|it| it.1);
            let own = own.and_then(wheels::Cuda::parse).filter(|_| required || off);
            wheels::check(&lock.python, inventory, own, &mut warnings)?;
        }
        _ => wheels::unused(&lock.python, &mut warnings),
    }
    Ok(warnings)
}

/// Whether a run can stand on a base, as far as its configuration tells: before a layer of it is fetched. `layers` are those
/// that will be; `off` says that the task does without the driver's check.
///
/// # Errors
/// [`PreflightError`]
pub fn glance(config: &Value, layers: &[(Digest, u64)], off: bool, machine: &Machine) -> Result<(), PreflightError> {
    if let Some(wanted) = config["architecture"].as_str().filter(|it| *it != machine.architecture) {
        let (what, present) = ("the image".to_owned(), machine.architecture.clone());
        return Err(PreflightError::Architecture { what, wanted: wanted.to_owned(), present });
    }
    let absent = layers.iter().filter(|it| !machine.present.contains(&it.0));
    let needed = absent.fold(0_u64, |sum, it| sum.saturating_add(it.1));
    if let Some(free) = machine.free.filter(|it| needed > *it) {
        return Err(PreflightError::Space { needed, free });
    }
    driver(config, off, machine, &mut Vec::new()).map(drop)
}

/// Whether the driver is what an image requires, where the run has GPUs. Whether something of CUDA was required.
fn driver(config: &Value, off: bool, machine: &Machine, warnings: &mut Vec<Warning>) -> Result<bool, PreflightError> {
    let Some(inventory) = machine.inventory.as_ref().filter(|_| !machine.gpus.is_empty()) else { return Ok(false) };
    let own = variables(config).find(|it| it.0 == DISABLE).is_some_and(|it| is_set(it.1));
    if off || own {
        return Ok(false);
    }
    require::check(variables(config), &machine.gpus, inventory, warnings)
}

/// Whether the variables of a container switch the check off.
#[must_use]
pub fn is_off(variables: &BTreeMap<String, Secret>) -> bool {
    variables.get(DISABLE).is_some_and(|it| is_set(it.reveal()))
}

/// Whether a value of [`DISABLE`] switches the check off.
fn is_set(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes")
}

/// The variables of an image.
fn variables(config: &Value) -> impl Iterator<Item = (&str, &str)> {
    let list = config["config"]["Env"].as_array().into_iter().flatten();
    list.filter_map(|it| it.as_str()?.split_once('='))
}

fn architecture(config: &Value, lock: &Lock, machine: &Machine) -> Result<(), PreflightError> {
    let present = &machine.architecture;
    let mismatch = |what: String, wanted: &str| PreflightError::Architecture {
        what,
        wanted: wanted.to_owned(),
        present: present.clone(),
    };
    let image = config["architecture"].as_str().unwrap_or(&lock.base.platform.architecture);
    for wanted in [image, &lock.base.platform.architecture] {
        if wanted != present {
            return Err(mismatch("the image".to_owned(), wanted));
        }
    }
    for wheel in &lock.python.distributions {
        if let Some(wanted) = wheels::foreign(&wheel.file, present) {
            return Err(mismatch(format!("the wheel `{}`", wheel.file), wanted));
        }
    }
    Ok(())
}

fn space(lock: &Lock, machine: &Machine, warnings: &mut Vec<Warning>) -> Result<(), PreflightError> {
    let Some(free) = machine.free else { return Ok(()) };
    let absent = fetched(lock).filter(|it| !machine.present.contains(it.0));
    let needed = absent.fold(0_u64, |sum, it| sum.saturating_add(it.1));
    if needed > free {
        return Err(PreflightError::Space { needed, free });
    }
    if needed.saturating_mul(1 + UNPACKED) > free {
        warnings.push(Warning(format!(
            "{needed} bytes have to be fetched and {free} bytes are free: unpacked, the image may not fit."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

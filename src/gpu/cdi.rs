//! What a container needs for its GPUs, as the Container Device Interface (CDI) describes it: device nodes, the driver's
//! files, variables.
//!
//! Podman and newer Docker engines read CDI specifications by themselves and are told [`names`]. The native engine applies
//! [`ContainerEdits`], plain data from [`edits`]: taken from the machine's specifications (`/etc/cdi`, `/var/run/cdi`) when
//! these describe every chosen device and what they name is there, else made from the driver as it is installed
//! ([`super::driver`]), so that no toolkit of the vendor's is needed.

mod edits;
mod generate;
mod hooks;
mod specification;

pub use edits::{ContainerEdits, DeviceNode, Link, Mount};
pub use specification::Specifications;

use super::driver::{self, Driver};
use super::{Discovery, GpuDevice, GpuError, GpuSet, Inventory};
use crate::error::{Explain, Kind};
use specification::Parts;

/// The kind of NVIDIA's devices in CDI names.
const KIND: &str = "nvidia.com/gpu";

/// Where the driver's libraries, or links to them, are put inside: a directory of their own, so that looking there finds
/// nothing else. The images of `nvidia/cuda` look there already.
const LIBRARIES: &str = "/usr/local/nvidia/lib64";

/// Why GPUs cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// The driver does not answer.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The driver went away since the devices were resolved.
    #[error("the NVIDIA driver is gone: {reason}")]
    NoDriver {
        /// Why, as the search for one said.
        reason: String,
    },
    /// The driver's files.
    #[error(transparent)]
    Driver(#[from] driver::DriverError),
}

impl Explain for CdiError {
    fn kind(&self) -> Kind {
        match self {
            Self::Gpu(error) => error.kind(),
            Self::NoDriver { .. } => Kind::NotFound,
            Self::Driver(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Gpu(error) => error.hints(),
            Self::NoDriver { .. } => vec!["`agent gpus` tells what there is.".to_owned()],
            Self::Driver(error) => error.hints(),
        }
    }
}

/// What a container needs to see the devices of a set and no others, and what people should know of it. For the empty
/// set: what hides them all. Reads files, and asks the driver where no specification tells; to be called outside of async
/// code.
///
/// # Errors
/// [`CdiError`]: the driver's files or device nodes are not there.
pub fn edits(set: &GpuSet) -> Result<(ContainerEdits, Vec<String>), CdiError> {
    if set.is_empty() {
        return Ok((with_environment(ContainerEdits::default(), set), Vec::new()));
    }
    edits_from(set, &Specifications::of_machine(), || match super::discover()? {
        Discovery::Found(inventory) => {
            let driver = Driver::find(&inventory.driver)?;
            Ok((inventory, driver))
        }
        Discovery::NoDriver(reason) => Err(CdiError::NoDriver { reason }),
    })
}

fn edits_from(
    set: &GpuSet,
    specifications: &Specifications,
    installed: impl FnOnce() -> Result<(Inventory, Driver), CdiError>,
) -> Result<(ContainerEdits, Vec<String>), CdiError> {
    let mut warnings = specifications.warnings().to_vec();
    if let Some(parts) = parts(set, specifications) {
        let missing = parts.missing();
        if missing.is_empty() {
            let (edits, notes) = parts.edits();
            warnings.extend(notes);
            return Ok((with_environment(edits, set), warnings));
        }
        warnings.push(format!(
            "The CDI specification {} is out of date: {} is not there. The driver's own files are used.",
            parts.origin().display(),
            missing.join(", "),
        ));
    }
    let (inventory, driver) = installed()?;
    let edits = generate::edits(set, &inventory, &driver)?;
    Ok((with_environment(edits, set), warnings))
}

/// The variables of a set replace what a specification sets: it sets `void`, to keep NVIDIA's runtime away, which takes no
/// part here.
fn with_environment(mut edits: ContainerEdits, set: &GpuSet) -> ContainerEdits {
    edits.env.extend(set.environment());
    edits
}

/// What the specifications say of all devices of a set; `None` where they lack one.
fn parts(set: &GpuSet, specifications: &Specifications) -> Option<Parts> {
    let names: Option<Vec<String>> = set.devices.iter().map(|it| name(it, specifications)).collect();
    specifications.parts(&names?)
}

/// Whether this machine's specifications describe every device of a set, so that an engine that reads them can be told
/// [`names`].
#[must_use]
pub fn described(set: &GpuSet) -> bool {
    let specifications = Specifications::of_machine();
    set.devices.iter().all(|it| name(it, &specifications).is_some())
}

/// CDI names of the devices, for engines that read specifications by themselves: `nvidia.com/gpu=0`, `…=0:1`, `…=GPU-…`,
/// whichever this machine's specifications have. Where they have none, the engine's may (it can be on another machine):
/// then the index, as NVIDIA's generator names devices.
#[must_use]
pub fn names(set: &GpuSet) -> Vec<String> {
    names_in(set, &Specifications::of_machine())
}

/// CDI names of devices as they were asked for, where nobody here knows them: `nvidia.com/gpu=0`, `…=all`.
#[must_use]
pub fn named(ids: &[String]) -> Vec<String> {
    ids.iter().map(|it| format!("{KIND}={it}")).collect()
}

fn names_in(set: &GpuSet, specifications: &Specifications) -> Vec<String> {
    let known = |it: &GpuDevice| name(it, specifications).unwrap_or_else(|| format!("{KIND}={}", it.short()));
    set.devices.iter().map(known).collect()
}

/// The name of a device in the specifications: by UUID where they have it, for indices change; else by one of the
/// spellings that NVIDIA's generator has for indices.
fn name(device: &GpuDevice, specifications: &Specifications) -> Option<String> {
    let typed = match &device.instance {
        Some(instance) => format!("mig{}:{}", device.index, instance.index),
        None => format!("gpu{}", device.index),
    };
    let spellings = [device.id().to_owned(), device.short(), typed];
    spellings.into_iter().map(|it| format!("{KIND}={it}")).find(|it| specifications.has(it))
}

#[cfg(test)]
mod tests;

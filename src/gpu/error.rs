//! What can be wrong with GPUs: the driver, or what was asked of it.

use nvml_wrapper::error::NvmlError;

use super::FORBIDDEN;
use crate::error::{Explain, Kind};

/// What a user without permission can do.
const OPEN: &str = "Make sure this user may open /dev/nvidiactl and /dev/nvidia*.";

/// Why GPUs cannot be had as they were asked for.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A driver is there and does not answer.
    #[error("the NVIDIA driver does not answer: {what} failed")]
    Driver {
        /// What was asked.
        what: &'static str,
        /// What it said.
        #[source]
        source: NvmlError,
    },
    /// GPUs are asked for and there is no driver.
    #[error("GPUs `{asked}` are asked for and cannot be had: {reason}")]
    NoDriver {
        /// As it was asked.
        asked: String,
        /// Why, as the search for one said.
        reason: String,
    },
    /// GPUs are asked for and the driver sees none.
    #[error("GPUs `{asked}` are asked for and the driver sees none")]
    NoDevices {
        /// As it was asked.
        asked: String,
    },
    /// What was asked cannot be read.
    #[error("GPUs `{asked}` cannot be read: {reason}")]
    Grammar {
        /// As it was asked.
        asked: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such device or instance.
    #[error("there is no GPU `{asked}`: there {present}")]
    Absent {
        /// The one that is not there.
        asked: String,
        /// What there is, after "there": `are 0, 1 and 2`.
        present: String,
    },
    /// The driver has lost it.
    #[error("GPU {device} is lost: {reason}")]
    Lost {
        /// Its short name.
        device: String,
        /// Why, as far as the driver tells.
        reason: String,
    },
    /// The beginning of a UUID fits several.
    #[error("GPU `{asked}` may be any of {candidates}")]
    Ambiguous {
        /// As it was asked.
        asked: String,
        /// Those it may be.
        candidates: String,
    },
    /// A partitioned device without an instance.
    #[error("GPU {index} is partitioned (MIG) and has no instance: nothing can run on it")]
    NoInstance {
        /// Its index.
        index: u32,
    },
    /// One device is asked for twice.
    #[error("GPU {device} is asked for twice: as `{first}` and as `{second}`")]
    Twice {
        /// Its short name.
        device: String,
        /// The first spelling.
        first: String,
        /// The second.
        second: String,
    },
}

impl Explain for GpuError {
    fn kind(&self) -> Kind {
        match self {
            Self::Driver { .. } => Kind::System,
            Self::NoDriver { .. }
            | Self::NoDevices { .. }
            | Self::Absent { .. }
            | Self::Lost { .. }
            | Self::NoInstance { .. } => Kind::NotFound,
            Self::Grammar { .. } | Self::Ambiguous { .. } | Self::Twice { .. } => Kind::Usage,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Driver { source: NvmlError::NoPermission, .. } => OPEN,
            Self::Lost { reason, .. } if reason == FORBIDDEN => OPEN,
            Self::Driver { source: NvmlError::LibRmVersionMismatch, .. } => {
                "The driver was updated while it was loaded: restart the machine or reload the kernel module."
            }
            Self::Driver { .. } => "See whether `nvidia-smi` works; if not, the driver needs repair.",
            Self::NoDriver { .. } | Self::NoDevices { .. } => {
                "Install the driver, or go without GPUs: `--cpu-only` (or `--gpus none`)."
            }
            Self::Grammar { .. } => {
                "Say `all`, `none`, or a list of indices (`0,2`, `0-3`), MIG instances (`0:1`) and UUIDs (`GPU-…`, `MIG-…`)."
            }
            Self::Absent { .. } | Self::Ambiguous { .. } => "`agent gpus` lists what there is.",
            Self::Lost { .. } => {
                "Reset it (`nvidia-smi --gpu-reset`) or restart the machine; until then `--gpus` can name others."
            }
            Self::NoInstance { .. } => "Make instances with `nvidia-smi mig`, or switch MIG off.",
            Self::Twice { .. } => "Name each GPU once.",
        };
        vec![hint.to_owned()]
    }
}

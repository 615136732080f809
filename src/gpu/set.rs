//! The devices a run may see: resolved once, translated by each engine.

use serde::{Deserialize, Serialize};

/// The devices a run may see, and no others. Empty: none, which is hidden from the run whatever its image says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSet {
    /// In the order they are numbered inside.
    pub devices: Vec<GpuDevice>,
}

/// One device, or one instance of a partitioned one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDevice {
    /// Index of the physical device in NVML's order.
    pub index: u32,
    /// `GPU-…` of the physical device.
    pub uuid: String,
    /// The instance, where the device is partitioned and one of its instances is meant.
    pub instance: Option<GpuInstance>,
}

/// A MIG instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInstance {
    /// Its number on the device.
    pub index: u32,
    /// `MIG-…`
    pub uuid: String,
}

impl GpuSet {
    /// Whether nothing is to be seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

impl GpuDevice {
    /// What `NVIDIA_VISIBLE_DEVICES` and device requests call it: the UUID of the instance, else of the device.
    #[must_use]
    pub fn id(&self) -> &str {
        self.instance.as_ref().map_or(&self.uuid, |it| &it.uuid)
    }

    /// Its short name, as in `--gpus` and worker ids: `0`, `0:1`.
    #[must_use]
    pub fn short(&self) -> String {
        self.instance.as_ref().map_or_else(|| self.index.to_string(), |it| format!("{}:{}", self.index, it.index))
    }
}

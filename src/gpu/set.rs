//! The devices a run may see: resolved once, translated by each engine.

use std::collections::BTreeMap;

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

    /// As it stands in worker ids, after the worker's name: `gpu0,1`, `gpu0.1` for an instance, `cpu` for none.
    #[must_use]
    pub fn worker_part(&self) -> String {
        if self.is_empty() {
            return "cpu".to_owned();
        }
        let names: Vec<String> = self.devices.iter().map(|it| it.short().replace(':', ".")).collect();
        format!("gpu{}", names.join(","))
    }

    /// The value of `NVIDIA_VISIBLE_DEVICES`: UUIDs, which mean the same wherever they are read. For none it is `void`:
    /// NVIDIA's runtime then leaves the container alone, while `none` still brings the driver's files.
    #[must_use]
    pub fn visible_devices(&self) -> String {
        if self.is_empty() {
            return "void".to_owned();
        }
        self.devices.iter().map(GpuDevice::id).collect::<Vec<_>>().join(",")
    }

    /// Variables of a run that sees these devices and no others, over what its image says. For none, CUDA is told so too:
    /// a run with all privileges sees every device node.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), self.visible_devices())]);
        if self.is_empty() {
            env.insert("CUDA_VISIBLE_DEVICES".to_owned(), String::new());
        }
        env
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

//! GPUs as NVML tells of them. The only place that loads NVIDIA's library; everything above sees plain values.
//!
//! The library comes with the driver (`libnvidia-ml.so.1`); a machine without one is an answer, not an error.

mod ask;
pub mod cdi;
pub mod driver;
mod error;
mod partition;
mod set;

pub use ask::{Ask, resolve};
pub use error::GpuError;
pub use set::{GpuDevice, GpuInstance, GpuSet};

use std::ffi::OsString;
use std::path::Path;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device as NvmlDevice, Nvml};
use serde::Serialize;

/// Names the library is known by; only the first comes with every driver.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Why a device is as good as lost whose node this user may not open.
const FORBIDDEN: &str = "this user may not use it";

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Discovery {
    /// A driver, and its devices (possibly none).
    Found(Inventory),
    /// No NVIDIA driver; why, for people.
    NoDriver(String),
}

/// The driver and its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Driver version, `550.54.14`.
    pub driver: String,
    /// Newest CUDA version the driver runs, `12.4`.
    pub cuda: String,
    /// Devices by index, without those that the driver has lost.
    pub devices: Vec<Gpu>,
    /// Those that the driver has lost.
    pub lost: Vec<LostGpu>,
}

/// A device, or an instance of one, that fell off the bus or fails otherwise. The driver tells no more of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostGpu {
    /// Index of the device.
    pub index: u32,
    /// Index of the instance, where the device itself is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// Why, for people: `it fell off the bus`.
    pub reason: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Index in NVML's order (PCI bus), as in `--gpus 0`.
    pub index: u32,
    /// `GPU-…`
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Family of products as NVIDIA's container tools name it, `tesla`; absent where the driver does not tell.
    pub brand: Option<String>,
    /// Number of its device node, `/dev/nvidia0`; absent where the driver does not tell. Not always its index.
    pub minor: Option<u32>,
    /// Memory in bytes; absent where the device has none of its own (it shares the machine's).
    pub memory_total: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// Compute capability, `9.0`; absent where the driver does not tell.
    pub compute_capability: Option<String>,
    /// Percent of the last sample period in which a kernel ran; absent where the driver does not tell (as with MIG).
    pub utilization: Option<u32>,
    /// Degrees Celsius; absent where the driver does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<u32>,
    /// Processes with a compute context.
    pub processes: Vec<u32>,
    /// Whether the device is partitioned (MIG).
    pub mig: bool,
    /// Its MIG instances.
    pub instances: Vec<MigInstance>,
}

/// A MIG instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigInstance {
    /// Index below its device, as in `--gpus 0:1`.
    pub index: u32,
    /// `MIG-…`
    pub uuid: String,
    /// Product name with profile, where the driver tells.
    pub name: Option<String>,
    /// Memory in bytes, where the driver tells.
    pub memory_total: Option<u64>,
    /// Processes with a compute context on it.
    pub processes: Vec<u32>,
}

impl Inventory {
    /// Whether a device, or the instance of one that is meant, is there.
    #[must_use]
    pub fn has(&self, device: &GpuDevice) -> bool {
        let instance = |gpu: &Gpu| match &device.instance {
            Some(own) => gpu.instances.iter().any(|it| it.uuid == own.uuid),
            None => true,
        };
        self.devices.iter().any(|it| it.uuid == device.uuid && instance(it))
    }

    /// That a device which was there has been lost, with the one that an instance is of or by itself.
    #[must_use]
    pub fn lost(&self, device: &GpuDevice) -> Option<&LostGpu> {
        let own = device.instance.as_ref().map(|it| it.index);
        self.lost.iter().find(|it| it.index == device.index && (it.instance.is_none() || it.instance == own))
    }
}

impl LostGpu {
    fn new(index: u32, instance: Option<u32>, error: &NvmlError) -> Self {
        let reason = match error {
            NvmlError::GpuLost => "it fell off the bus or cannot be reached".to_owned(),
            NvmlError::NoPermission => FORBIDDEN.to_owned(),
            other => format!("the driver fails on it: {other}"),
        };
        Self { index, instance, reason }
    }

    /// Its short name, as in `--gpus`: `0`, `0:1`.
    #[must_use]
    pub fn short(&self) -> String {
        self.instance.map_or_else(|| self.index.to_string(), |it| format!("{}:{it}", self.index))
    }
}

/// Asks the driver.
///
/// # Errors
/// [`GpuError`] when a driver is there and does not answer.
pub fn discover() -> Result<Discovery, GpuError> {
    let mut missing = String::new();
    for library in libraries() {
        match Nvml::builder().lib_path(&library).init() {
            Ok(nvml) => return inventory(&nvml).map(Discovery::Found),
            Err(NvmlError::LibloadingError(error)) => missing = error.to_string(),
            Err(NvmlError::DriverNotLoaded) => {
                return Ok(Discovery::NoDriver(
                    "NVIDIA's library is installed, its kernel driver is not loaded".to_owned(),
                ));
            }
            Err(source) => return Err(GpuError::Driver { what: "its start", source }),
        }
    }
    Ok(Discovery::NoDriver(format!("no NVIDIA driver on this machine ({missing})")))
}

/// What to load: the library of the driver's own root where one is named, then what the loader finds, then what lies where
/// the loader was not told to look, as in containers that the driver is mounted into.
fn libraries() -> Vec<OsString> {
    let root = driver::root();
    let lying = driver::directories(&root).into_iter().map(|it| it.join(LIBRARIES[0])).filter(|it| it.exists());
    let (lying, known) = (lying.map(OsString::from), LIBRARIES.map(OsString::from));
    if root == Path::new("/") { known.into_iter().chain(lying).collect() } else { lying.chain(known).collect() }
}

fn inventory(nvml: &Nvml) -> Result<Inventory, GpuError> {
    let failed = |what| move |source| GpuError::Driver { what, source };
    let cuda = nvml.sys_cuda_driver_version().map_err(failed("the CUDA version"))?;
    let count = nvml.device_count().map_err(failed("the number of devices"))?;
    let mut lost = Vec::new();
    let mut device = |index| gpu(index, &nvml.device_by_index(index).map_err(failed("a device"))?, &mut lost);
    let found: Vec<(u32, Result<Gpu, GpuError>)> = (0..count).map(|it| (it, device(it))).collect();
    // One that fell off the bus is not there; the others are. Of one that fails in another way that is only believed
    // where others do not: else it is the driver that fails.
    let answers = found.iter().any(|it| it.1.is_ok());
    let mut devices = Vec::new();
    for (index, found) in found {
        match found {
            Ok(gpu) => devices.push(gpu),
            Err(GpuError::Driver { source, .. }) if answers || matches!(source, NvmlError::GpuLost) => {
                lost.push(LostGpu::new(index, None, &source));
            }
            Err(error) => return Err(error),
        }
    }
    lost.sort_by_key(|it| (it.index, it.instance));
    Ok(Inventory {
        driver: nvml.sys_driver_version().map_err(failed("the driver's version"))?,
        cuda: format!(
            "{}.{}",
            nvml_wrapper::cuda_driver_version_major(cuda),
            nvml_wrapper::cuda_driver_version_minor(cuda)
        ),
        devices,
        lost,
    })
}

/// A device; instances of it that are lost are added to what is.
fn gpu(index: u32, device: &NvmlDevice<'_>, lost: &mut Vec<LostGpu>) -> Result<Gpu, GpuError> {
    let failed = |what| move |source| GpuError::Driver { what, source };
    let memory = match device.memory_info() {
        // Drivers before 510 have this question in an older form alone.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => None,
        other => Some(other.map_err(failed("a device's memory"))?),
    };
    // A device that knows no MIG says so; that is no failure.
    let mig = device.mig_mode().is_ok_and(|it| it.current == 1);
    Ok(Gpu {
        index,
        uuid: device.uuid().map_err(failed("a device's UUID"))?,
        name: device.name().map_err(failed("a device's name"))?,
        // The library's names of brands are the tools', in other case.
        brand: device.brand().ok().map(|it| format!("{it:?}").to_lowercase()),
        minor: device.minor_number().ok(),
        memory_total: memory.as_ref().map(|it| it.total),
        memory_used: memory.as_ref().map(|it| it.used),
        compute_capability: device.cuda_compute_capability().ok().map(|it| format!("{}.{}", it.major, it.minor)),
        utilization: device.utilization_rates().ok().map(|it| it.gpu),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        processes: processes(device),
        mig,
        instances: if mig { instances(index, device, lost) } else { Vec::new() },
    })
}

/// The instances of a device. Slots without one are skipped: NVML numbers slots, not instances.
fn instances(gpu: u32, device: &NvmlDevice<'_>, lost: &mut Vec<LostGpu>) -> Vec<MigInstance> {
    let slots = device.mig_device_count().unwrap_or(0);
    let instance = |index| -> Result<MigInstance, NvmlError> {
        let instance = device.mig_device_by_index(index)?;
        let memory_total = instance.memory_info().ok().map(|it| it.total);
        let (uuid, name) = (instance.uuid()?, instance.name().ok());
        Ok(MigInstance { index, uuid, name, memory_total, processes: processes(&instance) })
    };
    let mut found = Vec::new();
    for index in 0..slots {
        match instance(index) {
            Ok(instance) => found.push(instance),
            Err(error @ (NvmlError::GpuLost | NvmlError::Unknown)) => {
                lost.push(LostGpu::new(gpu, Some(index), &error));
            }
            Err(_) => {}
        }
    }
    found
}

/// Ids of the processes with a compute context; a driver that does not tell has none to tell of.
fn processes(device: &NvmlDevice<'_>) -> Vec<u32> {
    let told = match device.running_compute_processes() {
        // As drivers before 510 are asked.
        Err(NvmlError::FailedToLoadSymbol(_)) => device.running_compute_processes_v2(),
        told => told,
    };
    let mut ids: Vec<u32> = told.unwrap_or_default().into_iter().map(|it| it.pid).collect();
    ids.sort_unstable();
    ids
}

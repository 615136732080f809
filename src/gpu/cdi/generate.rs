//! Edits made from the driver as it is installed: what a specification by NVIDIA's generator would come to.

use std::path::PathBuf;

use super::{CdiError, ContainerEdits, DeviceNode, LIBRARIES, Link, Mount};
use crate::gpu::driver::{Driver, DriverError};
use crate::gpu::{GpuSet, Inventory, partition};

/// What the devices of a set need.
pub(super) fn edits(set: &GpuSet, inventory: &Inventory, driver: &Driver) -> Result<ContainerEdits, CdiError> {
    let mut edits = ContainerEdits { library_directories: vec![LIBRARIES.to_owned()], ..ContainerEdits::default() };
    for device in &set.devices {
        let gpu = inventory.devices.iter().find(|it| it.uuid == device.uuid);
        let minor = gpu.and_then(|it| it.minor).ok_or_else(|| DriverError::Unknown { device: device.short() })?;
        let name = format!("nvidia{minor}");
        let mut nodes = vec![name];
        if let Some(instance) = &device.instance {
            let capabilities = partition::capabilities(driver, device.index, minor, instance.index);
            let capabilities = capabilities.ok_or_else(|| DriverError::Unknown { device: device.short() })?;
            nodes.extend(capabilities.iter().map(|it| format!("nvidia-caps/nvidia-cap{it}")));
        }
        for name in nodes {
            let node = node(&name, driver.node(&name)?);
            if !edits.device_nodes.contains(&node) {
                edits.device_nodes.push(node);
            }
        }
    }
    edits.device_nodes.extend(driver.control_nodes()?.into_iter().map(|(name, path)| node(name, path)));
    for (source, soname) in &driver.libraries {
        let name = source.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        let link = |from: &str, to: &str| Link { path: format!("{LIBRARIES}/{from}"), target: to.to_owned() };
        if *soname != name {
            edits.links.push(link(soname, &name));
        }
        // Some programs ask for it by the name that a development package would have.
        if soname == "libcuda.so.1" {
            edits.links.push(link("libcuda.so", soname));
        }
        edits.mounts.push(mount(source.clone(), format!("{LIBRARIES}/{name}")));
    }
    edits.mounts.extend(driver.programs.iter().map(|(name, path)| mount(path.clone(), format!("/usr/bin/{name}"))));
    edits.mounts.extend(driver.sockets.iter().map(|(inside, path)| mount(path.clone(), (*inside).to_owned())));
    Ok(edits)
}

fn node(name: &str, host_path: PathBuf) -> DeviceNode {
    DeviceNode { path: format!("/dev/{name}"), host_path, permissions: "rw".to_owned() }
}

fn mount(source: PathBuf, target: String) -> Mount {
    Mount { source, target, read_only: true }
}

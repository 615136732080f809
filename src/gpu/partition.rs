//! Which capabilities (`/dev/nvidia-caps/…`) an instance of a partitioned device (MIG) needs: those of its GPU instance
//! and of its compute instance.
//!
//! NVML's safe interface does not tell these two numbers of an instance; `nvidia-smi`, which comes with every driver, does.
//! The driver's `/proc` then names the nodes.

use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use regex::Regex;

use super::driver::Driver;

/// For `nvidia-smi`, which waits for the driver.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of the capabilities of an instance; `None` when the driver does not tell.
pub(super) fn capabilities(driver: &Driver, gpu: u32, minor: u32, instance: u32) -> Option<Vec<u32>> {
    let program = &driver.programs.iter().find(|it| it.0 == "nvidia-smi")?.1;
    let mut command = Command::new(program);
    command.args(["-q", "-x", "-i", &gpu.to_string()]);
    // It loads NVML, which lies where the loader was not told to look if the driver has a root of its own.
    let beside = driver.libraries.iter().find(|it| it.1 == "libnvidia-ml.so.1").and_then(|it| it.0.parent());
    if let Some(directory) = beside {
        command.env("LD_LIBRARY_PATH", directory);
    }
    let output = crate::process::run(&mut command, PATIENCE).ok()?;
    let (group, compute) = numbers(&output.text(), instance)?;
    let base = format!("capabilities/gpu{minor}/mig/gi{group}");
    let number = |path: String| {
        let text = fs::read_to_string(driver.proc_file(&path)).ok()?;
        text.lines().find_map(|it| it.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())
    };
    Some(vec![number(format!("{base}/access"))?, number(format!("{base}/ci{compute}/access"))?])
}

/// Numbers of the GPU instance and the compute instance, from the report of `nvidia-smi -q -x`.
fn numbers(report: &str, instance: u32) -> Option<(u32, u32)> {
    let blocks = Regex::new(r"(?s)<mig_device>(.*?)</mig_device>").ok()?;
    let value = |block: &str, name: &str| -> Option<u32> {
        let (_, rest) = block.split_once(&format!("<{name}>"))?;
        rest.split_once('<')?.0.trim().parse().ok()
    };
    let mut devices = blocks.captures_iter(report).filter_map(|it| it.get(1)).map(|it| it.as_str());
    let device = devices.find(|it| value(it, "index") == Some(instance))?;
    Some((value(device, "gpu_instance_id")?, value(device, "compute_instance_id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_an_instance_are_read_from_the_report() {
        let report = "<nvidia_smi_log><gpu id=\"0\"><mig_devices>\
            <mig_device>\n<index>0</index>\n<gpu_instance_id>7</gpu_instance_id><compute_instance_id>0</compute_instance_id>\n</mig_device>\
            <mig_device><index>1</index><gpu_instance_id>11</gpu_instance_id><compute_instance_id>2</compute_instance_id></mig_device>\
            </mig_devices></gpu></nvidia_smi_log>";
        assert_eq!(numbers(report, 0), Some((7, 0)));
        assert_eq!(numbers(report, 1), Some((11, 2)));
        assert_eq!(numbers(report, 2), None);
        assert_eq!(numbers("", 0), None);
    }
}

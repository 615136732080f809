//! Shared libraries without any code, for tests.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// A shared object of this machine's architecture that names itself `soname`.
pub(crate) fn library(soname: &str) -> Vec<u8> {
    let strings = [b"\0", soname.as_bytes(), b"\0"].concat();
    let (headers, dynamic) = (64_u64, 64 + 2 * 56_u64);
    let text = dynamic + 3 * 16;
    let size = text + strings.len() as u64;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([3_u16.to_le_bytes(), machine.to_le_bytes()].concat());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0, headers, 0].map(u64::to_le_bytes).concat());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, length) in [(1_u32, 0, size), (2, dynamic, 48)] {
        bytes.extend([kind.to_le_bytes(), 4_u32.to_le_bytes()].concat());
        // The addresses are not the offsets, as in real libraries.
        bytes.extend([offset, offset + 0x1000, 0, length, length, 8].map(u64::to_le_bytes).concat());
    }
    bytes.extend([14, 1, 5, text + 0x1000, 0, 0].map(u64::to_le_bytes).concat());
    bytes.extend(strings);
    bytes
}

/// Writes a file with all directories above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A driver 550.54.14 below `root`: two libraries with their links, an older one left behind, `nvidia-smi`, and files in
/// place of device nodes for two devices and the capabilities of an instance.
pub(crate) fn install(root: &Path) -> PathBuf {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    for (name, soname) in [
        ("libcuda.so.550.54.14", "libcuda.so.1"),
        ("libcuda.so.535.1", "libcuda.so.1"),
        ("libnvidia-ml.so.550.54.14", "libnvidia-ml.so.1"),
        ("libnvidia-nvvm.so.550.54.14", "libnvidia-nvvm.so.4"),
    ] {
        write(&libraries.join(name), &library(soname));
    }
    // A driver of another architecture beside it.
    write(&root.join("usr/lib/libnvidia-ml.so.1"), b"\x7fELF\x01");
    std::os::unix::fs::symlink("libcuda.so.550.54.14", libraries.join("libcuda.so.1")).unwrap();
    let report = "<mig_device><index>0</index><gpu_instance_id>7</gpu_instance_id>\
                  <compute_instance_id>0</compute_instance_id></mig_device>";
    let smi = root.join("usr/bin/nvidia-smi");
    // It finds NVML as the loader does.
    let found = "IFS=:; for at in $LD_LIBRARY_PATH; do [ ! -e \"$at/libnvidia-ml.so.550.54.14\" ] || found=1; done";
    write(&smi, format!("#!/bin/sh\n{found}\n[ -n \"$found\" ] && echo '{report}'\n").as_bytes());
    fs::set_permissions(&smi, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for name in
        ["nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67"]
    {
        write(&root.join("dev").join(name), b"");
    }
    let capabilities = root.join("proc/driver/nvidia/capabilities/gpu3/mig/gi7");
    write(&capabilities.join("access"), b"DeviceFileMinor: 66\nDeviceFileMode: 292\n");
    write(&capabilities.join("ci0/access"), b"DeviceFileMinor: 67\n");
    libraries
}

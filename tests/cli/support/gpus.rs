//! A driver that stands in for NVIDIA's: libraries, programs and device nodes below a directory of the test's own.
//!
//! The nodes are those of `/dev/null`, so that any container may open them. What devices there are may change while a
//! test runs.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{TestContext, write};

/// Three devices, in an order that is not that of their nodes: whole, in two instances, and without memory of its own.
pub(crate) const GPUS: &str = "\
driver 550.54.14 12040
gpu 3 GPU-aaaaaaaa-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 0 GPU-bbbbbbbb-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
mig MIG-b0b0b0b0-0000-0000-0000-000000000000 10 NVIDIA H100 MIG 1g.10gb
mig MIG-b1b1b1b1-0000-0000-0000-000000000000 10 NVIDIA H100 MIG 1g.10gb
gpu 1 GPU-cccccccc-0000-0000-0000-000000000000 0 NVIDIA GB10
";

/// Version in the libraries' file names.
const VERSION: &str = "550.54.14";

/// A driver below a directory, as `AGENT_DRIVER_ROOT` names it.
pub(crate) struct StandIn {
    root: PathBuf,
}

impl StandIn {
    /// Compiles and lays out everything. As root: it makes device nodes.
    pub(crate) fn install(context: &TestContext, gpus: &str) -> Self {
        let driver = Self { root: context.path("driver") };
        let libraries = driver.libraries();
        fs_err::create_dir_all(&libraries).unwrap();
        for (source, name, soname) in
            [("nvml.c", "libnvidia-ml.so", "libnvidia-ml.so.1"), ("libcuda.c", "libcuda.so", "libcuda.so.1")]
        {
            driver.compile(context, source, (name, soname), &[]);
            std::os::unix::fs::symlink(format!("{name}.{VERSION}"), libraries.join(soname)).unwrap();
        }
        fs_err::create_dir_all(driver.path("usr/bin")).unwrap();
        fs_err::copy(fixture("nvidia-smi"), driver.path("usr/bin/nvidia-smi")).unwrap();
        driver.change(gpus);
        driver
    }

    /// Makes of it a driver before 510, whose library knows less.
    pub(crate) fn grow_old(&self, context: &TestContext) {
        self.compile(context, "nvml.c", ("libnvidia-ml.so", "libnvidia-ml.so.1"), &["-DOLD"]);
    }

    fn compile(&self, context: &TestContext, source: &str, (name, soname): (&str, &str), options: &[&str]) {
        let output = self.libraries().join(format!("{name}.{VERSION}"));
        let call = context.command("cc").args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&output);
        call.arg(format!("-Wl,-soname,{soname}")).args(options).arg(fixture(source)).arg("-ldl").ok();
    }

    /// Its root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below its root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where its libraries are.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.path("usr/lib/x86_64-linux-gnu")
    }

    /// Changes what devices there are; the file's lines are those of `nvml.c`.
    pub(crate) fn change(&self, gpus: &str) {
        write(&self.libraries().join("gpus"), gpus);
    }

    /// Makes the device nodes: four devices, what all need, and the capabilities of the second's instances.
    pub(crate) fn nodes(&self) {
        fs_err::create_dir_all(self.path("dev/nvidia-caps")).unwrap();
        let names = ["nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];
        let capabilities = [66, 67, 75, 76].map(|it| format!("nvidia-caps/nvidia-cap{it}"));
        for name in names.iter().map(ToString::to_string).chain(capabilities) {
            let path = self.path("dev").join(name);
            let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3));
            made.unwrap_or_else(|error| panic!("cannot make the device node {}: {error}", path.display()));
            // The mode of a new node is what the caller's umask leaves of it.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs_err::set_permissions(&path, open).unwrap();
        }
        for (instance, group, compute) in [(7, 66, 67), (8, 75, 76)] {
            let directory = self.path(&format!("proc/driver/nvidia/capabilities/gpu0/mig/gi{instance}"));
            fs_err::create_dir_all(directory.join("ci0")).unwrap();
            write(&directory.join("access"), &format!("DeviceFileMinor: {group}\nDeviceFileMode: 292\n"));
            write(&directory.join("ci0/access"), &format!("DeviceFileMinor: {compute}\nDeviceFileMode: 292\n"));
        }
    }
}

/// A file of `tests/fixtures/gpu`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpu").join(name)
}

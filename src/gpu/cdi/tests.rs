use std::path::{Path, PathBuf};

use super::*;
use crate::gpu::driver::testing;
use crate::gpu::{Ask, Gpu, MigInstance, resolve};

/// What NVIDIA's generator writes for two devices, one of them partitioned.
const YAML: &str = include_str!("../../../tests/fixtures/cdi/nvidia.yaml");

fn machine() -> Discovery {
    let gpu = |index: u32, minor: u32, mig: bool| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100".to_owned(),
        brand: None,
        minor: Some(minor),
        memory_total: None,
        memory_used: None,
        compute_capability: None,
        utilization: None,
        temperature: None,
        processes: Vec::new(),
        mig,
        instances: Vec::new(),
    };
    let mut partitioned = gpu(1, 3, true);
    let instance = |index: u32, uuid: &str| MigInstance {
        index,
        uuid: uuid.to_owned(),
        name: None,
        memory_total: None,
        processes: Vec::new(),
    };
    partitioned.instances = vec![instance(0, "MIG-a"), instance(1, "MIG-b")];
    let devices = vec![gpu(0, 0, false), partitioned];
    Discovery::Found(Inventory { driver: "550.54.14".to_owned(), cuda: "12.4".to_owned(), devices, lost: Vec::new() })
}

fn set(ask: &str) -> GpuSet {
    resolve(&ask.parse::<Ask>().unwrap(), &machine()).unwrap()
}

/// A driver and its specification in one root.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap() };
        testing::install(host.path());
        host
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn describe(&self, directory: &str, name: &str, text: &str) {
        let text = text.replace("@ROOT@", &self.path().display().to_string());
        testing::write(&self.path().join(directory).join(name), text.as_bytes());
    }

    fn specifications(&self) -> Specifications {
        Specifications::read(["etc/cdi", "run/cdi"].map(|it| self.path().join(it)).to_vec())
    }

    fn edits(&self, ask: &str) -> Result<(ContainerEdits, Vec<String>), CdiError> {
        let Discovery::Found(inventory) = machine() else { unreachable!() };
        edits_from(&set(ask), &self.specifications(), || Ok((inventory, Driver::below(self.path(), "550.54.14")?)))
    }

    /// Nodes as their names inside.
    fn nodes(&self, ask: &str) -> Vec<String> {
        self.edits(ask).unwrap().0.device_nodes.into_iter().map(|it| it.path).collect()
    }

    fn below(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}

#[test]
fn a_specification_is_read_as_nvidias_generator_writes_it() {
    let host = Host::new();
    host.describe("etc/cdi", "nvidia.yaml", YAML);
    let (edits, warnings) = host.edits("0").unwrap();
    assert_eq!(warnings, ["CDI: the hook `enable-cuda-compat` (createContainer) is not run."]);
    let node = |path: &str, host_path: &str| DeviceNode {
        path: path.to_owned(),
        host_path: host.below(host_path),
        permissions: "rwm".to_owned(),
    };
    let mut expected = vec![node("/dev/nvidia-uvm", "dev/nvidia-uvm"), node("/dev/nvidiactl", "dev/nvidiactl")];
    expected.push(node("/dev/nvidia0", "dev/nvidia0"));
    assert_eq!(edits.device_nodes, expected);
    // The generator's `void` keeps NVIDIA's runtime away; here it would tell programs that there are no devices.
    assert_eq!(edits.env, [("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-0".to_owned())].into());
    let targets: Vec<&str> = edits.mounts.iter().map(|it| it.target.as_str()).collect();
    assert_eq!(targets, ["/usr/bin/nvidia-smi", "/usr/lib/libcuda.so.550.54.14"]);
    assert!(edits.mounts.iter().all(|it| it.read_only));
    let link = |path: &str, target: &str| Link { path: path.to_owned(), target: target.to_owned() };
    let made = [
        link("/usr/lib/libcuda.so", "libcuda.so.1"),
        link("/usr/lib/libcuda.so.1", "libcuda.so.550.54.14"),
        link("/usr/local/nvidia/lib64/libcuda.so", "libcuda.so.1"),
        link("/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/libcuda.so.550.54.14"),
    ];
    assert_eq!(edits.links, made);
    assert_eq!(edits.library_directories, ["/usr/local/nvidia/lib64"]);
    assert_eq!(edits.groups, [44]);
}

#[test]
fn json_says_the_same_and_a_later_directory_counts_more() {
    let host = Host::new();
    host.describe("etc/cdi", "nvidia.yaml", YAML);
    let json = r#"{"cdiVersion": "1.1.0", "kind": "nvidia.com/gpu", "devices": [{"name": "GPU-0", "containerEdits":
        {"deviceNodes": [{"path": "/dev/nvidia7", "hostPath": "@ROOT@/dev/nvidia0", "permissions": "r"}]}}]}"#;
    host.describe("run/cdi", "other.json", json);
    let (edits, _) = host.edits("0").unwrap();
    let only = DeviceNode {
        path: "/dev/nvidia7".to_owned(),
        host_path: host.below("dev/nvidia0"),
        permissions: "r".to_owned(),
    };
    assert_eq!((edits.device_nodes, edits.mounts), (vec![only], Vec::new()));
    // Devices of two files: the common parts of both.
    let nodes = host.nodes("0,1:0");
    assert_eq!(
        nodes,
        ["/dev/nvidia7", "/dev/nvidia-uvm", "/dev/nvidiactl", "/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap66"]
    );
}

#[test]
fn devices_have_the_names_the_specifications_have() {
    let host = Host::new();
    let named = |ask: &str| names_in(&set(ask), &host.specifications());
    assert!(named("none").is_empty());
    // None here: the engine may have them.
    assert_eq!(named("1:0,0"), ["nvidia.com/gpu=1:0", "nvidia.com/gpu=0"]);
    host.describe("etc/cdi", "nvidia.yaml", YAML);
    assert_eq!(named("1:0,0"), ["nvidia.com/gpu=1:0", "nvidia.com/gpu=GPU-0"]);
}

#[test]
fn what_cannot_be_read_is_left_aside_with_a_warning() {
    let host = Host::new();
    host.describe("etc/cdi", "a.json", "{");
    host.describe("etc/cdi", "b.yaml", "cdiVersion: 0.2.0\nkind: nvidia.com/gpu\n");
    host.describe("etc/cdi", "c.yaml", "cdiVersion: 0.2.0\nkind: vendor.com/nic\n");
    host.describe("etc/cdi", "d.yaml", "kind: [");
    host.describe("etc/cdi", "e.txt", "not one");
    let twice = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices: [{name: \"0\"}]\n";
    host.describe("etc/cdi", "f.yaml", twice);
    host.describe("etc/cdi", "g.yaml", twice);
    let known = host.specifications();
    let said = known.warnings().join("\n");
    for part in
        ["a.json is left aside", "`0.2.0`, and 0.3 to 1.1 are known", "d.yaml is left", "describe nvidia.com/gpu=0"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(known.warnings().len(), 4, "{said}");
    assert!(!known.has("nvidia.com/gpu=0"));
}

#[test]
fn without_a_specification_the_drivers_own_files_are_described() {
    let host = Host::new();
    let (edits, warnings) = host.edits("0").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let nodes: Vec<&str> = edits.device_nodes.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(nodes[..3], ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    let targets: Vec<&str> = edits.mounts.iter().map(|it| it.target.as_str()).collect();
    let expected = [
        "/usr/local/nvidia/lib64/libcuda.so.550.54.14",
        "/usr/local/nvidia/lib64/libnvidia-ml.so.550.54.14",
        "/usr/local/nvidia/lib64/libnvidia-nvvm.so.550.54.14",
        "/usr/bin/nvidia-smi",
    ];
    assert_eq!(targets[..4], expected);
    let names: Vec<&str> = edits.links.iter().filter_map(|it| it.path.rsplit_once('/')).map(|it| it.1).collect();
    assert_eq!(names, ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-nvvm.so.4"]);
    assert_eq!(edits.env, [("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-0".to_owned())].into());
}

#[test]
fn an_instance_brings_its_device_and_its_two_capabilities() {
    let host = Host::new();
    let nodes = host.nodes("1:0");
    let expected = ["/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67", "/dev/nvidiactl"];
    assert_eq!(nodes[..4], expected);
    assert!(!nodes.contains(&"/dev/nvidia0".to_owned()));
    // One that the driver says nothing of is refused, not given without its capabilities.
    let error = host.edits("1:1").unwrap_err().to_string();
    assert_eq!(error, "the driver does not tell which device node belongs to GPU 1:1");
}

#[test]
fn a_specification_of_another_driver_gives_way_to_what_is_there() {
    let host = Host::new();
    host.describe("etc/cdi", "nvidia.yaml", &YAML.replace("550.54.14", "535.54.03"));
    let (edits, warnings) = host.edits("0").unwrap();
    assert!(warnings.last().unwrap().contains("libcuda.so.535.54.03 is not there"), "{warnings:?}");
    assert!(edits.mounts.iter().any(|it| it.target == "/usr/local/nvidia/lib64/libcuda.so.550.54.14"));
}

#[test]
fn no_devices_means_that_all_are_hidden() {
    let (edits, warnings) = edits(&GpuSet::default()).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = [pair("CUDA_VISIBLE_DEVICES", ""), pair("NVIDIA_VISIBLE_DEVICES", "void")].into();
    assert_eq!((edits, warnings), (ContainerEdits { env, ..ContainerEdits::default() }, Vec::new()));
}

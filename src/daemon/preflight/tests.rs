use serde_json::json;

use super::*;
use crate::gpu::{Gpu, GpuDevice};
use crate::lock::{BaseLayer, Distribution};
use crate::oci::Descriptor;

/// As NVIDIA's images for CUDA 12.4 say it.
const REQUIRED: &str = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=535,driver<536";

fn config(env: &[&str]) -> Value {
    json!({"architecture": "amd64", "os": "linux", "config": {"Env": env}})
}

fn distribution(name: &str, version: &str, size: u64) -> Distribution {
    Distribution {
        name: name.to_owned(),
        version: version.to_owned(),
        file: format!("{}-{version}-py3-none-manylinux2014_x86_64.whl", name.replace('-', "_")),
        sha256: Digest::of(name),
        size,
        url: None,
        direct: false,
        built_from: None,
        path: None,
    }
}

fn lock(distributions: Vec<Distribution>) -> Lock {
    let digest = Digest::of("x");
    let toml = format!(
        "version = {}\nformat = {}\ncreated = 1\nguest = \"{digest}\"\nbytecode = false\n\
         [base]\nconfig = \"{digest}\"\nplatform = {{ os = \"linux\", architecture = \"amd64\" }}\nlayers = []\n\
         [python]\nversion = \"3.11.2\"\nexecutable = \"/usr/bin/python3\"\nlibc = \"glibc 2.36\"\ndigest = \"{digest}\"\n\
         site_packages = false\ndistributions = []\n\
         [launch]\nmode = \"reuse_task\"\nname = \"\"\nentry_point = []\nworking_dir = \"\"\n\
         record = {{ sha256 = \"{}\", text = \"\" }}\n",
        crate::lock::VERSION,
        crate::lock::FORMAT,
        Digest::of(""),
    );
    let mut lock = Lock::parse("test", &toml, |_| Ok(Vec::new())).unwrap();
    lock.python.distributions = distributions;
    lock
}

fn machine(driver: &str, cuda: &str, brand: &str) -> Machine {
    let gpu = Gpu {
        index: 0,
        uuid: "GPU-0".to_owned(),
        name: String::new(),
        brand: Some(brand.to_owned()),
        minor: Some(0),
        memory_total: None,
        memory_used: None,
        compute_capability: Some("9.0".to_owned()),
        utilization: None,
        temperature: None,
        processes: Vec::new(),
        mig: false,
        instances: Vec::new(),
    };
    let device = GpuDevice { index: 0, uuid: "GPU-0".to_owned(), instance: None };
    Machine {
        architecture: "amd64".to_owned(),
        gpus: GpuSet { devices: vec![device] },
        inventory: Some(Inventory {
            driver: driver.to_owned(),
            cuda: cuda.to_owned(),
            devices: vec![gpu],
            lost: Vec::new(),
        }),
        ..Machine::default()
    }
}

fn outcome(config: &Value, lock: &Lock, machine: &Machine) -> Result<String, String> {
    let warnings = preflight(config, lock, false, machine).map_err(|it| it.to_string())?;
    Ok(warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn required(value: &str, machine: &Machine) -> Result<String, String> {
    outcome(&config(&[&format!("NVIDIA_REQUIRE_CUDA={value}")]), &lock(Vec::new()), machine)
}

#[test]
fn an_image_requires_a_cuda_version_or_a_driver_of_certain_brands() {
    let fine = Ok(String::new());
    assert_eq!(required(REQUIRED, &machine("550.54.14", "12.4", "geforce")), fine);
    assert_eq!(required(REQUIRED, &machine("535.104.05", "12.2", "tesla")), fine);
    let refused = required(REQUIRED, &machine("535.104.05", "12.2", "geforce")).unwrap_err();
    insta::assert_snapshot!(refused, @"the image requires `cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=535,driver<536` (NVIDIA_REQUIRE_CUDA), and GPU 0 has driver 535.104.05, CUDA up to 12.2, compute capability 9.0, brand geforce");
    assert!(required(REQUIRED, &machine("525.60.13", "12.0", "tesla")).is_err());
    assert_eq!(required("arch>=8.0,brand!=geforce", &machine("525.60.13", "12.0", "tesla")), fine);
    assert!(required("arch>=10.0", &machine("525.60.13", "12.0", "tesla")).is_err());
}

#[test]
fn several_variables_all_have_to_hold_and_can_be_switched_off() {
    let machine = machine("535.104.05", "12.2", "tesla");
    let env = ["NVIDIA_REQUIRE_CUDA=cuda>=12.0", "NVIDIA_REQUIRE_DRIVER=driver>=550"];
    assert!(outcome(&config(&env), &lock(Vec::new()), &machine).unwrap_err().contains("(NVIDIA_REQUIRE_DRIVER)"));
    let off = [env[0], env[1], "NVIDIA_DISABLE_REQUIRE=true"];
    assert_eq!(outcome(&config(&off), &lock(Vec::new()), &machine), Ok(String::new()));
    // What a run without GPUs requires of a driver is nothing.
    let without = Machine { gpus: GpuSet::default(), ..machine };
    assert_eq!(outcome(&config(&env), &lock(Vec::new()), &without), Ok(String::new()));
}

#[test]
fn a_requirement_that_cannot_be_read_is_a_warning() {
    let said = required("cuda>=twelve", &machine("535.104.05", "12.2", "tesla")).unwrap();
    insta::assert_snapshot!(said, @"The image's NVIDIA_REQUIRE_CUDA is left aside: `cuda>=twelve` in it cannot be read.");
}

#[test]
fn wheels_of_a_newer_cuda_are_refused_by_major_and_warned_of_by_minor_version() {
    let torch = |version: &str| lock(vec![distribution("torch", version, 1)]);
    let run = |version: &str| outcome(&config(&[]), &torch(version), &machine("535.104.05", "12.2", "tesla"));
    assert_eq!(run("2.4.0+cu121"), Ok(String::new()));
    assert_eq!(run("2.4.0+cu118"), Ok(String::new()));
    insta::assert_snapshot!(run("2.6.0+cu126").unwrap(), @"torch 2.6.0+cu126 is made for CUDA 12.6, and driver 535.104.05 runs CUDA up to 12.2: kernels that are compiled at run time (PTX) will fail.");
    insta::assert_snapshot!(run("2.9.0+cu130").unwrap_err(), @"torch 2.9.0+cu130 is made for CUDA 13.0; driver 535.104.05 runs CUDA up to 12.2");
    insta::assert_snapshot!(run("2.4.0+cpu").unwrap(), @"torch 2.4.0+cpu is made without CUDA: the GPUs of this run will idle.");
    let nvidia = lock(vec![distribution("nvidia-cublas-cu12", "12.4.5.8", 400)]);
    assert!(outcome(&config(&[]), &nvidia, &machine("470.82.01", "11.4", "tesla")).is_err());
    // An image for CUDA 13 that a data centre's driver meets brings its compatibility libraries.
    let compatible =
        config(&["NVIDIA_REQUIRE_CUDA=cuda>=13.0 brand=tesla,driver>=535,driver<536", "CUDA_VERSION=13.0.1"]);
    assert_eq!(outcome(&compatible, &torch("2.9.0+cu130"), &machine("535.104.05", "12.2", "tesla")), Ok(String::new()));
    let without = Machine { gpus: GpuSet::default(), ..machine("470.82.01", "11.4", "tesla") };
    insta::assert_snapshot!(outcome(&config(&[]), &nvidia, &without).unwrap(), @"This run sees no GPU, and its environment has 1 wheels of CUDA libraries (400 bytes).");
}

#[test]
fn another_architecture_is_refused_for_images_and_wheels() {
    let machine = Machine { architecture: "arm64".to_owned(), ..Machine::default() };
    let image = outcome(&config(&[]), &lock(Vec::new()), &machine).unwrap_err();
    insta::assert_snapshot!(image, @"the image is made for `amd64`, this machine is `arm64`");
    let mut arm = lock(vec![distribution("numpy", "2.0.0", 1)]);
    arm.base.platform.architecture = "arm64".to_owned();
    let wheel = outcome(&json!({"architecture": "arm64"}), &arm, &machine).unwrap_err();
    insta::assert_snapshot!(wheel, @"the wheel `numpy-2.0.0-py3-none-manylinux2014_x86_64.whl` is made for `manylinux2014_x86_64`, this machine is `arm64`");
}

#[test]
fn what_does_not_fit_on_the_disk_is_not_fetched() {
    let mut lock = lock(vec![distribution("numpy", "2.0.0", 600)]);
    let blob = Descriptor { media_type: String::new(), digest: Digest::of("layer"), size: 400 };
    lock.base.layers = vec![BaseLayer { diff_id: Digest::of("diff"), blob: Some(blob) }];
    let machine = |free: u64, present: &[Digest]| Machine {
        architecture: "amd64".to_owned(),
        free: Some(free),
        present: present.iter().copied().collect(),
        ..Machine::default()
    };
    let run = |machine: &Machine| outcome(&config(&[]), &lock, machine);
    insta::assert_snapshot!(run(&machine(999, &[])).unwrap_err(), @"1000 bytes have to be fetched and 999 bytes are free");
    insta::assert_snapshot!(run(&machine(1000, &[])).unwrap(), @"1000 bytes have to be fetched and 1000 bytes are free: unpacked, the image may not fit.");
    assert_eq!(run(&machine(4000, &[])), Ok(String::new()));
    assert_eq!(run(&machine(0, &[Digest::of("layer"), Digest::of("numpy")])), Ok(String::new()));
}

#[test]
fn this_machine_knows_its_room_and_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (digest, size) = store.put_bytes(b"a wheel").unwrap();
    let mut lock = lock(vec![distribution("here", "1", size), distribution("absent", "1", 5)]);
    lock.python.distributions[0].sha256 = digest;
    let found = Discovery::NoDriver(String::new());
    let here = Machine::here(&GpuSet::default(), &found, &store, &lock);
    assert_eq!((here.present, here.inventory), ([digest].into(), None));
    assert!(here.free.is_some_and(|it| it > 0));
    assert_eq!(here.architecture, Platform::host().architecture);
}

#[test]
fn a_base_is_known_to_be_of_no_use_before_it_is_fetched() {
    let machine = Machine { free: Some(500), ..machine("535.104.05", "12.2", "tesla") };
    let at = |config: &Value, size: u64, off: bool| {
        glance(config, &[(Digest::of("layer"), size)], off, &machine).map_err(|it| it.to_string())
    };
    let newer = config(&["NVIDIA_REQUIRE_CUDA=cuda>=12.4"]);
    assert!(at(&newer, 1, false).unwrap_err().contains("the image requires `cuda>=12.4` (NVIDIA_REQUIRE_CUDA)"));
    assert_eq!((at(&newer, 1, true), at(&config(&[]), 500, false)), (Ok(()), Ok(())));
    assert_eq!(at(&config(&[]), 501, false).unwrap_err(), "501 bytes have to be fetched and 500 bytes are free");
    assert!(at(&json!({"architecture": "arm64"}), 1, false).unwrap_err().contains("`arm64`"));
}

#[test]
fn the_recipe_with_cuda_asks_for_a_driver_that_knows_its_cuda() {
    let text = crate::system::recipe::text("debian-cuda").unwrap();
    let config = crate::system::recipe::configuration("debian-cuda", text).unwrap();
    let lock = lock(vec![distribution("nvidia-cuda-runtime-cu12", "12.6.77", 1)]);
    assert_eq!(outcome(&config, &lock, &machine("560.35.05", "12.6", "tesla")), Ok(String::new()));
    assert_eq!(outcome(&config, &lock, &machine("580.65.06", "13.0", "geforce")), Ok(String::new()));
    let error = outcome(&config, &lock, &machine("535.183.01", "12.2", "tesla")).unwrap_err();
    assert!(error.contains("cuda>=12.6") && error.contains("CUDA up to 12.2"), "{error}");
    // Unless whoever runs it does without the check.
    assert!(preflight(&config, &lock, true, &machine("535.183.01", "12.2", "tesla")).is_ok());
}

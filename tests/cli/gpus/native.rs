//! GPUs of a native run: exactly the chosen ones, from the driver as it is installed and from CDI specifications.

use serde_json::json;

use crate::support::gpus::{GPUS, StandIn, fixture};
use crate::support::{Call, Engine, Server, TestContext, base, require, write};

/// Says what of GPUs is there: device nodes, variables, files of a driver wherever they lie. Then computes on all of them.
const REPORT: &str = r"
cd /dev && echo nodes: $(ls -d nvidia* nvidia-caps/* 2>/dev/null | grep -v '^nvidia-caps$')
env | grep -E '^(NVIDIA|CUDA|LD_LIBRARY)' | sort
find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o ! -type d \
  \( -path '/usr/local/nvidia*' -o -name 'libcuda*' -o -name 'libnv*' -o -name 'nvidia*' \) -print | LC_ALL=C sort
exec /opt/check
";

/// An image whose base says that all GPUs are its own, and the program that computes.
struct World {
    context: TestContext,
    driver: StandIn,
}

impl World {
    fn new() -> Self {
        require(Engine::Umoci);
        let context = TestContext::warm();
        let driver = StandIn::install(&context, GPUS);
        driver.nodes();
        context
            .command("cc")
            .args(["-Wall", "-Werror", "-o"])
            .arg(context.path("check"))
            .arg(fixture("check.c"))
            .arg("-ldl")
            .ok();
        let image = context.path("image");
        context.command("cp").args(["-r", "--reflink=auto"]).arg(base()).arg(&image).ok();
        let umoci = context.command("umoci").args(["config", "--config.env", "NVIDIA_VISIBLE_DEVICES=all"]);
        umoci.arg("--image").arg(format!("{}:latest", image.display())).ok();
        write(&context.path("report.sh"), REPORT);
        Self { context, driver }
    }

    /// A run of the report.
    fn run(&self, arguments: &[&str]) -> Call {
        let lent = |name: &str| format!("{}:/opt/{name}:ro", self.context.path(name).display());
        let call =
            self.context.agent().arg("run").args(arguments).args(["-v", &lent("check"), "-v", &lent("report.sh")]);
        let call = call.env("AGENT_DRIVER_ROOT", self.driver.root()).env("AGENT_CDI_DIRS", self.context.path("cdi"));
        call.arg(format!("oci:{}", self.context.path("image").display())).args(["sh", "/opt/report.sh"])
    }

    /// What a task says that makes the report, executed natively.
    fn executed(&self, server: &Server, flags: &[&str], code: i32) -> String {
        let lent = |name: &str| format!("-v {}:/opt/{name}:ro", self.context.path(name).display());
        let script = "import subprocess, sys\nsys.exit(subprocess.run(['sh', '/opt/report.sh']).returncode)\n";
        let task = json!({
            "name": "a report", "type": "training",
            "script": {"entry_point": "report.py", "binary": "python3", "diff": script, "requirements": {"pip": ""}},
            "container": {"arguments": format!("{} {}", lent("check"), lent("report.sh"))},
        });
        let task = server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned();
        let image = format!("oci:{}", self.context.path("image").display());
        let call = self.context.agent().args(["execute", "--native", "--id", &task]).args(flags);
        let call = call.env("AGENT_DRIVER_ROOT", self.driver.root()).env("AGENT_CDI_DIRS", self.context.path("cdi"));
        let call = call.env("CLEARML_CONFIG_FILE", server.config()).env("CLEARML_DOCKER_IMAGE", image);
        let call = call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false");
        call.env("AGENT_STATE_DIR", self.context.path("state")).run().exits(code).shown_stdout()
    }

    fn said(&self, arguments: &[&str], code: i32) -> String {
        self.run(arguments).run().exits(code).shown_stdout()
    }
}

#[test]
fn a_run_has_exactly_the_devices_it_was_given() {
    let world = World::new();
    insta::assert_snapshot!(world.said(&["--gpus", "0"], 0), @r"
    nodes: nvidia-uvm nvidia-uvm-tools nvidia3 nvidiactl
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
    NVIDIA_VISIBLE_DEVICES=GPU-aaaaaaaa-0000-0000-0000-000000000000
    /usr/bin/nvidia-smi
    /usr/local/nvidia/lib64/libcuda.so
    /usr/local/nvidia/lib64/libcuda.so.1
    /usr/local/nvidia/lib64/libcuda.so.550.54.14
    /usr/local/nvidia/lib64/libnvidia-ml.so.1
    /usr/local/nvidia/lib64/libnvidia-ml.so.550.54.14
    computed on 00000000-0000-0000-0000-000000000003 Stand-in
    devices 1
    ");
    insta::assert_snapshot!(world.said(&["--gpus", "2,0"], 0), @r"
    nodes: nvidia-uvm nvidia-uvm-tools nvidia1 nvidia3 nvidiactl
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
    NVIDIA_VISIBLE_DEVICES=GPU-cccccccc-0000-0000-0000-000000000000,GPU-aaaaaaaa-0000-0000-0000-000000000000
    /usr/bin/nvidia-smi
    /usr/local/nvidia/lib64/libcuda.so
    /usr/local/nvidia/lib64/libcuda.so.1
    /usr/local/nvidia/lib64/libcuda.so.550.54.14
    /usr/local/nvidia/lib64/libnvidia-ml.so.1
    /usr/local/nvidia/lib64/libnvidia-ml.so.550.54.14
    computed on 00000000-0000-0000-0000-000000000001 Stand-in
    computed on 00000000-0000-0000-0000-000000000003 Stand-in
    devices 2
    ");
    // An instance brings its device's node and its own two capabilities.
    insta::assert_snapshot!(world.said(&["--gpus", "1:1", "-e", "LD_LIBRARY_PATH=/own"], 0), @r"
    nodes: nvidia-caps/nvidia-cap75 nvidia-caps/nvidia-cap76 nvidia-uvm nvidia-uvm-tools nvidia0 nvidiactl
    LD_LIBRARY_PATH=/own:/usr/local/nvidia/lib64
    NVIDIA_VISIBLE_DEVICES=MIG-b1b1b1b1-0000-0000-0000-000000000000
    /usr/bin/nvidia-smi
    /usr/local/nvidia/lib64/libcuda.so
    /usr/local/nvidia/lib64/libcuda.so.1
    /usr/local/nvidia/lib64/libcuda.so.550.54.14
    /usr/local/nvidia/lib64/libnvidia-ml.so.1
    /usr/local/nvidia/lib64/libnvidia-ml.so.550.54.14
    computed on 00000000-0000-0000-0000-000000000000 Stand-in
    devices 1
    ");
    // Of all of them one that is lost is left out, and that is said.
    world.driver.change(&GPUS.replace("GB10\n", "GB10\nlost 15\n"));
    let outcome = world.run(&["--gpus", "all"]).run().success();
    let warning = "warning: GPU 2 is lost and left out: it fell off the bus";
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    assert!(outcome.stdout.contains(" nvidia0 nvidia3 nvidiactl\n"), "{}", outcome.stdout);
}

#[test]
fn a_run_without_gpus_has_none_whatever_its_image_says() {
    let world = World::new();
    for arguments in [&["--gpus", "none"][..], &[]] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(world.said(arguments, 3), @r"
            nodes:
            CUDA_VISIBLE_DEVICES=
            NVIDIA_VISIBLE_DEVICES=void
            no driver library
            ");
        }
    }
    let outcome = world.run(&["--gpus", "0,7"]).run().exits(66);
    assert!(outcome.stderr.contains("there is no GPU `7`: there are 0, 1 and 2"), "{}", outcome.stderr);
    fs_err::remove_file(world.driver.path("dev/nvidia-uvm")).unwrap();
    let outcome = world.run(&["--gpus", "0"]).run().exits(66);
    assert!(outcome.stderr.contains("the device node `/dev/nvidia-uvm` is missing"), "{}", outcome.stderr);
}

/// Tasks come to their devices by another way than `agent run`.
#[test]
fn a_task_has_exactly_what_it_was_given() {
    let world = World::new();
    let server = Server::start(&world.context);
    insta::assert_snapshot!(world.executed(&server, &["--gpus", "1:0,2"], 0), @r"
    nodes: nvidia-caps/nvidia-cap66 nvidia-caps/nvidia-cap67 nvidia-uvm nvidia-uvm-tools nvidia0 nvidia1 nvidiactl
    CUDA_DEVICE_ORDER=PCI_BUS_ID
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
    NVIDIA_VISIBLE_DEVICES=MIG-b0b0b0b0-0000-0000-0000-000000000000,GPU-cccccccc-0000-0000-0000-000000000000
    /usr/bin/nvidia-smi
    /usr/local/nvidia/lib64/libcuda.so
    /usr/local/nvidia/lib64/libcuda.so.1
    /usr/local/nvidia/lib64/libcuda.so.550.54.14
    /usr/local/nvidia/lib64/libnvidia-ml.so.1
    /usr/local/nvidia/lib64/libnvidia-ml.so.550.54.14
    computed on 00000000-0000-0000-0000-000000000000 Stand-in
    computed on 00000000-0000-0000-0000-000000000001 Stand-in
    devices 2
    ");
    insta::assert_snapshot!(world.executed(&server, &["--cpu-only"], 3), @r"
    nodes:
    CUDA_DEVICE_ORDER=PCI_BUS_ID
    CUDA_VISIBLE_DEVICES=
    NVIDIA_VISIBLE_DEVICES=void
    no driver library
    ");
}

#[test]
fn a_specification_says_what_a_run_gets() {
    let world = World::new();
    let root = world.driver.root().display().to_string();
    let text = fs_err::read_to_string(fixture("../cdi/nvidia.yaml")).unwrap();
    let text = text.replace("@ROOT@", &root).replace("GPU-0", "GPU-aaaaaaaa-0000-0000-0000-000000000000");
    fs_err::create_dir_all(world.context.path("cdi")).unwrap();
    write(&world.context.path("cdi/nvidia.yaml"), &text);
    let outcome = world.run(&["--gpus", "0"]).run().success();
    // The fixture's node is another one than the driver would tell: it is the specification that counts.
    insta::assert_snapshot!(outcome.shown_stdout(), @r"
    nodes: nvidia-uvm nvidia0 nvidiactl
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
    NVIDIA_VISIBLE_DEVICES=GPU-aaaaaaaa-0000-0000-0000-000000000000
    /usr/bin/nvidia-smi
    /usr/lib/libcuda.so
    /usr/lib/libcuda.so.1
    /usr/lib/libcuda.so.550.54.14
    /usr/local/nvidia/lib64/libcuda.so
    /usr/local/nvidia/lib64/libcuda.so.1
    computed on 00000000-0000-0000-0000-000000000000 Stand-in
    devices 1
    ");
    assert!(
        outcome.stderr.contains("the hook `enable-cuda-compat` (createContainer) is not run"),
        "{}",
        outcome.stderr
    );
    // A device it does not describe comes from the driver.
    assert!(world.said(&["--gpus", "2"], 0).starts_with("nodes: nvidia-uvm nvidia-uvm-tools nvidia1 nvidiactl\n"));
}

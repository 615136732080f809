//! GPUs of runs in Docker and Podman, as the executor starts them: exactly the chosen ones, and none without.
//!
//! Docker has a stand-in for NVIDIA's hook on the PATH of an engine of the test's own, which writes down what it is asked;
//! Podman a service of the test's own that sees an `/etc/cdi` of the test's.

use agent::engine::{Bind, Docker, Endpoint, Libpod};
use agent::gpu::{GpuDevice, GpuSet};
use agent::image::Image;
use agent::run::{ContainerEngine, Engine as _, RunImage};
use rustix::process::Signal;

use crate::engines::{exited, run_image, script, shell, written};
use crate::support::gpus::{GPUS, StandIn, fixture};
use crate::support::images::block;
use crate::support::{Engine, Running, TestContext, require, wait_until, write};

/// Says what of GPUs is there, then computes on all of them.
const SAYS: &str = "echo nodes: $(cd /dev && ls -d nvidia* 2>/dev/null); env | grep ^NVIDIA_VISIBLE; /opt/check";
/// What a run says that is given nothing, whatever its base says.
const NOTHING: &str = "nodes:\nNVIDIA_VISIBLE_DEVICES=void\nno driver library\n";

fn device(index: u32, letter: char) -> GpuDevice {
    let uuid = format!("GPU-{}-0000-0000-0000-000000000000", letter.to_string().repeat(8));
    GpuDevice { index, uuid, instance: None }
}

/// A run of the report that is given these devices; what it said.
async fn report(
    engine: &dyn agent::run::Engine,
    context: &TestContext,
    image: &RunImage,
    devices: &[GpuDevice],
) -> String {
    let mut spec = script(&context.path("runs"), image, &format!("{{ {SAYS}; }} > $AGENT_SPOOL/said; true"));
    spec.gpus = GpuSet { devices: devices.to_vec() };
    let check = context.path("check").display().to_string();
    spec.container.binds.push(Bind { source: check, target: "/opt/check".to_owned(), read_only: true });
    engine.start(&spec).await.unwrap();
    assert_eq!(engine.wait(&spec.id).await.unwrap(), exited(0));
    let said = written(&spec, "said");
    engine.remove(&spec.id).await.unwrap();
    said
}

/// `agent run` of the report in an engine; what it said.
fn run(context: &TestContext, place: (&str, &str), name: &str, gpus: &str) -> String {
    let (engine, variable) = if place.0 == "docker" { ("docker", "DOCKER_HOST") } else { ("podman", "CONTAINER_HOST") };
    let lent = format!("{}:/opt/check:ro", context.path("check").display());
    let call = context.agent().env(variable, place.1).args(["run", "--engine", engine, "--gpus", gpus, "-v", &lent]);
    let call = call.env("AGENT_DRIVER_ROOT", context.path("driver"));
    call.args([name, &format!("{SAYS}; true")]).run().success().stdout
}

/// The program that computes.
fn compile(context: &TestContext) {
    context
        .command("cc")
        .args(["-Wall", "-Werror", "-o"])
        .arg(context.path("check"))
        .arg(fixture("check.c"))
        .arg("-ldl")
        .ok();
}

/// An image whose base says that it sees all GPUs, as a layout too.
fn image(context: &TestContext) -> (agent::base::Around, Image) {
    block(async {
        let (around, image) = shell(context).await;
        agent::image::deliver::layout(&around, &image, &context.path("layout"), "latest").await.unwrap();
        (around, image)
    })
}

/// A program in a mount namespace of its own: what it mounts goes with it.
fn apart(context: &TestContext, text: &str, log: &str) -> Running {
    let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-ec", text]);
    call.current_dir(context.path("")).spawn(&context.path(log))
}

/// Ends it as it should be ended, so that it ends what it started.
fn end(mut program: Running) {
    program.signal(Signal::TERM);
    program.wait();
}

#[test]
fn podman_gives_what_its_specifications_say() {
    require(Engine::Podman);
    let context = TestContext::new();
    compile(&context);
    let driver = StandIn::install(&context, GPUS);
    driver.nodes();
    let (_, image) = image(&context);
    let root = driver.root().display();
    let described = |name: &str, node: &str| {
        format!(
            "- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n    - {{path: /dev/{node}, hostPath: {root}/dev/{node}}}\n"
        )
    };
    let specification = format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{}{}containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  \
         deviceNodes:\n  - {{path: /dev/nvidiactl, hostPath: {root}/dev/nvidiactl}}\n  \
         - {{path: /dev/nvidia-uvm, hostPath: {root}/dev/nvidia-uvm}}\n  mounts:\n  \
         - {{hostPath: {}/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, bind]}}\n",
        described("0", "nvidia3"),
        described("2", "nvidia1"),
        driver.libraries().display(),
    );
    write(&context.path("nvidia.yaml"), &specification);
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        context.path("graph").display(),
        context.path("graph-run").display()
    );
    write(&context.path("storage.conf"), &storage);
    let socket = context.path("podman.sock");
    let service = apart(
        &context,
        &format!(
            "export CONTAINERS_STORAGE_CONF=$PWD/storage.conf\nmkdir over over/upper over/work\n\
             mount -t overlay -o lowerdir=/etc,upperdir=$PWD/over/upper,workdir=$PWD/over/work overlay /etc\n\
             mkdir -p /etc/cdi\ncp nvidia.yaml /etc/cdi/\n\
             podman tag $(podman pull --quiet oci:layout:latest) localhost/agent-gpus:latest\n\
             exec podman system service --time 0 unix://{}",
            socket.display()
        ),
        "podman.log",
    );
    wait_until("podman's service answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    block(async {
        let podman = Libpod::connect(&format!("unix://{}", socket.display())).unwrap();
        let engine = ContainerEngine::podman(podman, false);
        let image = run_image("localhost/agent-gpus:latest", &image);
        let (first, third) = (device(0, 'a'), device(2, 'c'));
        let said = report(&engine, &context, &image, std::slice::from_ref(&first)).await;
        assert!(said.starts_with("nodes: nvidia-uvm nvidia3 nvidiactl\n"), "{said}");
        assert!(said.ends_with("computed on 00000000-0000-0000-0000-000000000003 Stand-in\ndevices 1\n"), "{said}");
        assert!(!said.contains("NVIDIA_VISIBLE_DEVICES=all"), "{said}");
        let said = report(&engine, &context, &image, &[first, third]).await;
        assert!(said.starts_with("nodes: nvidia-uvm nvidia1 nvidia3 nvidiactl\n"), "{said}");
        assert!(said.ends_with("devices 2\n"), "{said}");
        assert_eq!(report(&engine, &context, &image, &[]).await, NOTHING);
        // What the specifications do not describe is refused, not left out.
        let mut spec = script(&context.path("runs"), &image, "true");
        spec.gpus = GpuSet { devices: vec![device(1, 'b')] };
        let error = engine.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains("nvidia.com/gpu=1"), "{error}");
    });
    let (host, name) = (format!("unix://{}", socket.display()), "localhost/agent-gpus:latest");
    let said = run(&context, ("podman", &host), name, "2");
    assert!(said.starts_with("nodes: nvidia-uvm nvidia1 nvidiactl\n") && said.ends_with("devices 1\n"), "{said}");
    assert_eq!(run(&context, ("podman", &host), name, "none"), NOTHING);
    end(service);
}

/// Writes down what Docker asks for, in the place of NVIDIA's hook.
const HOOK: &str = r#"#!/usr/bin/env python3
import json, os, sys

state = json.load(sys.stdin)
with open(os.path.join(state["bundle"], "config.json")) as file:
    env = json.load(file)["process"]["env"]
with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "asked"), "a") as file:
    print(*sys.argv[1:], *sorted({it for it in env if it.startswith("NVIDIA_")}), file=file)
"#;

#[test]
fn docker_asks_nvidias_hook_for_the_chosen_devices_alone() {
    require(Engine::Docker);
    let context = TestContext::new();
    compile(&context);
    let hooks = context.path("hooks");
    fs_err::create_dir(&hooks).unwrap();
    write(&hooks.join("nvidia-container-runtime-hook"), HOOK);
    context.command("chmod").arg("755").arg(hooks.join("nvidia-container-runtime-hook")).ok();
    let (around, image) = image(&context);
    let socket = context.path("docker.sock");
    write(&context.path("daemon.json"), "{}");
    let service = apart(
        &context,
        &format!(
            "export PATH=$PWD/hooks:$PATH\n\
             exec dockerd --config-file daemon.json --host unix://{} --data-root $PWD/data --exec-root $PWD/exec \
             --pidfile $PWD/docker.pid --bridge none --iptables=false --ip6tables=false --cgroup-parent /agent-test-gpus",
            socket.display()
        ),
        "docker.log",
    );
    let host = format!("unix://{}", socket.display());
    wait_until("dockerd answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let asked = || fs_err::read_to_string(hooks.join("asked")).unwrap_or_default();
    block(async {
        let docker = Docker::connect(&Endpoint::plain(host.clone())).unwrap();
        agent::image::deliver::docker(&around, &image, &docker, &"agent-gpus:1".parse().unwrap()).await.unwrap();
        let engine = ContainerEngine::docker(docker, false);
        let image = run_image("agent-gpus:1", &image);
        assert_eq!(report(&engine, &context, &image, &[]).await, NOTHING);
        assert_eq!(asked(), "", "the hook was asked for nothing");
        let chosen = [device(0, 'a'), device(2, 'c')];
        report(&engine, &context, &image, &chosen).await;
        let ids = format!("{},{}", chosen[0].uuid, chosen[1].uuid);
        let line = asked();
        assert!(line.starts_with("prestart ") && line.contains(&format!("NVIDIA_VISIBLE_DEVICES={ids}")), "{line}");
        assert_eq!(line.matches("NVIDIA_VISIBLE_DEVICES=").count(), 1, "{line}");
    });
    write(&hooks.join("asked"), "");
    assert_eq!(run(&context, ("docker", &host), "agent-gpus:1", "none"), NOTHING);
    assert_eq!(asked(), "", "the hook was asked for nothing");
    run(&context, ("docker", &host), "agent-gpus:1", "0,2");
    let line = asked();
    assert!(line.starts_with("prestart ") && line.contains("NVIDIA_VISIBLE_DEVICES=0,2"), "{line}");
    assert_eq!(line.matches("NVIDIA_VISIBLE_DEVICES=").count(), 1, "{line}");
    end(service);
}

//! GPUs of runs in Docker and Podman, as the executor starts them: exactly the chosen ones, and none without.
//!
//! Docker has a stand-in for NVIDIA's hook on the PATH of an engine of the test's own, which writes down what it is asked;
//! without a hook, and in Podman, an engine of the test's own sees an `/etc/cdi` of the test's.

use crate::engines::{exited, run_image, script, shell, written};
use crate::support::apart::{self, Hooked};
use crate::support::gpus::{GPUS, StandIn, fixture};
use crate::support::images::block;
use crate::support::{Engine, TestContext, require};
use agent::engine::{Bind, Docker, Endpoint, Libpod};
use agent::gpu::{GpuDevice, GpuSet};
use agent::image::Image;
use agent::run::{ContainerEngine, RunImage};

/// Says what of GPUs is there, then computes on all of them: device nodes, files of the driver anywhere, variables.
const SAYS: &str = "echo nodes: $(cd /dev && ls -d nvidia* 2>/dev/null); \
    echo files: $(find / '(' -path /proc -o -path /sys -o -path /dev ')' -prune -o \
    '(' -name 'libcuda*' -o -iname '*nvidia*' ')' -print | sort); \
    env | grep -E '^(NVIDIA|CUDA|LD_LIBRARY)' | sort; /opt/check";
/// What a run says that is given nothing, whatever its base says.
const NOTHING: &str = "nodes:\nfiles:\nCUDA_VISIBLE_DEVICES=\nNVIDIA_VISIBLE_DEVICES=void\nno driver library\n";
/// What it says in Podman of its devices' nodes: of the driver it has what the specification binds, and no variable that
/// a hook would follow.
fn described(nodes: &str) -> String {
    format!("nodes: nvidia-uvm {nodes} nvidiactl\nfiles: /usr/lib/libcuda.so.1\nNVIDIA_VISIBLE_DEVICES=void\n")
}

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

/// An engine that reads specifications, of which there is one for the first and the third device: it gives these, and none.
async fn as_described(engine: &dyn agent::run::Engine, context: &TestContext, image: &RunImage) {
    let (first, third) = (device(0, 'a'), device(2, 'c'));
    let said = report(engine, context, image, std::slice::from_ref(&first)).await;
    let one = "computed on 00000000-0000-0000-0000-000000000003 Stand-in\n";
    assert_eq!(said, format!("{}{one}devices 1\n", described("nvidia3")));
    let said = report(engine, context, image, &[first, third]).await;
    let other = "computed on 00000000-0000-0000-0000-000000000001 Stand-in\n";
    assert_eq!(said, format!("{}{other}{one}devices 2\n", described("nvidia1 nvidia3")));
    assert_eq!(report(engine, context, image, &[]).await, NOTHING);
    // What the specifications do not describe is refused, not left out.
    let mut spec = script(&context.path("runs"), image, "true");
    spec.gpus = GpuSet { devices: vec![device(1, 'b')] };
    let error = engine.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("nvidia.com/gpu=1"), "{error}");
}

#[test]
fn podman_gives_what_its_specifications_say() {
    require(Engine::Podman);
    let context = TestContext::new();
    compile(&context);
    let driver = StandIn::install(&context, GPUS);
    driver.nodes();
    let (_, image) = image(&context);
    let specification = apart::specification(&driver, &[("0", "nvidia3"), ("2", "nvidia1")]);
    let tag = "podman tag $(podman pull --quiet oci:layout:latest) localhost/agent-gpus:latest";
    let service = apart::podman(&context, &specification, tag);
    let host = service.host.clone();
    block(async {
        let podman = Libpod::connect(&host).unwrap();
        let engine = ContainerEngine::podman(podman, false);
        let image = run_image("localhost/agent-gpus:latest", &image);
        as_described(&engine, &context, &image).await;
    });
    let name = "localhost/agent-gpus:latest";
    let said = run(&context, ("podman", &host), name, "2");
    assert!(said.starts_with(&described("nvidia1")) && said.ends_with("devices 1\n"), "{said}");
    assert_eq!(run(&context, ("podman", &host), name, "none"), NOTHING);
    service.end();
}

#[test]
fn docker_without_a_hook_gives_what_its_specifications_say() {
    let context = TestContext::new();
    compile(&context);
    let driver = StandIn::install(&context, GPUS);
    driver.nodes();
    let (around, image) = image(&context);
    let described = [("0", "nvidia3"), ("2", "nvidia1"), ("all", "nvidia2")];
    let docker = apart::docker(&context, &apart::specification(&driver, &described));
    let host = docker.host.clone();
    block(async {
        let docker = Docker::connect(&Endpoint::plain(host.clone())).unwrap();
        agent::image::deliver::docker(&around, &image, &docker, &"agent-gpus:1".parse().unwrap()).await.unwrap();
        let engine = ContainerEngine::docker(docker, false);
        as_described(&engine, &context, &run_image("agent-gpus:1", &image)).await;
    });
    for (gpus, node) in [("2", "nvidia1"), ("GPU-cccc", "nvidia1"), ("all", "nvidia2")] {
        let said = run(&context, ("docker", &host), "agent-gpus:1", gpus);
        assert!(said.starts_with(&self::described(node)) && said.ends_with("devices 1\n"), "{gpus}: {said}");
    }
    assert_eq!(run(&context, ("docker", &host), "agent-gpus:1", "none"), NOTHING);
    docker.end();
}

#[test]
fn docker_asks_nvidias_hook_for_the_chosen_devices_alone() {
    require(Engine::Docker);
    let context = TestContext::new();
    compile(&context);
    let (around, image) = image(&context);
    let hooked = Hooked::start(&context);
    let host = hooked.docker.host.clone();
    block(async {
        let docker = Docker::connect(&Endpoint::plain(host.clone())).unwrap();
        agent::image::deliver::docker(&around, &image, &docker, &"agent-gpus:1".parse().unwrap()).await.unwrap();
        let engine = ContainerEngine::docker(docker, false);
        let image = run_image("agent-gpus:1", &image);
        assert_eq!(report(&engine, &context, &image, &[]).await, NOTHING);
        assert_eq!(hooked.asked(), "", "the hook was asked for nothing");
        let chosen = [device(0, 'a'), device(2, 'c')];
        report(&engine, &context, &image, &chosen).await;
        let ids = format!("{},{}", chosen[0].uuid, chosen[1].uuid);
        let line = hooked.asked();
        assert!(line.starts_with("prestart ") && line.contains(&format!("NVIDIA_VISIBLE_DEVICES={ids}")), "{line}");
        assert_eq!(line.matches("NVIDIA_VISIBLE_DEVICES=").count(), 1, "{line}");
    });
    assert_eq!(run(&context, ("docker", &host), "agent-gpus:1", "none"), NOTHING);
    assert_eq!(hooked.asked(), "", "the hook was asked for nothing");
    run(&context, ("docker", &host), "agent-gpus:1", "0,2");
    let line = hooked.asked();
    assert!(line.starts_with("prestart ") && line.contains("NVIDIA_VISIBLE_DEVICES=0,2"), "{line}");
    assert_eq!(line.matches("NVIDIA_VISIBLE_DEVICES=").count(), 1, "{line}");
    hooked.docker.end();
}

//! What the executor asks of whatever runs images, asked of the real ones: the same of all, and what is each one's own.

mod docker;
mod native;
mod podman;
mod restart;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::base::{Around, Request, find};
use agent::engine::{ContainerSpec, Docker, Endpoint, Libpod};
use agent::gpu::GpuSet;
use agent::image::Image;
use agent::oci::Platform;
use agent::run::{ContainerEngine, Engine, EngineKind, Found, Ground, Outcome, RunId, RunImage, RunSpec, engine_of};

use crate::support::images::{around, block, layer, on_base, unique};
use crate::support::{TestContext, docker_host, podman_socket, wait_until};

/// An image whose entry point is `sh -c` and whose base says that it sees all GPUs; no other test has it.
pub(super) async fn shell(context: &TestContext) -> (Around, Image) {
    let around = around(context, "store");
    let request = Request::Layout { directory: crate::support::base(), tag: Some("latest".to_owned()) };
    let mut base = find(&around, &request, &Platform::host()).await.unwrap();
    let env = base.config.pointer_mut("/config/Env").unwrap().as_array_mut().unwrap();
    env.push("NVIDIA_VISIBLE_DEVICES=all".into());
    let image = on_base(&base, &[layer(&around.store, &[("opt/data", unique("engines").as_bytes())])]);
    (around, image)
}

/// The image as the executor knows it.
pub(super) fn run_image(name: &str, image: &Image) -> RunImage {
    RunImage { name: name.to_owned(), manifest: image.manifest.digest(), config: image.config.digest() }
}

/// What engines stand on in a test.
pub(super) fn ground(runs: &Path, store: &Path) -> Ground {
    Ground {
        silence: std::time::Duration::from_secs(60),
        runs: runs.to_owned(),
        store: store.to_owned(),
        registry: agent::registry::Client::new(agent::registry::Settings::default()).unwrap(),
        container_host: Some(format!("unix://{}", podman_socket().display())),
        lends: false,
        reporter: agent::report::silent(),
    }
}

/// An engine of the tests, on new connections.
pub(super) async fn engine(kind: EngineKind, ground: &Ground) -> Arc<dyn Engine> {
    match kind {
        EngineKind::Docker => {
            let docker = Docker::connect(&Endpoint::plain(docker_host())).unwrap();
            Arc::new(ContainerEngine::docker(docker, ground.lends))
        }
        EngineKind::Podman => {
            let podman = Libpod::connect(ground.container_host.as_deref().unwrap()).unwrap();
            Arc::new(ContainerEngine::podman(podman, ground.lends))
        }
        EngineKind::Native => engine_of(EngineKind::Native, ground).await.unwrap(),
    }
}

/// A run of a shell script, its directory made.
pub(super) fn script(runs: &Path, image: &RunImage, text: &str) -> RunSpec {
    let id = RunId::new().unwrap();
    let directory = runs.join(id.as_str());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).unwrap();
    RunSpec {
        id,
        image: image.clone(),
        container: ContainerSpec {
            command: Some(vec![text.to_owned()]),
            network: Some("none".to_owned()),
            ..ContainerSpec::default()
        },
        gpus: GpuSet::default(),
        only_told_gpus: false,
        directory,
    }
}

pub(super) fn exited(code: i32) -> Outcome {
    Outcome::Exited { code, out_of_memory: false }
}

pub(super) const OUT_OF_MEMORY: Outcome = Outcome::Exited { code: 137, out_of_memory: true };

/// What a run wrote into its spool directory, once it has.
pub(super) fn written(spec: &RunSpec, name: &str) -> String {
    let path = spec.directory.join("spool").join(name);
    wait_until("the run writes", || path.exists());
    fs_err::read_to_string(path).unwrap()
}

/// A program that says that it is up and ends with 5 when it is asked to.
const OBEDIENT: &str = "trap 'exit 5' TERM; echo up > $AGENT_SPOOL/up; while :; do sleep 0.05; done";
/// One that does not listen.
const STUBBORN: &str = "trap '' TERM; echo up > $AGENT_SPOOL/up; while :; do sleep 0.05; done";

/// A run from its start to its removal, and starts that are repeated.
pub(super) async fn lives(engine: &dyn Engine, runs: &Path, image: &RunImage) {
    engine.prepare(image).await.unwrap();
    let spec =
        script(runs, image, "echo $NVIDIA_VISIBLE_DEVICES > $AGENT_SPOOL/gpus; ls /dev > $AGENT_SPOOL/dev; exit 7");
    assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Absent);
    engine.stop(&spec.id, Duration::from_secs(1)).await.unwrap();
    engine.start(&spec).await.unwrap();
    assert_eq!(engine.wait(&spec.id).await.unwrap(), exited(7));
    assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Ended(exited(7)));
    // No GPU was given, whatever the image says of itself.
    assert_eq!(written(&spec, "gpus"), "void\n");
    assert!(!written(&spec, "dev").contains("nvidia"));
    fs_err::remove_file(spec.directory.join("spool/gpus")).unwrap();
    engine.start(&spec).await.unwrap();
    assert_eq!(engine.wait(&spec.id).await.unwrap(), exited(7));
    assert!(!spec.directory.join("spool/gpus").exists(), "it ran twice");
    assert!(engine.runs().await.unwrap().contains(&spec.id));
    engine.remove(&spec.id).await.unwrap();
    assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Absent);
    assert!(!engine.runs().await.unwrap().contains(&spec.id));
    engine.remove(&spec.id).await.unwrap();
}

/// Runs that are asked to end, and one that does not listen; attended by another than who started them.
pub(super) async fn stops(engine: &dyn Engine, other: &dyn Engine, runs: &Path, image: &RunImage) {
    for (text, grace, code) in [(OBEDIENT, 60, 5), (STUBBORN, 1, 137)] {
        let spec = script(runs, image, text);
        engine.start(&spec).await.unwrap();
        assert_eq!(written(&spec, "up"), "up\n");
        engine.start(&spec).await.unwrap();
        assert_eq!(other.find(&spec.id).await.unwrap(), Found::Running);
        let began = Instant::now();
        let (stopped, ended) = tokio::join!(engine.stop(&spec.id, Duration::from_secs(grace)), other.wait(&spec.id));
        stopped.unwrap();
        assert_eq!(ended.unwrap(), exited(code));
        assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
        engine.stop(&spec.id, Duration::from_secs(1)).await.unwrap();
        other.remove(&spec.id).await.unwrap();
    }
}

/// Another user inside, its own settings, and a program that is not there.
pub(super) async fn obeys(engine: &dyn Engine, runs: &Path, image: &RunImage) {
    let mut spec = script(
        runs,
        image,
        "{ id -u; pwd; cat /proc/sys/kernel/hostname; echo $SECRET; ulimit -n; \
         df -k --output=size /dev/shm | tail -1 | tr -d ' '; \
         touch /opt/x 2>/dev/null && echo writable; } > $AGENT_SPOOL/said; exit 0",
    );
    spec.container.user = Some("1234:1234".to_owned());
    spec.container.directory = Some("/usr".to_owned());
    spec.container.hostname = Some("inside".to_owned());
    spec.container.env.insert("SECRET".to_owned(), agent::secret::Secret::new("hush"));
    spec.container.ulimits = vec![("nofile".to_owned(), 512, 512), ("nproc".to_owned(), 4096, 4096)];
    spec.container.shm_size = Some(4 << 20);
    spec.container.read_only = true;
    engine.start(&spec).await.unwrap();
    assert_eq!(engine.wait(&spec.id).await.unwrap(), exited(0));
    assert_eq!(written(&spec, "said"), "1234\n/usr\ninside\nhush\n512\n4096\n");
    engine.remove(&spec.id).await.unwrap();

    let mut spec = script(runs, image, "");
    spec.container.entrypoint = Some(vec!["/no/such/program".to_owned()]);
    let error = engine.start(&spec).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Absent);
    assert!(!engine.runs().await.unwrap().contains(&spec.id));

    let absent =
        RunImage { name: "agent-test-no-such:1".to_owned(), config: agent::digest::Digest::of("x"), ..image.clone() };
    let error = engine.prepare(&RunImage { manifest: agent::digest::Digest::of("y"), ..absent }).await.unwrap_err();
    assert!(error.to_string().contains("no image `agent-test-no-such:1`"), "{error}");
    assert!(!error.hints().is_empty());
}

/// How a run ends that uses more memory than it may.
pub(super) async fn runs_out(engine: &dyn Engine, runs: &Path, image: &RunImage) -> Outcome {
    let mut spec = script(runs, image, "exec python3 -c 'x = b\"x\" * (1 << 30)'");
    spec.container.memory = Some(64 << 20);
    engine.start(&spec).await.unwrap();
    let outcome = engine.wait(&spec.id).await.unwrap();
    engine.remove(&spec.id).await.unwrap();
    outcome
}

/// Has a process of its own start a run and be killed, and gives the run.
pub(super) fn started_by_one_who_is_killed(kind: EngineKind, runs: &Path, store: &Path, image: &RunImage) -> RunId {
    let order = serde_json::json!({ "kind": kind, "runs": runs, "store": store, "image": image });
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["engines::a_starter_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env("AGENT_TEST_ORDER", order.to_string())
        .env("HOME", runs)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{said}");
    said.lines().find_map(|it| it.strip_prefix("started ")).unwrap().parse().unwrap()
}

#[test]
#[ignore = "started as a process of its own by other tests"]
fn a_starter_that_is_killed() {
    let order: serde_json::Value = serde_json::from_str(&std::env::var("AGENT_TEST_ORDER").unwrap()).unwrap();
    let field = |name: &str| order[name].clone();
    let (runs, store): (PathBuf, PathBuf) =
        (serde_json::from_value(field("runs")).unwrap(), serde_json::from_value(field("store")).unwrap());
    let image: RunImage = serde_json::from_value(field("image")).unwrap();
    block(async {
        let engine = engine(serde_json::from_value(field("kind")).unwrap(), &ground(&runs, &store)).await;
        let spec = script(&runs, &image, OBEDIENT);
        engine.start(&spec).await.unwrap();
        println!("\nstarted {}", spec.id);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    });
}

/// A run whose starter was killed goes on, is found and ends as it is asked to.
pub(super) fn outlives_its_starter(kind: EngineKind, runs: &Path, store: &Path, image: &RunImage) {
    let run = started_by_one_who_is_killed(kind, runs, store, image);
    block(async {
        let engine = engine(kind, &ground(runs, store)).await;
        let up = runs.join(run.as_str()).join("spool/up");
        wait_until("the run is up", || up.exists());
        assert_eq!(engine.find(&run).await.unwrap(), Found::Running);
        assert!(engine.runs().await.unwrap().contains(&run));
        engine.stop(&run, Duration::from_secs(60)).await.unwrap();
        assert_eq!(engine.wait(&run).await.unwrap(), exited(5));
        engine.remove(&run).await.unwrap();
    });
}

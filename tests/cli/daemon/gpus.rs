//! GPUs that a daemon shares among tasks (`--dynamic-gpus`), and those it hides: natively, on a stand-in for the driver.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{Daemon, Place, a_while};
use crate::support::gpus::{StandIn, fixture};
use crate::support::{Engine, Tap, TestContext, base, require, wait_for, wait_until};

/// Four devices; the nodes are not in the order of the indices.
const FOUR: &str = "\
driver 550.54.14 12040
gpu 3 GPU-aaaaaaaa-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 0 GPU-bbbbbbbb-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 1 GPU-cccccccc-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 2 GPU-dddddddd-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
";
/// The nodes by the indices' order.
const NODES: [&str; 4] = ["nvidia3", "nvidia0", "nvidia1", "nvidia2"];

/// Says what it has, and stays until it is let go.
const HOLDS: &str = "\
import os, subprocess, sys, time
nodes = sorted(it for it in os.listdir('/dev') if it.startswith('nvidia'))
print('has', os.environ.get('NVIDIA_VISIBLE_DEVICES'), 'nodes', *nodes, flush=True)
sys.stdout.write(subprocess.run(['/lent/check'], stdout=subprocess.PIPE, text=True).stdout)
print('waits', flush=True)
while not os.path.exists('/lent/go-' + os.environ['CLEARML_TASK_ID']):
    time.sleep(0.05)
";

struct Scene<'a> {
    place: Place<'a>,
    driver: StandIn,
    /// What runs, and the indices of the devices it has.
    runs: RefCell<BTreeMap<String, BTreeSet<usize>>>,
}

impl<'a> Scene<'a> {
    fn new(context: &'a TestContext) -> Self {
        let driver = StandIn::install(context, FOUR);
        driver.nodes();
        fs_err::create_dir(context.path("lent")).unwrap();
        let compile = context.command("cc").args(["-Wall", "-Werror", "-o"]).arg(context.path("lent/check"));
        compile.arg(fixture("check.c")).arg("-ldl").ok();
        Self { place: Place::new(context), driver, runs: RefCell::default() }
    }

    /// A daemon that finds the driver, and the server at an address.
    fn daemon(&self, api: &str, base: &Path, arguments: &[&str]) -> Daemon {
        let log = self.place.context.path("daemon.log");
        let call = self.place.agent().args(["--progress", "plain", "daemon"]).args(arguments);
        let call = call.env("CLEARML_DOCKER_IMAGE", format!("oci:{}", base.display()));
        let call = call.env("CLEARML_API_HOST", api).env("AGENT_DRIVER_ROOT", self.driver.root());
        let program = call.env("AGENT_CDI_DIRS", self.place.context.path("cdi")).spawn(&log);
        Daemon { program, log }
    }

    /// A task that stays until it is let go, in a queue.
    fn waits(&self, name: &str, queue: &str) -> String {
        let lent = self.place.context.path("lent").display().to_string();
        let container = json!({ "arguments": format!("-v {lent}:/lent") });
        let task = self.place.script(name, HOLDS, &container);
        self.place.enqueue(&task, queue);
        task
    }

    /// What a task says of itself, once it runs.
    #[track_caller]
    fn said(&self, task: &str) -> String {
        wait_for("the task says what it has", || {
            let console = self.place.server.console(task);
            let said = &console[console.find("\nhas ")? + 1..];
            Some(said[..said.find("\nwaits\n")?].to_owned())
        })
    }

    /// Fails unless a task has exactly these devices, all of them can be computed on, and nobody else has one of them.
    #[track_caller]
    fn has(&self, task: &str, indices: &[usize]) {
        let inside = self.said(task);
        let ids: Vec<String> = indices.iter().map(|it| uuid(*it)).collect();
        let mut nodes: Vec<&str> = indices.iter().map(|it| NODES[*it]).collect();
        nodes.extend(["nvidia-uvm", "nvidia-uvm-tools", "nvidiactl"]);
        nodes.sort_unstable();
        let expected = format!("has {} nodes {}\n", ids.join(","), nodes.join(" "));
        assert!(inside.starts_with(&expected), "expected {expected}{inside}");
        assert!(inside.ends_with(&format!("devices {}", indices.len())), "{inside}");
        let indices: BTreeSet<usize> = indices.iter().copied().collect();
        let mut runs = self.runs.borrow_mut();
        assert!(runs.values().all(|it| it.is_disjoint(&indices)), "{task} has {indices:?}, and others {runs:?}");
        runs.insert(task.to_owned(), indices);
    }

    /// Lets a task go and waits for its good end.
    #[track_caller]
    fn ends(&self, task: &str) {
        crate::support::write(&self.place.context.path(format!("lent/go-{task}")), "");
        self.place.becomes(task, "completed");
        self.runs.borrow_mut().remove(task);
    }

    /// Waits until the server is told that these devices are free.
    #[track_caller]
    fn free(&self, worker: &str, indices: &[usize]) {
        let expected: Vec<String> = indices.iter().map(|it| format!("{it}_")).collect();
        wait_until(&format!("{expected:?} are free"), || {
            let query = json!({ "worker": worker });
            let data = self.place.server.call("workers.get_runtime_properties", &query);
            let properties = data["runtime_properties"].as_array().cloned().unwrap_or_default();
            let value = properties.iter().find(|it| it["key"] == "available_gpus").map(|it| it["value"].clone());
            value == Some(Value::from(expected.join(",")))
        });
    }
}

fn uuid(index: usize) -> String {
    format!("GPU-{}-0000-0000-0000-000000000000", ["a", "b", "c", "d"][index].repeat(8))
}

#[test]
fn tasks_share_the_devices_by_their_queues_least_and_most_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let tap = Tap::before(scene.place.server.api());
    // Behind in time, ahead in priority.
    let (b, a) = (scene.waits("b", "some"), scene.waits("a", "pair"));
    let daemon =
        scene.daemon(tap.address(), &base(), &["--dynamic-gpus", "--gpus", "0,1,2,3", "--queue", "pair=2", "some=1-3"]);
    let worker = "box:dgpu0,1,2,3";
    scene.has(&a, &[0, 1]);
    scene.has(&b, &[2, 3]);
    scene.free(worker, &[]);
    let workers = scene.place.workers();
    for name in [worker, "box:gpu0,1", "box:gpu2,3"] {
        assert!(workers.iter().any(|it| it == name), "{name} in {workers:?}");
    }
    let (later_b, later_a) = (scene.waits("later b", "some"), scene.waits("later a", "pair"));
    // Whatever is asked of the server fails for a while: what runs goes on, what waits is served afterwards.
    tap.refuse(".", 12);
    wait_until("the server has failed often enough", || tap.to_refuse() == 0);
    a_while();
    let queues = [scene.place.queue("pair"), scene.place.queue("some")];
    assert_eq!(queues, [[later_a.clone()], [later_b.clone()]], "nothing is free");
    assert_eq!([&a, &b].map(|it| scene.place.status(it)), ["in_progress", "in_progress"]);
    scene.ends(&b);
    scene.has(&later_a, &[2, 3]);
    assert_eq!(scene.place.queue("some"), [later_b.as_str()]);
    scene.ends(&a);
    scene.has(&later_b, &[0, 1]);
    scene.ends(&later_a);
    scene.ends(&later_b);
    scene.free(worker, &[0, 1, 2, 3]);

    // No more than its most; what a task of higher priority waits for is not given to others.
    let most = scene.waits("most", "some");
    scene.has(&most, &[0, 1, 2]);
    scene.free(worker, &[3]);
    let large = scene.waits("large", "pair");
    let small = scene.waits("small", "some");
    a_while();
    assert_eq!([scene.place.queue("pair"), scene.place.queue("some")], [[large.clone()], [small.clone()]]);
    scene.ends(&most);
    scene.has(&large, &[0, 1]);
    scene.has(&small, &[2, 3]);
    scene.ends(&large);
    scene.ends(&small);
    for task in [&a, &b, &later_a, &later_b, &most, &large, &small] {
        assert_eq!(scene.place.console(task, "waits\n"), 1);
    }
    scene.free(worker, &[0, 1, 2, 3]);
    daemon.stop();
    assert_eq!(scene.place.workers(), [""; 0]);
}

#[test]
fn without_gpus_a_task_sees_none_whatever_its_base_says_natively() {
    require(Engine::Umoci);
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let image = context.path("image");
    context.command("cp").args(["-r", "--reflink=auto"]).arg(base()).arg(&image).ok();
    let umoci = context.command("umoci").args(["config", "--config.env", "NVIDIA_VISIBLE_DEVICES=all"]);
    umoci.arg("--image").arg(format!("{}:latest", image.display())).ok();
    let task = scene.waits("one", "queue");
    let daemon = scene.daemon(scene.place.server.api(), &image, &["--queue", "queue", "--cpu-only"]);
    assert_eq!(scene.said(&task), "has void nodes\nno driver library");
    scene.ends(&task);
    daemon.stop();
    // The same task with a device has that one.
    let next = scene.waits("next", "queue");
    let daemon = scene.daemon(scene.place.server.api(), &image, &["--queue", "queue", "--gpus", "2"]);
    scene.has(&next, &[2]);
    scene.ends(&next);
    daemon.stop();
}

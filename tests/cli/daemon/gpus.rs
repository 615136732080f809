//! GPUs that a daemon shares among tasks (`--dynamic-gpus`), and those it hides: natively, on a stand-in for the driver.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Daemon, Place, a_while};
use crate::support::gpus::{StandIn, fixture};
use crate::support::{Call, Tap, TestContext, base, wait_for, wait_until};

/// Four devices; the nodes are not in the order of the indices.
pub(super) const FOUR: &str = "\
driver 550.54.14 12040
gpu 3 GPU-aaaaaaaa-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 0 GPU-bbbbbbbb-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 1 GPU-cccccccc-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
gpu 2 GPU-dddddddd-0000-0000-0000-000000000000 80 NVIDIA H100 80GB HBM3
";
/// The nodes by the indices' order.
pub(super) const NODES: [&str; 4] = ["nvidia3", "nvidia0", "nvidia1", "nvidia2"];

/// Says what it has, and stays until it is let go, or is told to fail.
const HOLDS: &str = "\
import os, subprocess, sys, time
nodes = sorted(it for it in os.listdir('/dev') if it.startswith('nvidia'))
print('has', os.environ.get('NVIDIA_VISIBLE_DEVICES'), 'nodes', *nodes, flush=True)
sys.stdout.write(subprocess.run(['/lent/check'], stdout=subprocess.PIPE, text=True).stdout)
print('waits', flush=True)
while not os.path.exists('/lent/go-' + os.environ['CLEARML_TASK_ID']):
    if os.path.exists('/lent/fail-' + os.environ['CLEARML_TASK_ID']):
        sys.exit(5)
    time.sleep(0.05)
";

/// What the server keeps of a worker, which it tells nobody whole.
const WORKER: &str = "\
import sqlite3, sys
server = sqlite3.connect('file:%s?mode=ro' % sys.argv[1], uri=True)
for body, in server.execute('SELECT body FROM workers WHERE id = ?', sys.argv[2:]):
    print(body)
";

pub(super) struct Scene<'a> {
    pub(super) place: Place<'a>,
    pub(super) driver: StandIn,
    /// What runs, and the indices of the devices it has.
    runs: RefCell<BTreeMap<String, BTreeSet<usize>>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(context: &'a TestContext) -> Self {
        let driver = StandIn::install(context, FOUR);
        driver.nodes();
        fs_err::create_dir(context.path("lent")).unwrap();
        let compile = context.command("cc").args(["-Wall", "-Werror", "-o"]).arg(context.path("lent/check"));
        compile.arg(fixture("check.c")).arg("-ldl").ok();
        Self { place: Place::new(context), driver, runs: RefCell::default() }
    }

    /// The program under test, which finds the driver.
    pub(super) fn agent(&self, env: &[(&str, &str)], base: &Path) -> Call {
        let call = self.place.agent().env("CLEARML_DOCKER_IMAGE", format!("oci:{}", base.display()));
        let call = call.env("AGENT_DRIVER_ROOT", self.driver.root());
        let call = call.env("AGENT_CDI_DIRS", self.place.context.path("cdi"));
        env.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// A daemon that finds the driver, and the server at an address.
    fn daemon(&self, api: &str, base: &Path, arguments: &[&str]) -> Daemon {
        self.daemon_with(&[], api, base, arguments)
    }

    /// The same with variables more.
    pub(super) fn daemon_with(&self, env: &[(&str, &str)], api: &str, base: &Path, arguments: &[&str]) -> Daemon {
        let log = self.place.context.path("daemon.log");
        let call = self.agent(env, base).env("CLEARML_API_HOST", api);
        Daemon { program: call.args(["--progress", "plain", "daemon"]).args(arguments).spawn(&log), log }
    }

    /// The base, which says that it sees all GPUs.
    pub(super) fn sees_all(&self) -> PathBuf {
        self.place.base_with(&["--config.env", "NVIDIA_VISIBLE_DEVICES=all"])
    }

    /// A task that stays until it is let go, in a queue.
    pub(super) fn waits(&self, name: &str, queue: &str) -> String {
        let task = self.draft(name);
        self.place.enqueue(&task, queue);
        task
    }

    /// The same in no queue.
    pub(super) fn draft(&self, name: &str) -> String {
        let lent = self.place.context.path("lent").display().to_string();
        let container = json!({ "arguments": format!("-v {lent}:/lent") });
        self.place.script(name, HOLDS, &container)
    }

    /// Lets a task go.
    pub(super) fn let_go(&self, task: &str) {
        crate::support::write(&self.place.context.path(format!("lent/go-{task}")), "");
    }

    /// What a task says of itself, once it runs.
    #[track_caller]
    pub(super) fn said(&self, task: &str) -> String {
        wait_for("the task says what it has", || {
            let console = self.place.server.console(task);
            let said = &console[console.find("\nhas ")? + 1..];
            Some(said[..said.find("\nwaits\n")?].to_owned())
        })
    }

    /// Fails unless a task has exactly these devices, all of them can be computed on, and nobody else has one of them.
    #[track_caller]
    pub(super) fn has(&self, task: &str, indices: &[usize]) {
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
    pub(super) fn ends(&self, task: &str) {
        self.let_go(task);
        self.place.becomes(task, "completed");
        self.runs.borrow_mut().remove(task);
    }

    /// Has a task's program fail and waits for its end, which must be a failure; the reason.
    #[track_caller]
    fn fails(&self, task: &str) -> String {
        crate::support::write(&self.place.context.path(format!("lent/fail-{task}")), "");
        self.place.becomes(task, "failed");
        self.runs.borrow_mut().remove(task);
        self.place.field(task, "status_reason").as_str().unwrap_or_default().to_owned()
    }

    /// What devices there are from now on: the four, one with a line below it.
    fn change(&self, index: usize, line: &str) {
        self.driver.change(&FOUR.replace(device(index), &format!("{}\n{line}", device(index))));
    }

    /// `agent gpus`: the indices of what is there.
    fn listed(&self) -> Vec<u64> {
        let call = self.place.agent().env("AGENT_DRIVER_ROOT", self.driver.root()).args(["--json", "gpus"]);
        let inventory: Value = serde_json::from_str(&call.ok()).unwrap();
        inventory["devices"].as_array().unwrap().iter().map(|it| it["index"].as_u64().unwrap()).collect()
    }

    /// What the server was last told of what a worker's machine does.
    fn figures(&self, worker: &str) -> Value {
        let database = self.place.server.data().join("server.db");
        let call = self.place.context.command("python3").args(["-c", WORKER]).arg(database).arg(worker);
        let body = call.ok();
        serde_json::from_str::<Value>(&body).map_or(Value::Null, |mut it| it["machine_stats"].take())
    }

    /// Waits until the server is told that these devices are free.
    #[track_caller]
    pub(super) fn free(&self, worker: &str, indices: &[usize]) {
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

/// The driver's line of a device.
fn device(index: usize) -> &'static str {
    FOUR.lines().find(|it| it.contains(&uuid(index))).unwrap()
}

pub(super) fn uuid(index: usize) -> String {
    format!("GPU-{}-0000-0000-0000-000000000000", ["a", "b", "c", "d"][index].repeat(8))
}

#[test]
fn tasks_share_the_devices_by_their_queues_least_and_most_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let tap = Tap::before(scene.place.server.api());
    // Each is busy in a way of its own.
    let busy = |index: usize| format!("{}\nbusy {}", device(index), 10 + index);
    scene.driver.change(&(0..4).fold(FOUR.to_owned(), |gpus, it| gpus.replace(device(it), &busy(it))));
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
    // Of the devices of a task its own worker tells, and of nothing else.
    for (name, busy) in [("box:gpu0,1", [10, 11]), ("box:gpu2,3", [12, 13])] {
        let expected =
            json!({ "gpu_usage": busy, "gpu_memory_used": [1024.0, 1024.0], "gpu_memory_free": [80896.0, 80896.0] });
        wait_until(&format!("{name} tells {expected}"), || scene.figures(name) == expected);
    }
    let own = scene.figures(worker);
    assert_eq!(own["gpu_usage"], json!([10, 11, 12, 13]), "{own}");
    assert!(own["memory_used"].is_number(), "{own}");
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
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let image = scene.sees_all();
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

#[test]
fn a_device_that_is_lost_fails_its_task_alone_and_is_not_given_again_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let (first, second) = (scene.waits("first", "one"), scene.waits("second", "one"));
    let daemon =
        scene.daemon(scene.place.server.api(), &base(), &["--dynamic-gpus", "--gpus", "0,1,2,3", "--queue", "one=1"]);
    scene.has(&first, &[0]);
    scene.has(&second, &[1]);
    // As NVML has it of one that fell off the bus: an error that is not known.
    scene.change(0, "lost 999");
    assert_eq!(scene.listed(), [1, 2, 3]);
    let reason = scene.fails(&first);
    let why = "the driver fails on it: an internal driver error occurred";
    assert_eq!(reason, format!("GPU lost: device 0 ({}) is not there any more: {why} (exit code 5)", uuid(0)));
    assert_eq!(scene.place.status(&second), "in_progress");
    let others = ["third", "fourth", "fifth"].map(|it| scene.waits(it, "one"));
    scene.has(&others[0], &[2]);
    scene.has(&others[1], &[3]);
    scene.free("box:dgpu0,1,2,3", &[]);
    a_while();
    assert_eq!(scene.place.queue("one"), [others[2].as_str()], "the lost device was given");
    // A program that fails while its own devices are there is no victim of another's.
    assert_eq!(scene.fails(&second), "worker execution exit code 5");
    scene.has(&others[2], &[1]);
    // One that is back is given again; now another one is lost, and NVML says so.
    scene.change(3, "lost 15");
    let last = scene.waits("last", "one");
    scene.has(&last, &[0]);
    let reason = scene.fails(&others[1]);
    assert!(reason.starts_with("GPU lost: device 3 ") && reason.contains(": it fell off the bus"), "{reason}");
    for task in [&others[0], &others[2], &last] {
        scene.ends(task);
    }
    daemon.stop();
}

#[test]
fn an_instance_whose_device_is_lost_fails_its_task_alone_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let instances = ["b0b0b0b0", "b1b1b1b1"].map(|it| format!("MIG-{it}-0000-0000-0000-000000000000"));
    let lines = instances.each_ref().map(|it| format!("mig {it} 10 NVIDIA H100 MIG 1g.10gb\n"));
    let device = FOUR.lines().find(|it| it.contains(&uuid(1))).unwrap();
    let change = |lost: &str| {
        scene.driver.change(&FOUR.replace(device, format!("{device}\n{lost}{}", lines.concat()).trim_end()));
    };
    change("");
    let tasks = ["first", "second", "third"].map(|it| scene.waits(it, "one"));
    let arguments = ["--dynamic-gpus", "--gpus", "1:0,1:1,2", "--queue", "one=1"];
    let daemon = scene.daemon(scene.place.server.api(), &base(), &arguments);
    for (task, instance) in tasks.iter().zip(&instances) {
        assert!(scene.said(task).starts_with(&format!("has {instance} nodes ")), "{}", scene.said(task));
    }
    scene.has(&tasks[2], &[2]);
    change("lost 15\n");
    let lost = "it fell off the bus or cannot be reached";
    assert_eq!(
        scene.fails(&tasks[0]),
        format!("GPU lost: device 1:0 ({}) is not there any more: GPU 1 is lost: {lost} (exit code 5)", instances[0])
    );
    assert_eq!([&tasks[1], &tasks[2]].map(|it| scene.place.status(it)), ["in_progress", "in_progress"]);
    // Nothing of the device is given again; who ends well all the same has ended well.
    let next = scene.waits("next", "one");
    scene.ends(&tasks[1]);
    scene.free("box:dgpu1.0,1.1,2", &[]);
    a_while();
    assert_eq!(scene.place.queue("one"), [next.as_str()], "an instance of the lost device was given");
    scene.ends(&tasks[2]);
    scene.has(&next, &[2]);
    scene.ends(&next);
    daemon.stop();
}

#[test]
fn a_daemon_whose_device_is_lost_takes_nothing_until_it_is_back_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let tasks = ["first", "second", "third"].map(|it| scene.waits(it, "one"));
    let daemon = scene.daemon(scene.place.server.api(), &base(), &["--gpus", "1,2", "--queue", "one"]);
    scene.has(&tasks[0], &[1, 2]);
    scene.change(2, "lost 999");
    assert!(scene.fails(&tasks[0]).starts_with("GPU lost: device 2 "));
    let warning = "the driver lists no GPU 2 any more: nothing is taken until they are back";
    wait_until("it is told", || daemon.said().contains(warning));
    a_while();
    assert_eq!(scene.place.queue("one"), tasks[1..], "{}", daemon.said());
    scene.driver.change(FOUR);
    for task in &tasks[1..] {
        scene.has(task, &[1, 2]);
        scene.ends(task);
    }
    assert_eq!(daemon.said().matches("the driver lists no GPU").count(), 1, "{}", daemon.said());
    daemon.stop();
}

#[test]
fn a_device_that_somebody_else_uses_is_not_given_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    scene.change(0, "process 4242");
    let tasks = ["first", "second", "third"].map(|it| scene.waits(it, "one"));
    let daemon =
        scene.daemon(scene.place.server.api(), &base(), &["--dynamic-gpus", "--gpus", "0,1,2", "--queue", "one=1"]);
    scene.has(&tasks[0], &[1]);
    scene.has(&tasks[1], &[2]);
    scene.free("box:dgpu0,1,2", &[]);
    a_while();
    assert_eq!(scene.place.queue("one"), [tasks[2].as_str()], "the device of another program was given");
    // The other program ends, and begins elsewhere: on a device that a run of ours has, which stays that run's.
    scene.change(1, "process 4242");
    scene.has(&tasks[2], &[0]);
    scene.ends(&tasks[0]);
    let last = scene.waits("last", "one");
    a_while();
    assert_eq!(scene.place.queue("one"), [last.as_str()], "what the other program has now was given");
    scene.ends(&tasks[1]);
    scene.has(&last, &[2]);
    scene.ends(&tasks[2]);
    scene.ends(&last);
    daemon.stop();
}

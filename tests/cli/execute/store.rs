//! What runs keep of the store and of an engine, and what is cleared away beside them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{TestContext, wait_until};

/// Reads its own image again after a while.
const LATE: &str = "\
import sys, time
print('up', flush=True)
time.sleep(8)
print('read', len(open(sys.executable, 'rb').read()) > 1000, flush=True)
";

/// A layer of another image, as far as the store is concerned.
fn another_layer(context: &TestContext) -> std::path::PathBuf {
    let path = context.store().join("blobs/sha256").join("0".repeat(64));
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    path
}

fn collect(context: &TestContext) {
    context.agent().args(["cache", "gc", "--max-size", "0"]).ok();
}

/// How many chains of layers are unpacked.
fn unpacked(context: &TestContext) -> usize {
    let count = |name: &str| fs::read_dir(context.store().join("snapshots").join(name)).into_iter().flatten().count();
    count("root") + count("user")
}

#[test]
fn the_store_is_collected_beside_a_run_that_keeps_what_it_stands_on() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, LATE);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    let (other, before) = (another_layer(&context), unpacked(&context));
    collect(&context);
    assert!(!running.ended() && !other.exists());
    assert!(before > 0 && unpacked(&context) == before, "{before}");
    assert_eq!(running.wait(), Some(0), "{}", fs::read_to_string(&output).unwrap());
    assert_eq!(task.count("read True\n"), 1);
    collect(&context);
    assert_eq!(unpacked(&context), 0);
}

#[test]
fn a_run_that_is_killed_keeps_nothing() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, "import time\nprint('up', flush=True)\ntime.sleep(600)\n");
    let mut running = task.execute().spawn(&context.path("output"));
    wait_until("the task is up", || task.said("up\n"));
    collect(&context);
    assert!(unpacked(&context) > 0);
    let run = task.units()[0]["run"].as_str().unwrap().to_owned();
    let lock = context.path("state/runs").join(run).join("monitor.lock");
    let holder: Value = serde_json::from_slice(&fs::read(lock).unwrap()).unwrap();
    let monitor = Pid::from_raw(i32::try_from(holder["pid"].as_i64().unwrap()).unwrap()).unwrap();
    kill_process(monitor, Signal::KILL).unwrap();
    assert_ne!(running.wait(), Some(0));
    wait_until("nothing is kept", || {
        collect(&context);
        unpacked(&context) == 0
    });
    assert_eq!(fs::read_dir(context.store().join("leases")).unwrap().count(), 0);
    assert_eq!(task.server.status(&task.id), "failed");
}

fn age(path: &Path, days: u64) {
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.file().set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
}

fn images_of_tasks_that_are_not_used_any_more_leave_the_engine(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, "print('up', flush=True)\n");
    task.execute().run().success();
    let engine = place.flag.trim_start_matches("--");
    let images = context.path("state/images").join(engine);
    let record = fs::read_to_string(images.join(format!("{}.json", task.id))).unwrap();
    // Two more: one that was made here long ago, and one of which nothing is known.
    let names = ["1".repeat(32), "2".repeat(32)];
    let tag = |id: &str| format!("agent/task-{id}:latest");
    for name in &names {
        context.command(engine).args(["tag", &tag(&task.id), &tag(name)]).ok();
    }
    let old = images.join(format!("{}.json", names[0]));
    fs::write(&old, record.replace(&task.id, &names[0])).unwrap();
    age(&old, 30);
    let is_there = |id: &str| context.command(engine).args(["image", "inspect", &tag(id)]).run().code == Some(0);
    fs::remove_file(images.join("tidy")).unwrap();
    task.execute().run().success();
    let found = [&task.id, &names[0], &names[1]].map(|it| is_there(it));
    for name in &names {
        let _ = context.command(engine).args(["rmi", "-f", &tag(name)]).run();
    }
    assert_eq!(found, [true, false, true]);
    assert!(!old.exists());
}

mod images_that_are_not_used_any_more_leave {
    #[test]
    fn docker() {
        super::images_of_tasks_that_are_not_used_any_more_leave_the_engine(&super::IN_DOCKER);
    }

    #[test]
    fn podman() {
        super::images_of_tasks_that_are_not_used_any_more_leave_the_engine(&super::IN_PODMAN);
    }
}

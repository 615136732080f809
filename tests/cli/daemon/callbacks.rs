//! What the public SDK, unchanged, lets a task do before it is stopped (`register_abort_callback`).

use serde_json::json;

use super::Place;
use super::keeper::{DOCKER, Keeper, PODMAN};
use crate::support::{TestContext, wait_until};

/// Has something to do before it is stopped that takes longer than anybody waits who was not asked to.
const SCRIPT: &str = "\
import os, time
from clearml import Task

def before():
    print('callback begins', flush=True)
    time.sleep(8)
    print('callback ends', flush=True)

task = Task.init(auto_connect_frameworks=False)
task.register_abort_callback(before, callback_execution_timeout=60)
print('up', os.environ['CLEARML_TASK_ID'], flush=True)
time.sleep(900)
print('done', flush=True)
";

fn a_task_does_what_it_wants_done_before_it_is_stopped(flag: &str, keeper: Option<Keeper>) {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = json!({
        "name": "tidy", "type": "training",
        "script": { "entry_point": "tidy.py", "binary": "python3", "diff": SCRIPT, "requirements": { "pip": "clearml" } },
    });
    let task = place.server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned();
    place.enqueue(&task, "queue");
    // The SDK looks every fifteen seconds by itself.
    let config = place.config("sdk { development { worker { report_period_sec: 1, ping_period_sec: 1 } } }");
    let agent = place.agent().env("CLEARML_CONFIG_FILE", config);
    let daemon = place.daemon_of(agent, "daemon", &["--queue", "queue", flag, "--cpu-only"]);
    place.is_up(&task);
    let registered = place.field(&task, "runtime")["_abort_callback_timeout"].as_f64();
    assert_eq!(registered, Some(60.0));
    place.server.call("tasks.stop", &json!({ "task": task }));
    wait_until("the callback begins", || place.console(&task, "callback begins\n") == 1);
    assert_eq!(place.status(&task), "in_progress");
    place.becomes(&task, "stopped");
    let said = place.server.console(&task);
    let count = |text: &str| said.matches(text).count();
    assert_eq!((count("callback begins\n"), count("callback ends\n"), count("done\n")), (1, 1, 0), "{said}");
    assert_eq!(place.field(&task, "runtime")["_abort_callback_completed"].as_u64(), Some(1));
    assert_eq!(place.field(&task, "status_reason"), json!("task was stopped by tasks.stop"));
    if let Some(keeper) = keeper {
        assert!(keeper.running(&place, &task).is_empty());
        keeper.is_rid_of(&place, &task);
        keeper.forget(&place, &[&task]);
    }
    daemon.stop();
}

#[test]
fn a_task_does_what_it_wants_done_before_it_is_stopped_natively() {
    a_task_does_what_it_wants_done_before_it_is_stopped("--native", None);
}

#[test]
fn a_task_does_what_it_wants_done_before_it_is_stopped_in_docker() {
    let keeper = DOCKER.required();
    a_task_does_what_it_wants_done_before_it_is_stopped(keeper.flag, Some(keeper));
}

#[test]
fn a_task_does_what_it_wants_done_before_it_is_stopped_in_podman() {
    let keeper = PODMAN.required();
    a_task_does_what_it_wants_done_before_it_is_stopped(keeper.flag, Some(keeper));
}

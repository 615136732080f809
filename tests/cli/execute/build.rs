//! Images that cannot be built, and who hears why.

use serde_json::json;

use super::task::{NATIVELY, Task};
use crate::support::{PackageIndex, TestContext, wait_until};

#[test]
fn the_builds_own_reason_reaches_the_task() {
    let context = TestContext::new();
    let index = PackageIndex::start(&context, "empty");
    let task = Task::new(&context, &NATIVELY, "print('never')\n");
    let requirements = json!({ "pip": "nobody-has-this==1.0\n" });
    task.server.call("tasks.edit", &json!({ "task": task.id, "script": { "requirements": requirements } }));
    let mut call = task.execute().env_remove("PIP_FIND_LINKS").env_remove("PIP_EXTRA_INDEX_URL");
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"] {
        call = call.env(name, index.url());
    }
    let outcome = call.args(["--retries", "3"]).run().exits(80);
    let (status, reason) = task.told();
    assert_eq!(status, "failed");
    assert!(reason.starts_with("the image could not be built: ") && reason.contains("nobody-has-this"), "{reason}");
    assert_eq!(task.count("the image could not be built: "), 2, "{}", task.server.console(&task.id));
    assert!(outcome.stderr.contains("nobody-has-this"), "{}", outcome.stderr);
    // Whoever waits for it sees what the task's console gets, and this machine keeps it.
    assert!(outcome.stderr.contains("pulled by worker"), "{}", outcome.stderr);
    let kept = context.agent().env("AGENT_STATE_DIR", context.path("state")).args(["logs", &task.id]).run().exits(0);
    assert_eq!(kept.stdout, "");
    let first = kept.stderr.lines().next().unwrap_or_default();
    assert!(first.contains("pulled by worker") && kept.stderr.contains("could not be built"), "{}", kept.stderr);
}

#[test]
fn a_build_can_be_stopped_by_the_server() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, "print('never')\n");
    let script = json!({ "setup_shell_script": "sleep 900" });
    task.server.call("tasks.edit", &json!({ "task": task.id, "container": script }));
    let mut running = task.execute().spawn(&context.path("output"));
    let message = || task.document(&task.id)["status_message"].as_str().unwrap_or_default().to_owned();
    wait_until("the task says what is built", || message().starts_with("building image: "));
    task.server.call("tasks.stop", &json!({ "task": task.id }));
    assert_eq!(running.wait(), Some(130));
    assert_eq!(task.told(), ("stopped".to_owned(), "task was stopped by tasks.stop".to_owned()));
}

//! What `kill -9` of `agent execute` leaves, and what the next one makes of it.

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{TestContext, runs, wait_until};

/// Takes its time.
const SLOW: &str = "\
import time
print('up', flush=True)
for number in range(40):
    print('line', number, 'of', 40, flush=True)
    time.sleep(0.2)
print('over', flush=True)
";

fn a_run_goes_on_without_whoever_started_it(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, SLOW);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("line 3 "));
    running.kill();
    assert_eq!(task.server.status(&task.id), "in_progress");
    let outcome = task.execute().run().success();
    assert!(
        outcome.stdout.starts_with("up\nline 0 of 40\n") && outcome.stdout.ends_with("over\n"),
        "{}",
        outcome.stdout
    );
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    let console = task.server.console(&task.id);
    for number in 0..40 {
        assert_eq!(console.matches(&format!("line {number} of 40\n")).count(), 1, "{console}");
    }
    assert_eq!((task.count("up\n"), task.units().len()), (1, 1));
}
in_each_engine!(a_run_goes_on_without_whoever_started_it);

#[test]
fn a_run_that_docker_starts_twice_runs_once() {
    let context = TestContext::new();
    let task = Task::new(&context, &IN_DOCKER, "import time\nprint('up', flush=True)\ntime.sleep(6)\n");
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    running.kill();
    let docker = |arguments: &[&str]| context.command("docker").args(arguments).ok();
    let label = format!("label=io.github.agent.run={}", task.units()[0]["run"].as_str().unwrap());
    let found = docker(&["ps", "--all", "--quiet", "--filter", &label]);
    assert_eq!(docker(&["wait", found.trim()]).trim(), "0");
    // As one does that went down while it started it, and has forgotten that.
    docker(&["start", found.trim()]);
    assert_eq!(docker(&["wait", found.trim()]).trim(), "255");
    task.execute().run().success();
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    assert_eq!((task.count("up\n"), task.units().len()), (1, 1));
}

#[test]
fn what_somebody_stops_in_docker_itself_has_not_completed() {
    let context = TestContext::new();
    let script = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('up', flush=True)\ntime.sleep(60)\n";
    let task = Task::new(&context, &IN_DOCKER, script);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    let docker = |arguments: &[&str]| context.command("docker").args(arguments).ok();
    let label = format!("label=io.github.agent.run={}", task.units()[0]["run"].as_str().unwrap());
    docker(&["stop", docker(&["ps", "--quiet", "--filter", &label]).trim()]);
    running.wait();
    assert_eq!(task.told(), ("failed".to_owned(), "the run was lost: it was asked to end from outside".to_owned()));
}

#[test]
fn a_run_that_ended_meanwhile_is_told_as_it_ended() {
    let context = TestContext::new();
    let task =
        Task::new(&context, &NATIVELY, "import time\nprint('up', flush=True)\ntime.sleep(3)\nraise SystemExit(7)\n");
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    running.kill();
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(task.server.status(&task.id), "in_progress");
    task.execute().run().exits(7);
    assert_eq!(task.told(), ("failed".to_owned(), "worker execution exit code 7".to_owned()));
    assert_eq!(task.count("up\n"), 1);
}

#[test]
fn a_build_that_was_cut_off_is_made_again_and_nothing_of_the_first_runs_on() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, "print('up', flush=True)\n");
    // A number that no other program has among its arguments.
    let sleep = format!("sleep {}", 1_100_000_000 + u64::from(std::process::id()));
    let edit = |script: &str| {
        let container = serde_json::json!({ "setup_shell_script": script });
        let edit = serde_json::json!({ "task": task.id, "force": true, "container": container });
        task.server.call("tasks.edit", &edit);
    };
    edit(&sleep);
    let mut running = task.execute().spawn(&context.path("output"));
    wait_until("the build waits", || runs(&sleep));
    running.kill();
    edit("true");
    task.execute().run().success();
    assert_eq!(task.server.status(&task.id), "completed");
    assert!(!runs(&sleep));
}

//! How runs end: by themselves, by whoever started them, by the server.

use rustix::process::Signal;
use serde_json::json;

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{Repository, TestContext, wait_until};

/// Says that it is up, prints what consoles find hard, and ends with a code.
const ENDS: &str = "\
import os, sys
print('up', os.environ['CLEARML_TASK_ID'], flush=True)
sys.stdout.buffer.write(b'progress 10%\\rprogress 100%\\n\\xff\\xfe bytes\\n\\xc3\\xa4')
sys.stdout.flush()
os.write(2, b'no end')
";

/// Runs until it is asked to end.
const WAITS: &str = "\
import signal, sys, time
def end(*_):
    print('asked to end', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
time.sleep(900)
";

/// Says that it is up and nothing more, and takes its time when it is asked to end.
const SILENT: &str = "\
import os, signal, sys, time
def end(*_):
    while not os.path.exists('/lent/go'):
        time.sleep(0.05)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
time.sleep(900)
";

fn a_program_that_ends_well_completes_its_task(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, ENDS);
    let log = context.path("log");
    let outcome = task.execute().arg("--log-file").arg(&log).run().success();
    let expected =
        [format!("up {}\n", task.id).as_bytes(), b"progress 10%\rprogress 100%\n\xff\xfe bytes\n\xc3\xa4"].concat();
    let printed = fs_err::read(&log).unwrap();
    // Two streams: the order between them is not theirs to say.
    let ours: Vec<u8> = String::from_utf8_lossy(&printed).replace("no end", "").into_bytes();
    assert_eq!(ours, String::from_utf8_lossy(&expected).into_owned().into_bytes());
    assert_eq!(outcome.stdout, String::from_utf8_lossy(&printed));
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    for line in ["pulled by worker", &format!("up {}\n", task.id), "progress 100%\n", "Process completed successfully"]
    {
        assert_eq!(task.count(line), 1, "{line} in {}", task.server.console(&task.id));
    }
    let unit = &task.units()[0];
    assert_eq!((unit["phase"].as_str(), unit["popped"].as_bool()), (Some("done"), Some(true)));
    let directory = context.path("state/runs").join(unit["run"].as_str().unwrap());
    assert!(!directory.join("clearml.conf").exists() && directory.join("spool/output").is_dir());
}
in_each_engine!(a_program_that_ends_well_completes_its_task);

fn a_program_that_fails_fails_its_task_with_its_code(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, "import sys\nprint('up', flush=True)\nsys.exit(3)\n");
    task.execute().args(["--retries", "2"]).run().exits(3);
    assert_eq!(task.told(), ("failed".to_owned(), "worker execution exit code 3".to_owned()));
    assert_eq!((task.count("up\n"), task.count("Process failed, exit code 3")), (1, 1));
}
in_each_engine!(a_program_that_fails_fails_its_task_with_its_code);

/// As the original tells it: the console and the status say the same.
fn a_program_that_breaks_itself_off_is_stopped(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n");
    task.execute().args(["--retries", "2"]).run().exits(130);
    assert_eq!(task.told(), ("stopped".to_owned(), "user abort".to_owned()));
    assert_eq!(task.count("User aborted: stopping task (user abort)"), 1);
    assert_eq!(task.count("Process failed"), 0, "{}", task.server.console(&task.id));
}
in_each_engine!(a_program_that_breaks_itself_off_is_stopped);

fn the_server_stops_a_run(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, WAITS);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    let message = || task.document(&task.id)["status_message"].as_str().unwrap_or_default().to_owned();
    wait_until("the task says that it runs", || message().starts_with("running (Changed by clearml-agent "));
    task.server.call("tasks.stop", &json!({ "task": task.id }));
    let code = running.wait();
    let said = fs_err::read_to_string(&output).unwrap();
    assert_eq!(code, Some(143), "{said}");
    assert_eq!(task.told(), ("stopped".to_owned(), "task was stopped by tasks.stop".to_owned()));
    assert!(said.contains("asked to end") && task.said("asked to end\n"), "{said}");
}
in_each_engine!(the_server_stops_a_run);

fn a_signal_stops_a_run(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, WAITS);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    running.signal(Signal::TERM);
    let code = running.wait();
    let said = fs_err::read_to_string(&output).unwrap();
    assert_eq!(code, Some(143), "{said}");
    assert_eq!(task.told(), ("stopped".to_owned(), "user abort".to_owned()));
    assert!(task.said("asked to end\n"), "{said}");
}
in_each_engine!(a_signal_stops_a_run);

#[test]
fn a_clone_runs_and_the_task_stays_as_it_is() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, ENDS);
    let outcome = task.execute().arg("--clone").run().success();
    let clone = outcome.stdout.lines().next().unwrap().strip_prefix("up ").unwrap().to_owned();
    assert_ne!(clone, task.id);
    assert_eq!((task.server.status(&task.id).as_str(), task.server.status(&clone).as_str()), ("created", "completed"));
    assert_eq!(task.document(&clone)["name"], "Clone of a task");
    assert_eq!(task.document(&clone)["parent"], task.id.as_str());
}

#[test]
fn only_a_task_that_waits_in_a_queue_where_that_is_asked_for() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, ENDS);
    let outcome = task.execute().arg("--require-queue").run().exits(75);
    let expected = format!("error: the task `{}` waits in no queue: it is created", task.id);
    assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
    assert_eq!(task.server.status(&task.id), "created");
    task.server.call("tasks.enqueue", &json!({ "task": task.id, "queue_name": "work" }));
    task.execute().arg("--require-queue").run().success();
    assert_eq!(task.server.status(&task.id), "completed");
    let queues = task.server.call("queues.get_all", &json!({ "name": "work" }));
    assert_eq!(queues["queues"][0]["entries"], json!([]));
}

#[test]
fn a_task_of_another_worker_is_refused() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, ENDS);
    task.server.call("tasks.started", &json!({ "task": task.id }));
    let report = json!({ "worker": "you:1", "task": task.id, "timestamp": 1 });
    task.server.call("workers.status_report", &report);
    let outcome = task.execute().run().exits(75);
    let expected = format!("error: the task `{}` is in progress at worker `you:1`", task.id);
    assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
    assert!(task.units().is_empty());
}

#[test]
fn whoever_started_it_may_tell_the_end() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, "raise SystemExit(5)");
    task.execute().arg("--disable-monitoring").run().exits(5);
    assert_eq!(task.server.status(&task.id), "in_progress");
}

#[test]
fn what_a_run_resolved_stands_in_its_task_and_a_clone_of_it_is_the_same() {
    let context = TestContext::warm();
    let repository = Repository::new(&context, "project");
    let commit = repository.commit(&[("task.py", "import six\nprint('first', six.__version__)\n")]);
    let task = Task::new(&context, &NATIVELY, "");
    let script = json!({
        "repository": repository.url(), "branch": "main", "diff": "", "requirements": { "pip": "six\n" },
    });
    task.server.call("tasks.edit", &json!({ "task": task.id, "force": true, "script": script }));
    let said = task.execute().run().success().stdout;
    let version = said.trim().strip_prefix("first ").unwrap();
    let document = task.document(&task.id);
    let script = &document["script"];
    assert_eq!((&script["version_num"], &script["branch"]), (&json!(commit), &json!("main")));
    let requirements = &script["requirements"];
    assert_eq!(
        (&requirements["pip"], &requirements["org_pip"]),
        (&json!([format!("six=={version}")]), &json!("six\n"))
    );
    let lock = &document["configuration"]["agent-lock"];
    assert_eq!((&lock["name"], &lock["type"]), (&json!("agent-lock"), &json!("text")));
    for pinned in [format!("version = \"{version}\""), format!("commit = \"{commit}\"")] {
        assert!(lock["value"].as_str().unwrap().contains(&pinned), "{pinned} in {lock}");
    }

    // The branch goes on.
    repository.commit(&[("task.py", "print('second')\n")]);
    assert_eq!(task.execute().arg("--clone").run().success().stdout, said);
}

#[test]
fn a_run_that_is_silent_or_takes_too_long_is_ended_and_has_failed() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, SILENT);
    let lent = context.path("lent");
    fs_err::create_dir(&lent).unwrap();
    let container = json!({ "arguments": format!("-v {}:/lent", lent.display()) });
    task.server.call("tasks.edit", &json!({ "task": task.id, "force": true, "container": container }));
    let limited = |id: &str, run: &str, quiet: &str| {
        let call = task.execute_other(id).args(["--retries", "2"]).env("CLEARML_AGENT__AGENT__STOP_GRACE_SEC", "60");
        let call = call.env("CLEARML_AGENT__AGENT__RUN_TIMEOUT_SEC", run);
        call.env("CLEARML_AGENT__AGENT__RUN_SILENCE_TIMEOUT_SEC", quiet)
    };
    let has_failed = |id: &str, reason: &str| {
        let found = task.document(id);
        assert_eq!((&found["status"], &found["status_reason"]), (&json!("failed"), &json!(reason)), "{found}");
        let console = task.server.console(id);
        assert_eq!(console.matches(&format!("Process failed: {reason}\n")).count(), 1, "{console}");
    };

    let reason = "the run printed nothing for 5 s";
    let mut running = limited(&task.id, "600", "5").spawn(&context.path("output"));
    let message = || task.document(&task.id)["status_message"].as_str().unwrap_or_default().to_owned();
    wait_until("the task says why it is ended", || {
        message().starts_with(&format!("ending the run: {reason} (Changed by"))
    });
    assert_eq!(task.server.status(&task.id), "in_progress");
    crate::support::write(&lent.join("go"), "");
    assert_eq!(running.wait(), Some(143));
    has_failed(&task.id, reason);

    let busy = task.another("import time\nwhile True:\n    print('busy', flush=True)\n    time.sleep(0.1)\n");
    limited(&busy, "2", "600").run().exits(143);
    has_failed(&busy, "the run was not over within 2 s");
    assert_eq!(task.units().len(), 2, "nothing is tried again");
}

#[test]
fn arguments_of_a_rule_count_where_the_task_runs() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, "import os\nprint('rule', os.environ.get('FROM_RULE'))\n");
    let rules = format!(
        "[{{ image: \"oci:{}\", arguments: \"-e FROM_RULE=counts\", match {{ script.binary: \"python3$\" }} }}]",
        crate::support::base().display()
    );
    let call = task.execute().env("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__MATCH_RULES", rules);
    assert_eq!(call.run().success().stdout, "rule counts\n");
}

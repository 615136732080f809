//! PID 1 of our images, run as it is in them: against the embedded server, without one, and in an empty root.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::sample::{CHANGED, changed_clone, values};
use crate::support::{Call, Server, Tap, TestContext, venv, wait_for, wait_until, write};

/// What an image has below `/opt/agent`, and the binary in it.
struct Image<'a> {
    context: &'a TestContext,
    root: PathBuf,
    guest: PathBuf,
}

impl<'a> Image<'a> {
    fn new(context: &'a TestContext, launch: &Value, record: &Value) -> Self {
        let root = context.path("opt/agent");
        write(&root.join("launch.json"), &launch.to_string());
        write(&root.join("task.json"), &record.to_string());
        let guest = root.join("bin/agent");
        fs_err::create_dir_all(root.join("bin")).unwrap();
        if !guest.exists() {
            agent::fs::write_whole(&guest, agent::launch::guest_binary(), 0o755).unwrap();
        }
        Self { context, root, guest }
    }

    /// An image whose task is a line of shell.
    fn shell(context: &'a TestContext, task: &str, mode: &str, line: &str) -> Self {
        let program = json!(["/bin/sh", "-c", line]);
        Self::new(context, &launch(context, mode, task, &program), &json!({ "id": task, "name": "recorded" }))
    }

    fn run(&self) -> Call {
        self.context
            .command(&self.guest)
            .env("AGENT_ROOT", &self.root)
            .env("AGENT_SPOOL", self.context.path("spool"))
            .env("CLEARML_WORKER_ID", "guest:0")
    }

    fn with(&self, server: &Server) -> Call {
        self.run().env("CLEARML_CONFIG_FILE", server.config())
    }
}

fn launch(context: &TestContext, mode: &str, task: &str, program: &Value) -> Value {
    json!({
        "version": agent::launch::VERSION, "mode": mode, "task": task, "name": "recorded", "program": program,
        "directory": context.work(), "env": { "FROM_TASK": "yes" }, "secrets": ["A_TOKEN"],
        "secret_parameters": [],
    })
}

fn create(server: &Server) -> String {
    let task = json!({ "name": "recorded", "type": "training" });
    server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
}

fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

#[test]
fn a_changed_parameter_has_the_same_effect_with_and_without_a_server() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let clone = changed_clone(&context, &server);
    let record = server.call("tasks.get_by_id", &json!({ "task": clone }))["task"].clone();
    let program = json!([venv().join("bin/python"), "-u", "train.py"]);
    let image = Image::new(&context, &launch(&context, "reuse_task", &clone, &program), &record);

    let online = image.with(&server).args(["--set", "Args/rate=0.5"]).run().success();
    assert_eq!(values(&online.stdout), CHANGED);
    assert!(online.stderr.contains("secrets of the task were not given: A_TOKEN"), "{}", online.stderr);
    assert_eq!(server.status(&clone), "completed");
    let console = server.console(&clone);
    assert_eq!(values(&console), CHANGED);
    assert!(console.contains("Process completed successfully"), "{console}");
    let task = server.call("tasks.get_by_id", &json!({ "task": clone }))["task"].clone();
    assert_eq!(task.pointer("/hyperparams/Args/rate/value"), Some(&json!("0.5")));
    assert_eq!(task.pointer("/execution/artifacts/0/key"), Some(&json!("result")));

    let journal = context.path("journal");
    let offline = image.run().args(["--set", "Args/rate=0.5", "--journal"]).arg(&journal).run().success();
    assert_eq!(values(&offline.stdout), CHANGED);
    let read = |name: &str| fs_err::read_to_string(journal.join(name)).unwrap();
    assert!(read("events.jsonl").lines().count() >= 3);
    assert_eq!(values(&read("console.log")), CHANGED);
    let kept: Value = serde_json::from_str(&read("task.json")).unwrap();
    assert_eq!(kept.pointer("/execution/artifacts/0/key"), Some(&json!("result")));
    let uploaded = kept.pointer("/execution/artifacts/0/uri").unwrap().as_str().unwrap();
    let path = uploaded.splitn(4, '/').nth(3).unwrap().replace("%20", " ");
    assert_eq!(read(&format!("files/{path}")).replace([' ', '\n'], ""), r#"{"epochs":3}"#);
}

/// A program that makes models and other tasks, and looks at what it made.
const MAKER: &str = r#"
from clearml import Dataset, Model, OutputModel, Task

task = Task.init(project_name="demo", task_name="maker", auto_connect_frameworks=False)
open("weights", "w").write("w" * 10)
model = OutputModel(task=task, name="net", framework="PyTorch")
model.update_weights("weights", auto_delete_file=False)
model.set_metadata("depth", "3")
made = [it for it in task.models["output"]]
print("SAW", len(made), made[-1].name, Model(made[-1].id).get_metadata("depth"), open(made[-1].get_local_copy()).read())
child = Task.clone(task, name="child", parent=task.id)
child.set_parameter("Args/x", 5)
again = Task.get_task(task_id=child.id)
print("SAW", again.name, again.parent == task.id, again.get_parameter("Args/x"), again.status)
print("SAW", [it.name for it in Task.get_tasks(task_name="^child$")], Task.get_task(task_name="no such task"))
data = Dataset.create(dataset_name="data", dataset_project="demo")
data.add_files("weights")
data.upload(show_progress=False)
data.finalize()
print("SAW", data.list_files(), data.version)
print("SAW", type(task.get_last_scalar_metrics()).__name__, type(task.get_reported_scalars()).__name__, flush=True)
"#;

#[test]
fn what_a_program_makes_is_there_for_it_with_and_without_a_server() {
    let context = TestContext::new();
    let server = Server::start(&context);
    write(&context.work().join("maker.py"), MAKER);
    let task = create(&server);
    let record = server.call("tasks.get_by_id", &json!({ "task": task }))["task"].clone();
    let program = json!([venv().join("bin/python"), "-u", "maker.py"]);
    let image = Image::new(&context, &launch(&context, "reuse_task", &task, &program), &record);
    let saw = |call: Call| {
        let outcome = call.run().success();
        let lines: Vec<String> = outcome.stdout.lines().filter(|it| it.starts_with("SAW")).map(str::to_owned).collect();
        assert_eq!(lines.len(), 5, "{}\n{}", outcome.stdout, outcome.stderr);
        lines
    };
    let expected = [
        "SAW 1 net 3 wwwwwwwwww",
        "SAW child True 5 created",
        "SAW ['child'] None",
        "SAW ['weights'] 1.0.0",
        "SAW dict dict",
    ];
    assert_eq!(saw(image.run().arg("--journal").arg(context.path("journal"))), expected);
    assert_eq!(saw(image.with(&server)), expected);
}

#[test]
fn the_exit_code_is_the_programs_and_the_status_says_so() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    let image =
        Image::shell(&context, &task, "reuse_task", "echo out $FROM_TASK $CLEARML_TASK_ID; echo err >&2; exit 3");
    let outcome = image.with(&server).run().exits(3);
    assert_eq!(outcome.stdout, format!("out yes {task}\n"));
    assert_eq!(server.status(&task), "failed");
    let console = server.console(&task);
    for line in [format!("out yes {task}\n"), "err\n".to_owned(), "Process failed, exit code 3".to_owned()] {
        assert!(console.contains(&line), "{line} in {console}");
    }
    // A failed task runs again.
    Image::shell(&context, &task, "reuse_task", "true").with(&server).ok();
    assert_eq!(server.status(&task), "completed");
    let none = Image::new(
        &context,
        &launch(&context, "reuse_task", &task, &json!(["/nonexistent/program"])),
        &json!({ "id": task }),
    );
    let outcome = none.with(&server).run().exits(127);
    assert!(outcome.stderr.contains("cannot start `/nonexistent/program`"), "{}", outcome.stderr);
    assert_eq!(server.status(&task), "failed");
}

#[test]
fn a_clone_runs_and_the_recorded_task_stays_as_it_is() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    Image::shell(&context, &task, "clone_task", "echo $CLEARML_TASK_ID > ran").with(&server).ok();
    let ran = fs_err::read_to_string(context.work().join("ran")).unwrap().trim().to_owned();
    assert_ne!(ran, task);
    assert_eq!((server.status(&task).as_str(), server.status(&ran).as_str()), ("created", "completed"));
    let clone = server.call("tasks.get_by_id", &json!({ "task": ran }))["task"].clone();
    assert_eq!((clone["parent"].as_str(), clone["name"].as_str()), (Some(task.as_str()), Some("Clone of recorded")));
}

#[test]
fn a_task_that_runs_elsewhere_is_refused_unless_forced() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    server.call("tasks.started", &json!({ "task": task }));
    let image = Image::shell(&context, &task, "reuse_task", "echo ran");
    let outcome = image.with(&server).run().exits(75);
    assert!(outcome.stderr.contains("is in progress"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert_eq!(server.status(&task), "in_progress");
    assert_eq!(image.with(&server).arg("--force").ok(), "ran");
    assert_eq!(server.status(&task), "completed");
}

#[test]
fn a_wish_to_stop_from_the_server_or_from_outside_ends_as_stopped() {
    let context = TestContext::new();
    let server = Server::start(&context);
    // The second does not listen to TERM.
    for (by_server, line) in
        [(true, "echo up; sleep 900"), (false, "trap '' TERM; echo up; while true; do sleep 1; done")]
    {
        let task = create(&server);
        let output = context.path("output");
        let _ = fs_err::remove_file(&output);
        let mut running = Image::shell(&context, &task, "reuse_task", line).with(&server).spawn(&output);
        wait_until("the program runs", || fs_err::read_to_string(&output).is_ok_and(|it| it.contains("up\n")));
        if by_server {
            server.call("tasks.stop", &json!({ "task": task }));
        } else {
            terminate(running.pid());
        }
        wait_until("the guest ends", || running.ended());
        assert_eq!(server.status(&task), "stopped");
        assert!(server.console(&task).contains("up\n"));
    }
}

#[test]
fn the_server_hears_who_runs_the_task_and_what_the_machine_does() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    let tap = Tap::before(server.api());
    let image = Image::shell(&context, &task, "reuse_task", "sleep 900");
    let mut running = image.with(&server).env("CLEARML_API_HOST", tap.address()).spawn(&context.path("output"));
    wait_until("statistics are sent", || tap.heard("\"cpu_usage\":[") && tap.heard("\"memory_free\":"));
    let workers = server.call("workers.get_all", &json!({}))["workers"].clone();
    let worker = workers.as_array().unwrap().iter().find(|it| it["id"] == "guest:0").unwrap();
    assert_eq!(worker.pointer("/task/id"), Some(&json!(task)));
    terminate(running.pid());
    wait_until("the guest ends", || running.ended());
    assert_eq!(server.status(&task), "stopped");
    assert!(server.call("workers.get_all", &json!({}))["workers"].as_array().unwrap().is_empty());
}

#[test]
fn variables_of_a_program_and_its_directory_are_those_of_its_environment() {
    let context = TestContext::new();
    let work = context.work();
    fs_err::create_dir(work.join("below")).unwrap();
    write(&work.join("below/script"), "pwd; echo $1 $2 $PYTHONPATH; cat $CLEARML_CONFIG_PATH/default/sdk.conf");
    let mut launch = launch(&context, "reuse_task", &"1".repeat(32), &json!(["/bin/sh", "$SCRIPT", "a${X}b", "$NONE"]));
    launch["directory"] = json!(format!("{}/$WHERE", work.display()));
    let image = Image::new(&context, &launch, &json!({ "name": "recorded" }));
    let said = image.run().env("SCRIPT", "script").env("X", "1").env("WHERE", "below").ok();
    let below = work.join("below").display().to_string();
    assert_eq!(said, format!("{below}\na1b $NONE {below}\ndevelopment {{ report_use_subprocess: false }}"));
}

#[test]
fn console_lines_survive_a_server_that_is_away_and_a_killed_guest() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    let output = context.path("output");
    let line = "echo first; touch one; while [ ! -e go ]; do sleep 0.1; done; echo second; touch two; while [ ! -e end ]; do sleep 0.1; done; echo third";
    let image = Image::shell(&context, &task, "reuse_task", line);
    let mut running = image.with(&server).spawn(&output);
    wait_until("the first line is there", || context.work().join("one").exists());
    server.kill();
    write(&context.work().join("go"), "");
    wait_until("the second line is there", || context.work().join("two").exists());
    wait_until("the second line is passed on", || fs_err::read_to_string(&output).unwrap().contains("second"));
    running.kill();
    write(&context.work().join("end"), "");
    let server = Server::start(&context);
    let again = Image::shell(&context, &task, "reuse_task", "echo fourth");
    let outcome = again.with(&server).arg("--force").run().success();
    assert_eq!(outcome.stdout, "fourth\n");
    let console = server.console(&task);
    for line in ["first\n", "second\n", "fourth\n"] {
        assert_eq!(console.matches(line).count(), 1, "{line} in {console}");
    }
    assert!(console.find("first") < console.find("second") && console.find("second") < console.find("fourth"));
}

#[test]
fn under_an_executor_the_status_is_not_ours() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let task = create(&server);
    server.call("tasks.started", &json!({ "task": task }));
    let image = Image::shell(&context, &task, "reuse_task", "echo told; exit 5");
    image.with(&server).env("AGENT_EXECUTOR", "1").run().exits(5);
    assert_eq!(server.status(&task), "in_progress");
    assert!(server.console(&task).contains("told\n"));
}

#[test]
fn an_unknown_task_and_bad_credentials_are_explained() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let image = Image::shell(&context, &"0".repeat(32), "reuse_task", "true");
    let outcome = image.with(&server).run().exits(66);
    assert!(outcome.stderr.contains("there is no task `00000"), "{}", outcome.stderr);
    let outcome = image.with(&server).env("CLEARML_API_SECRET_KEY", "wrong-secret").run().exits(77);
    assert!(outcome.stderr.contains("refuses the credentials"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("wrong-secret"), "{}", outcome.stderr);
    let outcome = image.run().arg("--odd").run().exits(2);
    assert!(outcome.stderr.contains("unknown option `--odd`"), "{}", outcome.stderr);
}

#[test]
fn a_command_runs_in_the_environment_and_orphans_are_reaped() {
    let context = TestContext::new();
    let image = Image::shell(&context, "t", "environment", "");
    let line = "(sleep 0.2 & ) ; echo $FROM_TASK $PATH; exit 4";
    let outcome = image.run().args(["sh", "-c", line]).run().exits(4);
    assert!(outcome.stdout.starts_with("yes "), "{}", outcome.stdout);
    image.run().args(["--", "no-such-program"]).run().exits(127);
    image.run().run().exits(2);
    assert!(image.run().arg("--help").ok().contains("COMMAND"));
    assert_eq!(image.run().args(["sh", "-c", "kill -9 $$"]).run().exits(137).stdout, "");
}

#[test]
fn it_needs_nothing_of_its_image() {
    let context = TestContext::new();
    let program = json!(["/opt/agent/bin/agent", "--version"]);
    let mut launch = launch(&context, "reuse_task", &"1".repeat(32), &program);
    launch["directory"] = json!("/");
    Image::new(&context, &launch, &json!({ "name": "recorded" }));
    // A root with /opt/agent alone: no shell, no C library, no user database, no /proc, no /dev.
    let empty = context.path("empty");
    fs_err::create_dir(&empty).unwrap();
    fs_err::rename(context.path("opt"), empty.join("opt")).unwrap();
    let inside = || {
        let call = context.command("unshare").args(["--user", "--map-root-user", "--net"]);
        call.arg("--root").arg(&empty).arg("/opt/agent/bin/agent")
    };
    let version = format!("agent {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(inside().args(["/opt/agent/bin/agent", "--version"]).ok(), version);
    assert!(inside().arg("--help").ok().contains("The ClearML task `recorded`"));
    fs_err::create_dir(empty.join("tmp")).unwrap();
    let up = context.command("unshare").args(["--user", "--map-root-user"]);
    let outcome = up.arg("--root").arg(&empty).arg("/opt/agent/bin/agent").run().success();
    assert_eq!(outcome.stdout.trim_end(), version);
    assert!(outcome.stderr.contains("ran without a server"), "{}", outcome.stderr);
    assert!(wait_for("the journal", || fs_err::read(empty.join("opt/agent/spool/offline/task.json")).ok()).len() > 2);
}

//! With a server: whose task runs, what becomes of it, what ends it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::job::Job;
use super::name;
use crate::support::{Call, Engine, TestContext, require, wait_for, wait_until};

/// A job whose image is in Docker under a name of its own; removed with the guard.
struct InDocker<'a> {
    job: Job<'a>,
    name: String,
}

impl<'a> InDocker<'a> {
    fn new(context: &'a TestContext, of: &str, arguments: &[&str]) -> Self {
        require(Engine::Docker);
        let (job, name) = (Job::new(context), name(of));
        job.build(&[&["-o", &format!("type=docker,name={name}")], arguments].concat());
        Self { job, name }
    }

    fn docker(&self) -> Call {
        self.job.context.command("docker")
    }

    /// `docker run` with the server's configuration and more switches, the image's name last.
    fn run(&self, switches: &[&str]) -> Call {
        let volume = format!("{}:/clearml.conf:ro", self.job.server.config().display());
        let call = self.docker().args(["run", "--network", "host", "-v", &volume]);
        call.args(switches).arg(&self.name)
    }

    /// Starts it in the background and waits until the task is up; the container's id.
    fn start(&self) -> String {
        let id = self.run(&["-d", "-e", "WAIT=1"]).ok();
        wait_until("the task is up", || self.job.is_up(&self.job.task));
        id
    }

    /// Waits for a container's end; its exit code and all it said.
    fn ended(&self, id: &str) -> (String, String) {
        let code = self.docker().args(["wait", id]).ok();
        let said = self.docker().args(["logs", id]).run().success();
        self.docker().args(["rm", "-f", id]).ok();
        (code, said.stdout + &said.stderr)
    }
}

impl Drop for InDocker<'_> {
    fn drop(&mut self) {
        let _ = self.docker().args(["rmi", "-f", &self.name]).run();
    }
}

fn task(job: &Job<'_>, id: &str) -> Value {
    job.server.call("tasks.get_by_id", &json!({ "task": id }))["task"].clone()
}

#[test]
fn docker_run_reuses_the_task_unless_another_worker_runs_it() {
    let context = TestContext::new();
    let image = InDocker::new(&context, "reuse", &["--entry-point", "reuse_task"]);
    let (server, id) = (&image.job.server, image.job.task.as_str());
    let outcome = image.run(&["--rm", "-e", "CODE=3"]).run().exits(3);
    assert!(outcome.stdout.starts_with(&format!("up {id} /opt/agent/code")), "{}", outcome.stdout);
    assert_eq!(server.status(id), "failed");
    // What failed runs again.
    image.run(&["--rm"]).ok();
    assert_eq!(server.status(id), "completed");
    assert_eq!(server.console(id).matches("Process completed successfully").count(), 1);

    server.call("tasks.reset", &json!({ "task": id, "force": true }));
    let running = image.start();
    let refused = image.run(&["--rm"]).run().exits(75);
    assert!(refused.stderr.contains(&format!("the task `{id}` is in progress at worker `")), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(server.status(id), "in_progress");
    assert!(!server.console(id).contains("is in progress"));
    image.run(&["--rm"]).arg("--force").ok();
    image.docker().args(["rm", "-f", &running]).ok();
}

#[test]
fn docker_stop_and_a_stop_of_the_server_end_it_as_stopped() {
    let context = TestContext::new();
    let image = InDocker::new(&context, "stop", &["--entry-point", "reuse_task"]);
    let (server, id) = (&image.job.server, image.job.task.as_str());
    let running = image.start();
    image.docker().args(["stop", &running]).ok();
    let (code, said) = image.ended(&running);
    assert_eq!((code.as_str(), server.status(id).as_str()), ("143", "stopped"), "{said}");

    server.call("tasks.reset", &json!({ "task": id, "force": true }));
    let running = image.start();
    server.call("tasks.stop", &json!({ "task": id }));
    let (code, said) = image.ended(&running);
    assert_eq!((code.as_str(), server.status(id).as_str()), ("143", "stopped"), "{said}");
}

#[test]
fn docker_run_of_a_clone_leaves_the_task_as_it_is() {
    let context = TestContext::new();
    let image = InDocker::new(&context, "clone", &["--entry-point", "clone_task"]);
    let (server, id) = (&image.job.server, image.job.task.as_str());
    let said = image.run(&["--rm"]).args(["--set", "Args/rate=0.25"]).ok();
    let clone = said.split_whitespace().nth(1).unwrap().to_owned();
    assert_ne!(clone, id);
    assert_eq!((server.status(id).as_str(), server.status(&clone).as_str()), ("created", "completed"));
    let rate = |id: &str| task(&image.job, id)["hyperparams"]["Args"]["rate"]["value"].clone();
    assert_eq!((rate(id), rate(&clone)), (json!("0.5"), json!("0.25")));
    assert_eq!(task(&image.job, &clone)["parent"], json!(id));
    assert!(server.console(&clone).contains(&format!("up {clone}")));
}

#[test]
fn docker_run_help_says_how_and_another_command_has_the_environment() {
    let context = TestContext::new();
    let image = InDocker::new(&context, "help", &["--entry-point", "reuse_task"]);
    let help = image.docker().args(["run", "--rm", &image.name, "--help"]).ok();
    for part in [&image.job.task[..], "`a job`", "--set SECTION/NAME=VALUE", "Args/rate=0.5", "/opt/agent/journal"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
    let outcome = image.docker().args(["run", "--rm", &image.name, "--odd"]).run().exits(2);
    assert!(outcome.stderr.contains("--help"), "{}", outcome.stderr);
    let program = "import sys; print(sys.prefix); sys.exit(9)";
    let outcome = image.run(&["--rm"]).args(["python", "-c", program]).run().exits(9);
    assert_eq!(outcome.stdout, "/opt/agent/venv\n");
    // A command is not the task: the server hears nothing of it.
    assert_eq!(image.job.server.status(&image.job.task), "created");
}

#[test]
fn docker_run_of_an_environment_runs_any_command() {
    let context = TestContext::new();
    let image = InDocker::new(&context, "environment", &[]);
    let line = "command -v python; echo $VIRTUAL_ENV; python -c 'import sys; print(sys.prefix)'";
    let said = image.docker().args(["run", "--rm", &image.name, "sh", "-c", line]).ok();
    assert_eq!(said, "/opt/agent/venv/bin/python\n/opt/agent/venv\n/opt/agent/venv");
    let layout = format!("oci:{}", context.path("image").display());
    assert_eq!(context.agent().args(["run", &layout, "sh", "-c", line]).ok(), said);
    // Without one it is Python itself.
    let given = image.docker().args(["run", "--rm", "-i", &image.name]).input("print(6 * 7)\n").ok();
    assert_eq!(given, "42");
    assert!(image.docker().args(["run", "--rm", &image.name, "--help"]).ok().contains("COMMAND"));
}

#[test]
fn a_native_run_tells_the_server_the_same() {
    let context = TestContext::new();
    let job = Job::new(&context);
    let image = job.build(&["--entry-point", "reuse_task"]);
    let run = || job.agent().args(["run", &image, "-e"]);
    run().arg("CODE=3").run().exits(3);
    assert_eq!(job.server.status(&job.task), "failed");
    job.server.call("tasks.reset", &json!({ "task": job.task, "force": true }));

    let output = context.path("output");
    let mut running = run().arg("WAIT=1").spawn(&output);
    wait_until("the task is up", || job.is_up(&job.task));
    let refused = run().arg("WAIT=").run().exits(75);
    assert!(refused.stderr.contains("is in progress"), "{}", refused.stderr);
    let pid = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = wait_for("the run ends", || running.status());
    let said = fs_err::read_to_string(&output).unwrap();
    assert_eq!((status, job.server.status(&job.task).as_str()), (Some(143), "stopped"), "{said}");

    job.server.call("tasks.reset", &json!({ "task": job.task, "force": true }));
    let mut running = run().arg("WAIT=1").spawn(&output);
    wait_until("the task is up", || job.is_up(&job.task));
    job.server.call("tasks.stop", &json!({ "task": job.task }));
    let status = wait_for("the run ends", || running.status());
    assert_eq!((status, job.server.status(&job.task).as_str()), (Some(143), "stopped"));
}

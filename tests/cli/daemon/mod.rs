//! `agent daemon` before the embedded server: what it takes, in which order, and what survives which kill.

mod aborts;
mod ahead;
mod background;
mod callbacks;
mod containers;
mod devices;
mod ending;
mod flags;
mod gpus;
mod host;
mod keeper;
mod kill;
mod kills;
mod lent;
mod lines;
mod order;
mod pipeline;
mod ports;
mod rights;
mod services;
mod standalone;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Call, Engine, Running, Server, TestContext, base, require, wait_for, wait_until};

/// Says that it is up, does as its parameters say, and says that it is done.
const SCRIPT: &str = "\
import os, sys, time
print('up', os.environ['CLEARML_TASK_ID'], flush=True)
time.sleep(float('SLEEP'))
print('done', os.environ['CLEARML_TASK_ID'], flush=True)
sys.exit(int('CODE'))
";

/// Says that it is up, and stays until it is let go.
const STAYS: &str = "\
import os, time
task = os.environ['CLEARML_TASK_ID']
print('up', task, flush=True)
late = time.time() + 600
while not os.path.exists('/lent/go-' + task) and time.time() < late:
    time.sleep(0.05)
print('done', task, flush=True)
";

/// A world with a server and daemons.
struct Place<'a> {
    context: &'a TestContext,
    server: Server,
}

impl<'a> Place<'a> {
    fn new(context: &'a TestContext) -> Self {
        Self { context, server: Server::start(context) }
    }

    /// A task that sleeps for so many seconds and then ends with a code, in a queue.
    fn task(&self, name: &str, queue: &str, sleep: f64, code: u8) -> String {
        let task = self.draft(name, sleep, code);
        self.enqueue(&task, queue);
        task
    }

    /// The same in no queue.
    fn draft(&self, name: &str, sleep: f64, code: u8) -> String {
        let script = SCRIPT.replace("SLEEP", &sleep.to_string()).replace("CODE", &code.to_string());
        self.script(name, &script, &json!({}))
    }

    /// A task that stays until it is let go, with a setup script, in the queue `queue`.
    fn stays(&self, name: &str, setup: &str) -> String {
        let lent = self.context.path("lent");
        fs_err::create_dir_all(&lent).unwrap();
        let arguments = format!("-v {}:/lent", lent.display());
        let task = self.script(name, STAYS, &json!({ "arguments": arguments, "setup_shell_script": setup }));
        self.enqueue(&task, "queue");
        task
    }

    /// Lets a task go that stays.
    fn let_go(&self, task: &str) {
        crate::support::write(&self.context.path(format!("lent/go-{task}")), "");
    }

    /// A task of a script in no queue.
    fn script(&self, name: &str, script: &str, container: &Value) -> String {
        let task = json!({
            "name": format!("task {name}"), "type": "testing", "container": container,
            "script": { "entry_point": "job.py", "binary": "python3", "diff": script, "requirements": { "pip": "" } },
        });
        self.server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
    }

    fn enqueue(&self, task: &str, queue: &str) {
        self.server.call("tasks.enqueue", &json!({ "task": task, "queue_name": queue }));
    }

    /// The base with another configuration (`umoci config`), as a layout of its own.
    fn base_with(&self, options: &[&str]) -> PathBuf {
        require(Engine::Umoci);
        let image = self.context.path(format!("image-{}", agent::digest::Digest::of(options.concat()).hex()));
        self.context.command("cp").args(["-r", "--reflink=auto"]).arg(base()).arg(&image).ok();
        let umoci = self.context.command("umoci").arg("config").args(options);
        umoci.arg("--image").arg(format!("{}:latest", image.display())).ok();
        image
    }

    /// The program under test, which knows the server and this world's state.
    fn agent(&self) -> Call {
        self.with(self.context.agent())
    }

    /// A program with that in its environment.
    fn with(&self, call: Call) -> Call {
        let call = call.env("CLEARML_CONFIG_FILE", self.server.config());
        let call = call.env("AGENT_STATE_DIR", self.state()).env("CLEARML_WORKER_NAME", "box");
        call.env("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC", "0.3")
            .env("CLEARML_DOCKER_IMAGE", format!("oci:{}", base().display()))
            .env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
    }

    fn state(&self) -> PathBuf {
        self.context.path("state")
    }

    /// A daemon; what it says goes to the file `<name>.log`.
    fn daemon(&self, name: &str, arguments: &[&str]) -> Daemon {
        self.daemon_of(self.agent(), name, arguments)
    }

    /// One that finds the server elsewhere.
    fn daemon_at(&self, api: &str, name: &str, arguments: &[&str]) -> Daemon {
        self.daemon_of(self.agent().env("CLEARML_API_HOST", api), name, arguments)
    }

    /// One in another environment.
    fn daemon_of(&self, agent: Call, name: &str, arguments: &[&str]) -> Daemon {
        let log = self.context.path(format!("{name}.log"));
        Daemon { program: agent.args(["--progress", "plain", "daemon"]).args(arguments).spawn(&log), log }
    }

    /// A configuration file that says more than the server's.
    fn config(&self, more: &str) -> PathBuf {
        let path = self.context.path("clearml.conf");
        let text = fs_err::read_to_string(self.server.config()).unwrap();
        crate::support::write(&path, &format!("{text}\n{more}\n"));
        path
    }

    /// What is written down of a task's last run.
    fn unit(&self, task: &str) -> Option<Value> {
        let runs = fs_err::read_dir(self.state().join("runs")).into_iter().flatten().flatten();
        let units = runs.filter_map(|it| fs_err::read(it.path().join("unit.json")).ok());
        let units = units.filter_map(|it| serde_json::from_slice::<Value>(&it).ok());
        units.filter(|it| it["task"] == task).max_by_key(|it| it["began"].as_i64())
    }

    /// The phase that a task's run is in.
    fn phase(&self, task: &str) -> Option<String> {
        Some(self.unit(task)?["phase"].as_str()?.to_owned())
    }

    /// Waits until every run that is written down is over.
    #[track_caller]
    fn runs_are_over(&self) {
        wait_until("every run is over", || {
            let runs = fs_err::read_dir(self.state().join("runs")).into_iter().flatten().flatten();
            let mut units = runs.filter_map(|it| fs_err::read(it.path().join("unit.json")).ok());
            units.all(|it| serde_json::from_slice::<Value>(&it).is_ok_and(|it| it["phase"] == "done"))
        });
    }

    fn field(&self, task: &str, field: &str) -> Value {
        let data = self.server.call("tasks.get_all", &json!({ "id": [task], "only_fields": [field] }));
        data["tasks"][0][field].clone()
    }

    fn status(&self, task: &str) -> String {
        self.server.status(task)
    }

    /// Waits until a task has this status.
    #[track_caller]
    fn becomes(&self, task: &str, status: &str) {
        let what = format!("task {task} becomes {status}");
        wait_until(&what, || self.status(task) == status);
    }

    /// Waits until a task's program has said that it is up.
    #[track_caller]
    fn is_up(&self, task: &str) {
        wait_until("the program is up", || self.console(task, &format!("up {task}")) == 1);
    }

    /// How often the task's console says so.
    fn console(&self, task: &str, text: &str) -> usize {
        self.server.console(task).matches(text).count()
    }

    /// Fails unless the task ran once, from its beginning to its end.
    #[track_caller]
    fn ran_once(&self, task: &str) {
        let console = self.server.console(task);
        let count = |text: &str| console.matches(&format!("{text} {task}")).count();
        assert_eq!((count("up"), count("done"), self.status(task).as_str()), (1, 1, "completed"), "{console}");
    }

    fn queue(&self, name: &str) -> Vec<String> {
        let data = self.server.call("queues.get_all", &json!({ "name": name }));
        let entries = data["queues"][0]["entries"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|it| it["task"].as_str().unwrap().to_owned()).collect()
    }

    fn workers(&self) -> Vec<String> {
        let data = self.server.call("workers.get_all", &json!({}));
        data["workers"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Place<'_> {
    /// A test that fails says what its daemons said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs_err::read_dir(self.context.path("")).unwrap().flatten() {
                if entry.path().extension().is_some_and(|it| it == "log") {
                    let said = fs_err::read_to_string(entry.path()).unwrap_or_default();
                    let _ = writeln!(std::io::stderr(), "--- {}\n{said}", entry.file_name().display());
                }
            }
        }
    }
}

/// A daemon that runs; killed with the guard.
struct Daemon {
    program: Running,
    log: PathBuf,
}

impl Daemon {
    fn said(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        self.program.signal(signal);
    }

    /// Kills it as a power cut would; what it started goes on.
    fn kill(mut self) {
        self.program.kill();
    }

    /// Asks it to stop and waits for its end, which must be a good one.
    #[track_caller]
    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        self.ends();
    }

    /// Waits for its end, which must be a good one.
    #[track_caller]
    fn ends(&mut self) {
        let code = self.program.wait();
        assert_eq!(code, Some(0), "{}", self.said());
    }
}

/// Lets things happen that should not.
fn a_while() {
    std::thread::sleep(Duration::from_millis(1500));
}

/// Tasks by the time at which they were started, first first.
fn by_start(place: &Place<'_>, tasks: &[String]) -> Vec<String> {
    let mut started: Vec<(String, String)> = tasks
        .iter()
        .map(|it| (wait_for("it has started", || place.field(it, "started").as_str().map(str::to_owned)), it.clone()))
        .collect();
    started.sort();
    started.into_iter().map(|it| it.1).collect()
}

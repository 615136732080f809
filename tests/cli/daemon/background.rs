//! `agent daemon --detached`, and what ends and shows it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Place;
use crate::support::{Call, Running, TestContext, wait_until, write};

/// A terminal with a program in it. It closes when a file is there, which goes with it.
const TERMINAL: &str = "\
import os, pty, select, sys, time
program, terminal = pty.fork()
if not program:
    os.execvp(sys.argv[2], sys.argv[2:])
while not os.path.exists(sys.argv[1]):
    try:
        if select.select([terminal], [], [], 0.05)[0]:
            sys.stdout.buffer.write(os.read(terminal, 4096))
            sys.stdout.flush()
    except OSError:
        # Nobody writes to it any more.
        time.sleep(0.05)
os.close(terminal)
os.unlink(sys.argv[1])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
";

/// The daemons of a test; those in the background end with it.
struct Daemons<'a> {
    place: Place<'a>,
}

impl<'a> Daemons<'a> {
    fn new(context: &'a TestContext) -> Self {
        Self { place: Place::new(context) }
    }

    fn call(&self, words: &[&str]) -> Call {
        self.place.agent().arg("daemon").args(words)
    }

    /// Runs a line of shell in a terminal.
    fn in_terminal(&self, line: &str, words: &[&str]) -> Terminal {
        let (closes, output) = (self.place.context.path("closes"), self.place.context.path("terminal.log"));
        let call = self.place.with(self.place.context.command("python3")).args(["-c", TERMINAL]).arg(&closes);
        let call = call.args(["sh", "-c", line, env!("CARGO_BIN_EXE_agent")]).args(words);
        Terminal { program: call.spawn(&output), closes, output }
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.call(words).arg("--json").ok()).unwrap()
    }

    fn running(&self) -> Vec<Value> {
        self.json(&["--status"])["daemons"].as_array().unwrap().clone()
    }
}

/// A terminal and what runs in it.
struct Terminal {
    program: Running,
    closes: PathBuf,
    output: PathBuf,
}

impl Terminal {
    fn close(&self) {
        write(&self.closes, "");
        wait_until("the terminal closes", || !self.closes.exists());
    }

    /// Waits for the end of what runs in it; its exit code.
    fn ends(mut self) -> i32 {
        let code = self.program.wait();
        code.unwrap_or_else(|| panic!("{}", fs_err::read_to_string(&self.output).unwrap()))
    }
}

impl Drop for Daemons<'_> {
    fn drop(&mut self) {
        for daemon in self.running() {
            self.call(&["--stop", daemon["worker"].as_str().unwrap()]).run();
        }
    }
}

#[test]
fn a_daemon_goes_to_the_background_is_shown_and_stopped_by_the_words_that_started_it() {
    let context = TestContext::new();
    let daemons = Daemons::new(&context);
    assert_eq!(daemons.call(&["--status"]).ok(), "no daemon runs on this machine");
    let words = ["--queue", "high", "low", "--create-queue", "--cpu-only", "--uptime", "0 MON-SUN"];
    let started = daemons.json(&[&words[..], &["-d", "--git-user", "ada", "--git-pass", "a-secret-word"]].concat());
    assert_eq!(started["worker"], "box:cpu:0");
    let pid = i32::try_from(started["process"].as_i64().unwrap()).unwrap();
    let log = started["log"].as_str().unwrap();
    assert_eq!(fs_err::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    assert_eq!(rustix::process::getsid(Some(process)).unwrap(), process);
    let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line);
    assert!(line.contains("high\0low") && !line.contains("a-secret-word"), "{line}");

    let shown = daemons.call(&["--status"]).ok();
    for part in ["box:cpu:0", "native, GPUs: none", "high, low", "0-24 MON-SUN", "tasks     none", log] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let second = daemons.json(&["--queue", "other", "--create-queue", "--cpu-only", "-dO"]);
    assert_eq!(second["worker"], "box:cpu:1");
    let stopped = daemons.call(&[&words[..], &["--stop"]].concat()).run().exits(0);
    assert_eq!(stopped.stdout.trim(), "box:cpu:0 is stopped");
    assert_eq!(daemons.running().len(), 1);
    let missing = daemons.call(&["--stop", "box:cpu:0", "box:cpu:1"]).run().exits(1);
    assert_eq!(missing.stdout.trim(), "box:cpu:1 is stopped\nbox:cpu:0 does not run on this machine");
    let none = daemons.call(&[&words[..], &["--stop"]].concat()).run().exits(1);
    assert_eq!(none.stdout.trim(), "a daemon with such flags does not run on this machine");
}

#[test]
fn a_worker_id_has_one_daemon_and_the_second_says_so_also_from_the_background() {
    let context = TestContext::new();
    let daemons = Daemons::new(&context);
    let start = |more: &[&str]| {
        let words = [&["--queue", "work", "--create-queue", "--cpu-only"][..], more].concat();
        daemons.call(&words).env("CLEARML_WORKER_ID", "me")
    };
    start(&["-d"]).ok();
    for outcome in [start(&[]).run(), start(&["-d"]).run()] {
        let outcome = outcome.exits(75);
        assert!(outcome.stderr.contains("the worker `me` runs on this machine already"), "{}", outcome.stderr);
    }
    let logs = fs_err::read_dir(context.path("state/logs")).unwrap().count();
    assert_eq!((daemons.running().len(), logs), (1, 1));
    // Without asking the server.
    let away = daemons.call(&["--stop", "me"]).env("CLEARML_API_HOST", "http://127.0.0.1:1");
    assert_eq!(away.ok().trim(), "me is stopped");
}

#[test]
fn a_terminal_that_closes_ends_no_daemon() {
    let context = TestContext::warm();
    let daemons = Daemons::new(&context);
    let place = &daemons.place;
    for queue in ["behind", "before"] {
        place.server.call("queues.create", &json!({ "name": queue }));
    }
    let line = "\"$0\" daemon --cpu-only --queue behind -d && exec \"$0\" daemon --cpu-only --queue before";
    let terminal = daemons.in_terminal(line, &[]);
    wait_until("both serve", || daemons.running().len() == 2);
    let error_of = |it: &Value| {
        let link = fs_err::read_link(format!("/proc/{}/fd/2", it["process"]["pid"])).unwrap();
        link.display().to_string()
    };
    let started = daemons.running();
    let before = started.iter().find(|it| it["worker"] == "box:cpu:1").unwrap();
    assert!(error_of(before).starts_with("/dev/pts/"), "{started:?}");
    terminal.close();
    assert!(error_of(before).ends_with(" (deleted)"), "{}", error_of(before));
    for queue in ["behind", "before"] {
        let task = place.task("one", queue, 0.0, 0);
        place.becomes(&task, "completed");
        place.ran_once(&task);
    }
    let processes = |all: &[Value]| all.iter().map(|it| it["process"].clone()).collect::<Vec<_>>();
    assert_eq!(processes(&daemons.running()), processes(&started));
    daemons.call(&["--stop", "box:cpu:0", "box:cpu:1"]).ok();
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_terminal_that_closes_stops_what_is_executed_in_it_unless_that_was_started_with_nohup() {
    let context = TestContext::warm();
    let daemons = Daemons::new(&context);
    let place = &daemons.place;
    let (ends, stays) = (place.draft("ends", 600.0, 0), place.stays("stays", ""));
    let [plain, nohup] = ["", "nohup "].map(|it| format!("exec {it}\"$0\" execute --id \"$1\" --cpu-only"));
    let terminal = daemons.in_terminal(&plain, &[&ends]);
    place.is_up(&ends);
    terminal.close();
    place.becomes(&ends, "stopped");
    assert_eq!((place.field(&ends, "status_reason"), place.console(&ends, "done ")), (json!("user abort"), 0));
    assert_ne!(terminal.ends(), 0);

    let terminal = daemons.in_terminal(&nohup, &[&stays]);
    place.is_up(&stays);
    terminal.close();
    place.let_go(&stays);
    assert_eq!(terminal.ends(), 0);
    place.ran_once(&stays);
}

#[test]
fn prometheus_reads_what_a_daemon_does() {
    let context = TestContext::new();
    let daemons = Daemons::new(&context);
    let words = ["--queue", "work", "--create-queue", "--cpu-only", "-d", "--metrics-listen", "127.0.0.1:0"];
    daemons.json(&words);
    let address = daemons.running()[0]["about"]["metrics"].as_str().unwrap().to_owned();
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let page = client.get(format!("http://{address}/metrics")).send().unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().contains("version=0.0.4"));
    let page = page.text().unwrap();
    for line in page.lines().filter(|it| !it.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("agent_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(page.contains("agent_poll_errors_total 0"), "{page}");
}

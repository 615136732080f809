//! The whole host goes down, as far as a test can have it: everything is killed in the same moment, and started again.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::json;

use super::keeper::{DOCKER, PODMAN};
use super::{Daemon, Place};
use crate::support::{Dockerd, Server, TestContext, wait_until};

/// A world whose tasks stay until they are let go.
struct Host<'a> {
    context: &'a TestContext,
    place: Place<'a>,
}

impl<'a> Host<'a> {
    fn new(context: &'a TestContext) -> Self {
        Self { context, place: Place::new(context) }
    }

    /// The server is there again, with what it knew.
    fn server_again(&mut self) {
        // A guard for the one that is gone is to be had only for another.
        let other = Server::start_in(self.context, "other");
        std::mem::replace(&mut self.place.server, other).kill();
        self.place.server = Server::start(self.context);
    }

    /// Kills all that has a part in this world: whoever names it or one of its runs on the command line or in the
    /// environment, and whatever descends from those.
    fn power_cut(&self) {
        loop {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            // Those that would tell what became of others go first.
            for pid in found {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Kills everything, a daemon among it, while one task runs and another one waits; the two, when the server is there again.
    fn goes_down_with_a_task(&mut self, daemon: Daemon) -> (String, String) {
        let dies = self.place.stays("dies", "");
        self.place.is_up(&dies);
        let next = self.place.task("next", "queue", 0.0, 0);
        self.power_cut();
        daemon.kill();
        self.server_again();
        assert_eq!(self.place.status(&dies), "in_progress");
        (dies, next)
    }

    /// Fails unless a task that was killed is told to be lost, once and for this reason, and the next one runs.
    #[track_caller]
    fn is_told_once(&self, killed: &str, next: &str, why: &str) {
        let place = &self.place;
        place.becomes(killed, "failed");
        place.becomes(next, "completed");
        place.ran_once(next);
        let said = place.server.console(killed);
        let count = |text: &str| said.matches(text).count();
        assert_eq!((count(&format!("up {killed}")), count(&format!("done {killed}"))), (1, 0), "{said}");
        let reason = format!("the run was lost: {why}");
        assert_eq!((place.field(killed, "status_reason"), count(&reason)), (json!(reason), 1), "{said}");
        place.runs_are_over();
    }

    fn processes(&self) -> Vec<Pid> {
        let runs = fs_err::read_dir(self.place.state().join("runs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = runs.map(|it| it.file_name().to_str().unwrap().to_owned()).collect();
        names.push(self.context.path("").display().to_string());
        let own = getpid().as_raw_nonzero().get();
        let (mut of, mut named) = (BTreeMap::<i32, Vec<i32>>::new(), Vec::new());
        for entry in fs_err::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse::<i32>().ok()) else { continue };
            let text = |name: &str| fs_err::read(entry.path().join(name)).unwrap_or_default();
            let stat = String::from_utf8_lossy(&text("stat")).into_owned();
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let mut rest = rest.split(' ');
            // One that is dead and not waited for is no more to be killed.
            if pid == own || rest.next() == Some("Z") {
                continue;
            }
            of.entry(rest.next().and_then(|it| it.parse().ok()).unwrap_or(0)).or_default().push(pid);
            let all = String::from_utf8_lossy(&[text("cmdline"), text("environ")].concat()).into_owned();
            if names.iter().any(|it| all.contains(it)) {
                named.push(pid);
            }
        }
        let (mut order, mut seen) = (named, BTreeSet::new());
        let mut next = 0;
        while next < order.len() {
            if seen.insert(order[next]) {
                order.extend(of.get(&order[next]).into_iter().flatten());
            }
            next += 1;
        }
        let mut once = BTreeSet::new();
        order.into_iter().filter(|it| once.insert(*it)).filter_map(Pid::from_raw).collect()
    }
}

#[test]
fn what_ran_and_what_was_built_is_made_anew_natively() {
    let context = TestContext::warm();
    let mut host = Host::new(&context);
    let runs = host.place.stays("runs", "");
    let arguments = ["--queue", "queue", "--services-mode", "2", "--retries", "1", "--cpu-only"];
    let daemon = host.place.daemon("daemon", &arguments);
    host.place.is_up(&runs);
    let builds = host.place.stays("builds", "sleep 900");
    wait_until("the other is built", || host.place.phase(&builds).as_deref() == Some("build"));
    host.power_cut();
    daemon.kill();
    host.server_again();
    assert_eq!([&runs, &builds].map(|it| host.place.status(it)), ["in_progress", "in_progress"]);
    let container = json!({ "arguments": format!("-v {}:/lent", context.path("lent").display()) });
    host.place.server.call("tasks.edit", &json!({ "task": builds, "force": true, "container": container }));
    for task in [&runs, &builds] {
        host.place.let_go(task);
    }
    let daemon = host.place.daemon("daemon", &arguments);
    for task in [&runs, &builds] {
        host.place.becomes(task, "completed");
    }
    host.place.ran_once(&builds);
    let said = host.place.server.console(&runs);
    let count = |text: &str| said.matches(text).count();
    assert_eq!((count(&format!("up {runs}")), count(&format!("done {runs}"))), (2, 1), "{said}");
    assert_eq!(count("the run was lost: its monitor was killed, and the run with it"), 1, "{said}");
    host.place.runs_are_over();
    assert!(host.place.queue("queue").is_empty());
    daemon.stop();
    assert_eq!(host.place.workers(), [""; 0]);
}

#[test]
fn what_goes_on_is_attended_and_what_was_killed_is_told_once_in_docker() {
    let keeper = DOCKER.required();
    let context = TestContext::warm();
    let mut host = Host::new(&context);
    let dockerd = Dockerd::start(&context.path("docker"));
    let daemon = |host: &Host<'_>, dockerd: &Dockerd| {
        let agent = host.place.agent().env("DOCKER_HOST", dockerd.host());
        host.place.daemon_of(agent, "daemon", &["--queue", "queue", keeper.flag, "--cpu-only"])
    };
    let first = daemon(&host, &dockerd);
    let lives = host.place.stays("lives", "");
    host.place.is_up(&lives);
    // All but the container.
    first.kill();
    let root = dockerd.kill();
    host.server_again();
    let dockerd = Dockerd::start(&root);
    let second = daemon(&host, &dockerd);
    wait_until("it is attended", || second.said().contains(&format!("task {lives} of box:cpu:0 is attended again")));
    assert_eq!(host.place.status(&lives), "in_progress");
    host.place.let_go(&lives);
    host.place.becomes(&lives, "completed");
    host.place.ran_once(&lives);

    let (dies, next) = host.goes_down_with_a_task(second);
    dockerd.kill();
    let dockerd = Dockerd::start(&root);
    let third = daemon(&host, &dockerd);
    host.is_told_once(&dies, &next, "its container went down with the engine or the machine");
    third.stop();
    let left = context.command("docker").env("DOCKER_HOST", dockerd.host()).args(["ps", "--all", "--quiet"]).ok();
    assert_eq!((left.as_str(), host.place.workers().len()), ("", 0));
}

#[test]
fn what_was_killed_is_told_once_in_podman() {
    let keeper = PODMAN.required();
    let context = TestContext::warm();
    let mut host = Host::new(&context);
    let arguments = ["--queue", "queue", keeper.flag, "--cpu-only"];
    let first = host.place.daemon("daemon", &arguments);
    let (dies, next) = host.goes_down_with_a_task(first);
    let second = host.place.daemon("daemon", &arguments);
    host.is_told_once(&dies, &next, "its container did not leave an exit code");
    second.stop();
    for task in [&dies, &next] {
        assert!(keeper.containers(&host.place, task).is_empty());
        keeper.forget(&host.place, &[task]);
    }
}

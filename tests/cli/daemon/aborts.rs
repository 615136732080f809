//! A task that is stopped on the server, whatever it is doing just then, by a daemon that goes on afterwards.

use serde_json::json;

use super::keeper::{Keeper, flag, in_both_engines, in_each_engine};
use super::{Daemon, Place, a_while};
use crate::support::{Tap, TestContext, wait_until};

/// A daemon behind a tap, and what it serves.
struct Scene<'a> {
    place: Place<'a>,
    tap: Tap,
    daemon: Daemon,
}

impl<'a> Scene<'a> {
    fn new(context: &'a TestContext) -> Self {
        Self::with(context, &[])
    }

    fn with(context: &'a TestContext, more: &[&str]) -> Self {
        let place = Place::new(context);
        place.server.call("queues.create", &json!({ "name": "queue" }));
        let tap = Tap::before(place.server.api());
        let daemon = place.daemon_at(tap.address(), "daemon", &[&["--queue", "queue", "--cpu-only"], more].concat());
        wait_until("the daemon serves", || place.workers() == ["box:cpu:0"]);
        Self { place, tap, daemon }
    }

    /// A task whose image is being built, and is not done with that.
    #[track_caller]
    fn builds(&self) -> String {
        let task = self.place.draft("built", 600.0, 0);
        let container = json!({ "setup_shell_script": "sleep 900" });
        self.place.server.call("tasks.edit", &json!({ "task": task, "container": container }));
        self.place.enqueue(&task, "queue");
        let message = || self.place.field(&task, "status_message").as_str().unwrap_or_default().to_owned();
        wait_until("the task says what is built", || message().starts_with("building image: "));
        task
    }

    /// A task that is being started, and was stopped; the daemon has seen that, and is held up.
    #[track_caller]
    fn starts_and_is_stopped(&self) -> String {
        // The task is read again and again; where that is for its container, it is being started.
        self.tap.hold("tasks.get_by_id");
        let task = self.place.task("started", "queue", 600.0, 0);
        let phase = || self.place.phase(&task);
        wait_until("it is being started", || {
            let held = self.tap.holds();
            let started = phase().as_deref() == Some("start");
            if held && !started {
                self.tap.pass_one();
            }
            held && started
        });
        self.stop(&task);
        // Until the daemon has seen it.
        std::thread::sleep(std::time::Duration::from_secs(7));
        assert_eq!((self.place.status(&task).as_str(), phase().as_deref()), ("in_progress", Some("start")));
        task
    }

    fn stop(&self, task: &str) {
        self.place.server.call("tasks.stop", &json!({ "task": task }));
    }

    /// Fails unless the task ends as stopped, never having said this, and the next one runs as if nothing had been.
    fn ends_stopped(&self, task: &str, never: &str) -> String {
        let next = self.place.task("next", "queue", 0.0, 0);
        self.place.becomes(task, "stopped");
        self.place.becomes(&next, "completed");
        self.place.ran_once(&next);
        assert_eq!((self.place.status(task).as_str(), self.place.console(task, never)), ("stopped", 0));
        assert!(self.place.queue("queue").is_empty());
        self.place.runs_are_over();
        next
    }
}

#[test]
fn before_its_daemon_has_told_the_server_that_it_has_it_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    // Out of the queue, and the daemon has not yet looked at it.
    scene.tap.hold("tasks.get_all");
    let task = scene.place.task("one", "queue", 600.0, 0);
    wait_until("the task has left the queue", || scene.place.queue("queue").is_empty() && scene.tap.holds());
    scene.stop(&task);
    assert_eq!(scene.place.status(&task), "stopped");
    scene.tap.release();
    scene.ends_stopped(&task, "up ");
    scene.daemon.stop();
}

#[test]
fn while_its_image_is_built_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.builds();
    scene.stop(&task);
    scene.ends_stopped(&task, "up ");
    scene.daemon.stop();
}

#[test]
fn while_it_is_being_started_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.starts_and_is_stopped();
    scene.tap.release();
    scene.ends_stopped(&task, "done ");
    scene.daemon.stop();
}

#[test]
fn while_it_runs_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.place.task("one", "queue", 600.0, 0);
    scene.place.is_up(&task);
    scene.stop(&task);
    scene.ends_stopped(&task, "done ");
    scene.daemon.stop();
}

fn while_its_last_lines_are_sent_the_program_has_done_its_work(keeper: Option<Keeper>) {
    let context = TestContext::warm();
    let scene = Scene::with(&context, &[flag(keeper)]);
    let place = &scene.place;
    let task = place.stays("one", "");
    place.is_up(&task);
    scene.tap.refuse("events.add_batch", usize::MAX);
    place.let_go(&task);
    wait_until("it has ended", || place.phase(&task).as_deref() == Some("drain"));
    assert!(keeper.is_none_or(|it| it.running(place, &task).is_empty()));
    if keeper.is_none() {
        // The message goes another way than the lines, and comes once that has taken a while.
        let says = || place.field(&task, "status_message").as_str().unwrap_or_default().to_owned();
        wait_until("it says what it waits for", || says().starts_with("sending the rest of the console"));
    }
    scene.stop(&task);
    a_while();
    assert_eq!((place.status(&task).as_str(), place.console(&task, "done ")), ("in_progress", 0));
    scene.tap.refuse("events.add_batch", 0);
    place.becomes(&task, "completed");
    place.ran_once(&task);
    place.runs_are_over();
    if let Some(keeper) = keeper {
        keeper.is_rid_of(place, &task);
        keeper.forget(place, &[&task]);
    }
    scene.daemon.stop();
}
in_each_engine!(while_its_last_lines_are_sent_the_program_has_done_its_work);

/// Takes its time to end when it is asked to.
const TIDY: &str = "\
import os, signal, sys, time
def end(*_):
    print('tidies', flush=True)
    time.sleep(2)
    print('tidied', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('up', os.environ['CLEARML_TASK_ID'], flush=True)
time.sleep(900)
";

/// One daemon, one task after the other. Whenever a task is told to be stopped, no container of it runs any more.
fn while_it_is_built_started_or_runs(keeper: Keeper) {
    let context = TestContext::warm();
    let scene = Scene::with(&context, &[keeper.flag]);
    let place = &scene.place;
    let built = scene.builds();
    scene.stop(&built);
    place.becomes(&built, "stopped");
    assert!(keeper.containers(place, &built).is_empty());

    let started = scene.starts_and_is_stopped();
    scene.tap.release();
    place.becomes(&started, "stopped");
    assert!(keeper.running(place, &started).is_empty());
    keeper.is_rid_of(place, &started);

    let runs = place.script("runs", TIDY, &json!({}));
    place.enqueue(&runs, "queue");
    place.is_up(&runs);
    assert_eq!(keeper.running(place, &runs).len(), 1);
    scene.stop(&runs);
    place.becomes(&runs, "stopped");
    assert!(keeper.running(place, &runs).is_empty());
    assert_eq!((place.console(&runs, "tidies\n"), place.console(&runs, "tidied\n")), (1, 1));
    keeper.is_rid_of(place, &runs);

    let next = scene.ends_stopped(&runs, "done ");
    keeper.is_rid_of(place, &next);
    keeper.forget(place, &[&built, &started, &runs, &next]);
    scene.daemon.stop();
}
in_both_engines!(while_it_is_built_started_or_runs);

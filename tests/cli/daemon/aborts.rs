//! A task that is stopped on the server, whatever it is doing just then: natively, by a daemon that goes on afterwards.

use serde_json::json;

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
        let place = Place::new(context);
        place.server.call("queues.create", &json!({ "name": "queue" }));
        let tap = Tap::before(place.server.api());
        let daemon = place.daemon_at(tap.address(), "daemon", &["--queue", "queue", "--cpu-only"]);
        wait_until("the daemon serves", || place.workers() == ["box:cpu:0"]);
        Self { place, tap, daemon }
    }

    fn stop(&self, task: &str) {
        self.place.server.call("tasks.stop", &json!({ "task": task }));
    }

    /// Fails unless the task ends as stopped, never having said this, and the next one runs as if nothing had been.
    fn ends_stopped(self, task: &str, never: &str) {
        let next = self.place.task("next", "queue", 0.0, 0);
        self.place.becomes(task, "stopped");
        self.place.becomes(&next, "completed");
        self.place.ran_once(&next);
        assert_eq!((self.place.status(task).as_str(), self.place.console(task, never)), ("stopped", 0));
        assert!(self.place.queue("queue").is_empty());
        self.place.runs_are_over();
        self.daemon.stop();
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
}

#[test]
fn while_its_image_is_built_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.place.draft("one", 600.0, 0);
    let container = json!({ "setup_shell_script": "sleep 900" });
    scene.place.server.call("tasks.edit", &json!({ "task": task, "container": container }));
    scene.place.enqueue(&task, "queue");
    let message = || scene.place.field(&task, "status_message").as_str().unwrap_or_default().to_owned();
    wait_until("the task says what is built", || message().starts_with("building image: "));
    scene.stop(&task);
    scene.ends_stopped(&task, "up ");
}

#[test]
fn while_it_is_being_started_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    // The task is read again and again; where that is for its container, it is being started.
    scene.tap.hold("tasks.get_by_id");
    let task = scene.place.task("one", "queue", 600.0, 0);
    let phase = || scene.place.phase(&task);
    wait_until("it is being started", || {
        let held = scene.tap.holds();
        let started = phase().as_deref() == Some("start");
        if held && !started {
            scene.tap.pass_one();
        }
        held && started
    });
    scene.stop(&task);
    // Until the daemon has seen it.
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!((scene.place.status(&task).as_str(), phase().as_deref()), ("in_progress", Some("start")));
    scene.tap.release();
    scene.ends_stopped(&task, "done ");
}

#[test]
fn while_it_runs_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.place.task("one", "queue", 600.0, 0);
    scene.place.is_up(&task);
    scene.stop(&task);
    scene.ends_stopped(&task, "done ");
}

#[test]
fn while_its_last_lines_are_sent_the_program_has_done_its_work_natively() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let task = scene.place.task("one", "queue", 9.0, 0);
    scene.place.is_up(&task);
    assert_eq!(scene.place.console(&task, "done "), 0);
    scene.tap.refuse("events.add_batch", usize::MAX);
    wait_until("it has ended", || scene.place.phase(&task).as_deref() == Some("drain"));
    scene.stop(&task);
    a_while();
    assert_eq!((scene.place.status(&task).as_str(), scene.place.console(&task, "done ")), ("in_progress", 0));
    scene.tap.refuse("events.add_batch", 0);
    scene.place.becomes(&task, "completed");
    scene.place.ran_once(&task);
    scene.place.runs_are_over();
    scene.daemon.stop();
}

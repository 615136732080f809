//! `kill -9` of the daemon, and a server that restarts: nothing is lost, nothing runs twice.

use super::{Place, a_while};
use crate::support::{Server, TestContext};

#[test]
fn a_run_goes_on_without_its_daemon_and_the_next_one_attends_it() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("long", "queue", 4.0, 0);
    let next = place.task("next", "queue", 0.0, 0);
    let arguments = ["--queue", "queue", "--cpu-only"];
    let daemon = place.daemon("daemon", &arguments);
    place.is_up(&task);
    daemon.kill();
    a_while();
    assert_eq!(place.status(&task), "in_progress");
    let daemon = place.daemon("daemon", &arguments);
    place.becomes(&task, "completed");
    place.becomes(&next, "completed");
    place.ran_once(&task);
    place.ran_once(&next);
    assert!(daemon.said().contains(&format!("task {task} of box:cpu:0 is attended again")), "{}", daemon.said());
    daemon.stop();
}

#[test]
fn a_run_that_ends_while_no_daemon_is_there_is_told_by_the_next_one() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("short", "queue", 1.0, 7);
    let arguments = ["--queue", "queue", "--cpu-only"];
    let daemon = place.daemon("daemon", &arguments);
    place.is_up(&task);
    daemon.kill();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let _daemon = place.daemon("daemon", &arguments);
    place.becomes(&task, "failed");
    assert_eq!((place.console(&task, "up "), place.console(&task, "done ")), (1, 1));
    assert!(place.field(&task, "status_reason").as_str().unwrap().contains('7'));
}

#[test]
fn kills_around_the_moment_of_taking_lose_and_double_nothing() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let tasks: Vec<String> = (0..4).map(|it| place.task(&it.to_string(), "queue", 0.0, 0)).collect();
    let arguments = ["--queue", "queue", "--cpu-only"];
    for pause in [60, 140, 250, 400, 700] {
        let daemon = place.daemon("daemon", &arguments);
        std::thread::sleep(std::time::Duration::from_millis(pause));
        daemon.kill();
    }
    let daemon = place.daemon("daemon", &arguments);
    for task in &tasks {
        place.becomes(task, "completed");
        place.ran_once(task);
    }
    daemon.stop();
}

#[test]
fn a_server_that_restarts_disturbs_nothing_that_runs() {
    let context = TestContext::warm();
    let mut place = Place::new(&context);
    let task = place.task("long", "queue", 5.0, 0);
    let next = place.task("next", "queue", 0.0, 0);
    let daemon = place.daemon("daemon", &["--queue", "queue", "--cpu-only"]);
    place.is_up(&task);
    let other = Server::start_in(&context, "other");
    std::mem::replace(&mut place.server, other).kill();
    a_while();
    place.server = Server::start(&context);
    place.becomes(&task, "completed");
    place.becomes(&next, "completed");
    place.ran_once(&task);
    place.ran_once(&next);
    daemon.stop();
}

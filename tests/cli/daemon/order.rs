//! Which task is next, and how many run at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Daemon, Place, a_while, by_start};
use crate::support::{TestContext, wait_until};

#[test]
fn queues_are_served_by_priority_and_a_program_that_fails_is_reported() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let low = place.task("low", "low", 0.0, 0);
    let high = [place.task("first", "high", 0.0, 3), place.task("second", "high", 0.0, 0)];
    let daemon = place.daemon("daemon", &["--queue", "high", "low", "--cpu-only"]);
    place.becomes(&low, "completed");
    assert_eq!((place.status(&high[0]).as_str(), place.status(&high[1]).as_str()), ("failed", "completed"));
    let tasks = [low.clone(), high[0].clone(), high[1].clone()];
    assert_eq!(by_start(&place, &tasks), [high[0].clone(), high[1].clone(), low]);
    assert_eq!(place.field(&high[0], "last_worker"), json!("box:cpu:0"));
    daemon.stop();
    assert_eq!(place.workers(), [""; 0]);
}

#[test]
fn with_fairness_queues_take_turns() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let one = [place.task("a", "one", 0.0, 0), place.task("b", "one", 0.0, 0)];
    let two = [place.task("c", "two", 0.0, 0), place.task("d", "two", 0.0, 0)];
    let _daemon = place.daemon("daemon", &["--queue", "one", "two", "--order-fairness", "--cpu-only"]);
    let tasks: Vec<String> = one.iter().chain(&two).cloned().collect();
    for task in &tasks {
        place.becomes(task, "completed");
    }
    assert_eq!(by_start(&place, &tasks), [&one[0], &two[0], &one[1], &two[1]].map(Clone::clone));
}

#[test]
fn services_run_together_up_to_their_limit_each_as_a_worker_of_its_own() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let tasks: Vec<String> = ["a", "b", "c"].map(|it| place.task(it, "services", 600.0, 0)).into();
    let daemon = place.daemon("daemon", &["--services-mode", "2", "--queue", "services"]);
    place.is_up(&tasks[0]);
    place.is_up(&tasks[1]);
    a_while();
    assert_eq!(place.queue("services"), [tasks[2].clone()]);
    let services: BTreeSet<String> = tasks[..2].iter().map(|it| format!("box:cpu:0:service:{it}")).collect();
    wait_until("the services are workers", || {
        let workers: BTreeSet<String> = place.workers().into_iter().collect();
        workers.contains("box:cpu:0") && workers.is_superset(&services)
    });
    place.server.call("tasks.stop", &json!({ "task": tasks[0] }));
    place.becomes(&tasks[0], "stopped");
    place.is_up(&tasks[2]);
    daemon.stop();
    assert_eq!([1, 2].map(|it| place.status(&tasks[it])), ["stopped", "stopped"]);
    assert_eq!(place.workers(), [""; 0]);
}

/// Two daemons on one host and one on another, which share nothing but the server.
#[test]
fn daemons_of_two_hosts_on_one_queue_run_each_task_once() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let tasks: Vec<String> = (0..30).map(|it| place.task(&it.to_string(), "shared", 0.0, 0)).collect();
    let arguments = ["--services-mode", "2", "--queue", "shared"];
    let elsewhere = place.agent().env("AGENT_STATE_DIR", context.path("elsewhere"));
    let elsewhere = elsewhere.env("HOME", context.path("home-elsewhere")).env("CLEARML_WORKER_NAME", "other");
    let daemons = [
        place.daemon("one", &arguments),
        place.daemon("two", &arguments),
        place.daemon_of(elsewhere, "three", &arguments),
    ];
    for task in &tasks {
        place.becomes(task, "completed");
    }
    tasks.iter().for_each(|it| place.ran_once(it));
    let worker = |task: &String| {
        let worker = place.field(task, "last_worker").as_str().unwrap().to_owned();
        worker.split(":service").next().unwrap().to_owned()
    };
    let mut ran = BTreeMap::<String, usize>::new();
    tasks.iter().for_each(|it| *ran.entry(worker(it)).or_default() += 1);
    assert_eq!(ran.keys().collect::<Vec<_>>(), ["box:cpu:0", "box:cpu:1", "other:cpu:0"], "{ran:?}");
    // Each has written down what it ran itself, and nothing else.
    let units = |state: &str| fs_err::read_dir(context.path(state).join("runs")).unwrap().count();
    assert_eq!((units("state"), units("elsewhere")), (30 - ran["other:cpu:0"], ran["other:cpu:0"]));
    assert!(place.queue("shared").is_empty());
    daemons.into_iter().for_each(Daemon::stop);
}

#[test]
fn a_queue_that_does_not_exist_is_named_with_those_like_it_or_made() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    place.server.call("queues.create", &json!({ "name": "training" }));
    let outcome = place.agent().args(["daemon", "--queue", "trainign", "--cpu-only"]).run().exits(66);
    assert!(outcome.stderr.contains("there is no queue `trainign`"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`training`") && outcome.stderr.contains("--create-queue"), "{}", outcome.stderr);
    let daemon = place.daemon("daemon", &["--queue", "trainign", "--create-queue", "--cpu-only"]);
    wait_until("the worker is there", || place.workers() == ["box:cpu:0"]);
    assert!(place.queue("trainign").is_empty());
    daemon.stop();
}

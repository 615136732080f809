//! Flags of a daemon that are there for its tasks, natively: what they see of them, and what is shown and told.

use serde_json::{Value, json};

use super::{Place, a_while};
use crate::support::{TestContext, runs, wait_for, wait_until};

/// Says what the flags have set; an assertion that fails unless Python leaves it out.
const SEES: &str = "\
import os, time
assert False, 'assertions are run'
print('sees', *(os.environ.get(it) for it in ('CLEARML_LOG_LEVEL', 'PYTHONOPTIMIZE', 'CLEARML_WORKER_TAGS')), flush=True)
time.sleep(float('SLEEP'))
";

#[test]
fn tasks_have_the_level_the_optimisation_and_the_tags_and_their_console_is_shown() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.script("one", &SEES.replace("SLEEP", "900"), &json!({}));
    place.enqueue(&task, "work");
    let flags = ["--log-level", "debug", "-O", "--foreground", "--child-report-tags", "fast", "large"];
    let daemon =
        place.daemon("shown", &[&["--queue", "work", "--services-mode", "2", "--cpu-only"], &flags[..]].concat());
    let said = "sees DEBUG 1 fast large\n";
    wait_until("the program has said what it sees", || place.console(&task, said) == 1);
    wait_until("the console is shown", || daemon.said().contains(said));
    let tags = |worker: &str| -> Value {
        let data = place.server.call("workers.get_all", &json!({}));
        let found = data["workers"].as_array().unwrap().iter().find(|it| it["id"] == worker);
        found.map_or(Value::Null, |it| it["tags"].clone())
    };
    for worker in ["box:cpu:0".to_owned(), format!("box:cpu:0:service:{task}")] {
        wait_until(&format!("{worker} has its tags"), || tags(&worker) == json!(["fast", "large"]));
    }
    daemon.stop();

    // Without: nothing is set, assertions are run, and nothing is shown.
    let task = place.script("two", &SEES.replace("assert False", "assert True").replace("SLEEP", "0"), &json!({}));
    place.enqueue(&task, "work");
    let daemon = place.daemon("quiet", &["--queue", "work", "--cpu-only"]);
    place.becomes(&task, "completed");
    assert_eq!(place.console(&task, "sees INFO None None\n"), 1, "{}", place.server.console(&task));
    assert!(!daemon.said().contains("sees"), "{}", daemon.said());
    daemon.stop();
}

#[test]
fn an_image_is_ready_before_its_task_has_its_turn() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let first = place.task("first", "work", 900.0, 0);
    // No two builds of it are the same.
    let made = json!({ "setup_shell_script": "cat /proc/sys/kernel/random/uuid > /made" });
    let next = place.script("next", "print('made', open('/made').read(), flush=True)\n", &made);
    let daemon = place.daemon("daemon", &["--queue", "work", "--cpu-only"]);
    place.is_up(&first);
    place.enqueue(&next, "work");
    wait_until("the image is ready", || daemon.said().contains(&format!("task {next}: its image is ready ahead")));
    assert_eq!((place.status(&first).as_str(), place.status(&next).as_str()), ("in_progress", "queued"));
    let image = context.agent().args(["--json", "inspect", &format!("agent/task-{next}:latest")]).ok();
    let image: Value = serde_json::from_str(&image).unwrap();
    place.server.call("tasks.stop", &json!({ "task": first }));
    place.becomes(&next, "completed");
    let unit = wait_for("the run is written down", || place.unit(&next).filter(|it| it["image"].is_object()));
    assert_eq!(unit["image"]["config"], image["config"], "{image}");
    assert_eq!(place.console(&next, "made "), 1);
    daemon.stop();
}

#[test]
fn what_is_built_ahead_is_given_up_once_its_task_has_left_the_queue() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let first = place.task("first", "work", 900.0, 0);
    // A number that no other program has among its arguments.
    let sleep = format!("sleep {}", 1_200_000_000 + u64::from(std::process::id()));
    let next = place.script("next", "print('up')\n", &json!({ "setup_shell_script": sleep }));
    let daemon = place.daemon("daemon", &["--queue", "work", "--cpu-only"]);
    place.is_up(&first);
    place.enqueue(&next, "work");
    wait_until("it is built ahead", || runs(&sleep));
    place.server.call("tasks.dequeue", &json!({ "task": next }));
    wait_until("it is built no more", || !runs(&sleep));
    assert_eq!((place.status(&first).as_str(), place.status(&next).as_str()), ("in_progress", "created"));
    daemon.stop();
}

#[test]
fn a_daemon_takes_nothing_outside_of_its_hours() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    // Every hour but those around now, in the time zone of the tests.
    let hour = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).hour();
    let others = |from: i8| format!("{}-{} MON-SUN", (hour + from).rem_euclid(24), (hour + 23).rem_euclid(24));
    let task = place.task("one", "work", 0.0, 0);
    let daemon = place.daemon("daemon", &["--queue", "work", "--cpu-only", "--uptime", &others(2)]);
    wait_until("the worker is there", || place.workers() == ["box:cpu:0"]);
    a_while();
    assert_eq!(place.queue("work"), [task.as_str()], "{}", daemon.said());
    // A tag of the queue counts before the hours.
    let queue = place.server.call("queues.get_all", &json!({ "name": "work" }))["queues"][0]["id"].clone();
    place.server.call("queues.update", &json!({ "queue": queue, "tags": ["force_workers:on"] }));
    place.becomes(&task, "completed");
    daemon.stop();
    let next = place.task("next", "work", 0.0, 0);
    place.server.call("queues.update", &json!({ "queue": queue, "tags": [] }));
    let daemon = place.daemon("again", &["--queue", "work", "--cpu-only", "--downtime", &others(2)]);
    place.becomes(&next, "completed");
    daemon.stop();
}

//! Flags of a daemon that are there for its tasks, natively: what they see of them, and what is shown and told.

use serde_json::{Value, json};

use super::{Place, a_while};
use crate::support::{TestContext, wait_until};

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

//! Many services at once.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Place, a_while};
use crate::support::{TestContext, scaled, wait_until};

#[test]
fn as_many_services_run_at_once_natively_as_were_asked_for() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let most = usize::try_from(scaled("AGENT_TEST_SERVICES", 5)).unwrap();
    let tasks: Vec<String> = (0..most + 2).map(|it| place.task(&it.to_string(), "services", 900.0, 0)).collect();
    let daemon = place.daemon("daemon", &["--services-mode", &most.to_string(), "--queue", "services", "--cpu-only"]);
    let running = || -> Vec<String> {
        let query = json!({ "status": ["in_progress"], "only_fields": ["id"] });
        let found = place.server.call("tasks.get_all", &query)["tasks"].as_array().unwrap().clone();
        let found: BTreeSet<String> = found.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        assert!(found.len() <= most, "{} at once, and {most} were asked for", found.len());
        tasks.iter().filter(|it| found.contains(*it)).cloned().collect()
    };
    for task in &tasks[..most] {
        wait_until("the service is up", || {
            running();
            place.console(task, &format!("up {task}")) == 1
        });
    }
    a_while();
    assert_eq!(running(), tasks[..most]);
    assert_eq!(place.queue("services"), tasks[most..]);
    let workers: BTreeSet<String> = place.workers().into_iter().collect();
    let expected: BTreeSet<String> = tasks[..most].iter().map(|it| format!("box:cpu:0:service:{it}")).collect();
    assert!(workers.is_superset(&expected), "{workers:?}");
    // Each that ends makes room for one.
    for (ended, next) in [(0, most), (most / 2, most + 1)] {
        place.server.call("tasks.stop", &json!({ "task": tasks[ended] }));
        place.becomes(&tasks[ended], "stopped");
        wait_until("the next one is up", || {
            running();
            place.console(&tasks[next], &format!("up {}", tasks[next])) == 1
        });
    }
    daemon.stop();
    assert!(tasks.iter().all(|it| place.status(it) == "stopped"));
    assert_eq!(place.workers(), [""; 0]);
}

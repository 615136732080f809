//! `agent list`: what a server knows of its workers.

use serde_json::{Value, json};

use crate::support::{Server, TestContext};

#[test]
fn workers_are_listed_with_their_queues_and_tasks() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let list = |more: &[&str]| context.agent().env("CLEARML_CONFIG_FILE", server.config()).arg("list").args(more).ok();
    assert_eq!(list(&[]).trim(), "no workers");

    let queue = server.call("queues.create", &json!({"name": "high"}))["id"].clone();
    let body = json!({"name": "slow", "type": "training", "script": {"entry_point": "slow.py"}});
    let task = server.call("tasks.create", &body)["id"].clone();
    server.call("workers.register", &json!({"worker": "box:0", "queues": [queue], "tags": ["a", "b"]}));
    let report = json!({"worker": "box:1", "timestamp": 0, "task": task, "queue": queue, "queues": [queue]});
    server.call("workers.status_report", &report);

    let shown = list(&[]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(columns, ["worker", "queues", "task", "name", "for", "reported", "tags"]);
    assert!(lines[1].starts_with("box:0") && lines[1].contains("high") && lines[1].ends_with("a, b"), "{shown}");
    assert!(lines[2].contains(task.as_str().unwrap()) && lines[2].contains("slow"), "{shown}");
    assert!(lines[2].trim_end().ends_with("ago"), "{shown}");

    let workers: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let ids: Vec<&str> = workers["workers"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["box:0", "box:1"]);
    assert_eq!(workers["workers"][1]["task"]["name"], "slow");
    assert_eq!(workers["workers"][0]["queues"][0]["name"], "high");
}

#[test]
fn without_a_server_it_is_told() {
    let context = TestContext::new();
    let outcome = context.agent().arg("list").run().exits(78);
    assert!(outcome.stderr.contains("no ClearML server is configured"), "{}", outcome.stderr);
}

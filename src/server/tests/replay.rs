//! Recorded conversations, replayed: the same requests, answers compared in codes, messages, shape and values. Ids,
//! dates and tokens differ by nature; ids are mapped from the recording's to ours as they appear.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Request;
use fs_err as fs;
use serde_json::{Map, Value, json};

use super::{TestServer, fixture};
use crate::server::document::document;
use crate::server::storage::{self, Kind};

/// What the recording's user, company key and address are here.
const NAMES: &[(&str, &str)] = &[("__tests__", "admin"), ("tests", "admin")];

/// Values that are times or differ by nature wherever they stand.
const VOLATILE: &[&str] =
    &["token", "running_time", "active_duration", "mean_value", "id", "trx", "ip", "key", "@timestamp", "timestamp"];

struct Replay {
    server: TestServer,
    ids: BTreeMap<String, String>,
    tokens: BTreeMap<&'static str, String>,
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_date(text: &str) -> bool {
    text.len() >= 19 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T'
}

impl Replay {
    async fn new(seed: &[Value]) -> Self {
        let server = TestServer::new();
        plant(&server, seed);
        let mut tokens = BTreeMap::new();
        for (kind, lifetime) in [("good", json!({})), ("short", json!({"expiration_sec": 1}))] {
            let token = server.data("auth.login", lifetime).await["token"].as_str().unwrap().to_owned();
            tokens.insert(kind, token);
        }
        Self { server, ids: BTreeMap::new(), tokens }
    }

    /// A recorded text with our ids and names.
    fn ours(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (theirs, ours) in &self.ids {
            text = text.replace(theirs, ours);
        }
        text
    }

    fn authorization(&self, recorded: &str) -> String {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let credentials = &self.server.shared.site.credentials;
        match recorded.split_once(' ') {
            Some(("Bearer", token)) if token.contains("<TOKEN>") => format!("Bearer {}", self.tokens["good"]),
            Some(("Basic", coded)) => {
                let plain = coded.trim_start_matches("base64(").trim_end_matches(')');
                let plain =
                    plain.replace("<ACCESS_KEY>", &credentials.user).replace("<SECRET>", credentials.password.reveal());
                format!("Basic {}", encode(&plain))
            }
            _ => recorded.to_owned(),
        }
    }

    /// Sends a recorded request; the differences of the answer.
    async fn exchange(&mut self, recorded: &Value) -> Vec<String> {
        let path = self.ours(recorded["path"].as_str().unwrap());
        let mut request = Request::builder().method(recorded["method"].as_str().unwrap()).uri(path.as_str());
        let expired = recorded["response"]["meta"]["result_msg"].as_str().is_some_and(|it| it.contains("has expired"));
        for (name, value) in recorded["headers"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            request = request.header(
                name.as_str(),
                match name.as_str() {
                    "Authorization" if expired => self.expired_token().await,
                    "Authorization" => self.authorization(value),
                    "Cookie" => format!("clearml_token_basic={}", self.tokens["good"]),
                    _ => value.to_owned(),
                },
            );
        }
        let body = match &recorded["request"] {
            Value::Null => String::new(),
            Value::String(raw) => raw.clone(),
            Value::Object(map) if map.contains_key("<json-lines>") => {
                let lines = map["<json-lines>"].as_array().unwrap().iter().map(Value::to_string);
                lines.collect::<Vec<_>>().join("\n")
            }
            other => other.to_string(),
        };
        let body = self.ours(&body);
        let answer = self.server.send(request.body(Body::from(body)).unwrap()).await;
        let mut differences = Vec::new();
        if u64::from(answer.status.as_u16()) != recorded["status"].as_u64().unwrap() {
            differences.push(format!("status {} instead of {}: {}", answer.status, recorded["status"], answer.body));
            return differences;
        }
        self.compare("", &recorded["response"], &answer.body, &mut differences);
        differences
    }

    /// A token that was good for one second, a moment after that.
    async fn expired_token(&self) -> String {
        tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
        format!("Bearer {}", self.tokens["short"])
    }

    fn compare(&mut self, path: &str, theirs: &Value, ours: &Value, out: &mut Vec<String>) {
        let last = path.rsplit('.').next().unwrap_or_default();
        match (theirs, ours) {
            (Value::Object(a), Value::Object(b)) => self.compare_objects(path, a, b, out),
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (a, b) in a.iter().zip(b) {
                    self.compare(path, a, b, out);
                }
            }
            (Value::String(a), Value::String(b)) if is_id(a) && is_id(b) => {
                let known = self.ids.entry(a.clone()).or_insert_with(|| b.clone());
                if known != b && !VOLATILE.contains(&last) {
                    out.push(format!("{path}: id {b} instead of {known}"));
                }
            }
            (Value::String(a), Value::String(b)) if is_date(a) && is_date(b) => {}
            (Value::String(a), Value::String(b)) if NAMES.contains(&(a.as_str(), b.as_str())) => {}
            (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) && VOLATILE.contains(&last) => {}
            (Value::String(a), Value::String(b)) if self.ours(a) == *b => {}
            (a, b) if a == b || (path.contains("metric_stats") && a.is_number() && b.is_number()) => {}
            (a, b) => out.push(format!("{path}: {b} instead of {a}")),
        }
    }

    fn compare_objects(&mut self, path: &str, a: &Map<String, Value>, b: &Map<String, Value>, out: &mut Vec<String>) {
        for (key, value) in a {
            match b.get(key) {
                Some(other) => self.compare(&format!("{path}.{key}"), value, other, out),
                None => out.push(format!("{path}.{key} is missing (recorded {value})")),
            }
        }
        out.extend(
            b.keys().filter(|it| !a.contains_key(*it)).map(|key| format!("{path}.{key} is not in the recording")),
        );
    }
}

/// Puts what a recording presupposes into the server: the queue and tasks it names without making them.
fn plant(server: &TestServer, rows: &[Value]) {
    let db = server.shared.db.lock().unwrap();
    let mut planted: BTreeMap<String, (Kind, Map<String, Value>)> = BTreeMap::new();
    let (mut made, mut popped) = (Vec::new(), Vec::new());
    for row in rows {
        let data = &row["response"]["data"];
        let name = row["response"]["meta"]["endpoint"]["name"].as_str().unwrap_or_default();
        if matches!(name, "tasks.create" | "tasks.clone" | "projects.create" | "queues.create") {
            made.push(data["id"].as_str().unwrap_or_default().to_owned());
        }
        if let Some(task) = data["entry"]["task"].as_str() {
            popped.push((task.to_owned(), row["request"]["queue"].as_str().unwrap().to_owned()));
        }
        for (field, kind) in [("task", Kind::Task), ("project", Kind::Project)] {
            if let Some(object) = data[field].as_object().filter(|it| it.contains_key("id")) {
                let id = object["id"].as_str().unwrap();
                planted.entry(id.to_owned()).or_insert_with(|| (kind, object.clone()));
            }
        }
        for queue in data["queues"].as_array().into_iter().flatten() {
            let id = queue["id"].as_str().unwrap_or_default();
            let now = "2026-11-21T21:00:00.000000+00:00";
            let whole = json!({"id": id, "name": "default", "company": crate::server::site::COMPANY, "created": now,
                "tags": [], "system_tags": ["default"], "last_update": now, "metadata": {}});
            planted.entry(id.to_owned()).or_insert_with(|| (Kind::Queue, document(whole)));
        }
    }
    if planted.values().any(|(kind, _)| *kind == Kind::Queue) && !made.iter().any(|it| planted.contains_key(it)) {
        db.execute("DELETE FROM queues", []).unwrap();
    }
    for (id, (kind, mut object)) in planted {
        if made.contains(&id) || (kind == Kind::Queue && !made.is_empty()) {
            continue;
        }
        if kind == Kind::Task {
            as_before(&mut object);
            if popped.iter().any(|(task, _)| *task == id) {
                object.insert("status".into(), json!("queued"));
            }
        }
        storage::insert(&db, kind, &object).unwrap();
    }
    for (task, queue) in popped.iter().filter(|(task, _)| !made.contains(task)) {
        crate::server::entries::add(&db, queue, task, "2026-11-21T21:00:00.000000+00:00").unwrap();
    }
}

/// A task seen in the middle of a recording, as it was when that began.
fn as_before(task: &mut Map<String, Value>) {
    for field in [
        "status_reason",
        "status_message",
        "status_changed",
        "started",
        "completed",
        "active_duration",
        "last_worker",
        "last_worker_report",
    ] {
        task.remove(field);
    }
    task.insert("metric_stats".into(), json!({}));
    task.insert("runtime".into(), json!({}));
    if task["status"] != "queued" {
        task.insert("status".into(), json!("created"));
    }
}

/// Replays recordings, one after the other on one server. `allowed` are parts of the differences that are no defects.
async fn replay(names: &[&str], allowed: &[&str]) {
    let text: String = names.iter().map(|it| fs::read_to_string(fixture(it)).unwrap()).collect();
    let rows: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let mut replay = Replay::new(&rows).await;
    let mut failures = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        for difference in replay.exchange(row).await {
            let line = format!("{names:?}:{} {}: {difference}", index + 1, row["path"].as_str().unwrap());
            if !allowed.iter().any(|it| line.contains(it)) {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

/// The open-source server recorded has no runtime properties; ours does, because the agent can use them.
const PROPERTIES: &str = "/workers.get_runtime_properties: status 200 OK instead of 404";

/// The empty metric of console lines is counted for lines of the agent, and, here, for those of the SDK as well.
const EMPTY_METRIC: &str = ".metric_stats.d41d8cd98f00b204e9800998ecf8427e is not in the recording";

#[tokio::test]
async fn tasks_recorded_cloned_and_enqueued_by_the_sdk() {
    replay(&["sdk-task-init.jsonl", "sdk-create-enqueue.jsonl"], &[EMPTY_METRIC]).await;
}

#[tokio::test]
async fn a_daemon_serving_a_queue() {
    replay(&["agent-daemon-run.jsonl"], &[PROPERTIES]).await;
}

/// The stop was asked for by another client, whose request is not in the recording.
#[tokio::test]
async fn a_task_aborted_in_a_daemon() {
    replay(&["agent-daemon-abort.jsonl"], &["instead of \"stopping\""]).await;
}

#[tokio::test]
async fn tasks_that_fail_in_a_daemon() {
    replay(&["agent-daemon-failures.jsonl"], &[]).await;
}

#[tokio::test]
async fn a_task_executed() {
    replay(&["agent-execute.jsonl"], &[]).await;
}

#[tokio::test]
async fn a_task_cloned_and_executed() {
    replay(&["agent-execute-clone.jsonl"], &[]).await;
}

#[tokio::test]
async fn errors_the_agent_meets() {
    replay(&["agent-errors.jsonl"], &[]).await;
}

#[tokio::test]
async fn everything_that_was_probed() {
    replay(&["probe-errors.jsonl"], &["/workers.get_runtime_properties: status 400"]).await;
}

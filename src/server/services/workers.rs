//! `workers.*`: who serves queues. A worker is known by its last report and forgotten after its time-out.

use rusqlite::{OptionalExtension, params};
use serde_json::{Map, Value, json};

use crate::server::call::Type::{Any, Integer, List, Number, Object, Text, Texts};
use crate::server::call::{Call, Endpoint, Reply, Version, endpoint, may, must};
use crate::server::clock::parse_millis;
use crate::server::document::{Document, text, texts};
use crate::server::entries;
use crate::server::error::ApiError;
use crate::server::storage::{self, Kind, load};

const V2_4: Version = Version(2, 4);

/// Seconds after which a silent worker is forgotten, unless it said otherwise.
const TIMEOUT: i64 = 600;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint(
        "workers.register",
        V2_4,
        &[
            must("worker", Text),
            may("timeout", Integer),
            may("queues", List),
            may("tags", List),
            may("system_tags", List),
        ],
        register,
    ),
    endpoint("workers.unregister", V2_4, &[must("worker", Text)], unregister),
    endpoint(
        "workers.status_report",
        V2_4,
        &[
            must("worker", Text),
            must("timestamp", Number),
            may("task", Text),
            may("queue", Text),
            may("queues", List),
            may("tags", List),
            may("system_tags", List),
            may("machine_stats", Object),
        ],
        status_report,
    ),
    endpoint(
        "workers.get_all",
        V2_4,
        &[may("last_seen", Integer), may("tags", Texts), may("system_tags", Texts), may("worker_pattern", Text)],
        get_all,
    ),
    endpoint("workers.get_count", V2_4, &[may("last_seen", Integer)], get_count),
    endpoint("workers.get_runtime_properties", V2_4, &[must("worker", Text)], get_runtime_properties),
    endpoint(
        "workers.set_runtime_properties",
        V2_4,
        &[must("worker", Text), must("runtime_properties", List), may("prop_value", Any)],
        set_runtime_properties,
    ),
];

/// The workers heard of within their time-outs, oldest registration first.
pub(super) fn all(call: &Call<'_>) -> Result<Vec<Document>, ApiError> {
    let mut query = call.db.prepare_cached("SELECT body FROM workers WHERE expires > ? ORDER BY rowid")?;
    let rows = query.query_map([call.now.millis()], |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
}

fn find(call: &Call<'_>, id: &str) -> Result<Option<Document>, ApiError> {
    let mut query = call.db.prepare_cached("SELECT body FROM workers WHERE id = ? AND expires > ?")?;
    let body: Option<String> = query.query_row(params![id, call.now.millis()], |row| row.get(0)).optional()?;
    body.map(|it| Ok(serde_json::from_str(&it)?)).transpose()
}

fn keep(call: &Call<'_>, worker: &Document) -> Result<(), ApiError> {
    let timeout = worker.get("register_timeout").and_then(Value::as_i64).unwrap_or(TIMEOUT);
    let expires = call.now.millis().saturating_add(timeout.saturating_mul(1000));
    let body = serde_json::to_string(worker)?;
    call.db
        .prepare_cached(
            "INSERT INTO workers (id, body, expires) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET body = ?2, expires = ?3",
        )?
        .execute(params![text(worker, "id"), body, expires])?;
    Ok(())
}

fn fresh(call: &Call<'_>, id: &str) -> Document {
    let (company, user, now) = (call.company(), &call.identity.user, call.now.exact());
    crate::server::document::document(json!({
        "id": id, "ip": call.address, "key": format!("worker_{company}_{user}_{id}"), "register_time": now,
        "register_timeout": call.integer("timeout").filter(|it| *it > 0).unwrap_or(TIMEOUT),
        "last_activity_time": now, "last_report_time": now, "queues": [], "tags": [], "system_tags": [], "user": user,
    }))
}

fn register(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut worker = fresh(call, call.required("worker")?);
    for field in ["queues", "tags", "system_tags"] {
        worker.insert(field.into(), json!(call.texts(field)));
    }
    keep(call, &worker)?;
    Ok(json!({}).into())
}

fn unregister(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("worker")?;
    call.db.execute("DELETE FROM workers WHERE id = ?", [id])?;
    call.db.execute("DELETE FROM properties WHERE worker = ?", [id])?;
    Ok(json!({}).into())
}

/// A report registers a worker that is not known.
fn status_report(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("worker")?;
    let mut worker = find(call, id)?.unwrap_or_else(|| fresh(call, id));
    let now = call.now.exact();
    // Queues stay when a report does not name them, tags do not.
    if call.body.get("queues").is_some_and(Value::is_array) {
        worker.insert("queues".into(), json!(call.texts("queues")));
    }
    for field in ["tags", "system_tags"] {
        worker.insert(field.into(), json!(call.texts(field)));
    }
    let (before, task) = (text(&worker, "task").to_owned(), call.text("task").unwrap_or_default().to_owned());
    if before != task {
        worker.insert("task_started".into(), json!(call.now.millis()));
    }
    for (field, value) in [("task", Some(task.as_str())), ("queue", call.text("queue"))] {
        match value.filter(|it| !it.is_empty()) {
            Some(value) => worker.insert(field.into(), json!(value)),
            None => worker.remove(field),
        };
    }
    if !task.is_empty() || !before.is_empty() {
        worker.insert("last_activity_time".into(), json!(now));
    }
    worker.insert("last_report_time".into(), json!(now));
    worker.insert("ip".into(), json!(call.address));
    if let Some(stats) = call.object("machine_stats") {
        worker.insert("machine_stats".into(), Value::Object(stats.clone()));
    }
    keep(call, &worker)?;
    note_on_task(call, &task, id)?;
    Ok(json!({}).into())
}

/// The task a worker says it runs keeps the worker's name and the time.
fn note_on_task(call: &Call<'_>, task: &str, worker: &str) -> Result<(), ApiError> {
    let Some(mut task) = load(call.db, Kind::Task, task)? else { return Ok(()) };
    task.insert("last_worker".into(), json!(worker));
    for field in ["last_worker_report", "last_update"] {
        task.insert(field.into(), json!(call.now.stored()));
    }
    storage::save(call.db, Kind::Task, &task)
}

fn seen(call: &Call<'_>) -> Result<Vec<Document>, ApiError> {
    let mut workers = all(call)?;
    let wanted = |worker: &Document, field: &str| {
        let (asked, has) = (call.texts(field), texts(worker, field));
        asked.is_empty() || asked.iter().any(|it| has.contains(it))
    };
    let since = call
        .integer("last_seen")
        .filter(|it| *it > 0)
        .map(|it| call.now.millis().saturating_sub(it.saturating_mul(1000)));
    let named = call.text("worker_pattern").map(|pattern| pattern.split('*').collect::<Vec<_>>());
    workers.retain(|worker| {
        if named.as_ref().is_some_and(|parts| !fits(text(worker, "id"), parts)) {
            return false;
        }
        let reported = parse_millis(text(worker, "last_report_time")).unwrap_or_default();
        since.is_none_or(|since| reported >= since) && wanted(worker, "tags") && wanted(worker, "system_tags")
    });
    Ok(workers)
}

/// Whether a text is these parts with anything between them.
fn fits(text: &str, parts: &[&str]) -> bool {
    let [first, between @ .., last] = parts else { return parts.first().is_none_or(|it| *it == text) };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn get_count(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"count": seen(call)?.len()}).into())
}

fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut workers = Vec::new();
    for worker in seen(call)? {
        workers.push(shown(call, worker)?);
    }
    Ok(json!({"workers": workers}).into())
}

fn queue_shown(call: &Call<'_>, id: &str) -> Result<Value, ApiError> {
    let Some(queue) = load(call.db, Kind::Queue, id)? else { return Ok(json!({"id": id})) };
    Ok(json!({"id": id, "name": queue["name"], "num_tasks": entries::count(call.db, id)?}))
}

fn shown(call: &Call<'_>, mut worker: Document) -> Result<Value, ApiError> {
    let queues: Vec<String> = texts(&worker, "queues").into_iter().map(str::to_owned).collect();
    let queues: Vec<Value> = queues.iter().map(|it| queue_shown(call, it)).collect::<Result<_, _>>()?;
    worker.insert("queues".into(), json!(queues));
    let queue = text(&worker, "queue").to_owned();
    if !queue.is_empty() {
        worker.insert("queue".into(), queue_shown(call, &queue)?);
    }
    let since = worker.remove("task_started").and_then(|it| it.as_i64());
    if let Some(task) = load(call.db, Kind::Task, text(&worker, "task"))? {
        let running = since.map_or(0, |it| (call.now.millis() - it).max(0));
        let task = json!({"id": task["id"], "name": task["name"], "last_iteration": task["last_iteration"],
            "running_time": running});
        worker.insert("task".into(), task);
    }
    let user = json!({"id": call.identity.user, "name": call.identity.user_name});
    worker.insert("user".into(), user);
    worker.insert("company".into(), json!({"id": call.company(), "name": call.identity.company_name}));
    worker.remove("machine_stats");
    Ok(Value::Object(worker))
}

/// Properties that others set on a worker for a while; `expiry` is how many seconds one has left, as the agent reads it.
fn get_runtime_properties(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let worker = call.required("worker")?;
    let mut query = call.db.prepare_cached(
        "SELECT key, value, expires FROM properties WHERE worker = ? AND (expires IS NULL OR expires > ?) ORDER BY key",
    )?;
    let rows = query.query_map(params![worker, call.now.seconds()], |row| {
        let (key, value, expires): (String, String, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let left = expires.map(|it| it - call.now.seconds());
        Ok(json!({"key": key, "value": value, "expiry": left}))
    })?;
    let properties = rows.collect::<Result<Vec<Value>, _>>()?;
    Ok(json!({"runtime_properties": properties}).into())
}

/// Sets properties: `{key, value, expiry?}`, `expiry` in seconds from now.
fn set_runtime_properties(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let worker = call.required("worker")?;
    let (mut added, mut removed) = (Map::new(), 0);
    for item in call.items("runtime_properties") {
        let key = item["key"].as_str().ok_or_else(|| ApiError::field_required("key"))?;
        let value = match &item["value"] {
            Value::String(text) => text.clone(),
            Value::Null => {
                removed +=
                    call.db.execute("DELETE FROM properties WHERE worker = ? AND key = ?", params![worker, key])?;
                continue;
            }
            other => other.to_string(),
        };
        let expires = item["expiry"].as_i64().filter(|it| *it > 0).map(|it| call.now.seconds().saturating_add(it));
        call.db.execute(
            "INSERT INTO properties (worker, key, value, expires) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (worker, key) DO UPDATE SET value = ?3, expires = ?4",
            params![worker, key, value, expires],
        )?;
        added.insert(key.to_owned(), json!(value));
    }
    Ok(json!({"added": added.len(), "removed": removed, "errors": []}).into())
}

//! Taking events in.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};

use super::summary::Summary;
use super::{SCALAR, TYPES};
use crate::digest::Hasher;
use crate::server::call::{Call, Reply};
use crate::server::clock::event_time;
use crate::server::document::{Document, text};
use crate::server::error::ApiError;
use crate::server::storage::{Kind, load, save};

/// What a batch was told of the tasks it names.
enum Owner {
    Task(Summary),
    Model,
    Unknown,
}

pub(super) fn add_batch(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let events = std::mem::take(&mut call.batch);
    if events.is_empty() {
        return Err(ApiError::new(400, 17, "Batch request contains no items"));
    }
    let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    let mut added = 0;
    for event in events {
        match accept(call, &mut owners, event)? {
            Ok(event) => {
                store(call.db, &event)?;
                added += 1;
            }
            Err(reason) => *errors.entry(reason).or_default() += 1,
        }
    }
    if added == 0 {
        let reasons: Vec<String> = errors.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
        return Err(ApiError::no_events(&reasons.join(", ")));
    }
    for (id, owner) in owners {
        if let Owner::Task(summary) = owner
            && let Some(mut task) = load(call.db, Kind::Task, &id)?
        {
            summary.write(&mut task, call.now);
            save(call.db, Kind::Task, &task)?;
        }
    }
    let failed: usize = errors.values().sum();
    Ok(json!({"added": added, "errors": failed, "errors_info": errors}).into())
}

/// An event as it is stored, or why it is not.
fn accept(
    call: &Call<'_>,
    owners: &mut BTreeMap<String, Owner>,
    event: Value,
) -> Result<Result<Document, String>, ApiError> {
    let Value::Object(mut event) = event else { return Ok(Err("Event must be a dict".into())) };
    let kind = text(&event, "type").to_owned();
    if kind.is_empty() {
        return Ok(Err("Event must have a 'type' field".into()));
    }
    if !TYPES.contains(&kind.as_str()) {
        return Ok(Err(format!("Invalid event type {kind}")));
    }
    let task = text(&event, "task").to_owned();
    if task.is_empty() {
        return Ok(Err("Event must have a 'task' field".into()));
    }
    let locked = event.remove("allow_locked").is_some_and(|it| it == true);
    event.remove("method");
    let of_model = event.get("model_event").is_some_and(|it| it == true);
    if !owners.contains_key(&task) {
        owners.insert(task.clone(), find_owner(call, &task, of_model, locked)?);
    }
    let Some(owner) = owners.get_mut(&task) else { return Ok(Err("Event must have a 'task' field".into())) };
    if matches!(owner, Owner::Unknown) {
        return Ok(Err(format!("Invalid {} id {task}", if of_model { "model" } else { "task" })));
    }
    if let Err(why) = complete(call, &mut event, of_model) {
        return Ok(Err(why));
    }
    if let Owner::Task(summary) = owner {
        summary.note(&event);
    }
    Ok(Ok(event))
}

/// Published tasks take no more events, unless allowed to.
fn find_owner(call: &Call<'_>, id: &str, of_model: bool, locked: bool) -> Result<Owner, ApiError> {
    if of_model {
        return Ok(load(call.db, Kind::Model, id)?.map_or(Owner::Unknown, |_| Owner::Model));
    }
    let Some(task) = load(call.db, Kind::Task, id)? else { return Ok(Owner::Unknown) };
    let open = locked || !matches!(text(&task, "status"), "published" | "publishing");
    Ok(if open { Owner::Task(Summary::default()) } else { Owner::Unknown })
}

/// Adds what an event may leave out.
fn complete(call: &Call<'_>, event: &mut Document, of_model: bool) -> Result<(), String> {
    event.insert("model_event".into(), json!(of_model));
    event.insert("@timestamp".into(), json!(event_time(call.now.millis())));
    let timestamp = event.get("timestamp").and_then(Value::as_f64).map_or(call.now.millis(), |it| it as i64);
    event.insert("timestamp".into(), json!(timestamp));
    if text(event, "worker").is_empty() {
        event.insert("worker".into(), json!(call.worker.as_deref().unwrap_or("<unknown>")));
    }
    for field in ["metric", "variant"] {
        let value = event.get(field).map_or("", |it| it.as_str().unwrap_or_default()).to_owned();
        event.insert(field.into(), json!(value));
    }
    if text(event, "type") == "log" {
        return Ok(());
    }
    if let Some(iteration) = event.remove("iteration") {
        event.entry("iter").or_insert(iteration);
    }
    let iteration = event.get("iter").and_then(Value::as_f64).unwrap_or_default() as i64;
    event.insert("iter".into(), json!(iteration));
    if text(event, "type") == SCALAR && !event.get("value").is_some_and(Value::is_number) {
        return Err("Scalar event must have a numeric 'value' field".into());
    }
    if text(event, "type") == "plot" {
        let length = text(event, "plot_str").len();
        event.insert("plot_len".into(), json!(length));
    }
    Ok(())
}

/// What tells an event that repeats from others: a later report of the same point replaces the earlier.
fn key(event: &Document) -> Option<String> {
    if text(event, "type") == "log" {
        return None;
    }
    let mut hasher = Hasher::new();
    for field in ["task", "type", "metric", "variant"] {
        hasher.field(text(event, field));
    }
    hasher.field(event.get("iter").map(Value::to_string).unwrap_or_default());
    Some(hasher.finish().hex())
}

fn store(db: &Connection, event: &Document) -> Result<(), ApiError> {
    let number = |field: &str| event.get(field).and_then(Value::as_i64);
    let mut statement = db.prepare_cached(
        "INSERT INTO events (key, task, type, metric, variant, iter, timestamp, value, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (key) DO UPDATE SET timestamp = ?7, value = ?8, body = ?9",
    )?;
    statement.execute(params![
        key(event),
        text(event, "task"),
        text(event, "type"),
        text(event, "metric"),
        text(event, "variant"),
        number("iter"),
        number("timestamp").unwrap_or_default(),
        event.get("value").and_then(Value::as_f64),
        serde_json::to_string(event)?,
    ])?;
    Ok(())
}

pub(super) fn delete_for_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = text(&call.body, "task").to_owned();
    super::owner(call, &id)?;
    remove_of_task(call.db, &id)?;
    Ok(Reply::Data(Value::Object(Map::new())))
}

/// Forgets what was reported of a task (or model).
pub(in crate::server::services) fn remove_of_task(db: &Connection, id: &str) -> Result<usize, ApiError> {
    Ok(db.prepare_cached("DELETE FROM events WHERE task = ?")?.execute([id])?)
}

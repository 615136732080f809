//! Reading events back in the order they happened: the console, and everything of one type.

use rusqlite::params;
use serde_json::{Value, json};

use super::{SCALAR, owner};
use crate::server::call::{Call, Reply};
use crate::server::clock::event_time;
use crate::server::document::text;
use crate::server::error::ApiError;

/// The most events in one answer.
const MAX_BATCH: i64 = 10_000;

/// How many events are asked for.
fn batch_size(call: &Call<'_>) -> i64 {
    call.integer("batch_size").filter(|it| *it > 0).unwrap_or(500).min(MAX_BATCH)
}

/// A query's events, and how many there are in all.
fn read(call: &Call<'_>, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Value>, ApiError> {
    let mut query = call.db.prepare_cached(sql)?;
    let rows = query.query_map(values, |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
}

fn total(call: &Call<'_>, task: &str, kind: &str) -> Result<i64, ApiError> {
    let mut query = call.db.prepare_cached("SELECT count(*) FROM events WHERE task = ? AND type = ?")?;
    Ok(query.query_row([task, kind], |row| row.get(0))?)
}

/// The console. `navigate_earlier` (the default) reads backwards from the end or from before a time; without it
/// forwards from the start or from after a time.
pub(super) fn get(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let task = call.required("task")?;
    owner(call, task)?;
    let size = batch_size(call);
    let from = call.body.get("from_timestamp").and_then(Value::as_f64).map(|it| it as i64);
    let earlier = call.body.get("navigate_earlier") != Some(&json!(false));
    let sql = if earlier {
        "SELECT body FROM events WHERE task = ?1 AND type = 'log' AND (?2 IS NULL OR timestamp < ?2)
         ORDER BY timestamp DESC, id DESC LIMIT ?3"
    } else {
        "SELECT body FROM events WHERE task = ?1 AND type = 'log' AND (?2 IS NULL OR timestamp > ?2)
         ORDER BY timestamp, id LIMIT ?3"
    };
    let mut events = read(call, sql, params![task, from, size])?;
    // Read backwards is newest first, read forwards oldest first, unless an order is asked for.
    match call.text("order") {
        Some("asc") if earlier => events.reverse(),
        Some("desc") if !earlier => events.reverse(),
        _ => {}
    }
    Ok(json!({"returned": events.len(), "total": total(call, task, "log")?, "events": events}).into())
}

pub(super) fn clear(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let task = call.required("task")?;
    owner(call, task)?;
    let before = match call.integer("threshold_sec") {
        Some(seconds) => call.now.millis().saturating_sub(seconds.saturating_mul(1000)),
        None => i64::MAX,
    };
    let sql = "DELETE FROM events WHERE task = ? AND type = 'log' AND timestamp < ?";
    let deleted = call.db.execute(sql, params![task, before])?;
    Ok(json!({"deleted": deleted}).into())
}

/// The whole console as a file: JSON lines, or text in `line_format`.
pub(super) fn download(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let task = text(&call.body, "task").to_owned();
    owner(call, &task)?;
    let sql = "SELECT body FROM events WHERE task = ?1 AND type = 'log' ORDER BY timestamp, id";
    let events = read(call, sql, params![task])?;
    let as_text = call.text("line_type").is_some_and(|it| it.eq_ignore_ascii_case("text"));
    let format = call.text("line_format").unwrap_or("{asctime} {worker} {level} {msg}");
    let mut out = String::new();
    for mut event in events {
        let time = event_time(event["timestamp"].as_i64().unwrap_or_default());
        if as_text {
            let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let mut line = format.trim_end_matches('\n').replace("{asctime}", &time).replace("{timestamp}", &time);
            for field in ["worker", "level", "msg"] {
                line = line.replace(&format!("{{{field}}}"), &word(field));
            }
            out.push_str(&line);
        } else if let Some(fields) = event.as_object_mut() {
            fields.retain(|field, _| !matches!(field.as_str(), "type" | "task" | "timestamp"));
            fields.insert("asctime".into(), json!(time));
            out.push_str(&serde_json::to_string(fields)?);
        }
        out.push('\n');
    }
    Ok(Reply::File { name: format!("task_{task}.log"), text: out })
}

/// A page of a task's events of a type. `scroll_id` is how many were read already.
fn page(call: &Call<'_>, kind: Option<&str>, metric: Option<&str>, order: &str) -> Result<Reply, ApiError> {
    let task = text(&call.body, "task");
    owner(call, task)?;
    let size = batch_size(call);
    let start: i64 = call.text("scroll_id").and_then(|it| it.parse().ok()).unwrap_or_default();
    let condition = "task = ?1 AND (?2 IS NULL OR type = ?2) AND (?3 IS NULL OR metric = ?3)";
    let sql = format!("SELECT body FROM events WHERE {condition} ORDER BY {order} LIMIT ?4 OFFSET ?5");
    let events = read(call, &sql, params![task, kind, metric, size, start])?;
    let mut query = call.db.prepare_cached(&format!("SELECT count(*) FROM events WHERE {condition}"))?;
    let total: i64 = query.query_row(params![task, kind, metric], |row| row.get(0))?;
    let read = start.saturating_add(i64::try_from(events.len()).unwrap_or_default());
    Ok(json!({"returned": events.len(), "total": total, "scroll_id": read.to_string(), "events": events}).into())
}

pub(super) fn get_task_events(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let order = if call.text("order") == Some("desc") { "timestamp DESC, id DESC" } else { "timestamp, id" };
    page(call, call.text("event_type").filter(|it| *it != "*"), None, order)
}

pub(super) fn get_scalar_metric_data(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    page(call, Some(SCALAR), call.text("metric"), "iter DESC, id DESC")
}

//! Scalars: curves, single values, latest values.

use rusqlite::params;
use serde_json::{Map, Value, json};

use super::{SCALAR, SINGLE_VALUE, owner};
use crate::server::call::{Call, Reply};
use crate::server::clock::event_time;
use crate::server::document::{Document, object, text};
use crate::server::error::ApiError;

/// How many points a curve has at most, unless asked otherwise.
const SAMPLES: usize = 6000;

struct Point {
    metric: String,
    variant: String,
    iteration: i64,
    timestamp: i64,
    value: f64,
}

/// A task's points, curve by curve, in order of iteration; without single values.
fn points(call: &Call<'_>, task: &str) -> Result<Vec<Point>, ApiError> {
    let mut query = call.db.prepare_cached(
        "SELECT metric, variant, iter, timestamp, value FROM events
         WHERE task = ? AND type = ? AND iter <> ? AND value IS NOT NULL ORDER BY metric, variant, iter, timestamp",
    )?;
    let rows = query.query_map(params![task, SCALAR, SINGLE_VALUE], |row| {
        Ok(Point {
            metric: row.get(0)?,
            variant: row.get(1)?,
            iteration: row.get(2)?,
            timestamp: row.get(3)?,
            value: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The metrics, and of each the variants, that a list asks for; everything when there is none.
fn wanted(list: &[Value], point: &Point) -> bool {
    list.is_empty()
        || list.iter().any(|it| {
            let variants = it["variants"].as_array().filter(|it| !it.is_empty());
            it["metric"] == point.metric.as_str()
                && variants.is_none_or(|it| it.iter().any(|variant| *variant == point.variant.as_str()))
        })
}

/// Curves as `{metric: {variant: {name, x, y}}}`; more points than `samples` are averaged in groups.
fn curves(call: &Call<'_>, task: &str) -> Result<Document, ApiError> {
    let samples = call.integer("samples").and_then(|it| usize::try_from(it).ok()).filter(|it| *it > 0);
    let samples = samples.unwrap_or(SAMPLES);
    let mut points = points(call, task)?;
    points.retain(|it| wanted(call.items("metrics"), it));
    let mut curves = Map::new();
    for curve in points.chunk_by(|a, b| a.metric == b.metric && a.variant == b.variant) {
        let group = curve.len().div_ceil(samples).max(1);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for chunk in curve.chunks(group) {
            let sum: f64 = chunk.iter().map(|it| it.value).sum();
            y.push(sum / chunk.len() as f64);
            x.push(match call.text("key") {
                Some("timestamp") => json!(chunk[0].timestamp),
                Some("iso_time") => json!(event_time(chunk[0].timestamp)),
                _ => json!(chunk[0].iteration),
            });
        }
        let (metric, variant) = (&curve[0].metric, &curve[0].variant);
        object(&mut curves, metric).insert(variant.clone(), json!({"name": variant, "x": x, "y": y}));
    }
    Ok(curves)
}

pub(super) fn histogram(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let task = call.required("task")?;
    owner(call, task)?;
    Ok(Reply::Data(Value::Object(curves(call, task)?)))
}

pub(super) fn histogram_of_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut metrics = Map::new();
    for id in call.texts("tasks") {
        let task = owner(call, id)?;
        for (metric, variants) in curves(call, id)? {
            for (variant, mut curve) in variants.as_object().cloned().unwrap_or_default() {
                curve["name"] = json!(text(&task, "name"));
                let tasks = object(object(&mut metrics, &metric), &variant);
                tasks.insert(id.to_owned(), curve);
            }
        }
    }
    Ok(json!({"metrics": metrics}).into())
}

pub(super) fn single_values(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut tasks = Vec::new();
    for id in call.texts("tasks") {
        let task = owner(call, id)?;
        let mut query = call.db.prepare_cached(
            "SELECT metric, variant, value, timestamp FROM events WHERE task = ? AND type = ? AND iter = ?
             ORDER BY metric, variant",
        )?;
        let rows = query.query_map(params![id, SCALAR, SINGLE_VALUE], |row| {
            let (metric, variant): (String, String) = (row.get(0)?, row.get(1)?);
            let (value, timestamp): (Option<f64>, i64) = (row.get(2)?, row.get(3)?);
            Ok(json!({"metric": metric, "variant": variant, "value": value, "timestamp": timestamp}))
        })?;
        let values = rows.collect::<Result<Vec<Value>, _>>()?;
        if !values.is_empty() {
            tasks.push(json!({"task": id, "task_name": text(&task, "name"), "values": values}));
        }
    }
    Ok(json!({"tasks": tasks}).into())
}

pub(super) fn latest_values(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = text(&call.body, "task").to_owned();
    let task = owner(call, &id)?;
    let mut metrics: Vec<Value> = Vec::new();
    let mut last_timestamp = 0;
    for curve in points(call, &id)?.chunk_by(|a, b| a.metric == b.metric && a.variant == b.variant) {
        let Some(last) = curve.last() else { continue };
        last_timestamp = last_timestamp.max(last.timestamp);
        let variant = json!({"name": last.variant, "last_value": last.value, "last_timestamp": last.timestamp,
            "last_10_value": average(&curve[curve.len().saturating_sub(10)..])});
        match metrics.iter_mut().find(|it| it["name"] == last.metric.as_str()) {
            Some(metric) => {
                if let Some(variants) = metric["variants"].as_array_mut() {
                    variants.push(variant);
                }
            }
            None => metrics.push(json!({"name": last.metric, "variants": [variant]})),
        }
    }
    Ok(json!({
        "metrics": metrics, "last_iter": task["last_iteration"], "name": task["name"], "status": task["status"],
        "last_timestamp": last_timestamp,
    })
    .into())
}

fn average(points: &[Point]) -> f64 {
    points.iter().map(|it| it.value).sum::<f64>() / points.len().max(1) as f64
}

pub(super) fn metrics_and_variants(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = text(&call.body, "task");
    owner(call, id)?;
    let mut metrics: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    let mut query = call
        .db
        .prepare_cached("SELECT DISTINCT metric, variant FROM events WHERE task = ? AND type = ? ORDER BY 1, 2")?;
    let rows = query.query_map([id, SCALAR], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for row in rows {
        let (metric, variant) = row?;
        metrics.entry(metric).or_default().push(variant);
    }
    Ok(json!({"metrics": metrics}).into())
}

pub(super) fn task_metrics(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let kind = call.text("event_type").unwrap_or("training_debug_image");
    let mut answer = Vec::new();
    for id in call.texts("tasks") {
        owner(call, id)?;
        let mut query =
            call.db.prepare_cached("SELECT DISTINCT metric FROM events WHERE task = ? AND type = ? ORDER BY 1")?;
        let rows = query.query_map([id, kind], |row| row.get::<_, String>(0))?;
        answer.push(json!({"task": id, "metrics": rows.collect::<Result<Vec<_>, _>>()?}));
    }
    Ok(json!({"metrics": answer}).into())
}

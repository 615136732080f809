//! Plots and debug images: of each metric and variant, the reports of its last iterations.

use rusqlite::params;
use serde_json::{Value, json};

use super::{IMAGE, owner};
use crate::server::call::{Call, Reply};
use crate::server::document::{object, text};
use crate::server::error::ApiError;

/// A task's events of a type, newest iteration first; of each metric and variant the last `iterations`.
fn latest(call: &Call<'_>, task: &str, kind: &str, iterations: usize) -> Result<Vec<Value>, ApiError> {
    let mut query = call.db.prepare_cached(
        "SELECT body FROM events WHERE task = ? AND type = ? ORDER BY metric, variant, iter DESC, timestamp DESC",
    )?;
    let rows = query.query_map(params![task, kind], |row| row.get::<_, String>(0))?;
    let events = rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect::<Result<Vec<Value>, ApiError>>()?;
    let same = |a: &Value, b: &Value| a["metric"] == b["metric"] && a["variant"] == b["variant"];
    let mut kept: Vec<Value> = events.chunk_by(same).flat_map(|it| it.iter().take(iterations).cloned()).collect();
    kept.sort_by_key(|it| std::cmp::Reverse(it["iter"].as_i64().unwrap_or_default()));
    Ok(kept)
}

fn iterations(call: &Call<'_>) -> usize {
    call.integer("iters").and_then(|it| usize::try_from(it).ok()).filter(|it| *it > 0).unwrap_or(1)
}

/// Whether a list of `{metric, variants}` asks for an event; everything when there is none.
fn wanted(list: &[Value], event: &Value) -> bool {
    list.is_empty()
        || list.iter().any(|it| {
            let variants = it["variants"].as_array().filter(|it| !it.is_empty());
            let metric = it.get("metric").and_then(Value::as_str).is_none_or(|metric| event["metric"] == metric);
            metric && variants.is_none_or(|it| it.contains(&event["variant"]))
        })
}

pub(super) fn of_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = text(&call.body, "task");
    owner(call, id)?;
    let mut plots = latest(call, id, "plot", iterations(call))?;
    plots.retain(|it| wanted(call.items("metrics"), it));
    Ok(json!({"returned": plots.len(), "total": plots.len(), "scroll_id": "", "plots": plots}).into())
}

pub(super) fn of_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (mut plots, mut total) = (json!({}), 0);
    for id in call.texts("tasks") {
        let task = owner(call, id)?;
        for plot in latest(call, id, "plot", iterations(call))? {
            total += 1;
            let (metric, variant) = (plot["metric"].clone(), plot["variant"].clone());
            let iteration = plot["iter"].to_string();
            let Some(metrics) = plots.as_object_mut() else { continue };
            let variants = object(metrics, metric.as_str().unwrap_or_default());
            let tasks = object(variants, variant.as_str().unwrap_or_default());
            let of_task = object(tasks, id);
            let points = object(of_task, &iteration);
            points.insert("name".into(), json!(text(&task, "name")));
            crate::server::document::list(points, "plots").push(plot);
        }
    }
    Ok(json!({"plots": plots, "returned": total, "total": total, "scroll_id": ""}).into())
}

pub(super) fn debug_images(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    by_iteration(call, IMAGE)
}

pub(super) fn plots(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    by_iteration(call, "plot")
}

/// `[{task, iterations: [{iter, events}]}]`, a page of `iters` iterations from where `scroll_id` says.
fn by_iteration(call: &Call<'_>, kind: &str) -> Result<Reply, ApiError> {
    let start: usize = call.text("scroll_id").and_then(|it| it.parse().ok()).unwrap_or_default();
    let count = iterations(call);
    let mut metrics = Vec::new();
    for asked in call.items("metrics") {
        let id = asked["task"].as_str().ok_or_else(|| ApiError::field_required("task"))?;
        owner(call, id)?;
        let mut events = latest(call, id, kind, usize::MAX)?;
        events.retain(|it| wanted(std::slice::from_ref(asked), it));
        let groups = events.chunk_by(|a, b| a["iter"] == b["iter"]).skip(start).take(count);
        let iterations: Vec<Value> = groups.map(|it| json!({"iter": it[0]["iter"], "events": it})).collect();
        metrics.push(json!({"task": id, "iterations": iterations}));
    }
    Ok(json!({"metrics": metrics, "scroll_id": start.saturating_add(count).to_string()}).into())
}

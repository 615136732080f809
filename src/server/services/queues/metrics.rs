//! How long queues were and how long tasks waited in them: noted at every change, kept for a month.

use std::collections::BTreeMap;

use rusqlite::params;
use serde_json::{Value, json};

use crate::server::call::{Call, Reply};
use crate::server::clock::parse_millis;
use crate::server::entries;
use crate::server::error::ApiError;

/// Seconds that notes are kept.
const KEPT: i64 = 31 * 24 * 3600;
/// Most points of one answer.
const MOST: i64 = 100_000;

/// Notes how a queue stands now.
pub(super) fn note(call: &Call<'_>, queue: &str) -> Result<(), ApiError> {
    let now = call.now.millis();
    let waiting: Vec<i64> = entries::of_queue(call.db, queue)?
        .iter()
        .map(|it| parse_millis(&it.added).map_or(0, |added| (now - added).max(0)))
        .collect();
    let count = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
    // Of an empty queue nobody waits.
    let average = waiting.iter().sum::<i64>() / count.max(1) / 1000;
    call.db
        .prepare_cached("INSERT INTO queue_metrics (queue, at, length, waiting) VALUES (?, ?, ?, ?)")?
        .execute(params![queue, call.now.seconds(), count, average])?;
    call.db.prepare_cached("DELETE FROM queue_metrics WHERE at < ?")?.execute([call.now.seconds() - KEPT])?;
    Ok(())
}

/// The greatest values of each interval, for the queues asked for, or averaged over all of them.
pub(super) fn get(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let date = |field: &str| call.body.get(field).and_then(Value::as_f64).unwrap_or_default() as i64;
    let (from, to) = (date("from_date"), date("to_date"));
    let interval = call.integer("interval").unwrap_or(1).max(1);
    if from >= to {
        return Err(ApiError::validation("from_date must be earlier than to_date"));
    }
    if to.saturating_sub(from) / interval > MOST {
        return Err(ApiError::validation("interval is too short for from_date and to_date"));
    }
    if call.flag("refresh") {
        for queue in crate::server::storage::list(call.db, crate::server::storage::Kind::Queue, &[])? {
            note(call, crate::server::document::text(&queue, "id"))?;
        }
    }
    let mut query = call.db.prepare_cached(
        "SELECT queue, (at - ?1) / ?3 AS part, max(length), max(waiting) FROM queue_metrics
         WHERE at >= ?1 AND at < ?2 GROUP BY queue, part ORDER BY queue, part",
    )?;
    let rows = query.query_map(params![from, to, interval], |row| {
        Ok((row.get::<_, String>(0)?, (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?)))
    })?;
    let mut by_queue: BTreeMap<String, Vec<(i64, i64, i64)>> = BTreeMap::new();
    for row in rows {
        let (queue, point) = row?;
        by_queue.entry(queue).or_default().push(point);
    }
    let wanted = call.texts("queue_ids");
    let series = |queue: &str, points: &[(i64, f64, f64)]| {
        json!({
            "queue": queue,
            "dates": points.iter().map(|it| from + it.0 * interval).collect::<Vec<_>>(),
            "queue_lengths": points.iter().map(|it| it.1).collect::<Vec<_>>(),
            "avg_waiting_times": points.iter().map(|it| it.2).collect::<Vec<_>>(),
        })
    };
    let real = |it: i64| it as f64;
    let queues: Vec<Value> = if wanted.is_empty() {
        let mut parts: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
        for (part, length, waiting) in by_queue.into_values().flatten() {
            parts.entry(part).or_default().push((length, waiting));
        }
        let mean = |values: &[(i64, i64)], of: fn(&(i64, i64)) -> i64| {
            real(values.iter().map(of).sum()) / real(i64::try_from(values.len()).unwrap_or(1))
        };
        let points: Vec<_> =
            parts.iter().map(|(part, values)| (*part, mean(values, |it| it.0), mean(values, |it| it.1))).collect();
        vec![series("all", &points)]
    } else {
        let of = |queue: &&str| {
            let points = by_queue.get(*queue).map(Vec::as_slice).unwrap_or_default();
            let points: Vec<_> = points.iter().map(|it| (it.0, real(it.1), real(it.2))).collect();
            series(queue, &points)
        };
        wanted.iter().map(of).collect()
    };
    Ok(json!({ "queues": queues }).into())
}

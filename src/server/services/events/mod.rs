//! `events.*`: console lines, scalars, plots, images. Stored as they came, a row each; what repeats (everything but log
//! lines) replaces its earlier report.

mod add;
mod log;
mod plots;
mod scalars;
mod summary;

pub(super) use self::add::remove_of_task;

use crate::server::call::Type::{Flag, Integer, List, Number, Text, Texts};
use crate::server::call::{Call, Endpoint, Field, Version, endpoint, may, must, must_old};
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::storage::{Kind, load};

const V1: Version = Version(1, 0);

/// The types of events there are.
const TYPES: &[&str] = &["log", "training_stats_scalar", "training_stats_vector", "training_debug_image", "plot"];
const SCALAR: &str = "training_stats_scalar";
const IMAGE: &str = "training_debug_image";
/// The iteration that marks a single value.
const SINGLE_VALUE: i64 = -2_147_483_648;

const TASK: &[Field] = &[must_old("task")];
const PAGE: &[Field] = &[must_old("task"), may("scroll_id", Text), may("batch_size", Integer), may("order", Text)];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("events.add", V1, &[may("allow_locked", Flag)], add::add_batch),
    endpoint("events.add_batch", V1, &[], add::add_batch),
    endpoint("events.delete_for_task", V1, TASK, add::delete_for_task),
    endpoint("events.clear_task_log", V1, &[must("task", Text), may("threshold_sec", Integer)], log::clear),
    endpoint(
        "events.get_task_log",
        Version(2, 9),
        &[
            must("task", Text),
            may("order", Text),
            may("batch_size", Integer),
            may("navigate_earlier", Flag),
            may("from_timestamp", Number),
        ],
        log::get,
    ),
    endpoint("events.download_task_log", V1, TASK, log::download),
    endpoint("events.get_task_events", V1, PAGE, log::get_task_events),
    endpoint("events.get_scalar_metric_data", V1, &[must_old("task"), must_old("metric")], log::get_scalar_metric_data),
    endpoint(
        "events.scalar_metrics_iter_histogram",
        V1,
        &[must("task", Text), may("samples", Integer), may("key", Text), may("metrics", List)],
        scalars::histogram,
    ),
    endpoint(
        "events.multi_task_scalar_metrics_iter_histogram",
        V1,
        &[must("tasks", Texts), may("samples", Integer), may("key", Text)],
        scalars::histogram_of_many,
    ),
    endpoint("events.get_task_single_value_metrics", V1, &[must("tasks", Texts)], scalars::single_values),
    endpoint("events.get_task_latest_scalar_values", V1, TASK, scalars::latest_values),
    endpoint("events.get_scalar_metrics_and_variants", V1, TASK, scalars::metrics_and_variants),
    endpoint("events.get_task_metrics", V1, &[must("tasks", Texts), may("event_type", Text)], scalars::task_metrics),
    endpoint(
        "events.get_task_plots",
        V1,
        &[must_old("task"), may("iters", Integer), may("metrics", List)],
        plots::of_task,
    ),
    endpoint("events.get_multi_task_plots", V1, &[must_old("tasks"), may("iters", Integer)], plots::of_many),
    endpoint(
        "events.debug_images",
        V1,
        &[must("metrics", List), may("iters", Integer), may("navigate_earlier", Flag), may("scroll_id", Text)],
        plots::debug_images,
    ),
    endpoint(
        "events.plots",
        V1,
        &[must("metrics", List), may("iters", Integer), may("navigate_earlier", Flag), may("scroll_id", Text)],
        plots::plots,
    ),
];

/// Where the files lie that a task's events name.
pub(super) fn urls_of_task(db: &rusqlite::Connection, task: &str) -> Result<Vec<String>, ApiError> {
    let mut query = db.prepare_cached(
        "SELECT DISTINCT body->>'$.url' FROM events WHERE task = ? AND body->>'$.url' IS NOT NULL ORDER BY 1",
    )?;
    let rows = query.query_map([task], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The task (or, for a model's events, model) of that id.
fn owner(call: &Call<'_>, id: &str) -> Result<Document, ApiError> {
    let kind = if call.flag("model_events") { Kind::Model } else { Kind::Task };
    load(call.db, kind, id)?.ok_or_else(|| ApiError::task_ids(&[id]))
}

//! Reading tasks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::store::shown;
use crate::server::call::{Call, Reply};
use crate::server::document::{Document, text};
use crate::server::error::ApiError;
use crate::server::query::{Spec, get_all as query};
use crate::server::services::references;
use crate::server::storage::{self, Kind, Narrow};

pub(super) const SPEC: Spec = Spec {
    kind: Kind::Task,
    fields: &[
        "id",
        "name",
        "company",
        "user",
        "project",
        "parent",
        "type",
        "status",
        "status_reason",
        "status_message",
        "status_changed",
        "comment",
        "created",
        "started",
        "completed",
        "active_duration",
        "published",
        "output",
        "execution",
        "tags",
        "system_tags",
        "script",
        "last_worker",
        "last_worker_report",
        "last_update",
        "last_change",
        "last_changed_by",
        "last_iteration",
        "last_metrics",
        "unique_metrics",
        "metric_stats",
        "hyperparams",
        "configuration",
        "runtime",
        "models",
        "container",
        "enqueue_status",
        "report_assets",
        "report",
        "company_origin",
        "duration",
        "hidden",
        "input",
    ],
    narrow: &["id", "project", "status", "parent"],
    lists: &["id", "user", "tags", "system_tags", "type", "status", "project", "parent", "hyperparams.*"],
    equal: &[
        "execution.queue",
        "models.input.model",
        "models.output.model",
        "script.repository",
        "script.branch",
        "script.entry_point",
        "container.image",
        "last_worker",
        "runtime.*",
    ],
    ranges: &["active_duration", "last_iteration", "last_metrics.*"],
    dates: &["created", "started", "completed", "status_changed", "last_update", "last_change"],
    patterns: &["name", "comment", "report"],
};

pub(super) fn get_by_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("task")?;
    let task = storage::load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::task_ids(&[id]))?;
    Ok(json!({"task": shown(task, call.version)}).into())
}

pub(super) fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    for task in &mut found.documents {
        *task = shown(std::mem::take(task), call.version);
    }
    Ok(found.reply("tasks"))
}

pub(super) fn get_all_ex(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    let only = found.only().to_vec();
    for task in &mut found.documents {
        *task = shown(std::mem::take(task), call.version);
        if task.get("unique_metrics") == Some(&json!([])) {
            task.remove("unique_metrics");
        }
        references::expand(call.db, task, &only)?;
    }
    Ok(found.reply("tasks"))
}

pub(super) fn get_types(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let projects = call.texts("projects");
    let narrow = [Narrow { column: "project", values: &projects }];
    let tasks = storage::list(call.db, Kind::Task, if projects.is_empty() { &[] } else { &narrow })?;
    let types: BTreeSet<&str> = tasks.iter().map(|it| text(it, "type")).collect();
    Ok(json!({"types": types}).into())
}

/// The tasks named in a list of ids, those that exist.
pub(super) fn named(call: &Call<'_>, field: &str) -> Result<Vec<Document>, ApiError> {
    let ids = call.texts(field);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let tasks = storage::list(call.db, Kind::Task, &[Narrow { column: "id", values: &ids }])?;
    let missing: Vec<&str> = ids.into_iter().filter(|id| !tasks.iter().any(|it| text(it, "id") == *id)).collect();
    if missing.is_empty() { Ok(tasks) } else { Err(ApiError::task_ids(&missing)) }
}

/// Values as a list under a name, for answers of the form `[{task, …}]`.
pub(super) fn per_task(tasks: &[Document], name: &str, items: impl Fn(&Document) -> Value) -> Value {
    tasks.iter().map(|it| json!({"task": text(it, "id"), name: items(it)})).collect()
}

//! Reset, delete, archive.

use serde_json::{Value, json};

use super::state::{Change, change, many, stop_task};
use super::store::{Task, load_task};
use crate::clearml::status::Status;
use crate::server::call::{Call, Reply};
use crate::server::document::{Document, document, list, object, put, text};
use crate::server::entries;
use crate::server::error::ApiError;
use crate::server::services::events;
use crate::server::storage::{self, Kind, Narrow};

/// Fields of a task that belong to a run, as a draft has them.
fn clear_run(task: &mut Document) {
    for field in [
        "started",
        "completed",
        "published",
        "active_duration",
        "duration",
        "last_worker",
        "last_worker_report",
        "enqueue_status",
        "_latest",
    ] {
        task.remove(field);
    }
    for (field, empty) in [
        ("last_iteration", json!(0)),
        ("last_metrics", json!({})),
        ("unique_metrics", json!([])),
        ("metric_stats", json!({})),
        ("runtime", json!({})),
    ] {
        task.insert(field.into(), empty);
    }
    object(task, "output").remove("error");
    let execution = object(task, "execution");
    execution.remove("queue");
    list(execution, "artifacts").retain(|it| it["mode"] == "input");
    put(object(task, "models"), "output", Some(json!([])));
}

fn reset_task(call: &Call<'_>, id: &str) -> Result<Value, ApiError> {
    let mut task = load_task(call, id)?;
    if !call.flag("force") && task.was == Status::Published {
        return Err(ApiError::task_status(id, task.was.as_str()));
    }
    let urls = urls(call, &task.body)?;
    let dequeued = entries::remove_everywhere(call.db, id)?;
    events::remove_of_task(call.db, id)?;
    let deleted_models = remove_draft_models(call, id)?;
    let asked = Change::asked(call, Status::Created).forced();
    let fields = change(call, &mut task, asked.with("reset", "reset"))?;
    clear_run(&mut task.body);
    if call.flag("clear_all") {
        clear_all(&mut task.body);
    }
    task.save(call)?;
    let dequeued = if dequeued == 0 { json!({}) } else { json!({"removed": dequeued}) };
    Ok(json!({
        "deleted_models": deleted_models, "dequeued": dequeued, "events": {}, "fields": fields, "updated": 1,
        "urls": urls.unwrap_or_else(|| json!({})),
    }))
}

/// What a task says of its code and parameters.
fn clear_all(task: &mut Document) {
    task.insert("hyperparams".into(), json!({}));
    task.insert("configuration".into(), json!({}));
    task.insert("execution".into(), super::store::execution(&Document::new()));
    task.insert("script".into(), json!({"binary": "python", "repository": "", "entry_point": "", "requirements": {}}));
}

pub(super) fn reset(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(reset_task(call, call.required("task")?)?.into())
}

pub(super) fn reset_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, reset_task))
}

/// The models that go with a task: those it put out and nobody published.
fn draft_models(call: &Call<'_>, task: &str) -> Result<Vec<Document>, ApiError> {
    if call.body.get("delete_output_models") == Some(&json!(false)) {
        return Ok(Vec::new());
    }
    let mut models = storage::list(call.db, Kind::Model, &[Narrow { column: "task", values: &[task] }])?;
    models.retain(|it| it.get("ready") != Some(&json!(true)));
    Ok(models)
}

fn remove_draft_models(call: &Call<'_>, task: &str) -> Result<usize, ApiError> {
    let mut deleted = 0;
    for model in draft_models(call, task)? {
        deleted += usize::from(storage::remove(call.db, Kind::Model, text(&model, "id"))?);
    }
    Ok(deleted)
}

/// Deletes a task and what hangs on it; its children and published models stay.
pub(in crate::server::services) fn delete_task(call: &Call<'_>, task: &Task) -> Result<Value, ApiError> {
    let id = task.id();
    let urls = urls(call, &task.body)?;
    entries::remove_everywhere(call.db, id)?;
    events::remove_of_task(call.db, id)?;
    let deleted_models = remove_draft_models(call, id)?;
    let mut updated_models = 0;
    for mut model in storage::list(call.db, Kind::Model, &[Narrow { column: "task", values: &[id] }])? {
        model.insert("task".into(), json!(format!("__DELETED__{id}")));
        storage::save(call.db, Kind::Model, &model)?;
        updated_models += 1;
    }
    let mut updated_children = 0;
    for mut child in storage::list(call.db, Kind::Task, &[Narrow { column: "parent", values: &[id] }])? {
        child.insert("parent".into(), json!(format!("__DELETED__{id}")));
        storage::save(call.db, Kind::Task, &child)?;
        updated_children += 1;
    }
    storage::remove(call.db, Kind::Task, id)?;
    Ok(json!({
        "deleted": true, "updated_children": updated_children, "updated_models": updated_models,
        "deleted_models": deleted_models, "urls": urls,
    }))
}

/// Where the files lie that nobody names any more once a task's run is gone: clients delete them. `None` unless asked.
fn urls(call: &Call<'_>, task: &Document) -> Result<Option<Value>, ApiError> {
    if !call.flag("return_file_urls") {
        return Ok(None);
    }
    let artifacts = crate::server::document::at(task, "execution.artifacts").and_then(Value::as_array);
    let artifacts = artifacts.into_iter().flatten().filter(|it| it["mode"] != "input");
    let artifacts: Vec<&str> = artifacts.filter_map(|it| it["uri"].as_str()).collect();
    let id = text(task, "id");
    let models = draft_models(call, id)?;
    let models: Vec<&str> = models.iter().map(|it| text(it, "uri")).filter(|it| !it.is_empty()).collect();
    let events = events::urls_of_task(call.db, id)?;
    Ok(Some(json!({"artifact_urls": artifacts, "event_urls": events, "model_urls": models})))
}

fn delete_if_allowed(call: &Call<'_>, id: &str) -> Result<Value, ApiError> {
    let task = load_task(call, id)?;
    if task.was != Status::Created && !call.flag("force") {
        return Err(ApiError::task_not_deletable(id, task.was.as_str()));
    }
    delete_task(call, &task)
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(delete_if_allowed(call, call.required("task")?)?.into())
}

pub(super) fn delete_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, delete_if_allowed))
}

/// Archiving takes a task out of its queue and stops it if it runs.
fn archive_task(call: &Call<'_>, id: &str) -> Result<Value, ApiError> {
    let task = load_task(call, id)?;
    match task.was {
        Status::Queued => super::dequeue_entry(call, id)?,
        Status::InProgress => drop(stop_task(call, id)?),
        _ => {}
    }
    let mut task = load_task(call, id)?;
    let tags = list(&mut task.body, "system_tags");
    if !tags.contains(&json!("archived")) {
        tags.push(json!("archived"));
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"archived": true}))
}

pub(super) fn archive(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut archived = 0;
    for id in call.texts("tasks") {
        archive_task(call, id)?;
        archived += 1;
    }
    Ok(Reply::Data(Value::Object(document(json!({"archived": archived})))))
}

pub(super) fn archive_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, archive_task))
}

pub(super) fn unarchive_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, |call, id| {
        let mut task = load_task(call, id)?;
        task.remove_system_tag("archived");
        task.touch(call);
        task.save(call)?;
        Ok(json!({"unarchived": true}))
    }))
}

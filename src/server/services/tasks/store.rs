//! A task as it is stored: its defaults, loading and saving with the dates that go with every change.

use serde_json::{Map, Value, json};

use crate::clearml::status::Status;
use crate::server::call::{Call, Version};
use crate::server::clock::{Moment, parse_millis};
use crate::server::document::{Document, object, text};
use crate::server::error::ApiError;
use crate::server::site::new_id;
use crate::server::storage::{self, Kind};

/// A task's document, with the status it was loaded in.
pub(in crate::server::services) struct Task {
    pub(in crate::server::services) body: Document,
    pub(in crate::server::services) was: Status,
}

impl Task {
    pub(in crate::server::services) fn new(body: Document) -> Self {
        let was = text(&body, "status").parse().unwrap_or(Status::Created);
        Self { body, was }
    }

    pub(in crate::server::services) fn id(&self) -> &str {
        text(&self.body, "id")
    }

    pub(in crate::server::services) fn has_system_tag(&self, tag: &str) -> bool {
        crate::server::document::texts(&self.body, "system_tags").contains(&tag)
    }

    pub(in crate::server::services) fn remove_system_tag(&mut self, tag: &str) {
        crate::server::document::list(&mut self.body, "system_tags").retain(|it| it.as_str() != Some(tag));
    }

    /// Stores it, provided nobody changed its status since it was loaded.
    pub(in crate::server::services) fn save(&self, call: &Call<'_>) -> Result<(), ApiError> {
        if storage::save_task_if(call.db, self.was.as_str(), &self.body)? {
            return Ok(());
        }
        Err(ApiError::lost_race(self.was.as_str(), text(&self.body, "status")))
    }

    /// Writes who changed it and when; the same dates, exact, for the answer.
    pub(in crate::server::services) fn touch(&mut self, call: &Call<'_>) -> Document {
        let user = call.identity.user.clone();
        for field in ["last_change", "last_update"] {
            self.body.insert(field.into(), json!(call.now.stored()));
        }
        self.body.insert("last_changed_by".into(), json!(user));
        let exact = call.now.exact();
        crate::server::document::document(json!({"last_change": exact, "last_changed_by": user, "last_update": exact}))
    }
}

/// Brings a running task's `active_duration` (seconds from its start to its last event) up to date.
pub(in crate::server::services) fn refresh_duration(task: &mut Document, now: Moment) {
    if text(task, "status") != Status::InProgress.as_str() {
        return;
    }
    if let Some(started) = parse_millis(text(task, "started")) {
        task.insert("active_duration".into(), json!((now.millis() - started).max(0) / 1000));
    }
}

/// The task of that id.
pub(in crate::server::services) fn load_task(call: &Call<'_>, id: &str) -> Result<Task, ApiError> {
    let body = storage::load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::task_id(id))?;
    Ok(Task::new(body))
}

/// A draft with the fields every task has.
pub(super) fn draft(call: &Call<'_>) -> Result<Document, ApiError> {
    let now = call.now.stored();
    Ok(crate::server::document::document(json!({
        "id": new_id()?,
        "company": call.company(),
        "user": call.identity.user,
        "status": Status::Created.as_str(),
        "report_assets": [],
        "created": now,
        "output": {},
        "execution": execution(&Map::new()),
        "tags": [],
        "system_tags": [],
        "script": {"binary": "python", "repository": "", "entry_point": "", "requirements": {}},
        "last_update": now,
        "last_change": now,
        "last_iteration": 0,
        "last_metrics": {},
        "unique_metrics": [],
        "metric_stats": {},
        "hyperparams": {},
        "configuration": {},
        "runtime": {},
        "models": {"input": [], "output": []},
        "container": {},
        "last_changed_by": call.identity.user,
    })))
}

/// `execution` with the defaults its absent fields have.
pub(super) fn execution(given: &Document) -> Value {
    let mut execution = crate::server::document::document(
        json!({"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}, "artifacts": []}),
    );
    execution
        .extend(given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())));
    for artifact in execution.get_mut("artifacts").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(artifact) = artifact.as_object_mut() {
            artifact_defaults(artifact);
        }
    }
    Value::Object(execution)
}

/// The fields of an artifact that the server adds.
pub(super) fn artifact_defaults(artifact: &mut Document) {
    artifact.entry("mode").or_insert(json!("output"));
    artifact.entry("display_data").or_insert(json!([]));
}

/// A task as a client of that version sees it.
pub(super) fn shown(mut task: Document, version: Version) -> Document {
    task.remove("enqueue_status");
    task.remove("_latest");
    if version < Version(2, 13)
        && let Some(image) = task.get("container").and_then(|it| it.get("image")).and_then(Value::as_str)
        && !image.is_empty()
    {
        let arguments = text(&task, "container.arguments");
        let command = format!("{image} {arguments}").trim_end().to_owned();
        object(&mut task, "execution").insert("docker_cmd".into(), json!(command));
    }
    if version < Version(2, 0) {
        let system = crate::server::document::texts(&task, "system_tags").into_iter().map(Value::from);
        let system: Vec<Value> = system.collect();
        crate::server::document::list(&mut task, "tags").extend(system);
    }
    task
}

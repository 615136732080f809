//! What a task reads and puts out: artifacts and models.

use serde_json::{Value, json};

use super::edit::writable;
use super::store::{artifact_defaults, load_task};
use crate::server::call::{Call, Reply};
use crate::server::document::{list, object, text};
use crate::server::error::ApiError;
use crate::server::storage::{self, Kind};

/// Artifacts are told apart by key and mode.
fn same(a: &Value, key: &Value, mode: &Value) -> bool {
    a["key"] == *key && a["mode"] == *mode
}

pub(super) fn add_or_update_artifacts(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    writable(&task)?;
    let kept = list(object(&mut task.body, "execution"), "artifacts");
    for item in call.items("artifacts") {
        let Some(mut artifact) = item.as_object().cloned() else { return Err(ApiError::field_required("key")) };
        for field in ["key", "type"] {
            if text(&artifact, field).is_empty() {
                return Err(ApiError::field_required(field));
            }
        }
        artifact_defaults(&mut artifact);
        let artifact = Value::Object(artifact);
        match kept.iter_mut().find(|it| same(it, &artifact["key"], &artifact["mode"])) {
            Some(old) => *old = artifact,
            None => kept.push(artifact),
        }
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1}).into())
}

pub(super) fn delete_artifacts(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    writable(&task)?;
    let kept = list(object(&mut task.body, "execution"), "artifacts");
    for item in call.items("artifacts") {
        let mode = item.get("mode").cloned().unwrap_or(json!("output"));
        kept.retain(|it| !same(it, &item["key"], &mode));
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"deleted": 1}).into())
}

pub(super) fn add_or_update_model(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    let (name, model) = (call.required("name")?, call.required("model")?);
    if storage::load(call.db, Kind::Model, model)?.is_none() {
        return Err(ApiError::model_id(model));
    }
    let item = json!({"name": name, "model": model, "updated": call.now.stored()});
    let kept = list(object(&mut task.body, "models"), call.required("type")?);
    match kept.iter_mut().find(|it| it["name"] == name) {
        Some(old) => *old = item,
        None => kept.push(item),
    }
    if let Some(iteration) = call.integer("iteration") {
        let last = task.body.get("last_iteration").and_then(Value::as_i64).unwrap_or_default();
        task.body.insert("last_iteration".into(), json!(last.max(iteration)));
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1}).into())
}

pub(super) fn delete_models(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    let models = object(&mut task.body, "models");
    for item in call.items("models") {
        let direction = item["type"].as_str().ok_or_else(|| ApiError::field_required("type"))?;
        list(models, direction).retain(|it| it["name"] != item["name"]);
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1}).into())
}

//! Hyperparameters (`section/name`) and configuration objects.

use serde_json::{Map, Value, json};

use super::edit::{draft_only, writable};
use super::read::{named, per_task};
use super::store::{Task, load_task};
use crate::server::call::{Call, Reply};
use crate::server::document::object;
use crate::server::error::ApiError;

pub(super) fn get_hyper_params(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let tasks = named(call, "tasks")?;
    let params = per_task(&tasks, "hyperparams", |task| {
        let sections = task.get("hyperparams").and_then(Value::as_object).into_iter().flatten();
        sections.flat_map(|(_, it)| it.as_object().into_iter().flatten()).map(|(_, it)| it.clone()).collect()
    });
    Ok(json!({"params": params}).into())
}

/// The section of what users note about a task, which is theirs to change whatever its status.
const PROPERTIES: &str = "properties";

/// Drafts may be edited, and with force what has not ended yet.
fn editable(call: &Call<'_>) -> Result<Task, ApiError> {
    let task = load_task(call, call.required("task")?)?;
    let noted = call.items("hyperparams");
    if !noted.is_empty() && noted.iter().all(|it| it["section"] == PROPERTIES) {
        return Ok(task);
    }
    writable(&task)?;
    draft_only(call, &task)?;
    Ok(task)
}

fn word<'a>(item: &'a Value, field: &str) -> Result<&'a str, ApiError> {
    item.get(field).and_then(Value::as_str).ok_or_else(|| ApiError::field_required(field))
}

pub(super) fn edit_hyper_params(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = editable(call)?;
    let items = call.items("hyperparams").to_vec();
    let sections = object(&mut task.body, "hyperparams");
    match call.text("replace_hyperparams") {
        Some("all") => sections.clear(),
        Some("section") => {
            for item in &items {
                sections.remove(word(item, "section")?);
            }
        }
        _ => {}
    }
    for item in &items {
        let parameters = object(sections, word(item, "section")?);
        parameters.insert(word(item, "name")?.to_owned(), item.clone());
    }
    finish(call, task)
}

pub(super) fn delete_hyper_params(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = editable(call)?;
    let sections = object(&mut task.body, "hyperparams");
    for item in call.items("hyperparams") {
        let section = word(item, "section")?;
        match item.get("name").and_then(Value::as_str).filter(|it| !it.is_empty()) {
            Some(name) => {
                object(sections, section).remove(name);
            }
            None => {
                sections.remove(section);
            }
        }
    }
    sections.retain(|_, it| it.as_object().is_some_and(|it| !it.is_empty()));
    task.touch(call);
    task.save(call)?;
    Ok(json!({"deleted": 1}).into())
}

fn finish(call: &Call<'_>, mut task: Task) -> Result<Reply, ApiError> {
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1}).into())
}

pub(super) fn get_configurations(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let tasks = named(call, "tasks")?;
    let names = call.texts("names");
    let configurations = per_task(&tasks, "configuration", |task| {
        let items = task.get("configuration").and_then(Value::as_object).into_iter().flatten();
        items.filter(|(name, _)| names.is_empty() || names.contains(&name.as_str())).map(|(_, it)| it.clone()).collect()
    });
    Ok(json!({"configurations": configurations}).into())
}

pub(super) fn get_configuration_names(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let tasks = named(call, "tasks")?;
    let configurations = per_task(&tasks, "names", |task| {
        let items = task.get("configuration").and_then(Value::as_object).into_iter().flatten();
        items.map(|(name, _)| json!(name)).collect()
    });
    Ok(json!({"configurations": configurations}).into())
}

pub(super) fn edit_configuration(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = editable(call)?;
    let items = call.items("configuration").to_vec();
    let configuration = object(&mut task.body, "configuration");
    if call.flag("replace_configuration") {
        *configuration = Map::new();
    }
    for item in items {
        configuration.insert(word(&item, "name")?.to_owned(), item.clone());
    }
    finish(call, task)
}

pub(super) fn delete_configuration(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = editable(call)?;
    let configuration = object(&mut task.body, "configuration");
    for name in call.texts("configuration") {
        configuration.remove(name);
    }
    task.touch(call);
    task.save(call)?;
    Ok(json!({"deleted": 1}).into())
}

//! New tasks: made or cloned.

use serde_json::{Value, json};

use super::edit::{apply, tags_without_duplicates};
use super::store::{Task, draft};
use crate::server::call::{Call, Reply};
use crate::server::document::{Document, at, object, put, text};
use crate::server::error::ApiError;
use crate::server::services::projects;
use crate::server::site::new_id;
use crate::server::storage::{self, Kind};

pub(super) fn validate(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    new_task(call)?;
    Ok(json!({}).into())
}

pub(super) fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let task = new_task(call)?;
    storage::insert(call.db, Kind::Task, &task)?;
    projects::touch(call, text(&task, "project"))?;
    Ok(json!({"id": text(&task, "id")}).into())
}

fn new_task(call: &Call<'_>) -> Result<Document, ApiError> {
    let mut task = Task::new(draft(call)?);
    let mut given = call.body.clone();
    given.remove("runtime");
    apply(&mut task, &given);
    if let Some(runtime) = call.object("runtime") {
        task.body.insert("runtime".into(), Value::Object(runtime.clone()));
    }
    check(call, &task.body)?;
    Ok(task.body)
}

/// What must hold of every task that is written whole.
pub(super) fn check(call: &Call<'_>, task: &Document) -> Result<(), ApiError> {
    if text(task, "name").trim().chars().count() < 3 {
        return Err(ApiError::too_short("name"));
    }
    let project = text(task, "project");
    if !project.is_empty() && storage::load(call.db, Kind::Project, project)?.is_none() {
        return Err(ApiError::project_id(project));
    }
    Ok(())
}

pub(super) fn clone(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("task")?;
    let source = storage::load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::task_id(id))?;
    let mut task = draft(call)?;
    for field in
        ["name", "type", "comment", "project", "output", "tags", "script", "hyperparams", "configuration", "container"]
    {
        put(&mut task, field, source.get(field).cloned());
    }
    task.insert("execution".into(), cloned_execution(&source, call.object("execution_overrides")));
    let inputs = at(&source, "models.input").cloned();
    object(&mut task, "models").insert("input".into(), inputs.unwrap_or_else(|| json!([])));
    object(&mut task, "output").remove("result");
    object(&mut task, "output").remove("error");
    put(&mut task, "parent", Some(json!(call.text("new_task_parent").unwrap_or(id))));
    overrides(call, &mut task);
    let mut answer = json!({});
    if let Some(name) = call.text("new_project_name") {
        let project = projects::find_or_create(call, name)?;
        answer["new_project"] = json!({"id": project, "name": name});
        task.insert("project".into(), json!(project));
    }
    let new = new_id()?;
    task.insert("id".into(), json!(new));
    check(call, &task)?;
    storage::insert(call.db, Kind::Task, &task)?;
    projects::touch(call, text(&task, "project"))?;
    answer["id"] = json!(new);
    Ok(answer.into())
}

/// Execution without what belongs to one run: the queue, and artifacts the run put out.
fn cloned_execution(source: &Document, overrides: Option<&Document>) -> Value {
    let mut execution = source.get("execution").and_then(Value::as_object).cloned().unwrap_or_default();
    execution.remove("queue");
    if let Some(artifacts) = execution.get_mut("artifacts").and_then(Value::as_array_mut) {
        artifacts.retain(|it| it["mode"] == "input");
    }
    if let Some(overrides) = overrides {
        execution.extend(overrides.clone());
    }
    super::store::execution(&execution)
}

fn overrides(call: &Call<'_>, task: &mut Document) {
    for (given, field) in [
        ("new_task_name", "name"),
        ("new_task_comment", "comment"),
        ("new_task_project", "project"),
        ("new_task_tags", "tags"),
        ("new_task_system_tags", "system_tags"),
        ("new_task_hyperparams", "hyperparams"),
        ("new_task_configuration", "configuration"),
        ("new_task_container", "container"),
    ] {
        if let Some(value) = call.body.get(given).filter(|it| !it.is_null()) {
            task.insert(field.into(), value.clone());
        }
    }
    tags_without_duplicates(task);
}

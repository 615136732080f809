//! Tasks: the one that runs, and those its program makes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::select::{is_asked_for, part};
use super::{Answers, Refusal, USER, made_up, merge};

/// A task with every field that the SDK expects, in a draft's state.
pub(super) fn whole(id: &str, name: &str, task: Value) -> Value {
    let mut task = if task.is_object() { task } else { json!({}) };
    let now = Timestamp::now().to_string();
    for (field, value) in [
        ("name", json!(name)),
        ("type", json!("training")),
        ("project", json!(made_up("project"))),
        ("comment", json!("")),
        ("tags", json!([])),
        ("system_tags", json!([])),
        ("parent", Value::Null),
        ("hyperparams", json!({})),
        ("configuration", json!({})),
        ("runtime", json!({})),
        ("models", json!({})),
        ("output", json!({ "destination": "" })),
        ("execution", json!({})),
        ("script", json!({})),
        ("container", json!({})),
        ("last_metrics", json!({})),
        ("created", json!(now)),
    ] {
        if task[field].is_null() {
            task[field] = value;
        }
    }
    for (field, value) in [
        ("id", json!(id)),
        ("user", json!(USER)),
        ("company", json!(USER)),
        ("status", json!("created")),
        ("status_message", json!("")),
        ("status_reason", json!("")),
        ("status_changed", json!(now)),
        ("last_update", json!(now)),
        ("last_iteration", json!(0)),
    ] {
        task[field] = value;
    }
    task
}

impl Answers {
    pub(super) fn about_tasks(&mut self, action: &str, body: &Value) -> Result<Value, Refusal> {
        match action {
            "get_all" | "get_all_ex" => {
                let found = self.tasks.values().filter(|it| is_asked_for(it, body));
                return Ok(json!({ "tasks": found.map(|it| part(it, body)).collect::<Vec<_>>() }));
            }
            "get_hyper_params" => return Ok(json!({ "params": self.items("hyperparams", body) })),
            "get_configurations" => return Ok(json!({ "configurations": self.items("configuration", body) })),
            "create" => return Ok(json!({ "id": self.make_task(body.clone()) })),
            "get_types" => return Ok(json!({ "types": [] })),
            _ => {}
        }
        let named = body.get("task").and_then(Value::as_str).unwrap_or(&self.id).to_owned();
        let Some(task) = self.tasks.get_mut(&named) else {
            return Err((400, 101, format!("Invalid task id: id={named}")));
        };
        match action {
            "get_by_id" | "get_by_id_ex" => Ok(json!({ "task": part(task, body) })),
            "clone" => {
                let copy = copy(task, body);
                Ok(json!({ "id": self.make_task(copy) }))
            }
            "delete" => {
                self.tasks.remove(&named);
                Ok(json!({ "deleted": true }))
            }
            _ => Ok(change(task, action, body)),
        }
    }

    fn make_task(&mut self, task: Value) -> String {
        let id = self.make();
        self.tasks.insert(id.clone(), whole(&id, "", task));
        id
    }

    /// Parameters or configurations of the tasks that are asked for, as lists.
    fn items(&self, field: &str, body: &Value) -> Vec<Value> {
        let asked = body.get("tasks").and_then(Value::as_array);
        let wanted = |id: &str| asked.is_none_or(|it| it.iter().any(|it| it == id));
        let found = self.tasks.iter().filter(|(id, _)| wanted(id));
        found.map(|(id, task)| json!({ "task": id, field: flat(&task[field]) })).collect()
    }
}

/// What a clone takes over.
fn copy(task: &Value, body: &Value) -> Value {
    let mut copy = json!({ "parent": task["id"] });
    for field in ["type", "project", "comment", "tags", "hyperparams", "configuration", "script", "container"] {
        copy[field] = task[field].clone();
    }
    for (field, name) in [
        ("new_task_name", "name"),
        ("new_task_project", "project"),
        ("new_task_parent", "parent"),
        ("new_task_comment", "comment"),
        ("new_task_tags", "tags"),
        ("new_task_hyperparams", "hyperparams"),
        ("new_task_configuration", "configuration"),
    ] {
        if let Some(value) = body.get(field).filter(|it| !it.is_null()) {
            copy[name] = value.clone();
        }
    }
    copy
}

/// A call that changes a task.
fn change(task: &mut Value, action: &str, body: &Value) -> Value {
    match action {
        "edit" | "update" => edit(task, body),
        "set_requirements" => task["script"]["requirements"] = body["requirements"].clone(),
        "edit_runtime" => merge(&mut task["runtime"], &body["runtime"]),
        "edit_hyper_params" => upsert(task, "hyperparams", body),
        "edit_configuration" => upsert(task, "configuration", body),
        "delete_hyper_params" => remove(task, "hyperparams", body),
        "delete_configuration" => remove(task, "configuration", body),
        "add_or_update_artifacts" => add_artifacts(task, body),
        "add_or_update_model" => add_model(task, body),
        "enqueue" => set_status(task, "queued"),
        "dequeue" | "reset" => set_status(task, "created"),
        "started" => set_status(task, "in_progress"),
        "stopped" | "stop" => set_status(task, "stopped"),
        "completed" => set_status(task, "completed"),
        "failed" => set_status(task, "failed"),
        "close" => set_status(task, "closed"),
        "publish" => set_status(task, "published"),
        _ => return json!({ "updated": 1 }),
    }
    let fields = json!({ "status": task["status"], "last_update": Timestamp::now().to_string() });
    json!({ "updated": 1, "deleted": 1, "started": 1, "queued": 1, "fields": fields })
}

/// The server replaces what is sent, and merges `script` field by field.
fn edit(task: &mut Value, body: &Value) {
    for (field, value) in body.as_object().into_iter().flatten() {
        match field.as_str() {
            "task" | "id" | "force" | "method" => {}
            "script" => merge(&mut task["script"], value),
            _ => task[field] = value.clone(),
        }
    }
}

fn set_status(task: &mut Value, status: &str) {
    task["status"] = json!(status);
    task["status_changed"] = json!(Timestamp::now().to_string());
}

fn upsert(task: &mut Value, field: &str, body: &Value) {
    let replace = body.get(format!("replace_{field}")).and_then(Value::as_str) == Some("all")
        || body.get("replace_configuration").and_then(Value::as_bool) == Some(true);
    if replace || !task[field].is_object() {
        task[field] = json!({});
    }
    for item in body.get(field).and_then(Value::as_array).into_iter().flatten() {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
        match item.get("section").and_then(Value::as_str) {
            Some(section) => task[field][section][name] = item.clone(),
            None => task[field][name] = item.clone(),
        }
    }
}

fn remove(task: &mut Value, field: &str, body: &Value) {
    let Some(there) = task[field].as_object_mut() else { return };
    let items = body.get(field).and_then(Value::as_array).into_iter().flatten();
    for item in items {
        let name = item.as_str().or_else(|| item.get("name")?.as_str());
        match (item.get("section").and_then(Value::as_str), name) {
            (Some(section), Some(name)) => {
                there.get_mut(section).and_then(Value::as_object_mut).map(|it| it.remove(name));
            }
            (Some(all), None) | (None, Some(all)) => {
                there.remove(all);
            }
            (None, None) => {}
        }
    }
}

fn add_artifacts(task: &mut Value, body: &Value) {
    let mut there: Vec<Value> =
        task.pointer("/execution/artifacts").and_then(Value::as_array).cloned().unwrap_or_default();
    for artifact in body.get("artifacts").and_then(Value::as_array).into_iter().flatten() {
        let mode = |it: &Value| it.get("mode").cloned().unwrap_or_else(|| json!("output"));
        there.retain(|it| it["key"] != artifact["key"] || mode(it) != mode(artifact));
        let mut artifact = artifact.clone();
        artifact["mode"] = mode(&artifact);
        there.push(artifact);
    }
    task["execution"]["artifacts"] = json!(there);
}

pub(super) fn add_model(task: &mut Value, body: &Value) {
    let kind = body.get("type").and_then(Value::as_str).unwrap_or("output").to_owned();
    let mut there: Vec<Value> = task["models"][&kind].as_array().cloned().unwrap_or_default();
    there.retain(|it| it["name"] != body["name"]);
    there.push(json!({ "name": body["name"], "model": body["model"] }));
    task["models"][&kind] = json!(there);
}

/// The items of an object, or of an object of objects, as one list.
fn flat(items: &Value) -> Vec<Value> {
    let items = items.as_object().into_iter().flatten().map(|(_, it)| it);
    items
        .flat_map(|it| match it.as_object() {
            Some(map) if it.get("value").is_none() => map.values().cloned().collect(),
            _ => vec![it.clone()],
        })
        .collect()
}

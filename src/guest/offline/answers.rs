//! What a server would answer whose only task is this one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A refusal: code, subcode, message.
pub(super) type Refusal = (u16, i64, String);

/// What the answers call the one who asks.
const USER: &str = "offline";
/// The newest version we claim: what the conversations that the answers imitate were recorded with.
const API_VERSION: &str = "2.34";

/// The one task, and the answers about it.
#[derive(Debug)]
pub(super) struct Answers {
    id: String,
    task: Value,
    made: u64,
}

impl Answers {
    pub(super) fn new(id: String, name: &str, mut task: Value) -> Self {
        let now = Timestamp::now().to_string();
        let defaults = json!({
            "name": name, "type": "training", "project": made_up("project"), "comment": "", "tags": [],
            "system_tags": [], "parent": null, "hyperparams": {}, "configuration": {}, "runtime": {}, "models": {},
            "output": { "destination": "" }, "execution": {}, "script": {}, "container": {}, "created": now,
        });
        if let (Some(task), Value::Object(defaults)) = (task.as_object_mut(), defaults) {
            for (field, value) in defaults {
                let entry = task.entry(field).or_insert(Value::Null);
                if entry.is_null() {
                    *entry = value;
                }
            }
        }
        for (field, value) in [
            ("id", json!(id)),
            ("user", json!(USER)),
            ("company", json!(USER)),
            ("status", json!("in_progress")),
            ("status_message", json!("")),
            ("status_reason", json!("")),
            ("status_changed", json!(now)),
            ("started", json!(now)),
            ("last_update", json!(now)),
            ("last_iteration", json!(0)),
        ] {
            task[field] = value;
        }
        Self { id, task, made: 0 }
    }

    /// The task as it is now.
    pub(super) fn task(&self) -> &Value {
        &self.task
    }

    /// Whether a call only asks.
    pub(super) fn only_asks(endpoint: &str) -> bool {
        let (service, action) = endpoint.split_once('.').unwrap_or((endpoint, ""));
        action.starts_with("get") || matches!(service, "auth" | "debug" | "server" | "login") || action == "ping"
    }

    /// The answer's data.
    pub(super) fn answer(&mut self, endpoint: &str, body: &Value) -> Result<Value, Refusal> {
        let (service, action) = endpoint.split_once('.').unwrap_or((endpoint, ""));
        match service {
            "auth" => Ok(json!({ "token": token() })),
            "tasks" => self.about_tasks(action, body),
            "projects" => Ok(self.about_projects(action, body)),
            "models" => self.about_models(action, body),
            "events" => Ok(about_events(action)),
            "users" => {
                let user = json!({ "id": USER, "name": USER, "company": { "id": USER, "name": USER }, "role": "user" });
                Ok(json!({ "user": user, "users": [user] }))
            }
            "server" => Ok(json!({ "version": "2.3.0", "build": "offline", "uid": USER })),
            "queues" if action == "get_by_id" => Err((400, 701, "Invalid queue id".to_owned())),
            _ => Ok(nothing(service, action)),
        }
    }

    fn about_tasks(&mut self, action: &str, body: &Value) -> Result<Value, Refusal> {
        let named = body.get("task").and_then(Value::as_str);
        match action {
            "get_all" | "get_all_ex" => {
                let tasks: Vec<Value> = if self.is_asked_for(body) { vec![self.fields(body)] } else { Vec::new() };
                return Ok(json!({ "tasks": tasks }));
            }
            "get_by_id" | "get_by_id_ex" if named == Some(&self.id) => {
                return Ok(json!({ "task": self.fields(body) }));
            }
            "get_hyper_params" => {
                return Ok(json!({ "params": [{ "task": self.id, "hyperparams": self.flat("hyperparams") }] }));
            }
            "get_configurations" => {
                return Ok(
                    json!({ "configurations": [{ "task": self.id, "configuration": self.flat("configuration") }] }),
                );
            }
            "create" | "clone" => return Ok(json!({ "id": self.make() })),
            "get_types" => return Ok(json!({ "types": [] })),
            _ => {}
        }
        if named.is_some_and(|it| it != self.id) {
            return Err((400, 101, format!("Invalid task id: id={}", named.unwrap_or_default())));
        }
        Ok(self.change(action, body))
    }

    /// A call that changes the task.
    fn change(&mut self, action: &str, body: &Value) -> Value {
        match action {
            "edit" | "update" => self.edit(body),
            "set_requirements" => self.task["script"]["requirements"] = body["requirements"].clone(),
            "edit_runtime" => merge(&mut self.task["runtime"], &body["runtime"]),
            "edit_hyper_params" => self.upsert("hyperparams", body),
            "edit_configuration" => self.upsert("configuration", body),
            "delete_hyper_params" => self.remove("hyperparams", body),
            "delete_configuration" => self.remove("configuration", body),
            "add_or_update_artifacts" => self.add_artifacts(body),
            "add_or_update_model" => self.add_model(body),
            "started" => self.set_status("in_progress"),
            "stopped" | "stop" => self.set_status("stopped"),
            "completed" => self.set_status("completed"),
            "failed" => self.set_status("failed"),
            "close" => self.set_status("closed"),
            "publish" => self.set_status("published"),
            _ => return json!({ "updated": 1 }),
        }
        let fields = json!({ "status": self.task["status"], "last_update": Timestamp::now().to_string() });
        json!({ "updated": 1, "deleted": 1, "started": 1, "fields": fields })
    }

    /// The server replaces what is sent, and merges `script` field by field.
    fn edit(&mut self, body: &Value) {
        for (field, value) in body.as_object().into_iter().flatten() {
            match field.as_str() {
                "task" | "id" | "force" | "method" => {}
                "script" => merge(&mut self.task["script"], value),
                _ => self.task[field] = value.clone(),
            }
        }
    }

    fn set_status(&mut self, status: &str) {
        self.task["status"] = json!(status);
        self.task["status_changed"] = json!(Timestamp::now().to_string());
    }

    fn upsert(&mut self, field: &str, body: &Value) {
        let replace = body.get(format!("replace_{field}")).and_then(Value::as_str) == Some("all")
            || body.get("replace_configuration").and_then(Value::as_bool) == Some(true);
        if replace || !self.task[field].is_object() {
            self.task[field] = json!({});
        }
        for item in body.get(field).and_then(Value::as_array).into_iter().flatten() {
            let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
            match item.get("section").and_then(Value::as_str) {
                Some(section) => self.task[field][section][name] = item.clone(),
                None => self.task[field][name] = item.clone(),
            }
        }
    }

    fn remove(&mut self, field: &str, body: &Value) {
        let Some(there) = self.task[field].as_object_mut() else { return };
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

    fn add_artifacts(&mut self, body: &Value) {
        let mut there: Vec<Value> =
            self.task.pointer("/execution/artifacts").and_then(Value::as_array).cloned().unwrap_or_default();
        for artifact in body.get("artifacts").and_then(Value::as_array).into_iter().flatten() {
            let mode = |it: &Value| it.get("mode").cloned().unwrap_or_else(|| json!("output"));
            there.retain(|it| it["key"] != artifact["key"] || mode(it) != mode(artifact));
            let mut artifact = artifact.clone();
            artifact["mode"] = mode(&artifact);
            there.push(artifact);
        }
        self.task["execution"]["artifacts"] = json!(there);
    }

    fn add_model(&mut self, body: &Value) {
        let kind = body.get("type").and_then(Value::as_str).unwrap_or("output").to_owned();
        let mut there: Vec<Value> = self.task["models"][&kind].as_array().cloned().unwrap_or_default();
        there.retain(|it| it["name"] != body["name"]);
        there.push(json!({ "name": body["name"], "model": body["model"] }));
        self.task["models"][&kind] = json!(there);
    }

    fn about_projects(&mut self, action: &str, body: &Value) -> Value {
        let asked = body.get("name").and_then(Value::as_str).map(|it| it.trim_matches(['^', '$']).replace('\\', ""));
        let name = asked.unwrap_or_else(|| "offline".to_owned());
        let project = json!({ "id": self.task["project"], "name": name, "basename": name, "description": "",
            "tags": [], "system_tags": [], "user": USER, "company": USER });
        match action {
            "get_by_id" => json!({ "project": project }),
            "get_all" | "get_all_ex" => json!({ "projects": [project] }),
            "create" => json!({ "id": self.task["project"] }),
            _ => nothing("projects", action),
        }
    }

    fn about_models(&mut self, action: &str, body: &Value) -> Result<Value, Refusal> {
        match action {
            "create" | "update_for_task" => Ok(json!({ "id": self.make(), "created": true, "updated": 1 })),
            "get_by_id" => Err((400, 201, format!("Invalid model id: id={}", body["model"]))),
            _ => Ok(nothing("models", action)),
        }
    }

    fn is_asked_for(&self, body: &Value) -> bool {
        let listed = |value: &Value| match value {
            Value::String(id) => *id == self.id,
            Value::Array(ids) => ids.iter().any(|it| *it == json!(self.id)),
            _ => true,
        };
        match (body.get("id"), body.get("name").and_then(Value::as_str)) {
            (Some(id), _) => listed(id),
            (None, Some(name)) => self.task["name"].as_str() == Some(name.trim_matches(['^', '$'])),
            (None, None) => body.get("parent").is_none(),
        }
    }

    /// The task, or the part of it that is asked for.
    fn fields(&self, body: &Value) -> Value {
        let Some(fields) = body.get("only_fields").and_then(Value::as_array) else { return self.task.clone() };
        let mut part = json!({ "id": self.id });
        for field in fields.iter().filter_map(Value::as_str) {
            let pointer = format!("/{}", field.replace('.', "/"));
            let Some(value) = self.task.pointer(&pointer) else { continue };
            let (parents, last) = field.rsplit_once('.').unwrap_or(("", field));
            let mut place = &mut part;
            for name in parents.split('.').filter(|it| !it.is_empty()) {
                if !place[name].is_object() {
                    place[name] = json!({});
                }
                place = &mut place[name];
            }
            place[last] = value.clone();
        }
        part
    }

    /// The items of an object, or of an object of objects, as one list.
    fn flat(&self, field: &str) -> Vec<Value> {
        let items = self.task[field].as_object().into_iter().flatten().map(|(_, it)| it);
        items
            .flat_map(|it| match it.as_object() {
                Some(map) if it.get("value").is_none() => map.values().cloned().collect(),
                _ => vec![it.clone()],
            })
            .collect()
    }

    fn make(&mut self) -> String {
        self.made += 1;
        made_up(&format!("{}{}", self.id, self.made))
    }
}

fn about_events(action: &str) -> Value {
    match action {
        "add" | "add_batch" => json!({ "added": 1, "errors": 0, "errors_info": {} }),
        _ => {
            json!({ "events": [], "returned": 0, "total": 0, "scroll_id": null, "tasks": [], "metrics": [], "plots": [] })
        }
    }
}

/// An answer that finds nothing, in the shape of the call.
fn nothing(service: &str, action: &str) -> Value {
    match action {
        "get_all" | "get_all_ex" => json!({ service: [] }),
        "get_default" => json!({ "id": made_up("queue"), "name": "default" }),
        _ => json!({ "updated": 1 }),
    }
}

fn made_up(of: &str) -> String {
    crate::digest::Digest::of(of).hex()[..32].to_owned()
}

fn merge(into: &mut Value, from: &Value) {
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (field, value) in from.as_object().into_iter().flatten() {
        into[field] = value.clone();
    }
}

/// A token that clients can read: they choose by its claims how to call.
fn token() -> String {
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iat": now, "exp": now + 365 * 24 * 3600, "auth_type": "Bearer", "api_version": API_VERSION,
        "server_version": "2.3.0", "server_build": "offline", "feature_set": "basic", "env": "offline",
        "session_id": made_up("session"),
        "identity": { "user": USER, "company": USER, "role": "user", "user_name": USER, "company_name": USER },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.{}",
        part(&json!({ "alg": "HS256", "typ": "JWT" })),
        part(&claims),
        URL_SAFE_NO_PAD.encode("offline")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        let hyperparams = json!({ "Args": { "lr": { "section": "Args", "name": "lr", "value": "0.1" } } });
        let record =
            json!({ "project": null, "hyperparams": hyperparams, "script": { "branch": "main", "diff": "d" } });
        Answers::new("t1".to_owned(), "train", record)
    }

    #[test]
    fn the_task_is_answered_with_what_is_recorded() {
        let mut answers = answers();
        let task = answers.answer("tasks.get_by_id", &json!({ "task": "t1" })).unwrap();
        assert_eq!(task.pointer("/task/hyperparams/Args/lr/value"), Some(&json!("0.1")));
        assert_eq!(task["task"]["status"], "in_progress");
        assert!(task["task"]["project"].is_string());
        assert_eq!(answers.answer("tasks.get_by_id", &json!({ "task": "other" })).unwrap_err().1, 101);
        let query = json!({ "id": ["t1"], "only_fields": ["status", "script.branch"] });
        let some = answers.answer("tasks.get_all", &query).unwrap();
        assert_eq!(some, json!({ "tasks": [{ "id": "t1", "status": "in_progress", "script": { "branch": "main" } }] }));
        assert_eq!(answers.answer("tasks.get_all", &json!({ "id": ["x"] })).unwrap(), json!({ "tasks": [] }));
    }

    #[test]
    fn what_is_written_is_answered_later() {
        let mut answers = answers();
        let edit = json!({ "task": "t1", "force": true, "script": { "branch": "b" }, "runtime": { "a": 1 } });
        answers.answer("tasks.edit", &edit).unwrap();
        let artifact = |hash: &str| json!({ "task": "t1", "artifacts": [{ "key": "k", "hash": hash }] });
        answers.answer("tasks.add_or_update_artifacts", &artifact("1")).unwrap();
        answers.answer("tasks.add_or_update_artifacts", &artifact("2")).unwrap();
        let parameters = json!([{ "section": "Args", "name": "n", "value": "3" }]);
        answers.answer("tasks.edit_hyper_params", &json!({ "task": "t1", "hyperparams": parameters })).unwrap();
        answers.answer("tasks.completed", &json!({ "task": "t1" })).unwrap();
        let task = answers.task();
        assert_eq!(task["script"], json!({ "branch": "b", "diff": "d" }));
        assert_eq!(task["execution"]["artifacts"].as_array().unwrap().len(), 1);
        assert_eq!(task["hyperparams"]["Args"].as_object().unwrap().len(), 2);
        assert_eq!(task["status"], "completed");
        assert_eq!(answers.flat("hyperparams").len(), 2);
    }

    #[test]
    fn reading_and_writing_are_told_apart() {
        assert!(Answers::only_asks("tasks.get_all") && Answers::only_asks("auth.login"));
        assert!(!Answers::only_asks("tasks.edit") && !Answers::only_asks("events.add_batch"));
    }
}

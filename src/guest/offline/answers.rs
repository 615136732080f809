//! What a server would answer that knows this task, and what its program makes: other tasks, models.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

mod models;
mod select;
mod tasks;

/// A refusal: code, subcode, message.
pub(super) type Refusal = (u16, i64, String);

/// What the answers call the one who asks.
const USER: &str = "offline";
/// The newest version we claim: what the conversations that the answers imitate were recorded with.
const API_VERSION: &str = "2.34";

/// What is known, by id.
#[derive(Debug)]
pub(super) struct Answers {
    /// The task that runs.
    id: String,
    tasks: BTreeMap<String, Value>,
    models: BTreeMap<String, Value>,
    made: u64,
}

impl Answers {
    pub(super) fn new(id: String, name: &str, task: Value) -> Self {
        let mut task = tasks::whole(&id, name, task);
        task["status"] = json!("in_progress");
        task["started"] = task["status_changed"].clone();
        let tasks = BTreeMap::from([(id.clone(), task)]);
        Self { id, tasks, models: BTreeMap::new(), made: 0 }
    }

    /// The task as it is now.
    pub(super) fn task(&self) -> &Value {
        self.tasks.get(&self.id).unwrap_or(&Value::Null)
    }

    /// Whether a call only asks.
    pub(super) fn only_asks(endpoint: &str) -> bool {
        let (service, action) = endpoint.split_once('.').unwrap_or((endpoint, ""));
        action.starts_with("get") || matches!(service, "auth" | "debug" | "server" | "login") || action == "ping"
    }

    /// The answer's data.
    pub(super) fn answer(&mut self, endpoint: &str, body: &Value) -> Result<Value, Refusal> {
        let (service, action) = endpoint.split_once('.').unwrap_or((endpoint, ""));
        let empty = json!({});
        let body = if body.is_object() { body } else { &empty };
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

    fn about_projects(&mut self, action: &str, body: &Value) -> Value {
        let asked = body.get("name").and_then(Value::as_str).map(|it| it.trim_matches(['^', '$']).replace('\\', ""));
        let name = asked.unwrap_or_else(|| "offline".to_owned());
        let id = &self.task()["project"];
        let project = json!({ "id": id, "name": name, "basename": name, "description": "", "tags": [],
            "system_tags": [], "user": USER, "company": USER });
        match action {
            "get_by_id" => json!({ "project": project }),
            "get_all" | "get_all_ex" => json!({ "projects": [project] }),
            "create" => json!({ "id": id }),
            _ => nothing("projects", action),
        }
    }

    fn make(&mut self) -> String {
        self.made += 1;
        made_up(&format!("{}{}", self.id, self.made))
    }
}

fn about_events(action: &str) -> Value {
    match action {
        "add" | "add_batch" => json!({ "added": 1, "errors": 0, "errors_info": {} }),
        _ if action.ends_with("iter_histogram") || action.ends_with("iter_raw") => json!({}),
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

/// Puts the fields of one object into another.
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
        let parameters = answers.answer("tasks.get_hyper_params", &json!({ "tasks": ["t1"] })).unwrap();
        assert_eq!(parameters["params"][0]["hyperparams"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_a_program_makes_is_known_from_then_on() {
        let mut answers = answers();
        let mut ask = |endpoint: &str, body: Value| answers.answer(endpoint, &body);
        let child = ask("tasks.create", json!({ "name": "child", "type": "testing" })).unwrap()["id"].clone();
        let clone = ask("tasks.clone", json!({ "task": "t1", "new_task_name": "other" })).unwrap()["id"].clone();
        assert!(child != clone && child != "t1");
        ask("tasks.edit", json!({ "task": child, "comment": "mine" })).unwrap();
        let task = ask("tasks.get_by_id", json!({ "task": child })).unwrap()["task"].clone();
        assert_eq!(
            (&task["comment"], &task["status"], &task["type"]),
            (&json!("mine"), &json!("created"), &json!("testing"))
        );
        let task = ask("tasks.get_by_id", json!({ "task": clone })).unwrap()["task"].clone();
        assert_eq!((&task["parent"], &task["name"]), (&json!("t1"), &json!("other")));
        assert_eq!(task.pointer("/hyperparams/Args/lr/value"), Some(&json!("0.1")));
        assert_eq!(
            ask("tasks.get_all", json!({ "status": ["created"] })).unwrap()["tasks"].as_array().unwrap().len(),
            2
        );
        ask("tasks.delete", json!({ "task": child })).unwrap();
        assert_eq!(ask("tasks.get_by_id", json!({ "task": child })).unwrap_err().1, 101);

        let model = ask("models.create", json!({ "name": "net", "uri": "", "task": "t1" })).unwrap()["id"].clone();
        ask("models.edit", json!({ "model": model, "uri": "file:///w" })).unwrap();
        let metadata = json!([{ "key": "k", "value": "v", "type": "str" }]);
        ask("models.add_or_update_metadata", json!({ "model": model, "metadata": metadata })).unwrap();
        let found = ask("models.get_by_id", json!({ "model": model })).unwrap()["model"].clone();
        assert_eq!((&found["uri"], &found["ready"]), (&json!("file:///w"), &json!(true)));
        assert_eq!(found["metadata"]["k"]["value"], "v");
        let made = ask("models.update_for_task", json!({ "task": "t1", "uri": "file:///x" })).unwrap();
        assert_eq!(made["created"], true);
        let of_task = ask("models.get_all", json!({ "task": ["t1"], "only_fields": ["id"] })).unwrap();
        assert_eq!(of_task["models"].as_array().unwrap().len(), 2);
        assert_eq!(ask("models.get_by_id", json!({ "model": "x" })).unwrap_err().1, 201);
        assert_eq!(answers.task().pointer("/models/output/0/model"), Some(&made["id"]));
    }

    #[test]
    fn reading_and_writing_are_told_apart() {
        assert!(Answers::only_asks("tasks.get_all") && Answers::only_asks("auth.login"));
        assert!(!Answers::only_asks("tasks.edit") && !Answers::only_asks("events.add_batch"));
    }
}

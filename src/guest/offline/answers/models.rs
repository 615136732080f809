//! Models that the program makes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::select::{is_asked_for, part};
use super::tasks::add_model;
use super::{Answers, Refusal, USER, merge, nothing};

/// What a call may write.
const WRITTEN: &[&str] = &[
    "name",
    "uri",
    "labels",
    "tags",
    "system_tags",
    "comment",
    "framework",
    "design",
    "project",
    "parent",
    "task",
    "ready",
];

impl Answers {
    pub(super) fn about_models(&mut self, action: &str, body: &Value) -> Result<Value, Refusal> {
        match action {
            "get_all" | "get_all_ex" => {
                let found = self.models.values().filter(|it| is_asked_for(it, body));
                return Ok(json!({ "models": found.map(|it| part(it, body)).collect::<Vec<_>>() }));
            }
            "create" => return Ok(json!({ "id": self.make_model(body), "created": true })),
            "update_for_task" => return self.update_for_task(body),
            "get_frameworks" => return Ok(json!({ "frameworks": [] })),
            _ => {}
        }
        let Some(id) = body.get("model").and_then(Value::as_str) else { return Ok(nothing("models", action)) };
        let Some(model) = self.models.get_mut(id) else {
            return Err((400, 201, format!("Invalid model id: id={id}")));
        };
        match action {
            "get_by_id" => return Ok(json!({ "model": part(model, body) })),
            "edit" | "update" => write(model, body),
            "set_ready" => model["ready"] = json!(true),
            "add_or_update_metadata" => {
                if body.get("replace_metadata") == Some(&json!(true)) {
                    model["metadata"] = json!({});
                }
                merge(&mut model["metadata"], &metadata(&body["metadata"]));
            }
            "delete_metadata" => {
                let kept = model["metadata"].as_object_mut();
                let keys = body.get("keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
                if let Some(kept) = kept {
                    keys.for_each(|it| drop(kept.remove(it)));
                }
            }
            "delete" => {
                let uri = model["uri"].clone();
                self.models.remove(id);
                return Ok(json!({ "deleted": true, "url": uri }));
            }
            _ => {}
        }
        Ok(json!({ "updated": 1, "fields": {} }))
    }

    fn make_model(&mut self, body: &Value) -> String {
        let (id, now) = (self.make(), Timestamp::now().to_string());
        let mut model = json!({
            "id": id, "name": "", "uri": "", "user": USER, "company": USER, "created": now, "last_update": now, "tags": [],
            "system_tags": [], "labels": {}, "ready": true, "metadata": {}, "framework": "", "design": {}, "comment": "",
            "project": self.task()["project"], "task": null, "parent": null,
        });
        write(&mut model, body);
        self.models.insert(id.clone(), model);
        id
    }

    /// A task's output model: made, or pointed to a new address.
    fn update_for_task(&mut self, body: &Value) -> Result<Value, Refusal> {
        let known = body.get("override_model_id").and_then(Value::as_str);
        let (id, created) = match known {
            Some(id) => {
                let model = self.models.get_mut(id).ok_or_else(|| (400, 201, format!("Invalid model id: id={id}")))?;
                write(model, body);
                (id.to_owned(), false)
            }
            None => {
                let mut made = body.clone();
                made["ready"] = json!(false);
                if made["name"].is_null() {
                    made["name"] = self.task()["name"].clone();
                }
                (self.make_model(&made), true)
            }
        };
        let task = body.get("task").and_then(Value::as_str).unwrap_or(&self.id).to_owned();
        if let Some(task) = self.tasks.get_mut(&task) {
            add_model(task, &json!({ "type": "output", "name": "Output Model", "model": id }));
        }
        Ok(json!({ "id": id, "created": created, "updated": usize::from(!created), "fields": {} }))
    }
}

fn write(model: &mut Value, body: &Value) {
    for field in WRITTEN {
        if let Some(value) = body.get(*field).filter(|it| !it.is_null()) {
            model[*field] = value.clone();
        }
    }
    if let Some(given) = body.get("metadata").filter(|it| !it.is_null()) {
        model["metadata"] = metadata(given);
    }
}

/// Metadata comes as a list or by key, and is kept by key.
fn metadata(given: &Value) -> Value {
    match given.as_array() {
        Some(items) => items.iter().filter_map(|it| Some((it["key"].as_str()?.to_owned(), it.clone()))).collect(),
        None => given.clone(),
    }
}

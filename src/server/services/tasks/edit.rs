//! Changing what a task says.

use serde_json::{Map, Value, json};

use super::create::check;
use super::store::{Task, execution, load_task};
use crate::clearml::status::Status;
use crate::server::call::{Call, Reply};
use crate::server::document::{Document, document, object, put, text};
use crate::server::error::ApiError;
use crate::server::services::projects;
use crate::server::storage::{self, Kind};

/// Fields that are replaced as a whole.
const WHOLE: &[&str] = &[
    "name",
    "type",
    "comment",
    "parent",
    "project",
    "tags",
    "system_tags",
    "hyperparams",
    "configuration",
    "runtime",
    "models",
    "container",
    "input",
];
/// Fields that `tasks.update` may change whatever the status.
const ALWAYS: &[&str] = &["name", "comment", "tags", "system_tags", "project", "created"];

/// Writes the fields of a body into a task; what was written, as the answer shows it. `script` is merged field by
/// field, everything else replaced.
pub(super) fn apply(task: &mut Task, given: &Document) -> Document {
    let mut written = Map::new();
    for field in WHOLE {
        if let Some(value) = given.get(*field).filter(|it| !it.is_null()) {
            task.body.insert((*field).to_owned(), value.clone());
            written.insert((*field).to_owned(), value.clone());
        }
    }
    if let Some(given) = given.get("execution").and_then(Value::as_object) {
        let value = execution(given);
        task.body.insert("execution".into(), value.clone());
        written.insert("execution".into(), value);
    }
    if let Some(given) = given.get("script").and_then(Value::as_object) {
        let script = object(&mut task.body, "script");
        for (field, value) in given {
            put(script, field, Some(stripped(field, value)));
        }
        written.insert("script".into(), Value::Object(script.clone()));
    }
    if let Some(destination) = given.get("output_dest").filter(|it| !it.is_null()) {
        let output = object(&mut task.body, "output");
        output.insert("destination".into(), destination.clone());
        written.insert("output".into(), Value::Object(output.clone()));
    }
    tags_without_duplicates(&mut task.body);
    name_parameters(&mut task.body);
    written
}

/// Names and paths lose the white space around them; a diff keeps every byte.
fn stripped(field: &str, value: &Value) -> Value {
    match value.as_str() {
        Some(text) if field != "diff" => json!(text.trim()),
        _ => value.clone(),
    }
}

/// Sections and names of parameters stand in the parameters too.
fn name_parameters(task: &mut Document) {
    for (section, parameters) in object(task, "hyperparams") {
        for (name, parameter) in parameters.as_object_mut().into_iter().flatten() {
            if let Some(parameter) = parameter.as_object_mut() {
                parameter.entry("section").or_insert(json!(section));
                parameter.entry("name").or_insert(json!(name));
            }
        }
    }
    for (name, item) in object(task, "configuration") {
        if let Some(item) = item.as_object_mut() {
            item.entry("name").or_insert(json!(name));
        }
    }
}

/// Tags are sets.
pub(super) fn tags_without_duplicates(task: &mut Document) {
    for field in ["tags", "system_tags"] {
        let tags = crate::server::document::list(task, field);
        let mut seen = Vec::new();
        tags.retain(|it| {
            !seen.contains(it) && {
                seen.push(it.clone());
                true
            }
        });
    }
}

/// Refuses to edit what is no draft, unless forced.
pub(super) fn draft_only(call: &Call<'_>, task: &Task) -> Result<(), ApiError> {
    if task.was == Status::Created || call.flag("force") {
        return Ok(());
    }
    Err(ApiError::task_not_draft(task.was.as_str()))
}

pub(super) fn edit(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    draft_only(call, &task)?;
    let project = text(&task.body, "project").to_owned();
    let mut fields = apply(&mut task, &call.body);
    check(call, &task.body)?;
    fields.extend(task.touch(call));
    task.save(call)?;
    projects::touch(call, &project)?;
    projects::touch(call, text(&task.body, "project"))?;
    Ok(json!({"updated": 1, "fields": fields}).into())
}

pub(super) fn update(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let body = call.body.clone();
    let fields = update_one(call, &body)?;
    let updated = usize::from(!fields.is_empty());
    Ok(json!({"updated": updated, "fields": fields}).into())
}

pub(super) fn update_batch(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut updated = 0;
    for item in std::mem::take(&mut call.batch) {
        let Value::Object(item) = item else { return Err(ApiError::field_required("task")) };
        updated += usize::from(!update_one(call, &item)?.is_empty());
    }
    Ok(json!({"updated": updated}).into())
}

fn update_one(call: &Call<'_>, given: &Document) -> Result<Document, ApiError> {
    let mut task = load_task(call, text(given, "task"))?;
    let mut fields = Map::new();
    for field in ALWAYS {
        if let Some(value) = given.get(*field).filter(|it| !it.is_null()) {
            task.body.insert((*field).to_owned(), value.clone());
            fields.insert((*field).to_owned(), value.clone());
        }
    }
    if let Some(error) = given.get("output__error") {
        put(object(&mut task.body, "output"), "error", Some(error.clone()));
        fields.insert("output__error".into(), error.clone());
    }
    if fields.is_empty() {
        return Ok(fields);
    }
    tags_without_duplicates(&mut task.body);
    check(call, &task.body)?;
    fields.extend(task.touch(call));
    task.save(call)?;
    Ok(fields)
}

pub(super) fn set_requirements(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    let requirements = call.object("requirements").cloned().unwrap_or_default();
    object(&mut task.body, "script").insert("requirements".into(), Value::Object(requirements));
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1, "fields": {}}).into())
}

pub(super) fn edit_runtime(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_task(call, call.required("task")?)?;
    writable(&task)?;
    let runtime = call.object("runtime").cloned().unwrap_or_default();
    object(&mut task.body, "runtime").extend(runtime);
    task.touch(call);
    task.save(call)?;
    Ok(json!({"updated": 1}).into())
}

/// Refuses to add to what has ended; `force` changes nothing about it.
pub(super) fn writable(task: &Task) -> Result<(), ApiError> {
    match task.was {
        Status::Created | Status::Queued | Status::InProgress => Ok(()),
        ended => Err(ApiError::task_not_draft(ended.as_str())),
    }
}

pub(super) fn move_tasks(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let project = projects::target(call)?;
    for id in call.texts("ids") {
        let mut task = load_task(call, id)?;
        task.body.insert("project".into(), json!(project));
        task.touch(call);
        task.save(call)?;
    }
    Ok(json!({"project_id": project}).into())
}

/// A sign of life; a task that is not there is not missed.
pub(super) fn ping(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("task")?;
    if let Some(mut task) = storage::load(call.db, Kind::Task, id)? {
        task.insert("last_update".into(), json!(call.now.stored()));
        storage::save(call.db, Kind::Task, &task)?;
    }
    Ok(Reply::Data(Value::Object(document(json!({})))))
}

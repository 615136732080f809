//! `models.*`: what tasks put out and read, by address; the bytes lie elsewhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::projects;
use crate::server::call::Type::{Any, Flag, Integer, List, Object, Text, Texts};
use crate::server::call::{Call, Endpoint, Field, Reply, Version, endpoint, may, must};
use crate::server::document::{Document, at, document, list as list_at, object, text};
use crate::server::error::ApiError;
use crate::server::query::{Spec, get_all as query};
use crate::server::site::new_id;
use crate::server::storage::{self, Kind, Narrow, insert, load, save};

const V1: Version = Version(1, 0);

const SPEC: Spec = Spec {
    kind: Kind::Model,
    fields: &[
        "id",
        "name",
        "company",
        "user",
        "project",
        "parent",
        "task",
        "comment",
        "created",
        "last_update",
        "last_change",
        "last_changed_by",
        "tags",
        "system_tags",
        "design",
        "labels",
        "framework",
        "uri",
        "ready",
        "ui_cache",
        "stats",
        "metadata",
        "last_iteration",
        "last_metrics",
        "unique_metrics",
        "company_origin",
    ],
    narrow: &["id", "project", "task"],
    lists: &["id", "user", "tags", "system_tags", "project", "task", "parent", "framework", "uri"],
    equal: &["ready", "metadata.*"],
    ranges: &["last_iteration", "last_metrics.*"],
    dates: &["created", "last_update"],
    patterns: &["name", "comment"],
};

/// Fields that a body writes as they are.
const PLAIN: &[&str] = &[
    "name",
    "comment",
    "design",
    "framework",
    "labels",
    "parent",
    "project",
    "ready",
    "system_tags",
    "tags",
    "task",
    "uri",
    "ui_cache",
];

const MODEL: &[Field] = &[must("model", Text)];
const MANY: &[Field] = &[must("ids", List), may("force", Flag)];
const CREATE: &[Field] = &[
    must("name", Text),
    must("uri", Text),
    may("labels", Object),
    may("tags", List),
    may("system_tags", List),
    may("comment", Text),
    may("framework", Text),
    may("design", Any),
    may("project", Text),
    may("parent", Text),
    may("task", Text),
    may("ready", Flag),
    may("metadata", Any),
];
const EDIT: &[Field] = &[
    must("model", Text),
    may("name", Text),
    may("uri", Text),
    may("labels", Object),
    may("tags", List),
    may("system_tags", List),
    may("iteration", Integer),
    may("ready", Flag),
];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("models.get_by_id", V1, MODEL, get_by_id),
    endpoint("models.get_by_task_id", V1, &[may("task", Text)], get_by_task_id),
    endpoint("models.get_all", V1, &[may("id", Texts), may("only_fields", Texts)], get_all),
    endpoint("models.get_all_ex", V1, &[may("id", Texts), may("only_fields", Texts)], get_all_ex),
    endpoint("models.get_by_id_ex", V1, &[must("id", Texts)], get_all_ex),
    endpoint("models.get_frameworks", V1, &[may("projects", Texts)], get_frameworks),
    endpoint("models.create", V1, CREATE, create),
    endpoint("models.edit", V1, EDIT, edit),
    endpoint("models.update", V1, EDIT, edit),
    endpoint(
        "models.update_for_task",
        V1,
        &[must("task", Text), may("uri", Text), may("name", Text), may("override_model_id", Text)],
        update_for_task,
    ),
    endpoint("models.set_ready", V1, &[must("model", Text), may("publish_task", Flag)], set_ready),
    endpoint("models.publish_many", V1, MANY, |call| many(call, publish)),
    endpoint("models.archive_many", V1, MANY, |call| many(call, |call, model| set_archived(call, model, true))),
    endpoint("models.unarchive_many", V1, MANY, |call| many(call, |call, model| set_archived(call, model, false))),
    endpoint("models.delete", V1, &[must("model", Text), may("force", Flag)], delete),
    endpoint("models.delete_many", V1, MANY, |call| many(call, |call, model| delete_if_allowed(call, &model))),
    endpoint("models.move", V1, &[must("ids", List), may("project", Text), may("project_name", Text)], move_models),
    endpoint(
        "models.add_or_update_metadata",
        V1,
        &[must("model", Text), must("metadata", List), may("replace_metadata", Flag)],
        add_metadata,
    ),
    endpoint("models.delete_metadata", V1, &[must("model", Text), must("keys", List)], delete_metadata),
];

fn by_id(call: &Call<'_>, id: &str) -> Result<Document, ApiError> {
    load(call.db, Kind::Model, id)?.ok_or_else(|| ApiError::model_id(id))
}

fn find(call: &Call<'_>) -> Result<Document, ApiError> {
    by_id(call, call.required("model")?)
}

/// Notes who changed a model and when, and stores it.
fn store(call: &Call<'_>, model: &mut Document) -> Result<(), ApiError> {
    for field in ["last_update", "last_change"] {
        model.insert(field.into(), json!(call.now.stored()));
    }
    model.insert("last_changed_by".into(), json!(call.identity.user));
    save(call.db, Kind::Model, model)
}

/// Metadata comes as a list or by key, and is kept by key.
fn metadata(given: &Value) -> Document {
    match given {
        Value::Object(by_key) => by_key.clone(),
        Value::Array(items) => {
            items.iter().filter_map(|it| Some((it["key"].as_str()?.to_owned(), it.clone()))).collect()
        }
        _ => Map::new(),
    }
}

/// Before 2.13 clients know metadata as a list.
fn shown(call: &Call<'_>, mut model: Document) -> Document {
    if call.version < Version(2, 13) {
        let items: Vec<Value> = object(&mut model, "metadata").values().cloned().collect();
        model.insert("metadata".into(), json!(items));
    }
    model
}

fn get_by_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"model": shown(call, find(call)?)}).into())
}

fn get_by_task_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("task")?;
    let task = load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::task_id(id))?;
    let output = at(&task, "models.output").and_then(Value::as_array).and_then(|it| it.last());
    let model = output.and_then(|it| it["model"].as_str()).unwrap_or_default();
    Ok(json!({"model": shown(call, by_id(call, model)?)}).into())
}

fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    for model in &mut found.documents {
        *model = shown(call, std::mem::take(model));
    }
    Ok(found.reply("models"))
}

fn get_all_ex(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    let only = found.only().to_vec();
    for model in &mut found.documents {
        *model = shown(call, std::mem::take(model));
        super::references::expand(call.db, model, &only)?;
    }
    Ok(found.reply("models"))
}

fn get_frameworks(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let projects = call.texts("projects");
    let narrow = [Narrow { column: "project", values: &projects }];
    let models = storage::list(call.db, Kind::Model, if projects.is_empty() { &[] } else { &narrow })?;
    let frameworks: BTreeSet<&str> =
        models.iter().map(|it| text(it, "framework")).filter(|it| !it.is_empty()).collect();
    Ok(json!({"frameworks": frameworks}).into())
}

fn make(call: &Call<'_>, given: &Document) -> Result<String, ApiError> {
    let (id, now) = (new_id()?, call.now.stored());
    let mut model = document(json!({
        "id": id, "company": call.company(), "user": call.identity.user, "created": now, "last_update": now,
        "last_change": now, "last_changed_by": call.identity.user, "tags": [], "system_tags": [], "labels": {},
        "ready": true, "ui_cache": {}, "metadata": {}, "last_metrics": {}, "unique_metrics": [], "last_iteration": 0,
        "framework": "", "design": {},
    }));
    write(call, &mut model, given)?;
    insert(call.db, Kind::Model, &model)?;
    projects::touch(call, text(&model, "project"))?;
    Ok(id)
}

/// Writes a body's fields into a model; what was written.
fn write(call: &Call<'_>, model: &mut Document, given: &Document) -> Result<Document, ApiError> {
    let mut written = Map::new();
    for field in PLAIN {
        if let Some(value) = given.get(*field).filter(|it| !it.is_null()) {
            model.insert((*field).to_owned(), value.clone());
            written.insert((*field).to_owned(), value.clone());
        }
    }
    if let Some(given) = given.get("metadata").filter(|it| !it.is_null()) {
        model.insert("metadata".into(), Value::Object(metadata(given)));
    }
    if text(model, "name").trim().chars().count() < 3 {
        return Err(ApiError::too_short("name"));
    }
    let project = text(model, "project");
    if !project.is_empty() && load(call.db, Kind::Project, project)?.is_none() {
        return Err(ApiError::project_id(project));
    }
    Ok(written)
}

fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let given = call.body.clone();
    Ok(json!({"id": make(call, &given)?, "created": true}).into())
}

fn edit(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut model = find(call)?;
    let fields = write(call, &mut model, &call.body)?;
    store(call, &mut model)?;
    if let (Some(iteration), Some(mut task)) =
        (call.integer("iteration"), load(call.db, Kind::Task, text(&model, "task"))?)
    {
        let last = task.get("last_iteration").and_then(Value::as_i64).unwrap_or_default();
        task.insert("last_iteration".into(), json!(last.max(iteration)));
        save(call.db, Kind::Task, &task)?;
    }
    Ok(json!({"updated": 1, "fields": fields}).into())
}

/// A task's output model: made, or pointed to a new address.
fn update_for_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("task")?.to_owned();
    let mut task = load(call.db, Kind::Task, &id)?.ok_or_else(|| ApiError::task_id(&id))?;
    let given = call.body.clone();
    let (model, created) = match call.text("override_model_id") {
        Some(existing) => {
            let mut model = by_id(call, existing)?;
            let mut given = given;
            given.remove("task");
            write(call, &mut model, &given)?;
            store(call, &mut model)?;
            (existing.to_owned(), false)
        }
        None => {
            let mut fields = given;
            fields.entry("name").or_insert(task["name"].clone());
            fields.insert("ready".into(), json!(false));
            if let Some(project) = task.get("project") {
                fields.insert("project".into(), project.clone());
            }
            (make(call, &fields)?, true)
        }
    };
    let outputs = list_at(object(&mut task, "models"), "output");
    if !outputs.iter().any(|it| it["model"] == model.as_str()) {
        outputs.push(json!({"name": "Output Model", "model": model, "updated": call.now.stored()}));
    }
    save(call.db, Kind::Task, &task)?;
    Ok(json!({"id": model, "created": created, "updated": usize::from(!created), "fields": {}}).into())
}

fn publish(call: &Call<'_>, mut model: Document) -> Result<Value, ApiError> {
    if model.get("ready") == Some(&json!(true)) {
        return Err(ApiError::model_is_ready(text(&model, "id")));
    }
    model.insert("ready".into(), json!(true));
    store(call, &mut model)?;
    Ok(json!({"updated": 1}))
}

fn set_ready(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(publish(call, find(call)?)?.into())
}

fn set_archived(call: &Call<'_>, mut model: Document, archived: bool) -> Result<Value, ApiError> {
    list_at(&mut model, "system_tags").retain(|it| it != "archived");
    if archived {
        list_at(&mut model, "system_tags").push(json!("archived"));
    }
    store(call, &mut model)?;
    Ok(if archived { json!({"archived": true}) } else { json!({"unarchived": true}) })
}

fn remove(call: &Call<'_>, model: &Document) -> Result<Value, ApiError> {
    let id = text(model, "id");
    for mut task in storage::list(call.db, Kind::Task, &[Narrow { column: "id", values: &[text(model, "task")] }])? {
        list_at(object(&mut task, "models"), "output").retain(|it| it["model"] != id);
        save(call.db, Kind::Task, &task)?;
    }
    super::events::remove_of_task(call.db, id)?;
    let deleted = storage::remove(call.db, Kind::Model, id)?;
    Ok(json!({"deleted": deleted, "url": model.get("uri")}))
}

/// A model that tasks read, or that a published task put out, stays unless forced.
fn delete_if_allowed(call: &Call<'_>, model: &Document) -> Result<Value, ApiError> {
    if !call.flag("force") {
        let id = text(model, "id");
        let reads = |task: &Document| {
            let inputs = at(task, "models.input").and_then(Value::as_array);
            inputs.is_some_and(|it| it.iter().any(|it| it["model"] == id))
        };
        let readers = storage::list(call.db, Kind::Task, &[])?.iter().filter(|it| reads(it)).count();
        if readers > 0 {
            return Err(ApiError::model_in_use(readers));
        }
        let maker = text(model, "task");
        if load(call.db, Kind::Task, maker)?.is_some_and(|it| text(&it, "status") == "published") {
            return Err(ApiError::model_of_published(maker));
        }
    }
    remove(call, model)
}

fn delete(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(delete_if_allowed(call, &find(call)?)?.into())
}

fn many(call: &Call<'_>, act: impl Fn(&Call<'_>, Document) -> Result<Value, ApiError>) -> Result<Reply, ApiError> {
    let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
    for id in call.texts("ids") {
        match by_id(call, id).and_then(|model| act(call, model)) {
            Ok(mut answer) => {
                answer["id"] = json!(id);
                succeeded.push(answer);
            }
            Err(error) => failed.push(json!({
                "id": id,
                "error": {"codes": [error.code, error.subcode], "msg": error.message, "data": {}},
            })),
        }
    }
    Ok(json!({"succeeded": succeeded, "failed": failed}).into())
}

fn move_models(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let project = projects::target(call)?;
    for id in call.texts("ids") {
        let mut model = by_id(call, id)?;
        model.insert("project".into(), json!(project));
        store(call, &mut model)?;
    }
    Ok(json!({"project_id": project}).into())
}

fn add_metadata(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut model = find(call)?;
    let kept = object(&mut model, "metadata");
    if call.flag("replace_metadata") {
        kept.clear();
    }
    kept.extend(metadata(&call.body["metadata"]));
    store(call, &mut model)?;
    Ok(json!({"updated": 1}).into())
}

fn delete_metadata(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut model = find(call)?;
    let kept = object(&mut model, "metadata");
    for key in call.texts("keys") {
        kept.remove(key);
    }
    store(call, &mut model)?;
    Ok(json!({"updated": 1}).into())
}

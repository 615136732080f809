//! `projects.*`: a tree by names with slashes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::tasks::{Task, delete_task};
use crate::server::call::Type::{Any, Flag, List, Object, Text, Texts};
use crate::server::call::{Call, Endpoint, Field, Reply, Version, endpoint, may, must};
use crate::server::document::{Document, at, document, object, text, texts};
use crate::server::error::ApiError;
use crate::server::query::{Spec, get_all as query};
use crate::server::site::new_id;
use crate::server::storage::{self, Kind, Narrow, id_by_name, insert, load, save};

const V1: Version = Version(1, 0);

const SPEC: Spec = Spec {
    kind: Kind::Project,
    fields: &[
        "id",
        "name",
        "basename",
        "company",
        "user",
        "description",
        "created",
        "tags",
        "system_tags",
        "default_output_destination",
        "last_update",
        "featured",
        "parent",
        "path",
        "logo_url",
        "logo_blob",
        "company_origin",
        "sub_projects",
        "stats",
    ],
    narrow: &["id"],
    lists: &["id", "user", "tags", "system_tags", "parent", "path"],
    equal: &[],
    ranges: &[],
    dates: &["created", "last_update"],
    patterns: &["name", "basename", "description"],
};

const PROJECT: &[Field] = &[must("project", Text)];
const CREATE: &[Field] = &[
    must("name", Text),
    may("description", Text),
    may("tags", List),
    may("system_tags", List),
    may("default_output_destination", Text),
];
const LIST: &[Field] =
    &[may("id", Texts), may("name", Text), may("only_fields", Texts), may("_any_", Object), may("_all_", Object)];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("projects.get_by_id", V1, PROJECT, get_by_id),
    endpoint("projects.get_all", V1, LIST, get_all),
    endpoint("projects.get_all_ex", V1, LIST, get_all_ex),
    endpoint("projects.create", V1, CREATE, create),
    endpoint("projects.update", V1, &[must("project", Text), may("name", Text)], update),
    endpoint("projects.move", V1, &[must("project", Text), may("new_location", Any)], move_project),
    endpoint("projects.merge", V1, &[must("project", Text), must("destination_project", Text)], merge),
    endpoint("projects.validate_delete", V1, PROJECT, validate_delete),
    endpoint("projects.delete", V1, &[must("project", Text), may("force", Flag), may("delete_contents", Flag)], delete),
    endpoint("projects.get_task_tags", V1, &[may("projects", Texts)], |call| tags(call, Kind::Task)),
    endpoint("projects.get_model_tags", V1, &[may("projects", Texts)], |call| tags(call, Kind::Model)),
    endpoint("projects.get_project_tags", V1, &[], |call| tags(call, Kind::Project)),
    endpoint("projects.get_hyper_parameters", V1, PROJECT, get_hyper_parameters),
    endpoint("projects.get_unique_metric_variants", V1, &[may("project", Text)], get_unique_metric_variants),
    endpoint("projects.get_task_parents", V1, &[may("projects", Texts)], get_task_parents),
];

fn find(call: &Call<'_>) -> Result<Document, ApiError> {
    let id = call.required("project")?;
    load(call.db, Kind::Project, id)?.ok_or_else(|| ApiError::project_id(id))
}

/// Notes that something changed in a project.
pub(super) fn touch(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    if let Some(mut project) = load(call.db, Kind::Project, id)? {
        project.insert("last_update".into(), json!(call.now.stored()));
        save(call.db, Kind::Project, &project)?;
    }
    Ok(())
}

/// The project of that name, made with its parents when it is not there; its id.
pub(super) fn find_or_create(call: &Call<'_>, name: &str) -> Result<String, ApiError> {
    match id_by_name(call.db, Kind::Project, name)? {
        Some(id) => Ok(id),
        None => make(call, name, &Map::new()),
    }
}

/// The project to move things to: `project`, or `project_name`.
pub(super) fn target(call: &Call<'_>) -> Result<String, ApiError> {
    match (call.text("project"), call.text("project_name")) {
        (Some(id), _) if load(call.db, Kind::Project, id)?.is_none() => Err(ApiError::project_id(id)),
        (Some(id), _) => Ok(id.to_owned()),
        (None, Some(name)) => find_or_create(call, name),
        (None, None) => Err(ApiError::validation("project or project_name is required")),
    }
}

fn make(call: &Call<'_>, name: &str, given: &Document) -> Result<String, ApiError> {
    let name = name.trim_matches('/').trim();
    if name.chars().count() < 3 {
        return Err(ApiError::too_short("name"));
    }
    let (id, now) = (new_id()?, call.now.stored());
    let mut project = document(json!({
        "id": id, "company": call.company(), "user": call.identity.user, "description": "", "created": now,
        "tags": [], "system_tags": [], "last_update": now, "featured": 9999,
    }));
    project.extend(given.clone());
    place(call, &mut project, name)?;
    insert(call.db, Kind::Project, &project)?;
    Ok(id)
}

/// Gives a project its name and, by it, its place in the tree; parents are made where missing.
fn place(call: &Call<'_>, project: &mut Document, name: &str) -> Result<(), ApiError> {
    let mut path = Vec::new();
    project.remove("parent");
    if let Some((parent, _)) = name.rsplit_once('/') {
        let parent = find_or_create(call, parent)?;
        if let Some(parent) = load(call.db, Kind::Project, &parent)? {
            path = texts(&parent, "path").into_iter().map(str::to_owned).collect();
        }
        path.push(parent.clone());
        project.insert("parent".into(), json!(parent));
    }
    let basename = name.rsplit('/').next().unwrap_or(name);
    project.insert("name".into(), json!(name));
    project.insert("basename".into(), json!(basename));
    project.insert("path".into(), json!(path));
    Ok(())
}

fn get_by_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"project": find(call)?}).into())
}

fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    if call.flag("shallow_search") {
        found.documents.retain(|it| !it.contains_key("parent"));
    }
    if found.only().is_empty() {
        for project in &mut found.documents {
            project.remove("path");
        }
    }
    Ok(found.reply("projects"))
}

fn get_all_ex(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    let only = found.only().to_vec();
    for project in &mut found.documents {
        if call.flag("include_stats") {
            let stats = stats(call, text(project, "id"))?;
            project.insert("stats".into(), stats);
        }
        super::references::expand(call.db, project, &only)?;
    }
    Ok(found.reply("projects"))
}

fn stats(call: &Call<'_>, id: &str) -> Result<Value, ApiError> {
    let mut by_status = Map::new();
    let (mut total, mut archived) = (0, 0);
    for task in storage::list(call.db, Kind::Task, &[Narrow { column: "project", values: &[id] }])? {
        if texts(&task, "system_tags").contains(&"archived") {
            archived += 1;
            continue;
        }
        total += 1;
        let slot = by_status.entry(text(&task, "status")).or_insert(json!(0));
        *slot = json!(slot.as_i64().unwrap_or_default() + 1);
    }
    Ok(json!({
        "active": {"status_count": by_status, "total_tasks": total},
        "archived": {"total_tasks": archived},
    }))
}

/// The fields of a body that a project takes.
fn given(call: &Call<'_>) -> Document {
    let fields = ["description", "tags", "system_tags", "default_output_destination"];
    let present = fields.into_iter().filter_map(|field| Some((field, call.body.get(field)?)));
    present.filter(|(_, it)| !it.is_null()).map(|(field, it)| (field.to_owned(), it.clone())).collect()
}

fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = make(call, call.required("name")?, &given(call))?;
    Ok(json!({"id": id}).into())
}

fn update(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut project = find(call)?;
    let mut fields = given(call);
    project.extend(fields.clone());
    project.insert("last_update".into(), json!(call.now.stored()));
    if let Some(name) = call.text("name") {
        fields.insert("name".into(), json!(name));
        rename(call, &mut project, name)?;
    }
    save(call.db, Kind::Project, &project)?;
    Ok(json!({"updated": 1, "fields": fields}).into())
}

/// Renames a project and everything below it.
fn rename(call: &Call<'_>, project: &mut Document, name: &str) -> Result<(), ApiError> {
    let old = format!("{}/", text(project, "name"));
    if format!("{name}/").starts_with(&old) && name.len() >= old.len() {
        return Err(ApiError::validation("project cannot be moved under itself"));
    }
    place(call, project, name)?;
    save(call.db, Kind::Project, project)?;
    let mut below: Vec<Document> = storage::list(call.db, Kind::Project, &[])?;
    below.retain(|it| text(it, "name").starts_with(&old));
    below.sort_by_key(|it| text(it, "name").len());
    for mut child in below {
        let moved = format!("{name}/{}", &text(&child, "name")[old.len()..]);
        place(call, &mut child, &moved)?;
        save(call.db, Kind::Project, &child)?;
    }
    Ok(())
}

fn move_project(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut project = find(call)?;
    let basename = text(&project, "basename").to_owned();
    let name = call.text("new_location").map_or_else(|| basename.clone(), |it| format!("{it}/{basename}"));
    rename(call, &mut project, &name)?;
    Ok(json!({"moved": 1}).into())
}

fn merge(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let project = find(call)?;
    let (from, to) = (text(&project, "id"), call.required("destination_project")?);
    if load(call.db, Kind::Project, to)?.is_none() {
        return Err(ApiError::project_id(to));
    }
    let mut moved = 0;
    for kind in [Kind::Task, Kind::Model] {
        for mut item in storage::list(call.db, kind, &[Narrow { column: "project", values: &[from] }])? {
            item.insert("project".into(), json!(to));
            save(call.db, kind, &item)?;
            moved += 1;
        }
    }
    storage::remove(call.db, Kind::Project, from)?;
    Ok(json!({"moved_entities": moved, "moved_projects": 0}).into())
}

/// A project's own id and those of everything below it.
fn subtree(call: &Call<'_>, project: &Document) -> Result<Vec<String>, ApiError> {
    let id = text(project, "id");
    let mut ids = vec![id.to_owned()];
    for other in storage::list(call.db, Kind::Project, &[])? {
        if texts(&other, "path").contains(&id) {
            ids.push(text(&other, "id").to_owned());
        }
    }
    Ok(ids)
}

/// How many tasks or models are in projects, and how many of them are not archived.
fn contents(call: &Call<'_>, ids: &[String], kind: Kind) -> Result<(usize, usize), ApiError> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let all = storage::list(call.db, kind, &[Narrow { column: "project", values: &ids }])?;
    let active = all.iter().filter(|it| !texts(it, "system_tags").contains(&"archived")).count();
    Ok((all.len(), active))
}

fn validate_delete(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let ids = subtree(call, &find(call)?)?;
    let (tasks, models) = (contents(call, &ids, Kind::Task)?, contents(call, &ids, Kind::Model)?);
    Ok(json!({"tasks": tasks.0, "non_archived_tasks": tasks.1, "models": models.0, "non_archived_models": models.1})
        .into())
}

fn delete(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let project = find(call)?;
    let ids = subtree(call, &project)?;
    let (tasks, models) = (contents(call, &ids, Kind::Task)?, contents(call, &ids, Kind::Model)?);
    // What is archived does not hold a project back.
    if !call.flag("force") {
        if tasks.1 > 0 {
            return Err(ApiError::project_has_tasks(tasks.1));
        }
        if models.1 > 0 {
            return Err(ApiError::project_has_models(models.1));
        }
    }
    let wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    let narrow = [Narrow { column: "project", values: &wanted }];
    let contents = call.flag("delete_contents");
    for task in storage::list(call.db, Kind::Task, &narrow)? {
        let mut task = Task::new(task);
        if contents {
            delete_task(call, &task)?;
        } else {
            task.body.remove("project");
            task.save(call)?;
        }
    }
    for mut model in storage::list(call.db, Kind::Model, &narrow)? {
        if contents {
            storage::remove(call.db, Kind::Model, text(&model, "id"))?;
        } else {
            model.remove("project");
            save(call.db, Kind::Model, &model)?;
        }
    }
    for id in &ids {
        storage::remove(call.db, Kind::Project, id)?;
    }
    let key = if contents { "deleted" } else { "disassociated" };
    let mut answer = json!({"deleted": ids.len(), "disassociated_tasks": 0, "deleted_models": 0, "deleted_tasks": 0});
    answer[format!("{key}_tasks")] = json!(tasks.0);
    answer[format!("{key}_models")] = json!(models.0);
    Ok(answer.into())
}

/// The tags in use, of the projects asked for.
pub(super) fn tags(call: &Call<'_>, kind: Kind) -> Result<Reply, ApiError> {
    let projects = call.texts("projects");
    let narrow = [Narrow { column: "project", values: &projects }];
    let narrow = if projects.is_empty() || kind == Kind::Project { &[][..] } else { &narrow };
    let (mut plain, mut system) = (BTreeSet::new(), BTreeSet::new());
    for item in storage::list(call.db, kind, narrow)? {
        plain.extend(texts(&item, "tags").into_iter().map(str::to_owned));
        system.extend(texts(&item, "system_tags").into_iter().map(str::to_owned));
    }
    let mut answer = json!({"tags": plain});
    if call.flag("include_system") {
        answer["system_tags"] = json!(system);
    }
    Ok(answer.into())
}

fn tasks_of(call: &Call<'_>, project: Option<&str>) -> Result<Vec<Document>, ApiError> {
    let values: Vec<&str> = project.into_iter().collect();
    let narrow = [Narrow { column: "project", values: &values }];
    storage::list(call.db, Kind::Task, if values.is_empty() { &[] } else { &narrow })
}

fn get_hyper_parameters(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let project = find(call)?;
    let mut names = BTreeSet::new();
    for mut task in tasks_of(call, Some(text(&project, "id")))? {
        for (section, parameters) in object(&mut task, "hyperparams") {
            let parameters = parameters.as_object().into_iter().flatten();
            names.extend(parameters.map(|(name, _)| (section.clone(), name.clone())));
        }
    }
    let total = names.len();
    let parameters: Vec<Value> =
        names.into_iter().map(|(section, name)| json!({"section": section, "name": name})).collect();
    Ok(json!({"parameters": parameters, "remaining": 0, "total": total}).into())
}

fn get_unique_metric_variants(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut seen = Map::new();
    for task in tasks_of(call, call.text("project"))? {
        let metrics = task.get("last_metrics").and_then(Value::as_object).into_iter().flatten();
        for (metric_hash, variants) in metrics {
            for (variant_hash, last) in variants.as_object().into_iter().flatten() {
                let item = json!({"metric": last["metric"], "variant": last["variant"], "metric_hash": metric_hash,
                    "variant_hash": variant_hash});
                seen.insert(format!("{metric_hash}.{variant_hash}"), item);
            }
        }
    }
    Ok(json!({"metrics": seen.into_iter().map(|(_, it)| it).collect::<Vec<_>>()}).into())
}

fn get_task_parents(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let projects = call.texts("projects");
    let mut parents = BTreeSet::new();
    for task in storage::list(call.db, Kind::Task, &[])? {
        let wanted = projects.is_empty() || projects.contains(&text(&task, "project"));
        if let Some(parent) = at(&task, "parent").and_then(Value::as_str).filter(|_| wanted) {
            parents.insert(parent.to_owned());
        }
    }
    let mut answer = Vec::new();
    for id in parents {
        if let Some(parent) = load(call.db, Kind::Task, &id)? {
            answer.push(json!({"id": id, "name": text(&parent, "name"), "project": {"id": parent.get("project")}}));
        }
    }
    Ok(json!({"parents": answer}).into())
}

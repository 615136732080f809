//! `queues.*`.

mod metrics;

use serde_json::{Map, Value, json};

use super::tasks::{dequeue_entry, set_queued};
use crate::server::call::Type::{Flag, Integer, List, Number, Text, Texts};
use crate::server::call::{Call, Endpoint, Field, Reply, Version, endpoint, may, must};
use crate::server::document::{Document, list as list_at, object, text, texts};
use crate::server::entries::{self, Entry};
use crate::server::error::ApiError;
use crate::server::query::{Spec, get_all as query};
use crate::server::site::new_id;
use crate::server::storage::{self, Kind, id_by_name, insert, load, save};

const V2_4: Version = Version(2, 4);
const V1: Version = Version(1, 0);

const SPEC: Spec = Spec {
    kind: Kind::Queue,
    fields: &[
        "id",
        "name",
        "user",
        "company",
        "created",
        "tags",
        "system_tags",
        "entries",
        "last_update",
        "metadata",
        "display_name",
        "workers",
        "company_origin",
    ],
    narrow: &["id"],
    lists: &["id", "tags", "system_tags"],
    equal: &[],
    ranges: &[],
    dates: &["created", "last_update"],
    patterns: &["name"],
};

const QUEUE: &[Field] = &[must("queue", Text)];
const ENTRY: &[Field] = &[must("queue", Text), must("task", Text), may("count", Integer)];
const LIST: &[Field] =
    &[may("id", Texts), may("name", Text), may("only_fields", Texts), may("tags", Texts), may("system_tags", Texts)];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("queues.get_by_id", V2_4, QUEUE, get_by_id),
    endpoint("queues.get_all", V2_4, LIST, get_all),
    endpoint("queues.get_all_ex", V2_4, LIST, get_all_ex),
    endpoint("queues.get_default", V2_4, &[], get_default),
    endpoint("queues.create", V2_4, &[must("name", Text), may("tags", List), may("system_tags", List)], create),
    endpoint(
        "queues.update",
        V2_4,
        &[must("queue", Text), may("name", Text), may("tags", List), may("system_tags", List)],
        update,
    ),
    endpoint("queues.delete", V2_4, &[must("queue", Text), may("force", Flag)], delete),
    endpoint("queues.add_task", V2_4, ENTRY, add_task),
    endpoint("queues.remove_task", V2_4, ENTRY, remove_task),
    endpoint("queues.clear_queue", V2_4, QUEUE, clear_queue),
    endpoint(
        "queues.get_next_task",
        V1,
        &[must("queue", Text), may("get_task_info", Flag), may("task", Text)],
        get_next_task,
    ),
    endpoint("queues.peek_task", Version(2, 15), QUEUE, peek_task),
    endpoint("queues.get_num_entries", Version(2, 15), QUEUE, get_num_entries),
    endpoint(
        "queues.get_queue_metrics",
        V2_4,
        &[
            must("from_date", Number),
            must("to_date", Number),
            must("interval", Integer),
            may("queue_ids", Texts),
            may("refresh", Flag),
        ],
        metrics::get,
    ),
    endpoint("queues.move_task_to_front", V2_4, ENTRY, |call| reorder(call, |_, _, _| 0)),
    endpoint("queues.move_task_to_back", V2_4, ENTRY, |call| reorder(call, |_, last, _| last)),
    endpoint("queues.move_task_forward", V2_4, ENTRY, |call| reorder(call, |at, _, by| at.saturating_sub(by))),
    endpoint("queues.move_task_backward", V2_4, ENTRY, |call| reorder(call, |at, _, by| at.saturating_add(by))),
    endpoint("queues.add_or_update_metadata", V2_4, &[must("queue", Text), must("metadata", List)], add_metadata),
    endpoint("queues.delete_metadata", V2_4, &[must("queue", Text), must("keys", List)], delete_metadata),
];

fn find(call: &Call<'_>, id: &str) -> Result<Document, ApiError> {
    load(call.db, Kind::Queue, id)?.ok_or_else(|| ApiError::queue_id(id, call.company()))
}

/// The queue a body names, which must exist.
fn named(call: &Call<'_>) -> Result<String, ApiError> {
    let id = call.required("queue")?;
    find(call, id)?;
    Ok(id.to_owned())
}

/// The queue to enqueue into: by id, by name (created when missing), else the default one.
pub(super) fn target(call: &Call<'_>) -> Result<String, ApiError> {
    match (call.text("queue"), call.text("queue_name")) {
        (Some(_), Some(_)) => Err(ApiError::validation("only one of 'queue' and 'queue_name' can be provided")),
        (Some(id), None) => Ok(text(&find(call, id)?, "id").to_owned()),
        (None, Some(name)) => match id_by_name(call.db, Kind::Queue, name)? {
            Some(id) => Ok(id),
            None => Ok(text(&make(call, name)?, "id").to_owned()),
        },
        (None, None) => Ok(text(&default(call)?, "id").to_owned()),
    }
}

fn default(call: &Call<'_>) -> Result<Document, ApiError> {
    let queues = storage::list(call.db, Kind::Queue, &[])?;
    queues.into_iter().find(|it| texts(it, "system_tags").contains(&"default")).ok_or_else(ApiError::no_default_queue)
}

fn make(call: &Call<'_>, name: &str) -> Result<Document, ApiError> {
    if name.trim().chars().count() < 3 {
        return Err(ApiError::too_short("name"));
    }
    let now = call.now.stored();
    let queue = crate::server::document::document(json!({
        "id": new_id()?, "name": name, "company": call.company(), "user": call.identity.user, "created": now,
        "tags": call.texts("tags"), "system_tags": call.texts("system_tags"), "last_update": now, "metadata": {},
    }));
    insert(call.db, Kind::Queue, &queue)?;
    Ok(queue)
}

/// A queue as clients see it: its entries, and metadata in the form of the version asked for.
fn shown(call: &Call<'_>, mut queue: Document) -> Result<Document, ApiError> {
    let entries = entries::of_queue(call.db, text(&queue, "id"))?;
    queue.remove("user");
    queue.insert("entries".into(), entries.iter().map(Entry::to_json).collect());
    if call.version < Version(2, 14) {
        let metadata = object(&mut queue, "metadata");
        let items: Vec<Value> = metadata.values().cloned().collect();
        queue.insert("metadata".into(), json!(items));
    }
    Ok(queue)
}

/// Notes that something changed in a queue.
pub(super) fn touch(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    if let Some(mut queue) = load(call.db, Kind::Queue, id)? {
        queue.insert("last_update".into(), json!(call.now.stored()));
        save(call.db, Kind::Queue, &queue)?;
        metrics::note(call, id)?;
    }
    Ok(())
}

fn get_by_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = find(call, call.required("queue")?)?;
    Ok(json!({"queue": shown(call, queue)?}).into())
}

fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    for queue in &mut found.documents {
        *queue = shown(call, std::mem::take(queue))?;
    }
    Ok(found.reply("queues"))
}

/// Queues with the workers that serve them and their tasks' names; always whole, whatever fields are asked for.
fn get_all_ex(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let workers = super::workers::all(call)?;
    let mut queues = Vec::new();
    for queue in query(call, &SPEC)?.documents {
        let mut queue = shown(call, queue)?;
        let id = text(&queue, "id").to_owned();
        let serving = workers.iter().filter(|it| texts(it, "queues").contains(&id.as_str()));
        let serving: Vec<Value> =
            serving.map(|it| json!({"name": text(it, "id"), "ip": it["ip"], "task": it.get("task")})).collect();
        queue.insert("workers".into(), json!(serving));
        for entry in list_at(&mut queue, "entries") {
            let id = entry["task"].as_str().unwrap_or_default().to_owned();
            let task = load(call.db, Kind::Task, &id)?.unwrap_or_default();
            entry["task"] = json!({"id": id, "name": text(&task, "name")});
        }
        let company = json!({"id": call.company()});
        queue.insert("company".into(), company);
        queues.push(Value::Object(queue));
    }
    Ok(json!({"queues": queues}).into())
}

fn get_default(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = default(call)?;
    Ok(json!({"id": queue["id"], "name": queue["name"]}).into())
}

fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = make(call, call.required("name")?)?;
    Ok(json!({"id": queue["id"]}).into())
}

fn update(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut queue = find(call, call.required("queue")?)?;
    let mut fields = Map::new();
    for field in ["name", "tags", "system_tags", "display_name"] {
        if let Some(value) = call.body.get(field).filter(|it| !it.is_null()) {
            queue.insert(field.into(), value.clone());
            fields.insert(field.into(), value.clone());
        }
    }
    if text(&queue, "name").trim().chars().count() < 3 {
        return Err(ApiError::too_short("name"));
    }
    save(call.db, Kind::Queue, &queue)?;
    Ok(json!({"updated": 1, "fields": fields}).into())
}

fn delete(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = named(call)?;
    let entries = entries::of_queue(call.db, &id)?;
    if !entries.is_empty() && !call.flag("force") {
        return Err(ApiError::queue_not_empty(&id));
    }
    for entry in entries {
        dequeue_entry(call, &entry.task)?;
    }
    entries::clear(call.db, &id)?;
    storage::remove(call.db, Kind::Queue, &id)?;
    Ok(json!({"deleted": 1}).into())
}

/// Only lists the task, whatever its status; `execution.queue` says where.
fn add_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (queue, id) = (named(call)?, call.required("task")?);
    let mut task = load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::task_id(id))?;
    entries::add(call.db, &queue, id, &call.now.stored())?;
    object(&mut task, "execution").insert("queue".into(), json!(queue));
    save(call.db, Kind::Task, &task)?;
    touch(call, &queue)?;
    Ok(json!({"added": 1}).into())
}

fn remove_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (queue, task) = (named(call)?, call.required("task")?);
    if !entries::remove(call.db, &queue, task)? {
        return Err(ApiError::not_in_queue(&queue, task, call.company()));
    }
    if call.flag("update_task_status") {
        dequeue_entry(call, task)?;
    }
    touch(call, &queue)?;
    Ok(json!({"removed": 1}).into())
}

fn clear_queue(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = named(call)?;
    let removed: Vec<String> = entries::of_queue(call.db, &queue)?.into_iter().map(|it| it.task).collect();
    for task in &removed {
        dequeue_entry(call, task)?;
    }
    entries::clear(call.db, &queue)?;
    touch(call, &queue)?;
    Ok(json!({"removed_tasks": removed}).into())
}

/// Hands out the first entry. The task itself stays as it is: the taker says `tasks.started`.
fn get_next_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = named(call)?;
    let first = entries::of_queue(call.db, &queue)?.into_iter().next();
    let wanted = call.text("task");
    let Some(entry) = first.filter(|it| wanted.is_none_or(|task| task == it.task)) else {
        return Ok(json!({}).into());
    };
    entries::remove(call.db, &queue, &entry.task)?;
    touch(call, &queue)?;
    set_queued(call, &entry.task)?;
    let mut answer = json!({"entry": entry.to_json()});
    if call.flag("get_task_info")
        && let Some(task) = load(call.db, Kind::Task, &entry.task)?
    {
        answer["task_info"] = json!({"company": task["company"], "user": task["user"]});
    }
    Ok(answer.into())
}

fn peek_task(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = named(call)?;
    let first = entries::of_queue(call.db, &queue)?.into_iter().next();
    Ok(json!({"task": first.map(|it| it.task)}).into())
}

fn get_num_entries(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = named(call)?;
    Ok(json!({"num": entries::count(call.db, &queue)?}).into())
}

fn reorder(call: &Call<'_>, place: fn(usize, usize, usize) -> usize) -> Result<Reply, ApiError> {
    let (queue, task) = (named(call)?, call.required("task")?);
    let by = usize::try_from(call.integer("count").unwrap_or(1)).unwrap_or(1);
    let moved = entries::move_to(call.db, &queue, task, |at, last| place(at, last, by))?;
    let position = moved.ok_or_else(|| ApiError::not_in_queue(&queue, task, call.company()))?;
    Ok(json!({"position": position}).into())
}

fn add_metadata(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut queue = find(call, call.required("queue")?)?;
    let metadata = object(&mut queue, "metadata");
    if call.flag("replace_metadata") {
        metadata.clear();
    }
    for item in call.items("metadata") {
        let key = item["key"].as_str().ok_or_else(|| ApiError::field_required("key"))?;
        metadata.insert(key.to_owned(), item.clone());
    }
    save(call.db, Kind::Queue, &queue)?;
    Ok(json!({"updated": 1}).into())
}

fn delete_metadata(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut queue = find(call, call.required("queue")?)?;
    let metadata = object(&mut queue, "metadata");
    for key in call.texts("keys") {
        metadata.remove(key);
    }
    save(call.db, Kind::Queue, &queue)?;
    Ok(json!({"updated": 1}).into())
}

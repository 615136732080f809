//! Status changes: the table decides (`clearml::status`), the database swaps.

use serde_json::{Value, json};

use super::store::{Task, load_task};
use crate::clearml::status::Status;
use crate::server::call::{Call, Reply};
use crate::server::clock::parse_millis;
use crate::server::document::{Document, object, text};
use crate::server::entries;
use crate::server::error::ApiError;
use crate::server::services::{projects, queues};
use crate::server::storage::{self, Kind, Narrow};

/// A worker that has said nothing for so long does not run the task any more, in milliseconds.
const WORKER_SILENCE: i64 = 600_000;

/// A change of status asked for.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    to: Status,
    reason: &'a str,
    message: &'a str,
    force: bool,
}

impl<'a> Change<'a> {
    pub(super) fn asked(call: &'a Call<'_>, to: Status) -> Self {
        let (reason, message) = (call.text("status_reason"), call.text("status_message"));
        Self { to, reason: reason.unwrap_or(""), message: message.unwrap_or(""), force: call.flag("force") }
    }

    pub(super) fn with(self, reason: &'a str, message: &'a str) -> Self {
        Self { reason, message, ..self }
    }

    pub(super) fn forced(self) -> Self {
        Self { force: true, ..self }
    }
}

/// Changes a loaded task's status and dates; what changed, as the answer shows it. Does not store it.
pub(super) fn change(call: &Call<'_>, task: &mut Task, change: Change<'_>) -> Result<Document, ApiError> {
    let Change { to, reason, message, force } = change;
    if !force && !task.was.may_become(to) {
        return Err(ApiError::task_status_change(task.was.as_str(), to.as_str()));
    }
    let mut fields = Document::new();
    for (field, value) in [("status", to.as_str()), ("status_reason", reason), ("status_message", message)] {
        task.body.insert(field.into(), json!(value));
        fields.insert(field.into(), json!(value));
    }
    let enters = task.was != to;
    let mut dates = vec!["status_changed"];
    match to {
        Status::InProgress if enters || text(&task.body, "started").is_empty() => {
            dates.push("started");
            task.body.remove("completed");
            task.body.remove("active_duration");
        }
        Status::Stopped | Status::Failed | Status::Completed => dates.push("completed"),
        Status::Published => dates.push("published"),
        _ => {}
    }
    for field in dates {
        task.body.insert(field.into(), json!(call.now.stored()));
        fields.insert(field.into(), json!(call.now.exact()));
    }
    fields.extend(task.touch(call));
    Ok(fields)
}

/// Loads, changes and stores; refusals of unknown tasks are worded as the original's status calls do.
fn apply(call: &Call<'_>, id: &str, asked: Change<'_>) -> Result<Document, ApiError> {
    let mut task = load_for_change(call, id)?;
    let fields = change(call, &mut task, asked)?;
    task.save(call)?;
    projects::touch(call, text(&task.body, "project"))?;
    Ok(fields)
}

fn load_for_change(call: &Call<'_>, id: &str) -> Result<Task, ApiError> {
    let body = storage::load(call.db, Kind::Task, id)?.ok_or_else(|| ApiError::object_id("task"))?;
    Ok(Task::new(body))
}

fn simple(call: &Call<'_>, to: Status) -> Result<Document, ApiError> {
    apply(call, call.required("task")?, Change::asked(call, to))
}

pub(super) fn started(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let fields = simple(call, Status::InProgress)?;
    Ok(json!({"fields": fields, "started": 1, "updated": 1}).into())
}

pub(super) fn stopped(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"fields": simple(call, Status::Stopped)?, "updated": 1}).into())
}

pub(super) fn failed(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"fields": simple(call, Status::Failed)?, "updated": 1}).into())
}

pub(super) fn close(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"fields": simple(call, Status::Closed)?, "updated": 1}).into())
}

pub(super) fn completed(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut fields = simple(call, Status::Completed)?;
    let mut published = 0;
    if call.flag("publish") {
        let mut task = load_for_change(call, call.required("task")?)?;
        fields.extend(publish_task(call, &mut task)?);
        published = 1;
    }
    Ok(json!({"fields": fields, "published": published, "updated": 1}).into())
}

pub(super) fn publish(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut task = load_for_change(call, call.required("task")?)?;
    let fields = publish_task(call, &mut task)?;
    Ok(json!({"committed_versions_results": [], "fields": fields, "updated": 1}).into())
}

fn publish_task(call: &Call<'_>, task: &mut Task) -> Result<Document, ApiError> {
    let fields = change(call, task, Change::asked(call, Status::Published))?;
    task.save(call)?;
    if call.body.get("publish_model") != Some(&json!(false)) {
        let id = task.id();
        for mut model in storage::list(call.db, Kind::Model, &[Narrow { column: "task", values: &[id] }])? {
            model.insert("ready".into(), json!(true));
            storage::save(call.db, Kind::Model, &model)?;
        }
    }
    Ok(fields)
}

/// Whether a worker has been heard of the task lately.
fn is_run(call: &Call<'_>, task: &Document) -> bool {
    let heard = parse_millis(text(task, "last_update"));
    !text(task, "last_worker").is_empty() && heard.is_some_and(|it| call.now.millis() - it < WORKER_SILENCE)
}

/// Stops a task, or asks the worker that runs it to.
pub(super) fn stop_task(call: &Call<'_>, id: &str) -> Result<Document, ApiError> {
    let mut task = load_for_change(call, id)?;
    let at_once = task.was == Status::Queued || task.has_system_tag("development") || !is_run(call, &task.body);
    let asked = Change::asked(call, Status::Stopped);
    let fields = if at_once {
        entries::remove_everywhere(call.db, id)?;
        let message = format!("Stopped by {}", call.identity.user_name);
        change(call, &mut task, asked.with(asked.reason, &message))?
    } else {
        let stays = Change { to: task.was, ..asked };
        change(call, &mut task, stays.with(asked.reason, "stopping"))?
    };
    task.save(call)?;
    Ok(fields)
}

pub(super) fn stop(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"fields": stop_task(call, call.required("task")?)?, "updated": 1}).into())
}

/// Puts a task into a queue; the answer of `tasks.enqueue`.
fn enqueue_task(call: &Call<'_>, id: &str, queue: &str) -> Result<Value, ApiError> {
    let mut task = load_task(call, id)?;
    let before = if task.was == Status::Queued {
        text(&task.body, "enqueue_status").to_owned()
    } else {
        task.was.as_str().to_owned()
    };
    let mut fields = change(call, &mut task, Change::asked(call, Status::Queued))?;
    for other in entries::queues_of(call.db, id)?.iter().filter(|it| *it != queue) {
        entries::remove(call.db, other, id)?;
    }
    entries::add(call.db, queue, id, &call.now.stored())?;
    task.remove_system_tag("development");
    task.body.insert("enqueue_status".into(), json!(before));
    object(&mut task.body, "execution").insert("queue".into(), json!(queue));
    task.save(call)?;
    queues::touch(call, queue)?;
    fields.insert("enqueue_status".into(), json!(before));
    fields.insert("execution.queue".into(), json!(queue));
    Ok(json!({"fields": fields, "queued": 1, "updated": 1}))
}

pub(super) fn enqueue(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = queues::target(call)?;
    Ok(enqueue_task(call, call.required("task")?, &queue)?.into())
}

pub(super) fn enqueue_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let queue = queues::target(call)?;
    Ok(many(call, |call, id| enqueue_task(call, id, &queue)))
}

/// Marks a task as queued again, as popping one that was stopped meanwhile does.
pub(in crate::server::services) fn set_queued(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    let Some(body) = storage::load(call.db, Kind::Task, id)? else { return Ok(()) };
    let mut task = Task::new(body);
    if task.was == Status::Stopped {
        change(call, &mut task, Change::asked(call, Status::Queued).with("", ""))?;
        task.save(call)?;
    }
    Ok(())
}

/// Takes a task out of its queues and back to the status it had, as removing its entry with `update_task_status` does.
pub(in crate::server::services) fn dequeue_entry(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    dequeue_task(call, id, None).map(drop)
}

/// The answer of `tasks.dequeue`. Of a running task only the status changes; of any other than a queued one nothing.
fn dequeue_task(call: &Call<'_>, id: &str, new: Option<&str>) -> Result<Value, ApiError> {
    let mut task = load_task(call, id)?;
    let to = match task.was {
        Status::Queued => {
            entries::remove_everywhere(call.db, id)?;
            new.unwrap_or(match text(&task.body, "enqueue_status") {
                "" => "created",
                before => before,
            })
        }
        Status::InProgress => new.unwrap_or("created"),
        _ => return Ok(json!({"dequeued": 1, "fields": {}, "updated": 0})),
    };
    let to: Status = to.parse().map_err(|_| ApiError::field_invalid_choice("new_status", to))?;
    let mut fields = change(call, &mut task, Change::asked(call, to).forced())?;
    task.body.remove("enqueue_status");
    task.save(call)?;
    fields.insert("enqueue_status".into(), Value::Null);
    Ok(json!({"dequeued": 1, "fields": fields, "updated": 1}))
}

pub(super) fn dequeue(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(dequeue_task(call, call.required("task")?, call.text("new_status"))?.into())
}

pub(super) fn dequeue_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, |call, id| dequeue_task(call, id, None)))
}

pub(super) fn stop_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, |call, id| Ok(json!({"fields": stop_task(call, id)?, "updated": 1}))))
}

pub(super) fn publish_many(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(many(call, |call, id| {
        let mut task = load_for_change(call, id)?;
        Ok(json!({"fields": publish_task(call, &mut task)?, "updated": 1}))
    }))
}

/// Does the same to each of `ids`; what is refused for one does not undo the others.
pub(super) fn many(call: &Call<'_>, act: impl Fn(&Call<'_>, &str) -> Result<Value, ApiError>) -> Reply {
    let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
    for id in call.texts("ids") {
        match atomically(call, || act(call, id)) {
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
    json!({"succeeded": succeeded, "failed": failed}).into()
}

/// Runs in a savepoint: a refusal leaves nothing half done in the call's transaction.
fn atomically<T>(call: &Call<'_>, act: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
    call.db.execute_batch("SAVEPOINT one")?;
    let result = act();
    let end = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
    call.db.execute_batch(end)?;
    result
}

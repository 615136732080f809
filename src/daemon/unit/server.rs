//! What a unit asks the server about its task, and the marks it leaves there.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::clearml::tasks::{self, State};
use crate::clearml::{ApiError, Client};
use crate::run::RunId;

/// The run that has the task.
const RUN: &str = "_agent_run";
/// How often the machinery has failed it.
const ATTEMPT: &str = "_agent_attempt";
/// The machine that has it, as the original marks it.
const HOST: &str = "_exec_agent_hostname";
/// A task whose worker said nothing for so long is nobody's: the server itself counts so when a task is to be stopped.
const SILENT: i64 = 600;

/// "Invalid task status": a change that the server's table does not have.
pub(super) const NO_CHANGE: (u16, i64) = (400, 110);
/// Somebody else changed it in the same moment.
pub(super) const RACE: (u16, i64) = (400, 121);

/// "Invalid queue id".
pub(super) const NO_QUEUE: (u16, i64) = (400, 701);

/// A task, as far as a unit wants to know it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) name: String,
    pub(super) queue: Option<String>,
    worker: String,
    updated: String,
    runtime: Value,
}

/// Looks at a task; `None` where there is none.
pub(super) async fn look(client: &Client, task: &str) -> Result<Option<Seen>, ApiError> {
    let fields = ["name", "status", "status_message", "last_worker", "last_update", "execution.queue", "runtime"];
    let query = json!({ "id": [task], "search_hidden": true, "only_fields": fields });
    let data = client.call("tasks.get_all", &query).await?;
    Ok(data.pointer("/tasks/0").map(Seen::of))
}

impl Seen {
    pub(super) fn of(task: &Value) -> Self {
        let text = |pointer: &str| task.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            state: State::of(task),
            name: text("/name"),
            queue: Some(text("/execution/queue")).filter(|it| !it.is_empty()),
            worker: text("/last_worker"),
            updated: text("/last_update"),
            runtime: task.get("runtime").cloned().unwrap_or_default(),
        }
    }

    /// Whether another run has taken the task since this one did.
    pub(super) fn is_taken_from(&self, run: &RunId) -> bool {
        self.text(RUN).is_some_and(|it| it != run.as_str())
    }

    /// Whether the task says that it is this run's.
    pub(super) fn is_marked(&self, run: &RunId) -> bool {
        self.text(RUN) == Some(run.as_str())
    }

    /// How often the machinery has failed the task.
    pub(super) fn attempt(&self) -> u32 {
        self.number(ATTEMPT).and_then(|it| u32::try_from(it).ok()).unwrap_or(0)
    }

    /// The worker that has it.
    pub(super) fn worker(&self) -> Option<String> {
        Some(self.worker.clone()).filter(|it| !it.is_empty())
    }

    /// Whether this run or this worker has it. A worker that was killed right after it had taken the task had not said
    /// yet that it has it: the change's own message tells by whom it was.
    pub(super) fn is_by(&self, run: &RunId, worker: &str) -> bool {
        self.worker == worker || self.is_marked(run) || self.state.message == tasks::changed_by(worker)
    }

    /// Whether a worker other than this one runs it, as far as anybody can know.
    pub(super) fn is_run_by_another(&self, run: &RunId, worker: &str, now: Timestamp) -> bool {
        if self.state.status != "in_progress" || self.is_by(run, worker) {
            return false;
        }
        let heard = self.updated.parse::<Timestamp>().ok();
        heard.is_none_or(|it| now.as_second() - it.as_second() <= SILENT)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.runtime.get(name)?.as_str().filter(|it| !it.is_empty())
    }

    fn number(&self, name: &str) -> Option<u64> {
        let value = self.runtime.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse::<f64>().ok().map(|it| it as u64))
    }
}

/// The marks of a run on its task. The server replaces all of them at once, so that the others are read first.
pub(super) async fn mark(client: &Client, task: &str, run: Option<&RunId>, attempt: u32) -> Result<(), ApiError> {
    let seen = look(client, task).await?;
    let mut runtime: Map<String, Value> = seen.and_then(|it| it.runtime.as_object().cloned()).unwrap_or_default();
    runtime.insert(RUN.to_owned(), json!(run.map(RunId::as_str).unwrap_or_default()));
    runtime.insert(ATTEMPT.to_owned(), json!(attempt));
    runtime.insert(HOST.to_owned(), json!(hostname()));
    let edit = json!({ "task": task, "force": true, "runtime": runtime });
    client.call("tasks.edit", &edit).await.map(|_| ())
}

/// Whether a task says that it is this run's.
pub(in crate::daemon) async fn is_marked(client: &Client, task: &str, run: &RunId) -> Result<bool, ApiError> {
    Ok(look(client, task).await?.is_some_and(|it| it.is_marked(run)))
}

/// Sets one property of a task.
pub(super) async fn note(client: &Client, task: &str, name: &str, value: &str) -> Result<(), ApiError> {
    let seen = look(client, task).await?;
    let mut runtime: Map<String, Value> = seen.and_then(|it| it.runtime.as_object().cloned()).unwrap_or_default();
    runtime.insert(name.to_owned(), json!(value));
    let edit = json!({ "task": task, "force": true, "runtime": runtime });
    client.call("tasks.edit", &edit).await.map(|_| ())
}

/// The machine's name.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a task waits in a queue.
pub(super) async fn is_queued(client: &Client, queue: &str, task: &str) -> Result<bool, ApiError> {
    let data = match client.call("queues.get_by_id", &json!({ "queue": queue })).await {
        // Nothing waits in a queue that is gone.
        Err(error) if error.is(NO_QUEUE) => return Ok(false),
        answer => answer?,
    };
    let entries = data.pointer("/queue/entries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(entries.iter().any(|it| it.get("task").and_then(Value::as_str) == Some(task)))
}

/// Whether a queue is still there.
pub(super) async fn has_queue(client: &Client, queue: &str) -> Result<bool, ApiError> {
    match client.call("queues.get_by_id", &json!({ "queue": queue })).await {
        Err(error) if error.is(NO_QUEUE) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// Puts a task into its queue.
pub(super) async fn enqueue(client: &Client, queue: &str, task: &str, reason: &str) -> Result<(), ApiError> {
    let body = json!({ "task": task, "queue": queue, "status_reason": reason });
    let answer = client.call("tasks.enqueue", &body).await;
    match answer {
        // It is there already.
        Err(error) if error.is((400, 706)) => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// Tells the server which worker has the task.
pub(super) async fn report(client: &Client, task: &str, worker: &str, tags: &[String]) -> Result<(), ApiError> {
    let now = Timestamp::now().as_second();
    let body = json!({
        "worker": worker, "task": task, "timestamp": now * 1000, "tags": tags, "is_daemon": false,
        "machine_stats": null,
    });
    client.call("workers.status_report", &body).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: &str, worker: &str, updated: &str, runtime: &Value) -> Seen {
        Seen::of(&json!({ "status": status, "last_worker": worker, "last_update": updated, "runtime": runtime }))
    }

    #[test]
    fn a_task_is_anothers_while_its_worker_is_heard_of() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let (run, other) = (RunId::new().unwrap(), RunId::new().unwrap());
        let by = |seen: &Seen| seen.is_run_by_another(&run, "me:0", now);
        let lately = "2026-01-01T11:59:00.123000+00:00";
        assert!(by(&seen("in_progress", "you:0", lately, &json!({}))));
        assert!(by(&seen("in_progress", "", "", &json!({}))));
        assert!(!by(&seen("in_progress", "you:0", "2026-01-01T11:00:00+00:00", &json!({}))));
        assert!(!by(&seen("in_progress", "me:0", lately, &json!({}))));
        assert!(!by(&seen("queued", "you:0", lately, &json!({}))));
        let mine = seen("in_progress", "you:0", lately, &json!({ RUN: run.as_str() }));
        assert!(!by(&mine) && !mine.is_taken_from(&run) && mine.is_taken_from(&other));
        assert!(!seen("in_progress", "", "", &json!({})).is_taken_from(&run));
    }

    #[test]
    fn a_task_is_ours_from_the_change_on_that_took_it() {
        let run = RunId::new().unwrap();
        let taken = json!({ "status": "in_progress", "status_message": tasks::changed_by("me:0"), "last_worker": "" });
        let seen = Seen::of(&taken);
        assert!(seen.is_by(&run, "me:0") && !seen.is_by(&run, "me:01") && !seen.is_by(&run, "you:0"));
    }
}

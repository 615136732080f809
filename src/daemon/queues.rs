//! The queues a daemon serves: what waits in them, which of them is next, and how a task is taken out.
//!
//! All queues are looked at with one request, however many there are. The look tells the first entry of each, so that
//! nothing is asked of a queue that is empty, and a task is journalled before it is taken out.

mod choose;
mod error;
mod resolve;

pub use choose::{Fit, Turn, active, choose, forced_by_tags};
pub use error::QueueError;
pub use resolve::resolve;
pub(super) use resolve::successors;

use serde_json::{Value, json};

use crate::clearml::{ApiError, Client};

/// A queue on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// GPUs for each of its tasks, with dynamic GPUs: least and most.
    pub gpus: Option<(u32, u32)>,
    /// Whether it was asked for by its name: another of that name takes its place when it is deleted.
    pub named: bool,
}

/// What a look at a queue showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its tags; `force_workers:on` and `force_workers:off` mean something.
    pub tags: Vec<String>,
    /// The tasks that wait in it, the first to be served first.
    pub entries: Vec<String>,
}

/// Looks at all queues at once. A queue that is no longer on the server is `None`.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn look(client: &Client, queues: &[Queue]) -> Result<Vec<Option<Seen>>, ApiError> {
    let ids: Vec<&str> = queues.iter().map(|it| it.id.as_str()).collect();
    let query = json!({ "id": ids, "only_fields": ["id", "name", "tags", "entries"], "search_hidden": true });
    let data = client.call("queues.get_all", &query).await?;
    let answered = items(&data, "queues");
    let of = |queue: &Queue| {
        let found = answered.iter().find(|it| it.get("id").and_then(Value::as_str) == Some(&queue.id))?;
        let entries = items(found, "entries").iter().filter_map(|it| it.get("task")?.as_str().map(str::to_owned));
        let tags = items(found, "tags").iter().filter_map(|it| it.as_str().map(str::to_owned));
        Some(Seen { tags: tags.collect(), entries: entries.collect() })
    };
    Ok(queues.iter().map(of).collect())
}

/// Takes the first entry out of a queue, if it is this task; the task that was taken out. Never asked a second time
/// once the server may have heard it: whether it has is then open, and the journal knows that it is.
///
/// # Errors
/// What [`Client::call_once`] gives.
pub async fn pop(client: &Client, queue: &str, task: &str) -> Result<Option<String>, ApiError> {
    let data = client.call_once("queues.get_next_task", &json!({ "queue": queue, "task": task })).await?;
    Ok(data.pointer("/entry/task").and_then(Value::as_str).map(str::to_owned))
}

/// Puts a task that was taken out back to the front. Its status stays: it is still queued.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn put_back(client: &Client, queue: &str, task: &str) -> Result<(), ApiError> {
    let body = json!({ "queue": queue, "task": task });
    match client.call("queues.add_task", &body).await {
        Err(error) if error.is(ALREADY_THERE) => {}
        answer => drop(answer?),
    }
    match client.call("queues.move_task_to_front", &body).await {
        // Somebody has taken it meanwhile.
        Err(error) if error.is(NOT_THERE) => Ok(()),
        answer => answer.map(drop),
    }
}

/// "Invalid queue id".
pub(super) const NO_QUEUE: (u16, i64) = (400, 701);
/// "Task already queued".
const ALREADY_THERE: (u16, i64) = (400, 706);
/// "Task is not in that queue".
const NOT_THERE: (u16, i64) = (400, 703);

/// A list of an answer; empty where there is none.
fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clearml::testing::{client, serve};

    fn queue(id: &str) -> Queue {
        Queue { id: id.to_owned(), name: format!("queue {id}"), gpus: None, named: false }
    }

    #[tokio::test]
    async fn one_request_looks_at_all_queues_and_finds_those_that_are_gone() {
        let (url, calls) = serve(|call| match call.path.as_str() {
            "/auth.login" => Ok(json!({ "token": "t" })),
            _ => Ok(json!({ "queues": [
                { "id": "b", "tags": ["force_workers:off"], "entries": [{ "task": "2" }, { "task": "3" }] },
                { "id": "a", "entries": [] },
            ]})),
        });
        let seen = look(&client(url), &[queue("a"), queue("b"), queue("c")]).await.unwrap();
        let b = Seen { tags: vec!["force_workers:off".to_owned()], entries: vec!["2".to_owned(), "3".to_owned()] };
        assert_eq!(seen, [Some(Seen::default()), Some(b), None]);
        let calls = calls.lock().unwrap();
        assert_eq!(calls.len(), 2);
        assert!(String::from_utf8_lossy(&calls[1].body).contains(r#""id":["a","b","c"]"#));
    }

    #[tokio::test]
    async fn what_is_put_back_goes_to_the_front_even_when_it_is_there_already() {
        let (url, calls) = serve(|call| match call.path.rsplit('/').next().unwrap() {
            "auth.login" => Ok(json!({ "token": "t" })),
            "queues.add_task" => Err((400, 706, "Task already queued")),
            _ => Ok(json!({ "position": 0 })),
        });
        put_back(&client(url), "q", "t").await.unwrap();
        let calls = calls.lock().unwrap();
        assert!(calls[2].path.ends_with("queues.move_task_to_front"), "{calls:?}");
    }
}

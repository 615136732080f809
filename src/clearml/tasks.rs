//! Calls about tasks.

use serde_json::{Value, json};

use super::{ApiError, Client};

/// "Invalid task id".
const UNKNOWN: (u16, i64) = (400, 101);
/// How many names like a missing one are told.
const NEAR: usize = 10;
/// Among how many of the tasks changed last those names are looked for.
const RECENT: usize = 500;

/// The whole task with this id.
///
/// # Errors
/// [`ApiError::UnknownTask`], and what [`Client::call`] gives.
pub async fn get(client: &Client, id: &str) -> Result<Value, ApiError> {
    let answer = client.call("tasks.get_by_id", &json!({ "task": id })).await;
    match answer {
        Ok(mut data) => Ok(data.get_mut("task").map(Value::take).unwrap_or_default()),
        Err(error) if error.is(UNKNOWN) => Err(unknown(client, id, Vec::new())),
        Err(error) => Err(error),
    }
}

/// The whole task with this id, or with this name (compared without case), as the original finds it.
///
/// # Errors
/// [`ApiError::UnknownTask`] with names like it, [`ApiError::AmbiguousTask`], and what [`Client::call`] gives.
pub async fn find(client: &Client, id_or_name: &str) -> Result<Value, ApiError> {
    if is_id(id_or_name) {
        return get(client, id_or_name).await;
    }
    // The whole name: a listing ends after five hundred, and many names may have this one in them.
    let query = json!({ "name": format!("(?i)^{}$", escape(id_or_name)), "only_fields": ["id", "name"] });
    let mut found: Vec<String> = names(&client.call("tasks.get_all", &query).await?)
        .into_iter()
        .filter(|(_, name)| name.to_lowercase() == id_or_name.to_lowercase())
        .map(|(id, _)| id)
        .collect();
    match found.pop() {
        Some(id) if found.is_empty() => get(client, &id).await,
        Some(id) => {
            found.push(id);
            found.sort();
            Err(ApiError::AmbiguousTask { name: id_or_name.to_owned(), ids: found })
        }
        None => Err(unknown(client, id_or_name, near(client, id_or_name).await?)),
    }
}

/// Whether a text is taken for an id: 30 or more hex digits and dashes.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() >= 30 && text.bytes().all(|it| matches!(it, b'-' | b'a'..=b'f' | b'0'..=b'9'))
}

/// Clones a task; answers the clone's id.
///
/// # Errors
/// [`ApiError::UnknownTask`], and what [`Client::call_once`] gives.
pub async fn clone(client: &Client, id: &str, name: &str) -> Result<String, ApiError> {
    let answer = client.call_once("tasks.clone", &json!({ "task": id, "new_task_name": name })).await;
    match answer {
        Ok(data) => Ok(text(&data, "id")),
        Err(error) if error.is(UNKNOWN) => Err(unknown(client, id, Vec::new())),
        Err(error) => Err(error),
    }
}

/// Changes fields of a task. `script` is merged field by field on the server, everything else replaced as a whole; a
/// task that is no draft is changed only with `force`.
///
/// # Errors
/// [`ApiError::UnknownTask`], and what [`Client::call`] gives.
pub async fn edit(client: &Client, id: &str, fields: &Value, force: bool) -> Result<(), ApiError> {
    let mut body = fields.clone();
    body["task"] = json!(id);
    body["force"] = json!(force);
    client.call("tasks.edit", &body).await.map(|_| ()).map_err(|error| known(client, id, error))
}

/// Replaces the requirements of a task, whatever its status.
///
/// # Errors
/// As [`edit`].
pub async fn set_requirements(client: &Client, id: &str, requirements: &Value) -> Result<(), ApiError> {
    let body = json!({ "task": id, "requirements": requirements });
    client.call("tasks.set_requirements", &body).await.map(|_| ()).map_err(|error| known(client, id, error))
}

/// Sets one configuration object of a task, a text; the others stay as they are, also those that somebody else writes
/// at the same time. Servers refuse it for a task that has ended.
///
/// # Errors
/// As [`edit`].
pub async fn set_configuration(client: &Client, id: &str, name: &str, text: &str, about: &str) -> Result<(), ApiError> {
    let item = json!({ "name": name, "type": "text", "value": text, "description": about });
    let body = json!({ "task": id, "configuration": [item], "force": true });
    client.call("tasks.edit_configuration", &body).await.map(|_| ()).map_err(|error| known(client, id, error))
}

/// A change of status, told to the server.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The task's id.
    pub task: &'a str,
    /// Why, in free words.
    pub reason: &'a str,
    /// By whom; see [`changed_by`].
    pub message: &'a str,
    /// Whether the server's table of changes is ignored.
    pub force: bool,
}

/// The message the original leaves with every change: the server's own tools look for it.
#[must_use]
pub fn changed_by(worker: &str) -> String {
    format!("Changed by clearml-agent {worker}")
}

/// The task runs.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn started(client: &Client, change: Change<'_>) -> Result<Value, ApiError> {
    change.send(client, "tasks.started").await
}

/// The task was stopped.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn stopped(client: &Client, change: Change<'_>) -> Result<Value, ApiError> {
    change.send(client, "tasks.stopped").await
}

/// The task failed.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn failed(client: &Client, change: Change<'_>) -> Result<Value, ApiError> {
    change.send(client, "tasks.failed").await
}

/// The task ended well.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn completed(client: &Client, change: Change<'_>) -> Result<Value, ApiError> {
    change.send(client, "tasks.completed").await
}

/// Tells the server that the task is alive.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn ping(client: &Client, id: &str) -> Result<(), ApiError> {
    client.call("tasks.ping", &json!({ "task": id })).await.map(|_| ())
}

/// Takes a task out of the queue it may wait in; nothing changes for one that waits in none.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn dequeue(client: &Client, id: &str) -> Result<(), ApiError> {
    client.call("tasks.dequeue", &json!({ "task": id, "new_status": "in_progress" })).await.map(|_| ())
}

/// What a task's status is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// `created`, `queued`, `in_progress`, `stopped`, `completed`, `failed`, `closed`, `publishing`, `published`.
    pub status: String,
    /// `stopping` in it asks a running task to stop.
    pub message: String,
}

impl State {
    /// The status of a task as the server answers it.
    #[must_use]
    pub fn of(task: &Value) -> Self {
        Self { status: text(task, "status"), message: text(task, "status_message") }
    }

    /// Whether the server asks the running task to stop.
    #[must_use]
    pub fn asks_to_stop(&self) -> bool {
        self.status == "in_progress" && self.message.contains("stopping")
    }
}

/// The task's status, `None` for one that is gone.
///
/// # Errors
/// What [`Client::call`] gives.
pub async fn status(client: &Client, id: &str) -> Result<Option<State>, ApiError> {
    let query = json!({ "id": [id], "search_hidden": true, "only_fields": ["status", "status_message"] });
    let data = client.call("tasks.get_all", &query).await?;
    Ok(data.pointer("/tasks/0").map(State::of))
}

impl Change<'_> {
    async fn send(self, client: &Client, endpoint: &str) -> Result<Value, ApiError> {
        let body = json!({
            "task": self.task, "status_reason": self.reason, "status_message": self.message, "force": self.force,
        });
        let answer = client.call(endpoint, &body).await;
        answer.map_err(|error| known(client, self.task, error))
    }
}

/// Says of an unknown task that it is one.
fn known(client: &Client, task: &str, error: ApiError) -> ApiError {
    if error.is(UNKNOWN) { unknown(client, task, Vec::new()) } else { error }
}

fn unknown(client: &Client, task: &str, near: Vec<String>) -> ApiError {
    ApiError::UnknownTask { server: client.address(), task: task.to_owned(), near }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn names(data: &Value) -> Vec<(String, String)> {
    let tasks = data.get("tasks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    tasks.iter().map(|it| (text(it, "id"), text(it, "name"))).collect()
}

/// A name as a regular expression that means just it.
pub(crate) fn escape(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        if ".^$*+?()[]{}|\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Names like a missing one, the nearest first.
async fn near(client: &Client, name: &str) -> Result<Vec<String>, ApiError> {
    let query = json!({ "only_fields": ["id", "name"], "order_by": ["-last_update"], "page": 0, "page_size": RECENT });
    let mut scored: Vec<(usize, String)> = names(&client.call("tasks.get_all", &query).await?)
        .into_iter()
        .filter_map(|(id, other)| Some((distance(name, &other)?, format!("`{other}` ({id})"))))
        .collect();
    scored.sort();
    Ok(scored.into_iter().take(NEAR).map(|(_, name)| name).collect())
}

/// How many letters differ, without case; `None` for names that are not alike. A part of the name is alike.
pub(crate) fn distance(wanted: &str, other: &str) -> Option<usize> {
    let (wanted, other) = (wanted.to_lowercase(), other.to_lowercase());
    let (a, b): (Vec<char>, Vec<char>) = (wanted.chars().collect(), other.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    let edits = row[b.len()];
    let part = wanted.len() >= 3 && (other.contains(&wanted) || (other.len() >= 3 && wanted.contains(&other)));
    (part || edits <= a.len().max(b.len()) / 3).then_some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_told_apart() {
        assert!(is_id("0123456789abcdef0123456789abcdef"));
        assert!(!is_id("0123456789ABCDEF0123456789ABCDEF") && !is_id("abc") && !is_id("my task"));
    }

    #[test]
    fn names_are_escaped_for_the_servers_regular_expressions() {
        assert_eq!(escape("train (v1.0) a+b"), r"train \(v1\.0\) a\+b");
    }

    #[test]
    fn near_names_share_most_letters_or_a_part() {
        assert_eq!(distance("train", "Trian"), None);
        assert_eq!(distance("training", "Trainign"), Some(2));
        assert_eq!(distance("train", "train the model"), Some(10));
        assert_eq!(distance("abc", "xyz"), None);
    }

    #[test]
    fn a_request_to_stop_is_a_message_on_a_running_task() {
        let state = |status, message| State::of(&json!({ "status": status, "status_message": message }));
        assert!(state("in_progress", "stopping").asks_to_stop());
        assert!(!state("stopped", "stopping").asks_to_stop());
        assert!(!State::of(&json!({ "status": "in_progress" })).asks_to_stop());
    }
}

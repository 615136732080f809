//! Names and ids of queues, found as the original finds them.

use serde_json::{Value, json};

use super::{Queue, QueueError, Seen, items};
use crate::clearml::tasks::{distance, escape, is_id};
use crate::clearml::{ApiError, Client};
use crate::daemon::settings::QueueChoice;

/// How many names like a missing one are told.
const NEAR: usize = 10;
/// The name of the queue that is served when none is named and the server marks none as the default.
const DEFAULT: &str = "default";

/// Finds the queues that were named, in their order, each once; makes missing ones if `create`. No choice at all means
/// the server's default queue.
///
/// # Errors
/// [`QueueError`]
pub async fn resolve(client: &Client, choices: &[QueueChoice], create: bool) -> Result<Vec<Queue>, QueueError> {
    if choices.is_empty() {
        return Ok(vec![default(client, create).await?]);
    }
    let mut queues: Vec<Queue> = Vec::new();
    for choice in choices {
        let found = if is_id(&choice.name) {
            by_id(client, &choice.name).await?
        } else {
            match by_name(client, &choice.name).await? {
                Some(queue) => queue,
                None if create => make(client, &choice.name).await?,
                None => return Err(unknown(client, &choice.name, false).await?),
            }
        };
        if !queues.iter().any(|it| it.id == found.id) {
            queues.push(Queue { gpus: choice.gpus, named: !is_id(&choice.name), ..found });
        }
    }
    Ok(queues)
}

/// The queues that have taken the place of those that are gone: others of their names, with their places among `queues`.
/// What the server does not say now it may at the next look.
pub(in crate::daemon) async fn successors(
    client: &Client,
    queues: &[Queue],
    seen: &[Option<Seen>],
) -> Vec<(usize, Queue)> {
    let mut found = Vec::new();
    let gone = queues.iter().zip(seen).enumerate().filter(|(_, (queue, seen))| seen.is_none() && queue.named);
    for (place, (queue, _)) in gone {
        if let Ok(Some(other)) = by_name(client, &queue.name).await
            && queues.iter().all(|it| it.id != other.id)
        {
            found.push((place, Queue { gpus: queue.gpus, named: true, ..other }));
        }
    }
    found
}

async fn by_id(client: &Client, id: &str) -> Result<Queue, QueueError> {
    let query = json!({ "id": [id], "only_fields": ["id", "name"], "search_hidden": true });
    let data = client.call("queues.get_all", &query).await?;
    match items(&data, "queues").first() {
        Some(found) => Ok(queue(found)),
        None => Err(unknown(client, id, true).await?),
    }
}

async fn by_name(client: &Client, name: &str) -> Result<Option<Queue>, QueueError> {
    let pattern = format!("(?i)^{}$", escape(name));
    let query = json!({ "name": pattern, "only_fields": ["id", "name"], "search_hidden": true });
    let data = client.call("queues.get_all", &query).await?;
    let found: Vec<Queue> = items(&data, "queues").iter().map(queue).collect();
    if let Some(exact) = found.iter().find(|it| it.name == name) {
        return Ok(Some(exact.clone()));
    }
    let mut alike: Vec<Queue> = found.into_iter().filter(|it| it.name.to_lowercase() == name.to_lowercase()).collect();
    match alike.pop() {
        Some(one) if alike.is_empty() => Ok(Some(one)),
        Some(one) => {
            alike.push(one);
            let mut ids: Vec<String> = alike.into_iter().map(|it| it.id).collect();
            ids.sort();
            Err(QueueError::Ambiguous { name: name.to_owned(), ids })
        }
        None => Ok(None),
    }
}

async fn make(client: &Client, name: &str) -> Result<Queue, QueueError> {
    match client.call_once("queues.create", &json!({ "name": name })).await {
        Ok(data) => Ok(Queue { id: text(&data, "id"), name: name.to_owned(), gpus: None, named: false }),
        // Another daemon made it at the same moment.
        Err(error) if error.is(DUPLICATE) => by_name(client, name).await?.ok_or_else(|| QueueError::Api(error)),
        Err(error @ ApiError::Refused { .. }) => Err(QueueError::NotMade { name: name.to_owned(), error }),
        Err(error) => Err(error.into()),
    }
}

/// "Value combination already exists".
const DUPLICATE: (u16, i64) = (400, 801);

async fn default(client: &Client, create: bool) -> Result<Queue, QueueError> {
    match client.call("queues.get_default", &json!({})).await {
        Ok(data) => return Ok(queue(&data)),
        Err(error @ (ApiError::Unreachable { .. } | ApiError::Credentials { .. } | ApiError::Foreign { .. })) => {
            return Err(error.into());
        }
        // The server marks no queue as the default one.
        Err(_) => {}
    }
    match by_name(client, DEFAULT).await? {
        Some(queue) => Ok(queue),
        None if create => make(client, DEFAULT).await,
        None => Err(QueueError::NoDefault(client.address())),
    }
}

async fn unknown(client: &Client, name: &str, id: bool) -> Result<QueueError, ApiError> {
    let data = client.call("queues.get_all", &json!({ "only_fields": ["id", "name"] })).await?;
    let mut scored: Vec<(usize, String)> = items(&data, "queues")
        .iter()
        .map(queue)
        .filter_map(|it| Some((distance(name, &it.name)?, format!("`{}` ({})", it.name, it.id))))
        .collect();
    scored.sort();
    let near = scored.into_iter().take(NEAR).map(|(_, name)| name).collect();
    Ok(QueueError::Unknown { name: name.to_owned(), server: client.address(), near, id })
}

fn queue(found: &Value) -> Queue {
    Queue { id: text(found, "id"), name: text(found, "name"), gpus: None, named: false }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clearml::testing::{Call, Calls, Reply, client, serve};
    use crate::error::{Explain, Kind};

    /// A server with these queues (name and id alike), which looks names up as a real one does.
    fn server(names: &'static [&'static str]) -> (Client, Calls) {
        let (url, calls) = serve(move |call| answer(call, names));
        (client(url), calls)
    }

    fn answer(call: &Call, names: &[&str]) -> Reply {
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        match call.path.rsplit('/').next().unwrap() {
            "auth.login" => Ok(json!({ "token": "t" })),
            "queues.create" if body["name"] == "ab" => Err((400, 800, "name=String value is too short")),
            "queues.create" => Ok(json!({ "id": "made" })),
            "queues.get_default" => Err((400, 704, "No default queue")),
            _ => {
                let wanted = |name: &str| match (body["name"].as_str(), body["id"][0].as_str()) {
                    (Some(pattern), _) => regex::Regex::new(pattern).unwrap().is_match(name),
                    (None, Some(id)) => id == name,
                    (None, None) => true,
                };
                let found = names.iter().filter(|it| wanted(it)).map(|it| json!({ "id": it, "name": it }));
                Ok(json!({ "queues": found.collect::<Vec<_>>() }))
            }
        }
    }

    fn choices(names: &[&str]) -> Vec<QueueChoice> {
        names.iter().map(|it| QueueChoice { name: (*it).to_owned(), gpus: None }).collect()
    }

    #[tokio::test]
    async fn names_are_found_whole_without_case_and_the_right_case_wins() {
        let (client, _) = server(&["gpu.big", "gpuxbig", "GPU.big", "other"]);
        let found = resolve(&client, &choices(&["gpu.big", "Other", "gpu.big"]), false).await.unwrap();
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["gpu.big", "other"]);
        let error = resolve(&client, &choices(&["Gpu.Big"]), false).await.unwrap_err();
        assert_eq!(error.to_string(), "2 queues are called `Gpu.Big` in one spelling or another: GPU.big, gpu.big");
    }

    #[tokio::test]
    async fn a_missing_queue_is_an_error_with_names_like_it_or_is_made() {
        let (client, calls) = server(&["training"]);
        let error = resolve(&client, &choices(&["trainign"]), false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.hints()[0], "Queues with names like it: `training` (training).");
        assert!(error.hints()[1].contains("--create-queue"));
        let made = resolve(&client, &choices(&["trainign"]), true).await.unwrap();
        assert_eq!((made[0].id.as_str(), made[0].name.as_str()), ("made", "trainign"));
        assert!(calls.lock().unwrap().last().unwrap().path.ends_with("queues.create"));
        let id = "0123456789abcdef0123456789abcdef";
        let error = resolve(&client, &choices(&[id]), true).await.unwrap_err();
        assert!(error.to_string().contains(id) && error.hints().is_empty(), "{error}");
    }

    #[tokio::test]
    async fn a_name_that_is_too_short_is_told_so() {
        let (client, _) = server(&[]);
        let error = resolve(&client, &choices(&["ab"]), true).await.unwrap_err();
        assert!(error.to_string().starts_with("the queue `ab` is not made: "), "{error}");
        assert_eq!(
            (error.kind(), error.hints()),
            (Kind::Input, vec!["A queue's name has 3 characters or more.".to_owned()])
        );
    }

    #[tokio::test]
    async fn without_a_name_it_is_the_default_queue() {
        let (client, _) = server(&["Default", "other"]);
        assert_eq!(resolve(&client, &[], false).await.unwrap()[0].name, "Default");
        let (client, _) = server(&["other"]);
        let error = resolve(&client, &[], false).await.unwrap_err();
        assert!(matches!(error, QueueError::NoDefault(_)), "{error}");
        assert_eq!(resolve(&client, &[], true).await.unwrap()[0].id, "made");
    }
}

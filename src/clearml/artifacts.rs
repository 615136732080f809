//! Artifacts of a task: fetched from the file server, checked against what the task says of them.

use reqwest::header;
use serde_json::Value;
use url::Url;

use super::{ApiError, Client};
use crate::digest::Hasher;
use crate::http::{self, HttpError};

/// Where the SDK puts changes that are too large for the task itself.
pub const AUXILIARY_DIFF: &str = "auxiliary_git_diff";

/// The bytes of an artifact of a task (as [`super::tasks::get`] answers it), at most `limit`.
///
/// # Errors
/// [`ApiError::NoArtifact`], [`ApiError::ArtifactElsewhere`] for storage other than HTTP or for more than `limit` bytes,
/// [`ApiError::Artifact`]: so too for what another host has, where nothing may be fetched.
pub async fn fetch(client: &Client, task: &Value, key: &str, limit: u64) -> Result<Vec<u8>, ApiError> {
    let artifacts = task.pointer("/execution/artifacts").and_then(Value::as_array);
    let artifact = artifacts
        .and_then(|all| all.iter().find(|it| it.get("key").and_then(Value::as_str) == Some(key)))
        .ok_or_else(|| ApiError::NoArtifact(key.to_owned()))?;
    let uri = artifact.get("uri").and_then(Value::as_str).unwrap_or_default();
    let elsewhere = || ApiError::ArtifactElsewhere { key: key.to_owned(), uri: crate::secret::mask_userinfo(uri) };
    let url = Url::parse(uri).ok().filter(|it| matches!(it.scheme(), "http" | "https")).ok_or_else(elsewhere)?;
    let failed = |source| ApiError::Artifact { key: key.to_owned(), source };
    let ours = is_ours(client, &url);
    may_ask(ours, http::is_offline()).map_err(failed)?;
    // The token goes to the servers it is meant for and to nobody else, whatever address a task names.
    let token = if ours { Some(client.fresh_token().await?) } else { None };
    let response = http::send(&client.retry(), || {
        let request = client.http().get(url.clone());
        match &token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal())),
            None => request,
        }
    })
    .await
    .map_err(failed)?;
    let response = http::expect_success(response).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let mut body = response;
    while let Some(chunk) = body.chunk().await.map_err(|it| failed(HttpError::from_reqwest(it, Some(&url))))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(elsewhere());
        }
        bytes.extend_from_slice(&chunk);
    }
    check(artifact, &bytes).ok_or_else(elsewhere)?;
    Ok(bytes)
}

fn is_ours(client: &Client, url: &Url) -> bool {
    let server = client.server();
    [Some(&server.api), server.files.as_ref()].into_iter().flatten().any(|it| it.origin() == url.origin())
}

/// The task's own servers are asked wherever we are; others are not, where nothing may be fetched.
fn may_ask(ours: bool, offline: bool) -> Result<(), HttpError> {
    if ours || !offline { Ok(()) } else { Err(HttpError::Offline) }
}

/// Whether the bytes have the digest that the task recorded, if it recorded one.
fn check(artifact: &Value, bytes: &[u8]) -> Option<()> {
    let recorded = artifact.get("hash").and_then(Value::as_str).filter(|it| it.len() == 64);
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    recorded.is_none_or(|it| it.eq_ignore_ascii_case(&hasher.finish().hex())).then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn without_fetching_only_the_tasks_own_servers_are_asked() {
        let client = testing::client(Url::parse("http://127.0.0.1:8008").unwrap());
        let asked = |it: &str, offline| may_ask(is_ours(&client, &Url::parse(it).unwrap()), offline).is_ok();
        let (own, other) = ("http://127.0.0.1:8008/a/diff.txt", "http://127.0.0.1:9000/a/diff.txt");
        assert_eq!([asked(own, true), asked(other, true)], [true, false]);
        assert_eq!([asked(own, false), asked(other, false)], [true, true]);
    }
}

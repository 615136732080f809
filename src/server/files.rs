//! The file server: uploads by multipart, downloads with ranges, deletion; for those with the API's credentials.
//!
//! An upload is written aside, synced and renamed: a file is whole or not there. Paths are taken apart and put together
//! again from plain components, so that none leaves the directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use axum::extract::{DefaultBodyLimit, Multipart, Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tower::ServiceExt;
use tower_http::services::ServeDir;

use super::auth;
use super::router::Shared;
use crate::fs::{create_private_dir, named, parent_of};

/// The file server over an opened site.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", post(upload).get(|| async { "OK" }))
        .route("/delete_many", post(delete_many))
        .route("/{*path}", get(download).head(download).delete(delete))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(shared.clone(), authorize))
        .with_state(shared)
}

async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/" && request.method() != axum::http::Method::POST {
        return next.run(request).await;
    }
    let headers = request.headers().clone();
    let check = tokio::task::spawn_blocking(move || {
        let db = shared.db.lock().unwrap_or_else(PoisonError::into_inner);
        auth::identify(&shared.site, &db, &headers)
    });
    match check.await {
        Ok(Ok(_)) => next.run(request).await,
        Ok(Err(error)) => (StatusCode::UNAUTHORIZED, error.message).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Where a path of a URL or of a part's name lies; `None` when it would leave the directory.
fn locate(root: &Path, path: &str) -> Option<PathBuf> {
    let mut target = root.to_path_buf();
    let mut any = false;
    for part in path.split('/').filter(|it| !it.is_empty()) {
        if matches!(part, "." | "..") || part.contains('\0') {
            return None;
        }
        target.push(part);
        any = true;
    }
    any.then_some(target)
}

async fn upload(State(shared): State<Arc<Shared>>, mut parts: Multipart) -> Result<Response, Refusal> {
    let root = shared.site.files();
    let mut stored = Vec::new();
    while let Some(mut part) = parts.next_field().await.map_err(|error| Refusal::bad(&error))? {
        // The path is the part's name; what is no file is passed over.
        let Some(name) = part.name().filter(|it| !it.is_empty()).map(str::to_owned) else { continue };
        if part.file_name().is_none() {
            continue;
        }
        let path = name.trim_start_matches('/').to_owned();
        let target = locate(&root, &path).ok_or_else(|| Refusal::bad(&format!("invalid path {path}")))?;
        let aside = tempfile::NamedTempFile::new_in(shared.site.incoming())?;
        let mut file = tokio::fs::File::from_std(aside.reopen()?);
        while let Some(bytes) = part.chunk().await.map_err(|error| Refusal::bad(&error))? {
            file.write_all(&bytes).await?;
        }
        file.flush().await?;
        drop(file);
        tokio::task::spawn_blocking(move || publish(aside, &target)).await.map_err(std::io::Error::other)??;
        stored.push(path);
    }
    let body = serde_json::to_string(&stored).unwrap_or_default();
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response())
}

/// Syncs a file written aside and puts it in its place, with the directories it needs.
fn publish(aside: tempfile::NamedTempFile, target: &Path) -> std::io::Result<()> {
    let parent = parent_of(target);
    create_private_dir(parent)?;
    aside.as_file().sync_all()?;
    aside.persist(target).map_err(|error| named(&error.error, target))?;
    fs_err::File::open(parent)?.sync_all()
}

async fn download(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let attachment = request.uri().query().is_some_and(|it| it.split('&').any(|it| it.starts_with("download")));
    let directory = ServeDir::new(shared.site.files()).append_index_html_on_directories(false);
    let mut response = match directory.oneshot(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    };
    // What users uploaded is data to us: no browser is to guess otherwise.
    let nosniff = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(nosniff, HeaderValue::from_static("nosniff"));
    if attachment {
        response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    response
}

async fn delete(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let path = path.trim_start_matches('/').to_owned();
    let root = shared.site.files();
    // Directories go only by `delete_many`.
    if locate(&root, &path).is_some_and(|it| it.is_file()) && remove(&root, &path).await? {
        return Ok(Json(json!(path)).into_response());
    }
    Ok((StatusCode::NOT_FOUND, format!("File {path} not found")).into_response())
}

/// Removes a file, or all that is in a directory; whether there was one.
async fn remove(root: &Path, path: &str) -> std::io::Result<bool> {
    let Some(target) = locate(root, path) else { return Ok(false) };
    let removed = match tokio::fs::symlink_metadata(&target).await {
        Ok(it) if it.is_dir() => tokio::fs::remove_dir_all(&target).await,
        Ok(_) => tokio::fs::remove_file(&target).await,
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

/// `{files: [path or URL]}`; answers what was deleted and what was not there.
async fn delete_many(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Response, Refusal> {
    let host = headers.get("host").and_then(|it| it.to_str().ok()).unwrap_or_default();
    let (mut deleted, mut errors) = (Map::new(), Map::new());
    for file in body["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = file.split_once(host).filter(|_| !host.is_empty()).map_or(file, |(_, path)| path);
        let path = percent_decode_str(path).decode_utf8_lossy();
        if remove(&shared.site.files(), &path).await? {
            deleted.insert(file.to_owned(), json!(path.trim_start_matches('/')));
        } else {
            errors.insert(file.to_owned(), json!("Not found"));
        }
    }
    let errors = if errors.is_empty() { json!({}) } else { json!({"Not found": errors.keys().collect::<Vec<_>>()}) };
    Ok(Json(json!({"deleted": deleted, "errors": errors})).into_response())
}

/// A refused request of the file server: plain text.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(why: &dyn std::fmt::Display) -> Self {
        Self(StatusCode::BAD_REQUEST, why.to_string())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_directory() {
        let root = Path::new("/files");
        assert_eq!(locate(root, "demo/a b/x.json").unwrap(), Path::new("/files/demo/a b/x.json"));
        assert_eq!(locate(root, "//x").unwrap(), Path::new("/files/x"));
        for outside in ["../x", "a/../../x", "", "/", "a/\0"] {
            assert_eq!(locate(root, outside), None, "{outside}");
        }
    }
}

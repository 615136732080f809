//! The API server: reads a request whole, finds its endpoint, runs it in one transaction, wraps the answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use rusqlite::Connection;
use serde_json::{Map, Value};

use super::auth::{self, Identity};
use super::call::{Access, Call, Endpoint, Reply, validate};
use super::clock::Moment;
use super::document::Document;
use super::error::ApiError;
use super::services;
use super::site::Site;
use super::wire::{Envelope, Route, parse_path};

/// The largest body of an API call, in bytes.
const MAX_BODY: usize = 128 << 20;

/// The largest body that is read before anybody asks who sent it, in bytes.
const MAX_STRANGERS_BODY: u64 = 64 << 10;

/// What all requests share.
pub(super) struct Shared {
    pub site: Site,
    pub db: Mutex<Connection>,
}

/// The API server over an opened site.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(serve).with_state(shared)
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if let Some(encoding) = parts.headers.get(CONTENT_ENCODING) {
        let text = format!("Content encoding is not supported ({})", encoding.to_str().unwrap_or_default());
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip().to_string());
    let body = match read(&shared, &parts.headers, body).await {
        Ok(body) => body,
        Err(error) => {
            return Envelope { route: parse_path(parts.uri.path()), actual: None, result: Err(error) }.into_response();
        }
    };
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        address: address.unwrap_or_else(|| "127.0.0.1".into()),
    };
    // SQLite blocks; the transaction is short, but not for the threads that move bytes.
    match tokio::task::spawn_blocking(move || answer(&shared, &asked)).await {
        Ok(envelope) => envelope.into_response(),
        Err(error) => Envelope { route: None, actual: None, result: Err(ApiError::internal(&error)) }.into_response(),
    }
}

/// Reads a body whole. A large one is kept in memory only for those with credentials.
async fn read(shared: &Arc<Shared>, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    if body.size_hint().upper().is_none_or(|it| it > MAX_STRANGERS_BODY) {
        let (shared, headers) = (shared.clone(), headers.clone());
        let identified = tokio::task::spawn_blocking(move || {
            let db = shared.db.lock().unwrap_or_else(PoisonError::into_inner);
            auth::identify(&shared.site, &db, &headers)
        });
        identified.await.map_err(|error| ApiError::internal(&error))??;
    }
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| ApiError::new(413, 0, "Request body is too large"))
}

/// A request, read whole.
struct Asked {
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    address: String,
}

fn answer(shared: &Shared, asked: &Asked) -> Envelope {
    let Some(route) = parse_path(&asked.path) else {
        let error = ApiError::new(400, 0, format!("Invalid request path {}", asked.path));
        return Envelope { route: None, actual: None, result: Err(error) };
    };
    let Some(endpoint) = services::find(&route.name).filter(|it| it.since <= route.version) else {
        let what = format!("Unable to find endpoint for name {} and version {}", route.name, route.version);
        return Envelope { route: Some(route), actual: None, result: Err(ApiError::new(404, 0, what)) };
    };
    let result = run(shared, asked, &route, endpoint);
    Envelope { route: Some(route), actual: Some(endpoint.since), result }
}

/// One call in one transaction: all of it is kept, or nothing.
fn run(shared: &Shared, asked: &Asked, route: &Route, endpoint: &Endpoint) -> Result<Reply, ApiError> {
    let parsed = parse_body(asked);
    let mut db = shared.db.lock().unwrap_or_else(PoisonError::into_inner);
    let transaction = db.transaction()?;
    let identity = match endpoint.access {
        Access::Anybody => Identity::of(super::site::USER),
        Access::User | Access::Roles(_) => auth::identify(&shared.site, &transaction, &asked.headers)?,
    };
    if let Access::Roles(roles) = endpoint.access {
        let why = format!("Forbidden (not allowed for role): role={}, allowed=({roles})", identity.role);
        return Err(ApiError::new(403, 20, why));
    }
    let (body, batch) = parsed?;
    validate(endpoint.fields, &body)?;
    let header = |name| asked.headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let mut call = Call {
        db: &transaction,
        site: &shared.site,
        identity,
        version: route.version,
        body,
        batch,
        worker: header("X-ClearML-Worker").or_else(|| header("X-Trains-Worker")),
        address: asked.address.clone(),
        now: Moment::now(),
    };
    let reply = (endpoint.handler)(&mut call)?;
    drop(call);
    transaction.commit()?;
    Ok(reply)
}

/// The body as an object, with the query's parameters in it, and as a batch.
fn parse_body(asked: &Asked) -> Result<(Document, Vec<Value>), ApiError> {
    let unreadable =
        |_| ApiError::new(400, 0, "The browser (or proxy) sent a request that this server could not understand.");
    let content_type = asked.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let mut body = Map::new();
    merge_parameters(&mut body, asked.query.as_bytes());
    if content_type == "application/json-lines" {
        let lines = asked.body.split(|it| *it == b'\n').filter(|it| !it.trim_ascii().is_empty());
        let batch = lines.map(serde_json::from_slice).collect::<Result<Vec<Value>, _>>().map_err(unreadable)?;
        if batch.is_empty() {
            return Err(ApiError::new(400, 17, "Batch request contains no items"));
        }
        return Ok((body, batch));
    }
    if content_type.starts_with("application/x-www-form-urlencoded") {
        merge_parameters(&mut body, &asked.body);
    } else if !asked.body.trim_ascii().is_empty() {
        match serde_json::from_slice(&asked.body).map_err(unreadable)? {
            Value::Object(map) => body.extend(map),
            Value::Null => {}
            _ => return Err(ApiError::new(500, 0, "Data should be a dict")),
        }
    }
    let batch = if body.is_empty() { Vec::new() } else { vec![Value::Object(body.clone())] };
    Ok((body, batch))
}

/// Adds URL parameters: numbers and truth values are converted, dotted names nest.
fn merge_parameters(body: &mut Document, encoded: &[u8]) {
    for (name, value) in url::form_urlencoded::parse(encoded) {
        let value = match value.as_ref() {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            text => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        };
        let mut parts: Vec<&str> = name.split('.').collect();
        let Some(last) = parts.pop() else { continue };
        let mut at = &mut *body;
        for part in parts {
            at = super::document::object(at, part);
        }
        at.insert(last.to_owned(), value);
    }
}

//! The server against what a real one was recorded to answer, without a port.

mod files;
mod replay;
mod services;
mod transitions;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::router::{Shared, router};
use super::site::Site;

/// A server over a directory of its own, asked without a port.
struct TestServer {
    shared: Arc<Shared>,
    api: Router,
    dir: tempfile::TempDir,
}

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl TestServer {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let site = Site::open(dir.path()).unwrap();
        let db = Mutex::new(site.database().unwrap());
        let shared = Arc::new(Shared { site, db });
        Self { api: router(shared.clone()), shared, dir }
    }

    /// `Authorization` with the server's own credentials.
    fn basic(&self) -> String {
        use base64::Engine as _;
        let credentials = &self.shared.site.credentials;
        let text = format!("{}:{}", credentials.user, credentials.password.reveal());
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.api.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Calls an endpoint with the server's own credentials.
    async fn call(&self, name: &str, body: Value) -> Answer {
        let request = Request::post(format!("/{name}"))
            .header(AUTHORIZATION, self.basic())
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(request).await
    }

    /// The data of a call that must succeed.
    async fn data(&self, name: &str, body: Value) -> Value {
        let answer = self.call(name, body.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{name} {body}: {}", answer.body);
        answer.body["data"].clone()
    }

    /// The codes and the message of a call that must fail.
    async fn refusal(&self, name: &str, body: Value) -> (u64, u64, String) {
        let answer = self.call(name, body.clone()).await;
        assert_ne!(answer.status, StatusCode::OK, "{name} {body} was not refused");
        let meta = &answer.body["meta"];
        let number = |field: &str| meta[field].as_u64().unwrap();
        assert_eq!(u64::from(answer.status.as_u16()), number("result_code"));
        (number("result_code"), number("result_subcode"), meta["result_msg"].as_str().unwrap().to_owned())
    }

    /// A new task's id.
    async fn task(&self, name: &str) -> String {
        let script = json!({"repository": "r", "entry_point": "e.py"});
        let data = self.data("tasks.create", json!({"name": name, "type": "testing", "script": script})).await;
        data["id"].as_str().unwrap().to_owned()
    }

    async fn status(&self, task: &str) -> String {
        let data = self.data("tasks.get_all", json!({"id": [task], "only_fields": ["status"]})).await;
        data["tasks"][0]["status"].as_str().unwrap_or("(gone)").to_owned()
    }
}

/// A recorded file.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clearml").join(name)
}

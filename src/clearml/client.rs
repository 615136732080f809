//! Login, envelope, versions, retries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::{RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::token::Token;
use super::{ApiError, Login, Server};
use crate::http::{self, HttpError, Retry};
use crate::secret::Secret;

/// The newest version of the API this program speaks; a server that has only an older one is asked in that.
const VERSION: (u32, u32) = (2, 23);
/// Longest piece of a foreign answer that is quoted.
const QUOTED: usize = 200;

/// A client of one server. Cheap to clone; clones share connections and token.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Server,
    http: reqwest::Client,
    retry: Retry,
    worker: String,
    token: Mutex<Option<Token>>,
}

/// The body of a call.
#[derive(Clone, Copy)]
enum Body<'a> {
    Json(&'a Value),
    Lines(&'a [u8]),
}

#[derive(Deserialize)]
struct Envelope {
    meta: Meta,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Meta {
    result_code: u16,
    #[serde(default)]
    result_subcode: i64,
    #[serde(default)]
    result_msg: Option<String>,
}

impl Client {
    /// A client; nothing is sent yet. `worker` is the name calls are made under, the host's by custom.
    ///
    /// # Errors
    /// [`ApiError::Setup`]
    pub fn new(server: Server, worker: impl Into<String>, retry: Retry) -> Result<Self, ApiError> {
        Self::with_variables(server, worker, retry, BTreeMap::new())
    }

    /// The same with variables that count before the environment's where proxies are looked for.
    ///
    /// # Errors
    /// [`ApiError::Setup`]
    pub fn with_variables(
        server: Server,
        worker: impl Into<String>,
        retry: Retry,
        variables: BTreeMap<String, Secret>,
    ) -> Result<Self, ApiError> {
        let options = http::Options {
            variables,
            verify: server.verify,
            total: Some(Duration::from_secs(90)),
            // A redirect turns POST into GET; the original's servers do not redirect.
            redirects: false,
            // What may not be fetched are packages, code and images.
            offline: false,
            ..http::Options::default()
        };
        let http = http::client(&options).map_err(ApiError::Setup)?;
        Ok(Self(Arc::new(Inner { server, http, retry, worker: worker.into(), token: Mutex::new(None) })))
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.0.server
    }

    /// The API server's address, for people.
    #[must_use]
    pub fn address(&self) -> String {
        http::shown(&self.0.server.api).trim_end_matches('/').to_owned()
    }

    /// Logs in now instead of at the first call.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`], [`ApiError::Credentials`], [`ApiError::Foreign`]
    pub async fn login(&self) -> Result<(), ApiError> {
        self.token(None).await.map(|_| ())
    }

    /// The text of a token that is good now, to hand to others.
    ///
    /// # Errors
    /// As [`Client::login`].
    pub async fn fresh_token(&self) -> Result<crate::secret::Secret, ApiError> {
        Ok(self.token(None).await?.text)
    }

    /// Calls `service.action` and answers the envelope's `data`. Asked again while the server is away or overloaded.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn call(&self, endpoint: &str, body: &Value) -> Result<Value, ApiError> {
        self.exchange(endpoint, Body::Json(body), self.0.retry).await
    }

    /// Calls `service.action`, but never a second time once the server may have heard it: for calls that make something.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn call_once(&self, endpoint: &str, body: &Value) -> Result<Value, ApiError> {
        self.exchange(endpoint, Body::Json(body), self.0.retry.only_unheard()).await
    }

    /// Calls `service.action` with one JSON object per line; never a second time once the server may have heard it, which
    /// would store them twice.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn call_lines(&self, endpoint: &str, lines: &[u8]) -> Result<Value, ApiError> {
        self.exchange(endpoint, Body::Lines(lines), self.0.retry.only_unheard()).await
    }

    /// The connections, for what is not behind the API (the file server).
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    /// The patience this client was made with.
    pub(super) fn retry(&self) -> Retry {
        self.0.retry
    }

    async fn exchange(&self, endpoint: &str, body: Body<'_>, retry: Retry) -> Result<Value, ApiError> {
        let token = self.token(None).await?;
        let outcome = self.ask(endpoint, body, retry, &token).await;
        match outcome {
            // The server forgot the token, or the clocks differ: one new login.
            Err(ApiError::Refused { code: 401, .. }) => {
                let token = self.token(Some(token)).await?;
                match self.ask(endpoint, body, retry, &token).await {
                    Err(ApiError::Refused { code: 401, message, .. }) => {
                        Err(ApiError::Credentials { server: self.address(), message })
                    }
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }

    async fn ask(&self, endpoint: &str, body: Body<'_>, retry: Retry, token: &Token) -> Result<Value, ApiError> {
        let version = token.api_version().map(|it| it.min(VERSION));
        let path = version.map_or_else(|| endpoint.to_owned(), |(major, minor)| format!("v{major}.{minor}/{endpoint}"));
        let url = self.endpoint(&path);
        self.send(endpoint, retry, || {
            let request = self.0.http.post(url.clone()).bearer_auth(token.text.reveal());
            match body {
                Body::Json(value) => request.json(value),
                // The exact type, without a charset, is what selects the batch mode.
                Body::Lines(bytes) => {
                    request.header(header::CONTENT_TYPE, "application/json-lines").body(bytes.to_vec())
                }
            }
        })
        .await
    }

    /// A token; a new one if there is none, if it is about to end, or if it is the `refused` one.
    async fn token(&self, refused: Option<Token>) -> Result<Token, ApiError> {
        let mut held = self.0.token.lock().await;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs() as i64);
        let refused = |token: &Token| refused.as_ref().is_some_and(|it| it.text == token.text);
        if let Some(token) = held.as_ref().filter(|it| !it.is_stale(now) && !refused(it)) {
            return Ok(token.clone());
        }
        // A token made by somebody else is good until its end; only then is it exchanged for another.
        if let (Login::Token(text), None) = (&self.0.server.login, held.as_ref()) {
            let token = Token::read(text.reveal());
            if !token.is_stale(now) && !refused(&token) {
                return Ok(held.insert(token).clone());
            }
        }
        let token = self.log_in(held.as_ref()).await?;
        Ok(held.insert(token).clone())
    }

    async fn log_in(&self, held: Option<&Token>) -> Result<Token, ApiError> {
        let url = self.endpoint("auth.login");
        let answer = self
            .send("auth.login", self.0.retry, || {
                let request = self.0.http.post(url.clone()).body("{}").header(header::CONTENT_TYPE, "application/json");
                match &self.0.server.login {
                    Login::Keys(keys) => request.basic_auth(&keys.user, Some(keys.password.reveal())),
                    Login::Token(text) => request.bearer_auth(held.map_or(text, |it| &it.text).reveal()),
                }
            })
            .await;
        let data = match answer {
            Err(ApiError::Refused { code: 401 | 403, message, .. }) => {
                return Err(ApiError::Credentials { server: self.address(), message });
            }
            answer => answer?,
        };
        data.get("token").and_then(Value::as_str).map(Token::read).ok_or_else(|| ApiError::Foreign {
            server: self.address(),
            endpoint: "auth.login".to_owned(),
            what: "an answer without a token".to_owned(),
        })
    }

    async fn send(
        &self,
        endpoint: &str,
        retry: Retry,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Value, ApiError> {
        let unreachable = |source| ApiError::Unreachable { server: self.address(), source };
        let response = http::send(&retry, || {
            request()
                .header("X-ClearML-Agent", concat!("agent-", env!("CARGO_PKG_VERSION")))
                .header("X-ClearML-Worker", &self.0.worker)
        })
        .await
        .map_err(unreachable)?;
        let (status, url) = (response.status(), response.url().clone());
        let bytes = response.bytes().await.map_err(|it| unreachable(HttpError::from_reqwest(it, Some(&url))))?;
        let Ok(envelope) = serde_json::from_slice::<Envelope>(&bytes) else {
            return Err(self.foreign(endpoint, status, &bytes));
        };
        if envelope.meta.result_code == 200 {
            return Ok(envelope.data);
        }
        Err(ApiError::Refused {
            endpoint: endpoint.to_owned(),
            code: envelope.meta.result_code,
            subcode: envelope.meta.result_subcode,
            message: envelope.meta.result_msg.unwrap_or_else(|| status.to_string()),
        })
    }

    fn foreign(&self, endpoint: &str, status: StatusCode, bytes: &[u8]) -> ApiError {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().map(str::trim).find(|it| !it.is_empty()).unwrap_or("an empty answer");
        let what = format!("{status}, {}", line.chars().take(QUOTED).collect::<String>());
        ApiError::Foreign { server: self.address(), endpoint: endpoint.to_owned(), what }
    }

    fn endpoint(&self, path: &str) -> Url {
        let mut url = self.0.server.api.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::super::tasks;
    use super::super::testing::{client, serve};
    use super::*;
    use crate::error::{Explain, Failure, Kind};

    fn token(name: &str) -> Value {
        let claims = json!({ "api_version": "2.15", "exp": 9_999_999_999_i64, "iat": 1, "name": name }).to_string();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        json!({ "token": format!("e30.{claims}.x") })
    }

    #[tokio::test]
    async fn calls_log_in_once_and_use_the_servers_version() {
        let (url, calls) =
            serve(|call| if call.path == "/auth.login" { Ok(token("a")) } else { Ok(json!({ "it": 1 })) });
        let client = client(url);
        assert_eq!(client.call("tasks.ping", &json!({})).await.unwrap(), json!({ "it": 1 }));
        client.call_lines("events.add_batch", b"{}\n").await.unwrap();
        let calls = calls.lock().unwrap();
        let paths: Vec<&str> = calls.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/auth.login", "/v2.15/tasks.ping", "/v2.15/events.add_batch"]);
        assert!(calls[0].authorization.starts_with("Basic ") && calls[1].authorization.starts_with("Bearer "));
        assert_eq!(calls[2].body, b"{}\n");
    }

    #[tokio::test]
    async fn lines_are_not_sent_again_where_they_may_be_stored_already() {
        let (url, calls) = serve(|call| match call.path.as_str() {
            "/auth.login" => Ok(token("a")),
            _ => Err((500, 100, "General data error")),
        });
        let pause = std::time::Duration::from_millis(1);
        let patient = Retry { attempts: 3, pause, longest: pause, heard: true };
        let client = Client::new(client(url).server().clone(), "host", patient).unwrap();
        client.call("tasks.ping", &json!({})).await.unwrap_err();
        client.call_lines("events.add_batch", b"{}\n").await.unwrap_err();
        let calls = calls.lock().unwrap();
        let count = |name: &str| calls.iter().filter(|it| it.path.ends_with(name)).count();
        assert_eq!((count("tasks.ping"), count("events.add_batch")), (3, 1));
    }

    #[tokio::test]
    async fn a_forgotten_token_is_replaced_once() {
        let mut logins = 0;
        let (url, _) = serve(move |call| match call.path.as_str() {
            "/auth.login" => {
                logins += 1;
                Ok(token(if logins == 1 { "old" } else { "new" }))
            }
            _ if logins == 1 => Err((401, 30, "Invalid token")),
            _ => Ok(json!({ "logins": logins })),
        });
        assert_eq!(client(url).call("x.y", &json!({})).await.unwrap(), json!({ "logins": 2 }));
    }

    #[tokio::test]
    async fn wrong_credentials_and_unknown_tasks_are_explained_without_secrets() {
        let (url, _) = serve(|_| Err((401, 22, "Unauthorized (invalid credentials)")));
        let error = client(url).login().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.hints()[0].contains("CLEARML_API_ACCESS_KEY"));
        assert!(!Failure::from(error).to_string().contains("hidden"));

        let (url, _) = serve(|call| match call.path.as_str() {
            "/auth.login" => Ok(token("a")),
            path if path.ends_with("get_by_id") => Err((400, 101, "Invalid task id")),
            _ if String::from_utf8_lossy(&call.body).contains("order_by") => {
                Ok(json!({ "tasks": [{ "id": "1", "name": "train model" }, { "id": "2", "name": "other" }] }))
            }
            _ => Ok(json!({ "tasks": [{ "id": "7", "name": "Train Modell (old)" }] })),
        });
        let client = client(url);
        let error = tasks::get(&client, "00").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        let error = tasks::find(&client, "Train modell").await.unwrap_err();
        assert_eq!(error.hints(), ["Tasks with names like it: `train model` (1)."]);
    }
}

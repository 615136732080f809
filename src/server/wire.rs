//! Paths and envelopes: how a call is spelled and how every answer is wrapped.

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::auth::COOKIE_NAME;
use super::call::{API_VERSION, Reply, Version};
use super::error::ApiError;
use super::site::new_id;

/// A path that names an endpoint: `/v2.23/tasks.get_by_id`, `/tasks.get_by_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// `service.action`.
    pub name: String,
    /// The version asked for; the newest when the path has none.
    pub version: Version,
}

/// Reads a path; `None` when it has not the form of an endpoint's.
pub(super) fn parse_path(path: &str) -> Option<Route> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let (version, name) = match path.split_once('/') {
        Some((version, name)) => (parse_version(version.strip_prefix('v')?)?, name),
        None => (API_VERSION, path),
    };
    let (service, action) = name.split_once('.')?;
    let word =
        |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (word(service) && word(action)).then(|| Route { name: name.to_owned(), version })
}

fn parse_version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    let number = |it: &str| it.bytes().all(|b| b.is_ascii_digit()).then(|| it.parse().ok()).flatten();
    Some(Version(number(major)?, number(minor)?))
}

/// A version as an envelope shows it: a text when 2.0 or later was asked for, else a number.
fn shown(version: Version, asked: Version) -> Value {
    let text = version.to_string();
    if asked.0 >= 2 { json!(text) } else { json!(text.parse::<f64>().unwrap_or(1.0)) }
}

/// An answer in the envelope every client expects.
pub(super) struct Envelope {
    /// The path, if it named an endpoint.
    pub route: Option<Route>,
    /// The version the endpoint appeared in, if there is such an endpoint.
    pub actual: Option<Version>,
    /// What came of it.
    pub result: Result<Reply, ApiError>,
}

impl Envelope {
    fn meta(&self, code: u16, subcode: u16, message: &str) -> Value {
        let id = new_id().unwrap_or_default();
        let (name, requested) =
            self.route.as_ref().map_or(("", json!(1.0)), |it| (it.name.as_str(), shown(it.version, it.version)));
        let actual = self.route.as_ref().zip(self.actual).map(|(it, actual)| shown(actual, it.version));
        json!({
            "id": id, "trx": id,
            "endpoint": {
                "name": name, "requested_version": requested,
                "actual_version": actual,
            },
            "result_code": code, "result_subcode": subcode, "result_msg": message,
            "error_stack": null, "error_data": {},
        })
    }

    fn success(&self, data: &Value) -> Response {
        json_response(StatusCode::OK, &json!({"meta": self.meta(200, 0, "OK"), "data": data}))
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl IntoResponse for Envelope {
    fn into_response(self) -> Response {
        match &self.result {
            Ok(Reply::Data(data)) => self.success(data),
            Ok(Reply::Token(token)) => {
                let mut response = self.success(&json!({"token": token}));
                let cookie = format!("{COOKIE_NAME}={token}; HttpOnly; Path=/; SameSite=Lax");
                if let Ok(value) = HeaderValue::from_str(&cookie) {
                    response.headers_mut().insert(SET_COOKIE, value);
                }
                response
            }
            Ok(Reply::File { name, text }) => {
                let disposition = format!("attachment; filename={name}");
                ([(CONTENT_TYPE, "text/plain".to_owned()), (CONTENT_DISPOSITION, disposition)], text.clone())
                    .into_response()
            }
            Err(error) => {
                let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let meta = self.meta(error.code, error.subcode, &error.message);
                json_response(status, &json!({"meta": meta, "data": {}}))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_the_original_reads_them() {
        let newest = parse_path("/tasks.get_by_id").unwrap();
        assert_eq!((newest.name.as_str(), newest.version), ("tasks.get_by_id", API_VERSION));
        assert_eq!(parse_path("/v2.30/tasks.get_by_id/").unwrap().version, Version(2, 30));
        for wrong in ["/v2/tasks.get", "/api/v2.5/tasks.get", "/v2.30/tasks/get_by_id", "/tasks", "/", "/v2.x/a.b"] {
            assert_eq!(parse_path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn old_versions_are_numbers_in_the_envelope() {
        assert_eq!(shown(Version(1, 0), Version(2, 5)), json!("1.0"));
        assert_eq!(shown(Version(1, 0), Version(1, 5)), json!(1.0));
        assert_eq!(shown(Version(0, 1), Version(0, 1)), json!(0.1));
    }
}

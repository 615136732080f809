//! The two servers the SDK talks to, on loopback: API and files. Nobody else's requests come here: the ports are the
//! container's own.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fs_err as fs;
use http_body_util::{BodyExt as _, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::answers::Answers;
use super::journal::Journal;

/// The longest body of an API call; the SDK's own limit is 15 MiB.
const BODY: usize = 64 << 20;

/// What both servers share.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) answers: Mutex<Answers>,
    pub(super) journal: Journal,
    /// Where uploads go.
    pub(super) files: Option<PathBuf>,
}

/// Where the servers are.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) api: String,
    pub(super) files: String,
}

type Reply = Response<Full<Bytes>>;

/// Starts both servers on this thread.
pub(super) async fn listen(place: &Rc<Place>) -> io::Result<Ports> {
    let api = bind().await?;
    let files = bind().await?;
    let ports = Ports { api: address(&api)?, files: address(&files)? };
    for (listener, is_api) in [(api, true), (files, false)] {
        let place = Rc::clone(place);
        tokio::task::spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let place = Rc::clone(&place);
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| {
                        let place = Rc::clone(&place);
                        async move {
                            let reply = if is_api { place.call(request).await } else { place.file(request).await };
                            Ok::<_, Infallible>(reply)
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }
    Ok(ports)
}

async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

fn address(listener: &TcpListener) -> io::Result<String> {
    Ok(format!("http://{}", listener.local_addr()?))
}

impl Place {
    /// Keeps the task as the program left it.
    pub(super) fn keep_task(&self) {
        self.journal.task(self.answers().task());
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().trim_matches('/').to_owned();
        // `v2.23/tasks.get_by_id` and `tasks.get_by_id` alike.
        let endpoint = path.rsplit('/').next().unwrap_or_default().to_owned();
        let lines = request.headers().get(CONTENT_TYPE).is_some_and(|it| it == "application/json-lines");
        let Ok(body) = Limited::new(request.into_body(), BODY).collect().await else {
            return envelope(&endpoint, Err((400, 0, "The request could not be read".to_owned())));
        };
        let bytes = body.to_bytes();
        let body = if lines { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({})) };
        if endpoint == "events.add_batch" || endpoint == "events.add" {
            let events: Vec<Value> =
                serde_json::Deserializer::from_slice(&bytes).into_iter().map_while(Result::ok).collect();
            events.iter().for_each(|it| self.journal.event(it));
            return envelope(&endpoint, Ok(json!({ "added": events.len(), "errors": 0, "errors_info": {} })));
        }
        if !Answers::only_asks(&endpoint) {
            self.journal.call(&endpoint, &body);
        }
        envelope(&endpoint, self.answers().answer(&endpoint, &body))
    }

    async fn file(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        match *request.method() {
            Method::GET | Method::HEAD => self.download(&path),
            Method::POST | Method::PUT => match self.upload(request).await {
                Ok(paths) => reply(StatusCode::OK, json!(paths).to_string()),
                Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            _ => reply(StatusCode::OK, String::new()),
        }
    }

    fn download(&self, path: &str) -> Reply {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        let found = self.files.as_ref().and_then(|it| fs::read(it.join(below(&decoded)?)).ok());
        found.map_or_else(
            || reply(StatusCode::NOT_FOUND, String::new()),
            |bytes| Response::new(Full::new(Bytes::from(bytes))),
        )
    }

    /// The parts of a form, each a file named by its path; answers the paths.
    async fn upload(&self, request: Request<Incoming>) -> io::Result<Vec<String>> {
        let header = request.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(header).map_err(io::Error::other)?;
        let stream = BodyStream::new(request.into_body());
        let stream =
            futures_util::StreamExt::filter_map(stream, async |frame| frame.map(|it| it.into_data().ok()).transpose());
        let mut form = multer::Multipart::new(Box::pin(stream), boundary);
        let mut paths = Vec::new();
        while let Some(mut field) = form.next_field().await.map_err(io::Error::other)? {
            let name = field.name().or(field.file_name()).unwrap_or_default().to_owned();
            let mut file = match self.files.as_ref().zip(below(&name)) {
                Some((root, path)) => {
                    let path = root.join(path);
                    fs::create_dir_all(crate::fs::parent_of(&path))?;
                    Some(fs::File::create(path)?)
                }
                None => None,
            };
            while let Some(chunk) = field.chunk().await.map_err(io::Error::other)? {
                if let Some(file) = &mut file {
                    file.write_all(&chunk)?;
                }
            }
            paths.push(name.trim_start_matches('/').to_owned());
        }
        Ok(paths)
    }
}

/// A path from outside, below the directory it belongs in; `None` for one that leaves it.
fn below(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let plain = path.components().all(|it| matches!(it, Component::Normal(_)));
    (plain && path.file_name().is_some()).then(|| path.to_owned())
}

fn envelope(endpoint: &str, outcome: Result<Value, super::answers::Refusal>) -> Reply {
    let (code, subcode, message, data) = match outcome {
        Ok(data) => (200, 0, "OK".to_owned(), data),
        Err((code, subcode, message)) => (code, subcode, message, json!({})),
    };
    let id = "0".repeat(32);
    let meta = json!({
        "id": id, "trx": id, "result_code": code, "result_subcode": subcode, "result_msg": message, "error_stack": null,
        "error_data": {}, "endpoint": { "name": endpoint, "requested_version": "2.34", "actual_version": "1.0" },
    });
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    reply(status, json!({ "meta": meta, "data": data }).to_string())
}

fn reply(status: StatusCode, text: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_stay_in_their_directory() {
        assert_eq!(below("/demo/a b.1/x.json"), Some(PathBuf::from("demo/a b.1/x.json")));
        for bad in ["", "/", "../x", "a/../../x", "a/./../x"] {
            assert_eq!(below(bad), None, "{bad}");
        }
    }
}

//! A server for unit tests: answers what a closure says. The end-to-end tests use the embedded server instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use url::Url;

use super::{Client, Login, Server};
use crate::http::Retry;
use crate::secret::{Credentials, Secret};

/// What came in: path without version, Authorization header, body.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) body: Vec<u8>,
}

/// Result code, subcode and message, or data.
pub(crate) type Reply = Result<Value, (u16, i64, &'static str)>;

/// The calls a server got so far.
pub(crate) type Calls = Arc<Mutex<Vec<Call>>>;

/// A server that answers one connection at a time, until the test process ends.
pub(crate) fn serve(mut answer: impl FnMut(&Call) -> Reply + Send + 'static) -> (Url, Calls) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let calls = Calls::default();
    let log = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).unwrap_or(0) > 2 {}
            let header = |name: &str| {
                let mut lines = head.lines().filter_map(|it| it.split_once(": "));
                lines.find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1.to_owned()).unwrap_or_default()
            };
            let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
            let call = Call { path, authorization: header("authorization"), body };
            let (code, subcode, message, data) = match answer(&call) {
                Ok(data) => (200, 0, "OK", data),
                Err((code, subcode, message)) => (code, subcode, message, json!({})),
            };
            log.lock().unwrap().push(call);
            let meta = json!({ "result_code": code, "result_subcode": subcode, "result_msg": message });
            let text = json!({ "meta": meta, "data": data }).to_string();
            let _ = write!(
                reader.get_mut(),
                "HTTP/1.1 {code} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    (url, calls)
}

/// A client of such a server, with keys `key` and `hidden`.
pub(crate) fn client(api: Url) -> Client {
    let keys = Credentials { user: "key".to_owned(), password: Secret::new("hidden") };
    let server = Server { api, web: None, files: None, login: Login::Keys(keys), verify: true };
    Client::new(server, "host", Retry::NONE).unwrap()
}

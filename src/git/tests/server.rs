//! A small HTTP server on loopback: `git http-backend`, the LFS batch API, and a login.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::digest::Digest;

/// How it behaves.
#[derive(Default, Clone)]
pub(super) struct Manners {
    /// User and password it wants.
    pub(super) login: Option<(&'static str, &'static str)>,
    /// Speaks the first protocol, in which servers hand out only what they advertise.
    pub(super) old: bool,
    /// LFS objects by what their pointers say.
    pub(super) objects: BTreeMap<Digest, Vec<u8>>,
}

pub(super) struct Server {
    pub(super) port: u16,
    /// Paths asked for, with the `Authorization` header.
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
}

type Asked = (String, Option<String>);

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Server {
    /// Serves the repositories below a directory until the test's end.
    pub(super) fn start(root: PathBuf, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, manners, log) = (root.clone(), manners.clone(), Arc::clone(&log));
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    log.lock().unwrap().push((request.path.clone(), request.headers.get("authorization").cloned()));
                    let answer = answer(&root, &manners, port, &request);
                    let _ = (&stream).write_all(&answer);
                });
            }
        });
        Self { port, asked }
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    pub(super) fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|it| it == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(Request { method, path, headers, body })
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn answer(root: &std::path::Path, manners: &Manners, port: u16, request: &Request) -> Vec<u8> {
    use base64::Engine as _;
    if let Some(digest) = request.path.strip_prefix("/objects/") {
        // Links are good without a login, as storage services' are.
        let found = Digest::from_hex(digest).ok().and_then(|it| manners.objects.get(&it));
        return found.map_or_else(|| response("404 Not Found", "", b""), |it| response("200 OK", "", it));
    }
    if let Some((user, password)) = manners.login {
        let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        if request.headers.get("authorization") != Some(&format!("Basic {expected}")) {
            return response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", b"");
        }
    }
    if request.path.ends_with("/info/lfs/objects/batch") {
        let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let offered: Vec<_> = (asked["objects"].as_array().unwrap().iter())
            .map(|it| {
                let oid = it["oid"].as_str().unwrap();
                let known = Digest::from_hex(oid).is_ok_and(|it| manners.objects.contains_key(&it));
                let href = format!("http://127.0.0.1:{port}/objects/{oid}");
                if known {
                    serde_json::json!({"oid": oid, "size": it["size"], "actions": {"download": {"href": href}}})
                } else {
                    serde_json::json!({"oid": oid, "size": it["size"], "error": {"code": 404, "message": "gone"}})
                }
            })
            .collect();
        let body = serde_json::to_vec(&serde_json::json!({"transfer": "basic", "objects": offered})).unwrap();
        return response("200 OK", "Content-Type: application/vnd.git-lfs+json\r\n", &body);
    }
    backend(root, manners, request)
}

fn backend(root: &std::path::Path, manners: &Manners, request: &Request) -> Vec<u8> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut command = super::git_in(root);
    command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("REQUEST_METHOD", &request.method);
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REMOTE_ADDR", "127.0.0.1");
    command.env("CONTENT_LENGTH", request.body.len().to_string());
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = request.headers.get(header)
            && !(manners.old && variable == "GIT_PROTOCOL")
        {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&request.body).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let Some(end) = output.windows(4).position(|it| it == b"\r\n\r\n") else {
        return response("500 Internal Server Error", "", b"");
    };
    let head = String::from_utf8_lossy(&output[..end]);
    let status = head.lines().find_map(|it| it.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let headers: String = head.lines().filter(|it| !it.starts_with("Status")).map(|it| format!("{it}\r\n")).collect();
    response(&status, &headers, &output[end + 4..])
}

//! A Python package index of a test's own: a directory of wheels behind HTTP, as the simple index has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::TestContext;

/// Writes a wheel of one module.
const WHEEL: &str = "\
import sys, zipfile
path, name, version = sys.argv[1:]
info = f'{name}-{version}.dist-info'
with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr(f'{name}.py', f'VERSION = {version!r}\\n')
    wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')
    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(f'{info}/RECORD', '')
";

/// A running index. It lives as long as the test's process; it holds nothing but the listening socket.
pub(crate) struct PackageIndex {
    address: String,
    directory: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl PackageIndex {
    /// An index of whatever distribution files are, or later appear, in a directory of the world.
    pub(crate) fn start(context: &TestContext, directory: &str) -> Self {
        let directory = context.path(directory);
        fs_err::create_dir_all(&directory).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (directory.clone(), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log) = (files.clone(), Arc::clone(&log));
                // A client that goes away is no concern of the index.
                thread::spawn(move || drop(answer(&stream, &files, &log)));
            }
        });
        Self { address, directory, asked }
    }

    /// The index's address, as `--index-url` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple/", self.address)
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds a wheel of one module, which says its version.
    pub(crate) fn wheel(&self, context: &TestContext, name: &str, version: &str) {
        let path = self.directory.join(format!("{name}-{version}-py3-none-any.whl"));
        context.command("python3").args(["-c", WHEEL]).arg(&path).args([name, version]).ok();
    }

    /// The paths asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(stream: &TcpStream, files: &Path, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        while reader.read_line(&mut line)? > 2 {}
        asked.lock().unwrap().push(path.clone());
        let (status, kind, body) = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "simple", ""] => ("200 OK", "text/html", root(files).into_bytes()),
            ["", "simple", project, ""] | ["", "simple", project] => match page(files, project) {
                Some(page) => ("200 OK", "text/html", page.into_bytes()),
                None => ("404 Not Found", "text/plain", Vec::new()),
            },
            ["", "files", name] => match fs_err::read(files.join(name)) {
                Ok(bytes) => ("200 OK", "application/octet-stream", bytes),
                Err(_) => ("404 Not Found", "text/plain", Vec::new()),
            },
            _ => ("404 Not Found", "text/plain", Vec::new()),
        };
        let mut out = stream;
        write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if method != "HEAD" {
            out.write_all(&body)?;
        }
        out.flush()?;
    }
}

/// The files of each project, by normalised name.
fn projects(files: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut projects: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs_err::read_dir(files).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some((project, _)) = name.split_once('-') else { continue };
        projects.entry(project.to_lowercase().replace(['_', '.'], "-")).or_default().insert(name);
    }
    projects
}

fn root(files: &Path) -> String {
    let links = projects(files).into_keys().map(|it| format!("<a href=\"/simple/{it}/\">{it}</a>\n"));
    format!("<!DOCTYPE html><html><body>\n{}</body></html>\n", links.collect::<String>())
}

fn page(files: &Path, project: &str) -> Option<String> {
    let names = projects(files).remove(project)?;
    let links = names.into_iter().map(|name| {
        let digest = agent::digest::Digest::of(fs_err::read(files.join(&name)).unwrap());
        format!("<a href=\"/files/{name}#sha256={}\">{name}</a>\n", digest.hex())
    });
    Some(format!("<!DOCTYPE html><html><body>\n{}</body></html>\n", links.collect::<String>()))
}

//! What the SDK writes, kept in files.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use fs_err as fs;
use serde_json::{Value, json};

/// The journal's directory and its open files; without a directory nothing is kept.
#[derive(Debug)]
pub(super) struct Journal {
    directory: Option<PathBuf>,
    calls: Mutex<Option<fs::File>>,
    events: Mutex<Option<fs::File>>,
}

impl Journal {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        let open = |name: &str| {
            let path = directory.as_ref()?.join(name);
            fs::OpenOptions::new().create(true).append(true).open(path).ok()
        };
        let (calls, events) = (Mutex::new(open("calls.jsonl")), Mutex::new(open("events.jsonl")));
        Self { directory, calls, events }
    }

    /// Keeps a call that writes.
    pub(super) fn call(&self, endpoint: &str, body: &Value) {
        append(&self.calls, &json!({ "endpoint": endpoint, "body": body }));
    }

    /// Keeps an event.
    pub(super) fn event(&self, event: &Value) {
        append(&self.events, event);
    }

    /// Keeps the task as it is now.
    pub(super) fn task(&self, task: &Value) {
        if let Some(directory) = &self.directory {
            let text = format!("{task:#}\n");
            let _ = crate::fs::write_whole(&directory.join("task.json"), text.as_bytes(), 0o644);
        }
    }
}

/// A full disk must not end the program.
fn append(file: &Mutex<Option<fs::File>>, line: &Value) {
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(file) = file.as_mut() {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

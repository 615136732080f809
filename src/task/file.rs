//! A task from a file: a task object, or the whole of what a server answered.

use std::io::Read;
use std::path::Path;

use fs_err as fs;
use serde_json::Value;

use super::clearml::{self, noun};
use super::{Task, TaskError};

/// The largest task file, in bytes. Diffs of a task are at most as large as a server takes.
const MAX_SIZE: u64 = 256 << 20;

/// Reads a task file.
///
/// # Errors
/// [`TaskError`]: unreadable, not JSON, no task in it.
pub fn read(path: &Path) -> Result<Task, TaskError> {
    let named = path.display().to_string();
    let error = |source| TaskError::Read { path: named.clone(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(error)?;
    file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(error)?;
    if text.len() as u64 > MAX_SIZE {
        let found = format!("more than {} MiB", MAX_SIZE >> 20);
        return Err(TaskError::NotOne { origin: named, found });
    }
    parse(&named, &text)
}

/// Reads a task from a text: the task object itself, `{"task": …}`, `{"tasks": [one]}`, or an answer with these in its
/// `data`.
///
/// # Errors
/// [`TaskError`]: not JSON, no task in it, a field of the wrong sort.
pub fn parse(origin: &str, text: &str) -> Result<Task, TaskError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Value =
        serde_json::from_str(text).map_err(|source| TaskError::Json { origin: origin.to_owned(), source })?;
    clearml::parse(unwrap(origin, &document)?)
}

fn unwrap<'a>(origin: &str, document: &'a Value) -> Result<&'a Value, TaskError> {
    let not_one = |found: String| TaskError::NotOne { origin: origin.to_owned(), found };
    let Value::Object(fields) = document else { return Err(not_one(noun(document).to_owned())) };
    let inner = match fields.get("data") {
        Some(data @ Value::Object(_)) if fields.contains_key("meta") || fields.len() == 1 => data,
        _ => document,
    };
    if let Some(task) = inner.get("task").filter(|it| it.is_object()) {
        return Ok(task);
    }
    if let Some(Value::Array(tasks)) = inner.get("tasks") {
        return match tasks.as_slice() {
            [task] => Ok(task),
            others => Err(not_one(format!("{} tasks", others.len()))),
        };
    }
    if ["script", "name", "container"].iter().all(|it| inner.get(it).is_none()) {
        return Err(not_one("an object without `script`, `name` and `container`".to_owned()));
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_in_every_wrapping() {
        let task = r#"{"name": "x", "script": {"entry_point": "a.py"}}"#;
        for text in [
            task.to_owned(),
            format!("{{\"task\": {task}}}"),
            format!("{{\"tasks\": [{task}]}}"),
            format!("{{\"meta\": {{\"result_code\": 200}}, \"data\": {{\"task\": {task}}}}}"),
        ] {
            assert_eq!(parse("t.json", &text).unwrap().script.entry_point, "a.py", "{text}");
        }
    }

    #[test]
    fn what_is_no_task() {
        let message = |text: &str| parse("t.json", text).unwrap_err().to_string();
        assert_eq!(message("[]"), "`t.json` holds a list instead of one task");
        assert_eq!(message("{\"tasks\": [{}, {}]}"), "`t.json` holds 2 tasks instead of one task");
        assert_eq!(message("{"), "`t.json` is not JSON");
        assert!(message("{\"meta\": {}, \"data\": {}}").contains("an object without"));
        let missing = read(Path::new("/nonexistent/t.json")).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read the task file `/nonexistent/t.json`");
    }
}

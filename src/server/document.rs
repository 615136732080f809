//! Stored objects are JSON documents; these read and write them by dotted path.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A task, project, queue, model or user.
pub(super) type Document = Map<String, Value>;

/// The value at a dotted path.
pub(super) fn at<'a>(document: &'a Document, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let mut value = document.get(parts.next()?)?;
    for part in parts {
        value = value.get(part)?;
    }
    Some(value)
}

/// What a dotted path names as MongoDB reads it: the value there, or, where the path leads through a list, a list of the
/// values that its items have there.
pub(super) fn found<'a>(document: &'a Document, path: &str) -> Option<Cow<'a, Value>> {
    if let Some(value) = at(document, path) {
        return Some(Cow::Borrowed(value));
    }
    let (list, rest) = path.match_indices('.').find_map(|(dot, _)| {
        let items = at(document, &path[..dot])?.as_array()?;
        Some((items, &path[dot + 1..]))
    })?;
    let values = list.iter().filter_map(Value::as_object).filter_map(|it| found(it, rest));
    let values: Vec<Value> = values.map(Cow::into_owned).collect();
    (!values.is_empty()).then_some(Cow::Owned(Value::Array(values)))
}

/// The text at a dotted path, empty if there is none.
pub(super) fn text<'a>(document: &'a Document, path: &str) -> &'a str {
    at(document, path).and_then(Value::as_str).unwrap_or_default()
}

/// The texts of the list at a dotted path.
pub(super) fn texts<'a>(document: &'a Document, path: &str) -> Vec<&'a str> {
    let list = at(document, path).and_then(Value::as_array);
    list.map(|it| it.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// The object at a top-level field, created if it is not there.
pub(super) fn object<'a>(document: &'a mut Document, field: &str) -> &'a mut Document {
    let slot = document.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// The list at a top-level field, created if it is not there.
pub(super) fn list<'a>(document: &'a mut Document, field: &str) -> &'a mut Vec<Value> {
    let slot = document.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(items) => items,
        _ => unreachable!("just made a list"),
    }
}

/// Sets a field, or removes it when there is no value.
pub(super) fn put(document: &mut Document, field: &str, value: Option<Value>) {
    match value {
        Some(value) if !value.is_null() => {
            document.insert(field.to_owned(), value);
        }
        _ => {
            document.remove(field);
        }
    }
}

/// An object literal as a document.
pub(super) fn document(value: Value) -> Document {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The asked fields only (dotted paths keep their nesting). A path whose parent is there but whose leaf is not leaves
/// an empty parent behind, as the original does.
pub(super) fn project(from: &Document, paths: &[&str]) -> Document {
    let mut out = Map::new();
    for path in paths {
        copy_path(from, &mut out, &path.split('.').collect::<Vec<_>>());
    }
    out
}

fn copy_path(from: &Document, out: &mut Document, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(value) = from.get(*first) else { return };
    match value {
        Value::Object(inner) if !rest.is_empty() => copy_path(inner, object(out, first), rest),
        _ => {
            out.insert((*first).to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_projection_keeps_nesting_and_empty_parents() {
        let task =
            document(json!({"id": "t", "status": "created", "script": {"diff": "", "requirements": {"pip": "a"}},
            "runtime": {}, "execution": {"queue": "q", "parameters": {}}}));
        let asked = ["status", "script.requirements", "runtime._x", "execution.queue", "absent.x"];
        let expected = json!({"status": "created", "script": {"requirements": {"pip": "a"}}, "runtime": {},
            "execution": {"queue": "q"}});
        assert_eq!(Value::Object(project(&task, &asked)), expected);
    }

    #[test]
    fn a_path_leads_through_lists() {
        let task = document(
            json!({"models": {"input": [{"model": "a"}, {"name": "x"}, {"model": "b"}]}, "runtime": {"v": 1}}),
        );
        let named = |path: &str| found(&task, path).map(Cow::into_owned);
        assert_eq!(named("models.input.model"), Some(json!(["a", "b"])));
        assert_eq!(named("runtime.v"), Some(json!(1)));
        assert_eq!((named("models.input.none"), named("models.output.model"), named("none.x")), (None, None, None));
    }

    #[test]
    fn nothing_is_stored_as_null() {
        let mut task = document(json!({"parent": "x"}));
        put(&mut task, "parent", Some(Value::Null));
        assert!(task.is_empty());
        object(&mut task, "container").insert("image".into(), json!("debian"));
        assert_eq!(text(&task, "container.image"), "debian");
        list(&mut task, "tags").push(json!("a"));
        assert_eq!(texts(&task, "tags"), ["a"]);
    }
}

//! The `_ex` listings: ids of other objects as objects of their own, with their names where asked for.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::server::document::{Document, at, text};
use crate::server::error::ApiError;
use crate::server::storage::{Kind, load};

const REFERENCES: &[(&str, Option<Kind>)] = &[
    ("company", None),
    ("user", Some(Kind::User)),
    ("project", Some(Kind::Project)),
    ("parent", Some(Kind::Task)),
    ("task", Some(Kind::Task)),
];

/// Replaces a document's references: `project: id` becomes `project: {id, name}`, the name when `project.name` is
/// among the fields asked for.
pub(super) fn expand(db: &Connection, document: &mut Document, only: &[String]) -> Result<(), ApiError> {
    for (field, kind) in REFERENCES {
        let Some(id) = document.get(*field).and_then(Value::as_str).map(str::to_owned) else { continue };
        document.insert((*field).to_owned(), reference(db, *kind, &id, wants_name(only, field))?);
    }
    if let Some(queue) = at(document, "execution.queue").and_then(Value::as_str).map(str::to_owned) {
        let queue = reference(db, Some(Kind::Queue), &queue, wants_name(only, "execution.queue"))?;
        crate::server::document::object(document, "execution").insert("queue".into(), queue);
    }
    Ok(())
}

fn wants_name(only: &[String], field: &str) -> bool {
    only.iter().any(|it| it.strip_prefix(field) == Some(".name"))
}

fn reference(db: &Connection, kind: Option<Kind>, id: &str, named: bool) -> Result<Value, ApiError> {
    let mut value = json!({"id": id});
    if let Some(kind) = kind.filter(|_| named)
        && let Some(target) = load(db, kind, id)?
    {
        value["name"] = json!(text(&target, "name"));
    }
    Ok(value)
}

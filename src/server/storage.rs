//! The database: SQLite in WAL mode, one connection, one transaction per request.
//!
//! ```text
//! server.db   user_version = 1
//!   tasks | projects | queues | models | users   id, body (JSON), indexed columns generated from it
//!   entries       queue, task, rank, added       the queues' lists, in order
//!   workers       id, body, expires              who reported, until when (ms)
//!   properties    worker, key, value, expires    runtime properties
//!   events        id, key, task, type, …, body   log lines, scalars, plots, images
//!   credentials   access_key, secret_digest      those made through the API
//!   queue_metrics queue, at (s), length, waiting how queues stood after each change
//! ```
//!
//! A request's transaction commits as a whole or not at all, synced to the disk before the answer is sent: what a
//! client was told survives a kill and a power cut. Writers are serialised by the connection's mutex; a change of a
//! task's status is nevertheless written as compare-and-swap, so that it stays right should that ever change.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::document::{Document, text};
use super::error::{ApiError, ServerError};

const FORMAT: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE tasks (id TEXT PRIMARY KEY, body TEXT NOT NULL,
    status TEXT AS (body->>'$.status'), project TEXT AS (body->>'$.project'), parent TEXT AS (body->>'$.parent'));
CREATE INDEX tasks_project ON tasks (project);
CREATE INDEX tasks_status ON tasks (status);
CREATE INDEX tasks_parent ON tasks (parent);
CREATE TABLE projects (id TEXT PRIMARY KEY, body TEXT NOT NULL, name TEXT AS (body->>'$.name'));
CREATE UNIQUE INDEX projects_name ON projects (name);
CREATE TABLE queues (id TEXT PRIMARY KEY, body TEXT NOT NULL, name TEXT AS (body->>'$.name'));
CREATE UNIQUE INDEX queues_name ON queues (name);
CREATE TABLE models (id TEXT PRIMARY KEY, body TEXT NOT NULL,
    project TEXT AS (body->>'$.project'), task TEXT AS (body->>'$.task'));
CREATE INDEX models_project ON models (project);
CREATE INDEX models_task ON models (task);
CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE entries (queue TEXT NOT NULL, task TEXT NOT NULL, rank INTEGER NOT NULL, added TEXT NOT NULL,
    PRIMARY KEY (queue, task));
CREATE INDEX entries_task ON entries (task);
CREATE TABLE workers (id TEXT PRIMARY KEY, body TEXT NOT NULL, expires INTEGER NOT NULL);
CREATE TABLE properties (worker TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, expires INTEGER,
    PRIMARY KEY (worker, key));
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, task TEXT NOT NULL, type TEXT NOT NULL,
    metric TEXT NOT NULL, variant TEXT NOT NULL, iter INTEGER, timestamp INTEGER NOT NULL, value REAL,
    body TEXT NOT NULL);
CREATE INDEX events_task ON events (task, type, timestamp, id);
CREATE INDEX events_metric ON events (task, type, metric, variant, iter);
CREATE TABLE credentials (access_key TEXT PRIMARY KEY, secret_digest TEXT NOT NULL, label TEXT, user TEXT NOT NULL,
    last_used TEXT);
PRAGMA user_version = 1;
";

/// What came later and changes nothing of what was there.
const LATER: &str = "
CREATE TABLE IF NOT EXISTS queue_metrics (queue TEXT NOT NULL, at INTEGER NOT NULL, length INTEGER NOT NULL,
    waiting INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS queue_metrics_at ON queue_metrics (at);
";

/// Opens the database, creating it when it is not there.
pub(super) fn open(path: &Path) -> Result<Connection, ServerError> {
    let failed = |error: rusqlite::Error| ServerError::Database { path: path.into(), why: error.to_string() };
    let mut db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(std::time::Duration::from_secs(60)).map_err(failed)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.set_prepared_statement_cache_capacity(128);
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match found {
        FORMAT => {}
        0 => {
            let creation = db.transaction().map_err(failed)?;
            creation.execute_batch(SCHEMA).map_err(failed)?;
            creation.commit().map_err(failed)?;
        }
        _ => return Err(ServerError::Format { path: path.into(), found, known: FORMAT }),
    }
    db.execute_batch(LATER).map_err(failed)?;
    Ok(db)
}

/// The sorts of stored documents; each has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Task,
    Project,
    Queue,
    Model,
    User,
}

impl Kind {
    const fn table(self) -> &'static str {
        match self {
            Self::Task => "tasks",
            Self::Project => "projects",
            Self::Queue => "queues",
            Self::Model => "models",
            Self::User => "users",
        }
    }
}

/// The document of that id.
pub(super) fn load(db: &Connection, kind: Kind, id: &str) -> Result<Option<Document>, ApiError> {
    let mut query = db.prepare_cached(&format!("SELECT body FROM {} WHERE id = ?", kind.table()))?;
    let body: Option<String> = query.query_row([id], |row| row.get(0)).optional()?;
    body.map(|it| Ok(serde_json::from_str(&it)?)).transpose()
}

/// Stores a new document under its `id`.
pub(super) fn insert(db: &Connection, kind: Kind, document: &Document) -> Result<(), ApiError> {
    let mut statement = db.prepare_cached(&format!("INSERT INTO {} (id, body) VALUES (?, ?)", kind.table()))?;
    match statement.execute(params![text(document, "id"), serde_json::to_string(document)?]) {
        Ok(_) => Ok(()),
        Err(error) if is_constraint(&error) => Err(ApiError::duplicate()),
        Err(error) => Err(error.into()),
    }
}

/// Stores a document again under its `id`.
pub(super) fn save(db: &Connection, kind: Kind, document: &Document) -> Result<(), ApiError> {
    let mut statement = db.prepare_cached(&format!("UPDATE {} SET body = ? WHERE id = ?", kind.table()))?;
    match statement.execute(params![serde_json::to_string(document)?, text(document, "id")]) {
        Ok(_) => Ok(()),
        Err(error) if is_constraint(&error) => Err(ApiError::duplicate()),
        Err(error) => Err(error.into()),
    }
}

/// Stores a task if its status still is what it was when the change was checked; whether it did.
#[must_use = "a lost race is an answer, not an error"]
pub(super) fn save_task_if(db: &Connection, was: &str, task: &Document) -> Result<bool, ApiError> {
    let mut statement = db.prepare_cached("UPDATE tasks SET body = ? WHERE id = ? AND status = ?")?;
    Ok(statement.execute(params![serde_json::to_string(task)?, text(task, "id"), was])? == 1)
}

/// Removes a document; whether it was there.
pub(super) fn remove(db: &Connection, kind: Kind, id: &str) -> Result<bool, ApiError> {
    let mut statement = db.prepare_cached(&format!("DELETE FROM {} WHERE id = ?", kind.table()))?;
    Ok(statement.execute([id])? == 1)
}

/// Narrows a listing in the database, before documents are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrow<'a> {
    /// `id`, or a column generated from the document (`project`, `status`, `parent`, `task`, `name`).
    pub column: &'static str,
    /// The values wanted.
    pub values: &'a [&'a str],
}

/// The documents of a kind in the order they were made, narrowed by columns.
pub(super) fn list(db: &Connection, kind: Kind, narrow: &[Narrow<'_>]) -> Result<Vec<Document>, ApiError> {
    let mut sql = format!("SELECT body FROM {}", kind.table());
    let mut values: Vec<&dyn ToSql> = Vec::new();
    for (index, it) in narrow.iter().enumerate() {
        let marks = vec!["?"; it.values.len()].join(",");
        sql.push_str(if index == 0 { " WHERE " } else { " AND " });
        sql.push_str(&format!("{} IN ({marks})", it.column));
        values.extend(it.values.iter().map(|value| value as &dyn ToSql));
    }
    sql.push_str(" ORDER BY rowid");
    let mut query = db.prepare(&sql)?;
    let rows = query.query_map(values.as_slice(), |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
}

/// The id of the document that has that name.
pub(super) fn id_by_name(db: &Connection, kind: Kind, name: &str) -> Result<Option<String>, ApiError> {
    let mut query = db.prepare_cached(&format!("SELECT id FROM {} WHERE name = ?", kind.table()))?;
    Ok(query.query_row([name], |row| row.get(0)).optional()?)
}

fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::document::document;

    #[test]
    fn documents_are_kept_listed_and_swapped_only_from_the_status_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.db");
        let db = open(&path).unwrap();
        for id in ["b", "a"] {
            insert(&db, Kind::Task, &document(json!({"id": id, "status": "created", "project": "p"}))).unwrap();
        }
        let narrow = [Narrow { column: "project", values: &["p", "q"] }];
        let ids: Vec<_> = list(&db, Kind::Task, &narrow).unwrap().iter().map(|it| text(it, "id").to_owned()).collect();
        assert_eq!(ids, ["b", "a"]);
        let queued = document(json!({"id": "a", "status": "queued"}));
        assert!(save_task_if(&db, "created", &queued).unwrap());
        assert!(!save_task_if(&db, "created", &queued).unwrap());
        drop(db);
        let db = open(&path).unwrap();
        assert_eq!(text(&load(&db, Kind::Task, "a").unwrap().unwrap(), "status"), "queued");
        db.pragma_update(None, "user_version", 7).unwrap();
        drop(db);
        assert!(matches!(open(&path), Err(ServerError::Format { found: 7, .. })));
    }

    #[test]
    fn a_name_is_unique_among_queues() {
        let db = open(Path::new(":memory:")).unwrap();
        insert(&db, Kind::Queue, &document(json!({"id": "1", "name": "default"}))).unwrap();
        let again = insert(&db, Kind::Queue, &document(json!({"id": "2", "name": "default"}))).unwrap_err();
        assert_eq!((again.code, again.subcode), (400, 801));
    }
}

//! The queues' lists of tasks: a row per entry, ordered by rank.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::error::ApiError;

/// A task's place in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub task: String,
    /// When it was put there, as stored.
    pub added: String,
}

impl Entry {
    pub(super) fn to_json(&self) -> Value {
        json!({"task": self.task, "added": self.added})
    }
}

/// The entries of a queue, first to be served first.
pub(super) fn of_queue(db: &Connection, queue: &str) -> Result<Vec<Entry>, ApiError> {
    let mut query = db.prepare_cached("SELECT task, added FROM entries WHERE queue = ? ORDER BY rank")?;
    let rows = query.query_map([queue], |row| Ok(Entry { task: row.get(0)?, added: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many there are in a queue.
pub(super) fn count(db: &Connection, queue: &str) -> Result<i64, ApiError> {
    Ok(db.prepare_cached("SELECT count(*) FROM entries WHERE queue = ?")?.query_row([queue], |row| row.get(0))?)
}

/// The queues a task is in.
pub(super) fn queues_of(db: &Connection, task: &str) -> Result<Vec<String>, ApiError> {
    let mut query = db.prepare_cached("SELECT queue FROM entries WHERE task = ?")?;
    let rows = query.query_map([task], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Puts a task at the end of a queue; refused when it is there already.
pub(super) fn add(db: &Connection, queue: &str, task: &str, added: &str) -> Result<(), ApiError> {
    let there: Option<i64> = db
        .prepare_cached("SELECT 1 FROM entries WHERE queue = ? AND task = ?")?
        .query_row([queue, task], |row| row.get(0))
        .optional()?;
    if there.is_some() {
        return Err(ApiError::already_queued(task));
    }
    db.prepare_cached(
        "INSERT INTO entries (queue, task, rank, added)
         VALUES (?1, ?2, 1 + coalesce((SELECT max(rank) FROM entries WHERE queue = ?1), 0), ?3)",
    )?
    .execute(params![queue, task, added])?;
    Ok(())
}

/// Takes a task out of a queue; whether it was in it.
pub(super) fn remove(db: &Connection, queue: &str, task: &str) -> Result<bool, ApiError> {
    let mut statement = db.prepare_cached("DELETE FROM entries WHERE queue = ? AND task = ?")?;
    Ok(statement.execute([queue, task])? == 1)
}

/// Takes a task out of every queue; how many it was in.
pub(super) fn remove_everywhere(db: &Connection, task: &str) -> Result<usize, ApiError> {
    Ok(db.prepare_cached("DELETE FROM entries WHERE task = ?")?.execute([task])?)
}

/// Empties a queue.
pub(super) fn clear(db: &Connection, queue: &str) -> Result<usize, ApiError> {
    Ok(db.prepare_cached("DELETE FROM entries WHERE queue = ?")?.execute([queue])?)
}

/// Moves a task within its queue to the place `to` gives from the present place and the last; the place, if it is there.
pub(super) fn move_to(
    db: &Connection,
    queue: &str,
    task: &str,
    to: impl Fn(usize, usize) -> usize,
) -> Result<Option<usize>, ApiError> {
    let mut tasks: Vec<String> = of_queue(db, queue)?.into_iter().map(|it| it.task).collect();
    let Some(from) = tasks.iter().position(|it| it == task) else { return Ok(None) };
    let last = tasks.len() - 1;
    let place = to(from, last).min(last);
    let moved = tasks.remove(from);
    tasks.insert(place, moved);
    let mut statement = db.prepare_cached("UPDATE entries SET rank = ? WHERE queue = ? AND task = ?")?;
    for (rank, task) in tasks.iter().enumerate() {
        statement.execute(params![i64::try_from(rank).unwrap_or_default(), queue, task])?;
    }
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_and_move() {
        let db = crate::server::storage::open(std::path::Path::new(":memory:")).unwrap();
        for task in ["a", "b", "c"] {
            add(&db, "q", task, "now").unwrap();
        }
        assert_eq!(add(&db, "q", "a", "now").unwrap_err().subcode, 706);
        assert_eq!(move_to(&db, "q", "c", |_, _| 0).unwrap(), Some(0));
        assert_eq!(move_to(&db, "q", "c", |at, _| at + 1).unwrap(), Some(1));
        assert_eq!(move_to(&db, "q", "x", |at, _| at).unwrap(), None);
        let order: Vec<_> = of_queue(&db, "q").unwrap().into_iter().map(|it| it.task).collect();
        assert_eq!(order, ["a", "c", "b"]);
        assert!(remove(&db, "q", "c").unwrap());
        assert!(!remove(&db, "q", "c").unwrap());
        assert_eq!(count(&db, "q").unwrap(), 2);
    }
}

//! Console lines and statistics on their way to the server (`events.add_batch`, one JSON object per line).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ApiError, Client};

/// The longest message of one event, in characters, as the original glues lines together.
const MESSAGE: usize = 65_536;
/// The longest body of one call, in bytes.
const BODY: usize = 1 << 20;

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// What the task's program prints.
    Debug,
    /// What we say.
    Info,
    /// What we warn of.
    Warning,
    /// What went wrong.
    Error,
}

/// One console line, or several glued together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// How important it is.
    pub level: Level,
    /// The text, line ends included.
    pub msg: String,
}

/// Whose events these are.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The task's id.
    pub task: &'a str,
    /// The worker's id.
    pub worker: &'a str,
}

/// Sends console lines that are glued already: an event each.
///
/// # Errors
/// What [`Client::call_lines`] gives; some of the lines may have arrived then.
pub async fn send_lines(client: &Client, source: Source<'_>, lines: &[Line]) -> Result<(), ApiError> {
    let events = lines.iter().map(|line| {
        json!({
            "type": "log", "task": source.task, "worker": source.worker,
            "level": line.level, "msg": line.msg, "timestamp": line.timestamp,
        })
    });
    send(client, events).await
}

/// A value on a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Title of the plot.
    pub metric: String,
    /// Name of the line in it.
    pub variant: String,
    /// The value.
    pub value: f64,
    /// Where on the horizontal axis.
    pub iteration: i64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
}

/// Sends values on plots.
///
/// # Errors
/// What [`Client::call_lines`] gives.
pub async fn send_scalars(client: &Client, source: Source<'_>, scalars: &[Scalar]) -> Result<(), ApiError> {
    let events = scalars.iter().map(|it| {
        json!({
            "type": "training_stats_scalar", "task": source.task, "worker": source.worker, "metric": it.metric,
            "variant": it.variant, "value": it.value, "iter": it.iteration, "timestamp": it.timestamp,
        })
    });
    send(client, events).await
}

async fn send(client: &Client, events: impl Iterator<Item = Value>) -> Result<(), ApiError> {
    let mut body = Vec::new();
    for event in events {
        let line = format!("{event}\n");
        if !body.is_empty() && body.len() + line.len() > BODY {
            client.call_lines("events.add_batch", &body).await?;
            body.clear();
        }
        body.extend(line.into_bytes());
    }
    if !body.is_empty() {
        client.call_lines("events.add_batch", &body).await?;
    }
    Ok(())
}

/// Neighbours of one level become one event up to [`MESSAGE`] characters, as the original glues them; a longer line is cut
/// into several. Each event has a time of its own, later than the one before it and than `after`, whatever the times of the
/// lines: the server sorts by them.
pub(crate) fn glue(lines: &[Line], after: i64) -> Vec<Line> {
    let mut glued: Vec<Line> = Vec::new();
    let mut room = 0;
    for line in lines {
        let length = line.msg.chars().count();
        match glued.last_mut() {
            Some(last) if last.level == line.level && length <= room => {
                last.msg.push_str(&line.msg);
                room -= length;
            }
            _ => {
                let characters: Vec<char> = line.msg.chars().collect();
                for piece in characters.chunks(MESSAGE) {
                    let after = glued.last().map_or(after, |it| it.timestamp);
                    glued.push(Line {
                        timestamp: line.timestamp.max(after.saturating_add(1)),
                        level: line.level,
                        msg: piece.iter().collect(),
                    });
                    room = MESSAGE - piece.len();
                }
            }
        }
    }
    glued
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timestamp: i64, level: Level, msg: &str) -> Line {
        Line { timestamp, level, msg: msg.to_owned() }
    }

    #[test]
    fn neighbours_are_glued_and_long_lines_cut() {
        let long = "é".repeat(MESSAGE + 5);
        let lines = [
            line(1, Level::Info, "hello\n"),
            line(2, Level::Debug, "a\n"),
            line(2, Level::Debug, "b\n"),
            line(2, Level::Debug, &long),
            line(2, Level::Debug, "c\n"),
        ];
        let shape = |after: i64| -> Vec<(i64, usize)> {
            glue(&lines, after).iter().map(|it| (it.timestamp, it.msg.chars().count())).collect()
        };
        assert_eq!(shape(i64::MIN), [(1, 6), (2, 4), (3, MESSAGE), (4, 7)]);
        assert_eq!(shape(7), [(8, 6), (9, 4), (10, MESSAGE), (11, 7)]);
        assert_eq!(serde_json::to_value(Level::Debug).unwrap(), "DEBUG");
    }
}

//! What goes on beside a running program: is it to stop, is it alive, what is the machine doing.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::super::console::Recorder;
use crate::clearml::events::Level;
use crate::clearml::{ApiError, Client, callback, tasks};
use crate::machine::Machine;
use crate::process;

/// How often the server is asked whether the task is to stop.
const POLL: Duration = Duration::from_secs(5);
/// How often the server hears that the task is alive.
const PING: Duration = Duration::from_secs(60);
/// How often statistics are sent; the first come sooner.
const STATISTICS: Duration = Duration::from_secs(30);
const FIRST_STATISTICS: Duration = Duration::from_secs(3);
/// How many times in a row a task may be found reset before its program is ended, as in the original.
const RESETS: u32 = 5;

/// Which task, told by whom.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) client: Client,
    pub(super) task: String,
    pub(super) worker: String,
    pub(super) tags: Vec<String>,
    /// How long what the task does before it is stopped may take.
    pub(super) abort_callback: Duration,
}

/// Why the program is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Somebody asked for it: the task becomes `stopped`.
    Stop,
    /// The task is somebody else's now, with this status, which stands.
    Leave(String),
}

/// Waits until the program is to end, says why, and wishes it.
pub(super) async fn until_stop(
    subject: Subject,
    recorder: Arc<Recorder>,
    verdict: Arc<OnceLock<Verdict>>,
    wish: Sender<()>,
) {
    let mut resets = 0;
    let found = loop {
        tokio::time::sleep(POLL).await;
        // A server that is away asks for nothing.
        let Ok(state) = tasks::status(&subject.client, &subject.task).await else { continue };
        let Some(state) = state else { break Verdict::Leave("deleted".to_owned()) };
        if state.asks_to_stop() {
            recorder.record(Level::Info, "The server asks the task to stop");
            // It may have something of its own to do first.
            callback::done(&subject.client, &subject.task, POLL, subject.abort_callback).await;
            break Verdict::Stop;
        }
        match state.status.as_str() {
            "closed" | "stopped" | "published" | "publishing" | "queued" | "failed" => {
                break Verdict::Leave(state.status);
            }
            "created" => {
                resets += 1;
                if resets >= RESETS {
                    break Verdict::Leave(state.status);
                }
                recorder.note(Level::Warning, "the task was reset while it runs");
            }
            _ => resets = 0,
        }
    };
    let _ = verdict.set(found);
    let _ = wish.send(()).await;
}

/// Pings and statistics, for ever.
pub(super) async fn keep_alive(subject: Subject) {
    let machine = Machine::new(std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
    let _ = subject.report(Value::Null).await;
    let mut before = machine.sample();
    let (mut ping, mut statistics) = (Instant::now(), Instant::now() + FIRST_STATISTICS);
    loop {
        if Instant::now() >= ping {
            let _ = tasks::ping(&subject.client, &subject.task).await;
            ping = Instant::now() + PING;
        }
        if Instant::now() >= statistics {
            let now = machine.sample();
            let _ = subject.report(machine.report(&before, &now)).await;
            before = now;
            statistics = Instant::now() + STATISTICS;
        }
        tokio::time::sleep_until(ping.min(statistics)).await;
    }
}

/// Tags of the worker as whoever started us wrote them: one with blanks in it stands in quotes.
pub(super) fn tags(text: &str) -> Vec<String> {
    process::words(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

impl Subject {
    async fn report(&self, statistics: Value) -> Result<Value, ApiError> {
        // Whole seconds, as the original sends them.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs());
        // Queues that are not named stay as they are: a daemon's own report names them, under the same worker.
        let body = json!({
            "worker": self.worker, "task": self.task, "timestamp": now * 1000, "tags": self.tags, "is_daemon": false,
            "machine_stats": statistics,
        });
        self.client.call("workers.status_report", &body).await
    }

    /// Tells the server that this worker is gone.
    pub(super) async fn unregister(&self) -> Result<Value, ApiError> {
        self.client.call("workers.unregister", &json!({ "worker": self.worker, "queues": [] })).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_what_they_were_with_blanks_and_quotes_in_them() {
        let all = ["night shift", "it's", "a\"b", "plain", ""].map(str::to_owned);
        assert_eq!(tags(&process::command_line(&all)), all);
        assert_eq!(tags("a 'b"), ["a", "'b"]);
        assert!(tags("").is_empty());
    }
}

//! The task on the server, looked at while a unit goes on: is it still ours, is it to stop; and what the server hears of
//! it meanwhile.
//!
//! One task of the runtime does both, since a message must not overwrite a request to stop, which is a message too
//! (`stopping`): it is written right after a look that found none, and together with another look, whose request to stop
//! is obeyed though the message has overtaken it. No call of the API writes a message on a condition, and an overwritten
//! one leaves no trace, so that a request between that second look and the message is lost all the same, as it is to the
//! SDK, which says at its start that the task has started: phases are told when they begin, and what goes on within one
//! rarely. What is being sent when the watch ends is sent to its end, so that no late message follows the final status;
//! one that a killed process was sending is waited for before the end is told, and one that comes later still has the
//! end told again ([`super::afterwards`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::server::{self, Seen};
use super::{Pace, Unit, Wish, WishedBy};
use crate::clearml::tasks::{self, Change};
use crate::clearml::{ApiError, Client};
use crate::http::Retry;
use crate::run::RunId;

/// How many times in a row a running task may be found reset before it is ended, as in the original.
const RESETS: u32 = 5;
/// How messages of a build begin that goes on.
const PROGRESS: &str = "building image: ";
/// Longer than any call takes.
const LONGEST_CALL: Duration = Duration::from_secs(120);

/// A look at the task again and again.
pub(super) struct Watch {
    wish: watch::Receiver<Option<Wish>>,
    text: watch::Sender<String>,
    running: Arc<AtomicBool>,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Watching {
    client: Client,
    task: String,
    worker: String,
    tags: Vec<String>,
    run: RunId,
    pace: Pace,
    running: Arc<AtomicBool>,
    wish: watch::Sender<Option<Wish>>,
    text: watch::Receiver<String>,
    end: watch::Receiver<bool>,
}

impl Watch {
    pub(super) fn start(unit: &Unit) -> Result<Self, ApiError> {
        let record = unit.record();
        let (wish, wishes) = watch::channel(None);
        let (text, texts) = watch::channel(String::new());
        let (end, ends) = watch::channel(false);
        let running = Arc::new(AtomicBool::new(false));
        // Asked once each time: the next time comes soon enough.
        let client = Client::new(unit.executor.client.server().clone(), server::hostname(), Retry::NONE)?;
        let watching = Watching {
            client,
            task: record.task.clone(),
            worker: record.worker.clone(),
            tags: record.tags.clone(),
            run: record.run.clone(),
            pace: unit.pace,
            running: Arc::clone(&running),
            wish,
            text: texts,
            end: ends,
        };
        Ok(Self { wish: wishes, text, running, end, task: tokio::spawn(watching.watch()) })
    }

    /// What somebody wants through the server; comes when there is something.
    pub(super) async fn wish(&self) -> Wish {
        let mut wishes = self.wish.clone();
        let found = wishes.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
        match found {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    /// What the task's status message is to say; the latest counts.
    pub(super) fn say(&self, text: &str) {
        // It is searched for this word.
        let text = text.replace("stopping", "ending").replace("Stopping", "Ending");
        self.text.send_if_modified(|it| {
            if *it == text {
                false
            } else {
                *it = text;
                true
            }
        });
    }

    /// The run itself says from now on that it is alive.
    pub(super) fn run_begins(&self) {
        self.running.store(true, Ordering::Relaxed);
    }

    /// Ends the watch; afterwards nothing of it is on its way to the server.
    pub(super) async fn end(mut self) {
        let _ = self.end.send(true);
        if timeout(LONGEST_CALL, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.end.send(true);
    }
}

impl Watching {
    async fn watch(mut self) {
        let mut resets = 0;
        let (mut ping, mut report, mut say) = (Instant::now() + self.pace.ping, Instant::now(), Instant::now());
        let mut poll = Instant::now();
        let mut pending: Option<String> = None;
        loop {
            let soonest = if pending.is_some() { poll.min(say) } else { poll };
            let text = tokio::select! {
                () = over(&mut self.end) => return,
                changed = self.text.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = sleep_until(soonest) => false,
            };
            if text {
                let text = self.text.borrow_and_update().clone();
                // What a build does changes all the time; a phase that begins is told at once.
                if !text.starts_with(PROGRESS) {
                    say = Instant::now();
                }
                pending = Some(text);
                if Instant::now() < say {
                    continue;
                }
            }
            poll = Instant::now() + self.pace.poll;
            let running = self.running.load(Ordering::Relaxed);
            // A server that is away asks for nothing.
            let Ok(seen) = server::look(&self.client, &self.task).await else {
                say = poll;
                continue;
            };
            if let Some(wish) = wished(seen.as_ref(), &self.run, running, &mut resets) {
                let _ = self.wish.send(Some(wish));
                return;
            }
            if Instant::now() >= say
                && let Some(text) = pending.take()
                && seen.is_some_and(|it| it.state.status == "in_progress")
            {
                let message = format!("{text} ({})", tasks::changed_by(&self.worker));
                let change = Change { task: &self.task, reason: &text, message: &message, force: false };
                say = Instant::now() + self.pace.say;
                let again = server::look(&self.client, &self.task);
                let (again, told) = tokio::join!(again, tasks::started(&self.client, change));
                if matches!(again, Ok(Some(it)) if it.state.asks_to_stop()) {
                    let _ = self.wish.send(Some(Wish::Stop { by: WishedBy::Server }));
                    return;
                }
                if told.is_err() {
                    (pending, say) = (Some(text), poll);
                }
            }
            if Instant::now() >= ping && tasks::ping(&self.client, &self.task).await.is_ok() {
                ping = Instant::now() + self.pace.ping;
            }
            if !running
                && Instant::now() >= report
                && server::report(&self.client, &self.task, &self.worker, &self.tags).await.is_ok()
            {
                report = Instant::now() + self.pace.report;
            }
        }
    }
}

/// Comes when the watch is to end.
async fn over(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|it| *it).await;
}

/// What the task on the server says is to become of the unit.
fn wished(seen: Option<&Seen>, run: &RunId, running: bool, resets: &mut u32) -> Option<Wish> {
    let leave = |status: &str| Some(Wish::Leave { status: status.to_owned() });
    let Some(seen) = seen else { return leave("deleted") };
    if seen.is_taken_from(run) {
        return leave("run by another worker");
    }
    let status = seen.state.status.as_str();
    if status != "created" {
        *resets = 0;
    }
    match status {
        _ if seen.state.asks_to_stop() => Some(Wish::Stop { by: WishedBy::Server }),
        "closed" | "stopped" | "published" | "publishing" | "queued" | "failed" => leave(status),
        // What has begun is given a while, as the original does: the SDK resets a task that it runs itself.
        "created" => {
            *resets += 1;
            (!running || *resets >= RESETS).then(|| Wish::Leave { status: status.to_owned() })
        }
        "completed" if !running => leave(status),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::clearml::testing::{client, serve};

    #[tokio::test]
    async fn a_request_to_stop_that_a_message_overtakes_is_obeyed() {
        let mut told: Option<std::time::Instant> = None;
        let (url, _) = serve(move |call| match call.path.rsplit('/').next().unwrap() {
            "auth.login" => Ok(json!({ "token": "t" })),
            "tasks.get_all" => {
                // It came with the message, and is gone a little later.
                let stopping = told.is_some_and(|it| it.elapsed() < Duration::from_millis(700));
                let message = if stopping { "stopping" } else { "ours" };
                // The first one is the look before the message.
                told.get_or_insert_with(std::time::Instant::now);
                Ok(json!({ "tasks": [{ "status": "in_progress", "status_message": message }] }))
            }
            _ => Ok(json!({})),
        });
        let (wish, wishes) = watch::channel(None);
        let (text, texts) = watch::channel(String::new());
        let (end, ends) = watch::channel(false);
        let pace = Pace { poll: Duration::from_secs(5), ..Pace::REAL };
        let watching = Watching {
            client: client(url),
            task: "t".to_owned(),
            worker: "w".to_owned(),
            tags: Vec::new(),
            run: RunId::new().unwrap(),
            pace,
            running: Arc::new(AtomicBool::new(true)),
            wish,
            text: texts,
            end: ends,
        };
        text.send("running".to_owned()).unwrap();
        timeout(Duration::from_secs(4), watching.watch()).await.expect("it is not obeyed before the next look");
        assert_eq!(*wishes.borrow(), Some(Wish::Stop { by: WishedBy::Server }));
        drop((text, end));
    }

    #[test]
    fn what_the_task_says_is_obeyed() {
        let run = RunId::new().unwrap();
        let wish = |status: &str, message: &str, running: bool, resets: &mut u32| {
            let task =
                json!({ "status": status, "status_message": message, "runtime": { "_agent_run": run.as_str() } });
            wished(Some(&Seen::of(&task)), &run, running, resets)
        };
        let leave = |status: &str| Some(Wish::Leave { status: status.to_owned() });
        let mut resets = 0;
        assert_eq!(wish("in_progress", "building", true, &mut resets), None);
        assert_eq!(wish("in_progress", "stopping", false, &mut resets), Some(Wish::Stop { by: WishedBy::Server }));
        for status in ["closed", "stopped", "published", "queued", "failed"] {
            assert_eq!(wish(status, "", true, &mut resets), leave(status));
        }
        assert_eq!(wish("completed", "", true, &mut resets), None);
        assert_eq!(wish("completed", "", false, &mut resets), leave("completed"));
        assert_eq!(wish("created", "", false, &mut 0), leave("created"));
        for _ in 1..RESETS {
            assert_eq!(wish("created", "", true, &mut resets), None);
        }
        assert_eq!(wish("created", "", true, &mut resets), leave("created"));
        assert_eq!(wished(None, &run, true, &mut resets), leave("deleted"));
        let other = RunId::new().unwrap();
        let task = json!({ "status": "in_progress", "runtime": { "_agent_run": run.as_str() } });
        assert_eq!(wished(Some(&Seen::of(&task)), &other, true, &mut resets), leave("run by another worker"));
    }
}

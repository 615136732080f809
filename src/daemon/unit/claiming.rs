//! Taking a task: from the queue, or from where it is, to `in_progress` at this worker.

use jiff::Timestamp;

use super::lines::Lines;
use super::server::{self, NO_CHANGE, NO_QUEUE, Seen};
use super::{Ending, Halt, Step, Unit, UnitEnd};
use crate::clearml::events::Level;
use crate::clearml::tasks::{self, Change};
use crate::daemon::journal::Phase;
use crate::daemon::queues;
use crate::run::RunId;
use crate::spool::SpoolError;

/// Whether a task may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    Yes { force: bool },
    No,
}

impl Unit {
    /// Takes the task. Again after a kill in the middle: what has been done is done again.
    pub(super) async fn take(&mut self) -> Result<Step, Halt> {
        if self.resumed.is_some()
            && let Some(queue) = self.record().queue.clone()
            && let Some(end) = self.find_out(&queue).await?
        {
            return self.give_back(end);
        }
        let client = self.executor.client.clone();
        let task = self.record().task.clone();
        let Some(seen) = self.insist("before the task is taken", || server::look(&client, &task)).await? else {
            return self.give_back(UnitEnd::Refused { status: "deleted".to_owned(), worker: None });
        };
        if self.record().wish.is_some() {
            return self.untake(&seen).await;
        }
        let refused = |seen: Seen| UnitEnd::Refused { status: seen.state.status.clone(), worker: seen.worker() };
        let record = self.record();
        let Take::Yes { force } = may_take(&seen, &record.run, &record.worker, record.queue.is_some()) else {
            return self.give_back(refused(seen));
        };
        if seen.state.status == "queued" && self.record().queue.is_none() {
            self.insist("to take the task out of its queue", || tasks::dequeue(&client, &task)).await?;
        }
        let message = self.changed_by();
        let reason = format!("pulled by agent {}", self.record().worker);
        let change = Change { force, ..self.change(&reason, &message) };
        let started = self.insist("to take the task", || async {
            match tasks::started(&client, change).await {
                Err(error) if error.is(NO_CHANGE) => Ok(false),
                other => other.map(|_| true),
            }
        });
        if !started.await? {
            let seen = self.insist("to take the task", || server::look(&client, &task)).await?;
            let end = seen.map_or(UnitEnd::Refused { status: "deleted".to_owned(), worker: None }, refused);
            return self.give_back(end);
        }
        let attempt = self.record().attempt.max(seen.attempt());
        let run = self.record().run.clone();
        self.insist("to mark the task", || server::mark(&client, &task, Some(&run), attempt)).await?;
        let (worker, tags) = (self.record().worker.clone(), self.record().tags.clone());
        self.insist("to report the worker", || server::report(&client, &task, &worker, &tags)).await?;
        self.entry.update(|it| it.attempt = attempt)?;
        self.open_lines()?;
        let from = self.record().queue.as_ref().map(|it| format!(" from queue {it}")).unwrap_or_default();
        let text = format!("task {task} ({}) pulled{from} by worker {}", seen.name, self.record().worker);
        self.line(Level::Info, &text);
        Ok(Step::Go(Phase::Build))
    }

    /// A stop was asked for before anybody knew whether the task is taken: one that is ends as stopped, one that is not is
    /// as if it had never been asked for.
    async fn untake(&mut self, seen: &Seen) -> Result<Step, Halt> {
        if seen.state.status == "in_progress" && seen.is_by(&self.record().run, &self.record().worker) {
            return self.ended(Ending::Stopped);
        }
        if let Some(queue) = self.record().queue.clone()
            && seen.state.status == "queued"
        {
            self.put_back(&queue).await?;
        }
        self.give_back(UnitEnd::Returned)
    }

    /// Puts the task back into the queue it left; where that is gone, nobody would ever take it, and it is told so.
    async fn put_back(&self, queue: &str) -> Result<(), Halt> {
        let (client, task) = (&self.executor.client, &self.record().task);
        let message = self.changed_by();
        let reason = format!("the queue {queue} that it waited in is gone");
        let put_back = self.insist("to put the task back", || async {
            match queues::put_back(client, queue, task).await {
                Err(error) if error.is(NO_QUEUE) => {
                    tasks::stopped(client, self.change(&reason, &message)).await.map(drop)
                }
                answer => answer,
            }
        });
        put_back.await
    }

    /// Opens the spool for lines of our own.
    pub(super) fn open_lines(&mut self) -> Result<(), SpoolError> {
        if self.lines.is_none() {
            let limit = self.executor.settings.spool_bytes;
            let lines = Lines::open(&self.entry, limit, &self.executor.client, self.pace.lines)?;
            self.lines = Some(lines);
        }
        Ok(())
    }

    /// After a kill around the moment in which the task left its queue: whether it did, and nobody put it back. An end
    /// means that it is not ours.
    async fn find_out(&self, queue: &str) -> Result<Option<UnitEnd>, Halt> {
        let client = self.executor.client.clone();
        let task = self.record().task.clone();
        let mut waited = false;
        loop {
            let waits = self.insist("about the queue", || server::is_queued(&client, queue, &task)).await?;
            if waits {
                return Ok(Some(UnitEnd::Returned));
            }
            let seen = self.insist("about the task", || server::look(&client, &task)).await?;
            let record = self.record();
            let (ours, left) = match seen {
                Some(seen) if seen.state.status == "in_progress" => (seen.is_by(&record.run, &record.worker), false),
                Some(seen) if seen.state.status == "queued" && seen.queue.as_deref() == Some(queue) => {
                    (record.popped, true)
                }
                _ => (false, false),
            };
            if ours {
                return Ok(None);
            }
            if !left {
                return Ok(Some(UnitEnd::Returned));
            }
            if waited {
                // It was ours: nobody else can have taken it and not said so for so long.
                let reason = format!("worker {} ended before it could take the task", self.record().worker);
                self.put_back(queue).await?;
                return Ok(Some(UnitEnd::Requeued { reason }));
            }
            tokio::select! {
                () = tokio::time::sleep(self.pace.orphan) => {}
                () = self.dismissed() => return Err(Halt::Detached),
            }
            waited = true;
        }
    }

    /// The task is not ours: nothing of the unit stays.
    fn give_back(&mut self, end: UnitEnd) -> Result<Step, Halt> {
        self.entry.remove()?;
        Ok(Step::End(end))
    }
}

/// Whether a task may be taken, by the server's own table; `force` only where that has no way back.
fn may_take(seen: &Seen, run: &RunId, worker: &str, from_queue: bool) -> Take {
    match seen.state.status.as_str() {
        // The server makes a task `queued` when it leaves a queue: somebody stopped this one since.
        "stopped" if from_queue => Take::No,
        "created" | "queued" | "stopped" | "completed" => Take::Yes { force: false },
        "failed" => Take::Yes { force: true },
        "in_progress" if !seen.is_run_by_another(run, worker, Timestamp::now()) => Take::Yes { force: false },
        _ => Take::No,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_failed_is_forced() {
        let run = RunId::new().unwrap();
        let of = |status: &str, from_queue: bool| {
            let seen = Seen::of(&json!({ "status": status, "last_worker": "you:0", "last_update": "" }));
            may_take(&seen, &run, "me:0", from_queue)
        };
        let take = |status: &str| of(status, false);
        assert_eq!(of("stopped", true), Take::No);
        assert_eq!(of("queued", true), Take::Yes { force: false });
        for status in ["created", "queued", "stopped", "completed"] {
            assert_eq!(take(status), Take::Yes { force: false }, "{status}");
        }
        assert_eq!(take("failed"), Take::Yes { force: true });
        for status in ["in_progress", "closed", "published", "publishing", "unheard of"] {
            assert_eq!(take(status), Take::No, "{status}");
        }
    }
}

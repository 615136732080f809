//! Runs: started, heard of, ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use super::Dispatcher;
use crate::daemon::asked::Asked;
use crate::daemon::metrics::Metrics;
use crate::daemon::work::{Asks, Attend, Broken, Doing, End, Job, News, Standing};
use crate::daemon::worker::{Beside, Busy};
use crate::run::RunId;

/// Phases in which a container may go on that nobody attends.
const USING: [&str; 3] = ["starting", "running", "draining"];
/// The phase whose time is counted.
const BUILDING: &str = "building";

/// A run that is attended.
pub(super) struct Running {
    job: Job,
    asks: watch::Sender<Asks>,
    since: Instant,
    /// Whether an earlier process started it.
    adopted: bool,
    /// Whether it has its GPUs and its program has not started.
    preparing: bool,
    /// In which phase it is, for people, and since when.
    phase: &'static str,
    phase_since: Instant,
    /// When it was asked to let go.
    dismissed: Option<Instant>,
}

impl Running {
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// Asks for something; what is asked only grows.
    pub(super) fn ask(&mut self, asks: Asks) {
        if asks == Asks::Detach {
            self.dismissed.get_or_insert_with(Instant::now);
        }
        self.asks.send_if_modified(|it| std::mem::replace(it, (*it).max(asks)) < asks);
    }

    /// It is in another phase from now on.
    fn enter(&mut self, phase: &'static str, metrics: &Metrics) {
        if self.phase == BUILDING && phase != BUILDING {
            metrics.built(self.phase_since.elapsed());
        }
        metrics.moved(Some(self.phase), Some(phase));
        (self.phase, self.phase_since) = (phase, Instant::now());
    }

    /// Whether it was asked to let go so long ago that it is not waited for any more.
    pub(super) fn has_had_its_time(&self, limit: Duration) -> bool {
        self.dismissed.is_some_and(|it| it.elapsed() >= limit)
    }
}

impl Dispatcher {
    /// Starts a task that was taken.
    pub(super) fn start(&mut self, job: Job, queue: &str) {
        self.desk.places.hold(&job);
        self.desk.tally.taken.add(1);
        self.desk.counter.reporter.note(format!("task {} of `{queue}` is run as {}", job.task, job.worker));
        let attend = (self.desk.counter.crew.run)(job.clone());
        self.attend(job, attend, true);
    }

    /// Attends a run that an earlier process started.
    pub(super) fn resume(&mut self, job: Job, attend: Attend, ours: bool) {
        self.unattended.remove(&job.run);
        if ours {
            self.desk.places.hold(&job);
        }
        self.desk.tally.adopted.add(1);
        self.desk.counter.reporter.note(format!("task {} of {} is attended again", job.task, job.worker));
        self.attend(job, attend, false);
    }

    fn attend(&mut self, job: Job, attend: Attend, preparing: bool) {
        let (asks, asked) = watch::channel(Asks::Nothing);
        let (run, all) = (job.run.clone(), self.tell.clone());
        let handle = self.runs.spawn(attended(run.clone(), attend, asked, all));
        self.attending.insert(handle.id(), run.clone());
        let (since, phase) = (Instant::now(), "taken");
        self.desk.metrics.moved(None, Some(phase));
        let adopted = !preparing;
        let running = Running { job, asks, since, adopted, preparing, phase, phase_since: since, dismissed: None };
        self.running.insert(run, running);
        self.note_beside();
        self.say_busy();
        self.say_what_runs();
    }

    pub(super) fn heard(&mut self, run: &RunId, news: News) {
        let Some(running) = self.running.get_mut(run) else { return };
        match news {
            News::Phase(phase) => running.enter(phase, &self.desk.metrics),
            News::Running => {
                running.enter("running", &self.desk.metrics);
                if std::mem::take(&mut running.preparing) {
                    let (gpus, time) = (running.job.gpus.devices.len(), running.since.elapsed());
                    let task = running.job.task.clone();
                    self.desk.metrics.idle(gpus, time);
                    self.tell_preparation(task, gpus, time);
                }
            }
            News::Note(text) => {
                self.desk.counter.reporter.note(format!("task {}: {text}", running.job.task));
                return;
            }
        }
        self.say_what_runs();
    }

    pub(super) fn ended(&mut self, ended: Result<(RunId, End), JoinError>) {
        // What a run told before its end counts.
        while let Ok((run, news)) = self.hear.try_recv() {
            self.heard(&run, news);
        }
        let (run, end) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let Some(run) = self.attending.remove(&error.id()) else { return };
                (run, End::Failed(Broken(error.to_string()).into()))
            }
        };
        self.attending.retain(|_, it| *it != run);
        let Some(running) = self.running.remove(&run) else { return };
        self.note_beside();
        // What cannot be attended now may have its GPUs all the same: a sweep finds out.
        if matches!(end, End::Failed(_)) && USING.contains(&running.phase) {
            self.unattended.insert(run);
        } else {
            self.desk.places.leave(&run);
        }
        self.desk.metrics.moved(Some(running.phase), None);
        let Running { job, since, adopted, preparing, phase, .. } = running;
        if preparing {
            self.desk.metrics.idle(job.gpus.devices.len(), since.elapsed());
        }
        let goes_on = matches!(end, End::Detached | End::Failed(_));
        self.left_behind |= matches!(end, End::Detached);
        self.tell_end(&job, end, phase, adopted);
        if job.worker == self.desk.worker.id() {
            self.say_busy();
        } else if !goes_on {
            let (stale, worker) = (self.looks.stale.clone(), self.desk.worker.clone());
            self.errands.spawn(async move { stale.unregister(&worker, &job.worker).await });
        }
        self.say_what_runs();
        self.look_soon();
    }

    fn tell_end(&mut self, job: &Job, end: End, phase: &str, adopted: bool) {
        let (reporter, task) = (Arc::clone(&self.desk.counter.reporter), &job.task);
        match end {
            End::Settled { status, reason, machinery } => {
                self.desk.metrics.ended(&status);
                // What failed this one would fail a whole queue within a minute.
                if machinery {
                    self.pause(adopted);
                } else {
                    self.looks.cautious.worked();
                }
                reporter.note(format!("task {task}: {status} ({reason})"));
            }
            End::GivenBack { reason } => reporter.note(format!("task {task} is not run here: {reason}")),
            End::Requeued { reason } => {
                self.desk.tally.requeued.add(1);
                // The machinery that failed may be this machine's: others get a chance first.
                self.pause(adopted);
                reporter.warning(format!("task {task} is queued again: {reason}"));
            }
            End::Detached => reporter.note(format!("task {task} goes on by itself")),
            End::Failed(error) => {
                self.desk.tally.broken.add(1);
                self.pause(adopted);
                reporter.warning(format!("task {task} cannot be attended now ({phase}): {error}"));
            }
        }
    }

    /// Takes nothing for a while. What an earlier process left is tried at each sweep, and says nothing of tasks that are
    /// taken now; what fails together is one failure.
    fn pause(&mut self, adopted: bool) {
        if adopted || Instant::now() < self.looks.not_before {
            return;
        }
        self.looks.not_before = Instant::now() + self.looks.cautious.failed();
    }

    pub(super) fn put_back(&mut self, job: Job) {
        let counter = self.desk.counter.clone();
        self.errands.spawn(async move {
            match counter.put_back(&job).await {
                Ok(()) => counter.reporter.note(format!("task {} is back in its queue", job.task)),
                Err(error) => {
                    let text = format!("task {} goes back to its queue at the next start: {error}", job.task);
                    counter.reporter.warning(text);
                }
            }
        });
    }

    /// What this worker itself works on: what runs beside others has a worker of its own.
    fn busy(&self) -> Option<Busy> {
        let running = self.running.values().find(|it| it.job.worker == self.desk.worker.id())?;
        Some(Busy { task: running.job.task.clone(), queue: running.job.queue.clone() })
    }

    /// Has the worker tell what the GPUs of runs do that have a worker of their own.
    fn note_beside(&self) {
        let own = self.desk.worker.id();
        let others = self.running.values().map(|it| &it.job).filter(|it| it.worker != own && !it.gpus.is_empty());
        let beside = |it: &Job| Beside { worker: it.worker.clone(), task: it.task.clone(), gpus: it.gpus.clone() };
        self.desk.worker.runs_beside(others.map(beside).collect());
    }

    /// Reports the worker, with what the machine does.
    pub(super) fn report(&mut self) {
        let worker = self.desk.worker.clone();
        self.errands.spawn(async move {
            // One that does not arrive is followed by the next.
            let _ = worker.report().await;
        });
    }

    /// Tells at once what the worker works on now.
    fn say_busy(&mut self) {
        let worker = self.desk.worker.clone();
        worker.works_on(self.busy());
        self.errands.spawn(async move {
            let _ = worker.says().await;
        });
    }

    pub(super) fn tell_property(&mut self, key: &'static str, value: String) {
        let (counter, properties) = (self.desk.counter.clone(), Arc::clone(&self.properties));
        self.errands.spawn(async move {
            let _ = properties.lock().await.tell(&counter.client, &counter.worker, key, value).await;
        });
    }

    /// Notes on the task how long it had its place before its program started.
    fn tell_preparation(&mut self, task: String, gpus: usize, time: Duration) {
        let client = self.desk.counter.client.clone();
        let seconds = |it: f64| (it * 10.0).round() / 10.0;
        let mut runtime = json!({ "_agent_prepare_seconds": seconds(time.as_secs_f64()) });
        if gpus > 0 {
            runtime["_agent_gpu_idle_seconds"] = json!(seconds(time.as_secs_f64() * gpus as f64));
        }
        self.errands.spawn(async move {
            let body = json!({ "task": task, "runtime": runtime, "force": true });
            let _ = client.call("tasks.edit_runtime", &body).await;
        });
    }

    /// Says what the daemon does, to whoever may want to know on this machine and on the server.
    pub(super) fn say_what_runs(&mut self) {
        let doing = match self.asked {
            Some(Asked::Drain) => "draining",
            Some(_) => "stopping",
            None => "serving",
        };
        self.desk.notify.status(&format!("{doing}, {} running", self.running.len()));
        let name = |id: &String| self.desk.queues.iter().find(|it| it.id == *id).map_or(id, |it| &it.name).clone();
        let running = self.running.values().map(|it| Doing {
            task: it.job.task.clone(),
            queue: it.job.queue.as_ref().map(name),
            phase: it.phase,
        });
        let running = running.collect();
        (self.desk.standing)(Standing { forced: self.forced.clone(), draining: self.asked.is_some(), running });
        self.tell_free();
    }

    /// Says which GPUs are free, where they are shared.
    pub(super) fn tell_free(&mut self) {
        if self.desk.habits.shares_gpus {
            self.tell_property("available_gpus", self.desk.places.available());
        }
    }
}

/// Attends a run to its end and passes its news on.
async fn attended(
    run: RunId,
    attend: Attend,
    asked: watch::Receiver<Asks>,
    all: mpsc::Sender<(RunId, News)>,
) -> (RunId, End) {
    let (tell, mut hear) = mpsc::channel(64);
    let mut work = attend(asked, tell);
    let end = loop {
        tokio::select! {
            end = &mut work => break end,
            Some(news) = hear.recv() => drop(all.send((run.clone(), news)).await),
        }
    };
    drop(work);
    while let Ok(news) = hear.try_recv() {
        let _ = all.send((run.clone(), news)).await;
    }
    (run, end)
}

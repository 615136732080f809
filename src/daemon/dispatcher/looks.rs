//! Looking: at the queues for the next task, and now and then for what was left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dispatcher;
use crate::daemon::ahead::next_tasks;
use crate::daemon::orphans::Watch;
use crate::daemon::pace::about;
use crate::daemon::queues::{self, Queue, Seen, forced_by_tags};
use crate::daemon::take::{Outcome, Tried, Wanted};
use crate::daemon::work::{Attend, Job, Left, Wants};
use crate::error::Failure;
use crate::run::RunId;

/// How soon the second sweep comes.
const SOON: Duration = Duration::from_secs(5);
/// How long a run of another worker of this machine is left to that worker.
const OTHERS: Duration = Duration::from_secs(10 * 60);

/// What came of a look at the queues.
pub(super) struct Looked {
    /// What was wanted, with what the worker's properties said by then.
    wanted: Wanted,
    tried: Result<Tried, Failure>,
    /// Queues that have taken the places of others.
    successors: Vec<(usize, Queue)>,
}

/// What came of a sweep.
pub(super) struct Swept {
    watch: Watch,
    /// Tasks that were put back into their queues.
    back: Result<Vec<String>, Failure>,
    /// Runs that nobody attends.
    left: Left,
    /// Whether those of other workers were looked for, too.
    all: bool,
    /// Workers that the server lists, where that was asked.
    listed: Vec<String>,
}

impl Dispatcher {
    /// Whether the queues are looked at at all: somebody must be able to use what is seen.
    pub(super) fn may_look(&self) -> bool {
        let useful = !self.desk.places.full() || self.ahead.is_on();
        // What an earlier process left has the first claim on places.
        let swept = self.looks.swept_once;
        self.asked.is_none() && self.looks.going.is_none() && useful && swept
    }

    pub(super) fn may_sweep(&self) -> bool {
        self.asked.is_none() && self.looks.sweep.is_none()
    }

    pub(super) fn begin_look(&mut self, now: Instant) {
        if !self.may_look() || now < self.looks.next || now < self.looks.not_before {
            return;
        }
        let desk = &self.desk;
        let mut wanted = Wanted {
            queues: Arc::clone(&desk.queues),
            places: desk.places.clone(),
            turn: self.turn,
            forced: None,
            scheduled: desk.habits.schedule.as_ref().is_none_or(|it| it.is_up_at(&(desk.clock)())),
        };
        let (counter, properties) = (desk.counter.clone(), Arc::clone(&self.properties));
        self.looks.going = Some(Box::pin(async move {
            let mut properties = properties.lock().await;
            let refreshed = properties.refresh(&counter.client, &counter.worker, Instant::now()).await;
            wanted.forced = properties.forced(Instant::now());
            drop(properties);
            let tried = match refreshed {
                Ok(()) => counter.take(&wanted).await,
                Err(error) => Err(error.into()),
            };
            let successors = match &tried {
                Ok(tried) => queues::successors(&counter.client, &wanted.queues, &tried.seen).await,
                Err(_) => Vec::new(),
            };
            Looked { wanted, tried, successors }
        }));
    }

    pub(super) fn looked(&mut self, looked: Looked) {
        let Looked { wanted, tried, successors } = looked;
        let interval = self.desk.habits.interval;
        match tried {
            Err(error) => self.server_is_away(&error),
            Ok(tried) => {
                if self.looks.backoff.worked() {
                    self.desk.counter.reporter.note("the queues can be looked at again");
                }
                let again = std::mem::take(&mut self.looks.again);
                self.looks.next = Instant::now() + if again { Duration::ZERO } else { about(interval) };
                self.tell_missing(tried.places.missing());
                self.desk.places.learn(&tried.places);
                self.tell_free();
                self.tell_gone(&tried);
                self.note_forced(&wanted, &tried);
                self.note_lengths(&tried);
                match tried.outcome {
                    Outcome::Nothing if self.asked.is_none() && !again => {
                        // What waits now waits for something to become free.
                        let tasks = next_tasks(&tried.seen, |it| wanted.serves(it), &wanted.fits());
                        self.ahead.waiting(tasks, &self.desk.counter.crew.prebuild);
                    }
                    Outcome::Nothing => {}
                    Outcome::Taken { queue, job } => self.taken(queue, job),
                    Outcome::Open { job, error } => self.open(job, &error),
                }
            }
        }
        self.serve_instead(successors);
    }

    /// Serves queues that were made anew in the place of those that are gone.
    fn serve_instead(&mut self, successors: Vec<(usize, Queue)>) {
        if successors.is_empty() {
            return;
        }
        let mut queues = self.desk.queues.to_vec();
        for (place, queue) in successors {
            let text = format!("the queue `{}` was made anew ({}) and is served", queue.name, queue.id);
            self.desk.counter.reporter.note(text);
            self.looks.gone.retain(|it| *it != queues[place].id);
            queues[place] = queue;
        }
        self.desk.worker.serves(queues.iter().map(|it| it.id.clone()).collect());
        self.desk.queues = queues.into();
        self.looks.next = Instant::now();
        self.report();
    }

    /// A task is ours: it is started, or put back if we are ending by now.
    fn taken(&mut self, queue: usize, job: Job) {
        if self.asked.is_some() {
            self.put_back(job);
            return;
        }
        self.turn.served(queue);
        let name = self.desk.queues[queue].name.clone();
        self.ahead.taken(&job.task);
        self.start(job, &name);
        // There may be more, and room for it.
        self.looks.next = Instant::now();
    }

    /// A task may be ours: a sweep finds out.
    fn open(&mut self, job: Job, error: &Failure) {
        let text = format!("whether task {} was taken is open: {error}", job.task);
        self.desk.counter.reporter.warning(text);
        self.looks.open.push(job);
        self.server_is_away(error);
    }

    fn server_is_away(&mut self, error: &Failure) {
        self.desk.metrics.poll_error();
        if !self.looks.backoff.is_failing() {
            self.desk.counter.reporter.warning(format!("{error}; what runs goes on, the queues are asked again"));
        }
        self.looks.next = Instant::now() + self.looks.backoff.failed();
    }

    /// Tells once of GPUs that are no longer there, and once that they are again.
    fn tell_missing(&self, missing: &[String]) {
        let reporter = &self.desk.counter.reporter;
        if missing == self.desk.places.missing() {
            return;
        }
        let waits = if self.desk.places.shares_gpus() { "" } else { ": nothing is taken until they are back" };
        match missing {
            [] => reporter.note("all GPUs of this worker are there again"),
            missing => reporter.warning(format!("the driver lists no GPU {} any more{waits}", missing.join(", "))),
        }
    }

    /// Tells once of queues that are no longer there, and once that they are again.
    fn tell_gone(&mut self, tried: &Tried) {
        for (queue, seen) in self.desk.queues.iter().zip(&tried.seen) {
            let told = self.looks.gone.contains(&queue.id);
            if seen.is_none() && !told {
                let text = format!("the queue `{}` ({}) is no longer on the server", queue.name, queue.id);
                self.desk.counter.reporter.warning(text);
                self.looks.gone.push(queue.id.clone());
            } else if seen.is_some() && told {
                self.looks.gone.retain(|it| *it != queue.id);
            }
        }
    }

    /// Notes how many tasks wait.
    fn note_lengths(&self, tried: &Tried) {
        let length =
            |(queue, seen): (&Queue, &Option<Seen>)| Some((queue.name.clone(), seen.as_ref()?.entries.len() as u64));
        self.desk.metrics.queues(self.desk.queues.iter().zip(&tried.seen).filter_map(length));
    }

    /// Notes what counts more than the schedule.
    fn note_forced(&mut self, wanted: &Wanted, tried: &Tried) {
        let mut forced: Vec<(String, bool)> = wanted.forced.map(|on| ("worker".to_owned(), on)).into_iter().collect();
        for (queue, seen) in self.desk.queues.iter().zip(&tried.seen) {
            let on = seen.as_ref().and_then(|it| forced_by_tags(&it.tags));
            forced.extend(on.map(|on| (queue.name.clone(), on)));
        }
        if forced != self.forced {
            self.forced = forced;
            self.say_what_runs();
        }
    }

    pub(super) fn begin_sweep(&mut self, now: Instant) {
        if !self.may_sweep() || now < self.looks.next_sweep {
            return;
        }
        self.looks.next_sweep = now + about(self.desk.habits.sweep);
        let Some(mut watch) = self.looks.watch.take() else { return };
        if self.looks.sweeps == 0 {
            // Another daemon that starts at the same moment may have looked at ours.
            self.looks.next_sweep = now + SOON;
        }
        for job in self.looks.open.drain(..) {
            watch.open(job);
        }
        let (counter, queues) = (self.desk.counter.clone(), Arc::clone(&self.desk.queues));
        let places = self.desk.places.clone();
        let (stale, worker) = (self.looks.stale.clone(), self.desk.worker.clone());
        // Other workers' runs are theirs for a while: only now and then they are looked at at all.
        let all = self.looks.sweeps.is_multiple_of(5);
        self.looks.sweeps += 1;
        let wants: Wants = Arc::new(move |worker| all || places.owns(worker));
        let known: BTreeSet<String> = self.running.values().map(|it| it.job().task.clone()).collect();
        self.looks.sweep = Some(Box::pin(async move {
            let crew = Arc::clone(&counter.crew);
            let left = match tokio::task::spawn_blocking(move || (crew.left)(wants)).await {
                Ok(left) => left,
                Err(error) => Err(std::io::Error::other(error).into()),
            };
            // Tasks of runs that have a journal are not astray, whatever they look like.
            let known = known.into_iter().chain(left.iter().flatten().map(|it| it.0.task.clone())).collect();
            let back = watch.look(&counter, &queues, &known, Instant::now()).await;
            let listed = stale.listed(&worker).await.unwrap_or_default();
            Swept { watch, back, left, all, listed }
        }));
    }

    pub(super) fn swept(&mut self, swept: Swept) {
        self.looks.watch = Some(swept.watch);
        self.looks.swept_once = true;
        let reporter = Arc::clone(&self.desk.counter.reporter);
        match swept.back {
            Ok(back) => {
                self.desk.tally.orphans.add(back.len());
                for task in &back {
                    reporter.note(format!("task {task} was taken and never started: it is back in its queue"));
                }
                if !back.is_empty() {
                    self.looks.next = Instant::now();
                }
            }
            // Told by the looks at the queues, where it is the server's.
            Err(error) if error.kind() == crate::error::Kind::Unreachable => self.desk.metrics.poll_error(),
            Err(error) => reporter.warning(format!("cannot look for lost tasks: {error}")),
        }
        match swept.left {
            Ok(left) => {
                let workers = left.iter().map(|it| it.0.worker.clone()).collect();
                self.unregister_stale(swept.listed, &workers);
                self.free_what_is_over(&left);
                self.adopt(left, swept.all);
            }
            Err(error) => {
                self.looks.stale.later();
                reporter.warning(format!("cannot look for runs that nobody attends: {error}"));
            }
        }
    }

    /// Frees the places of runs that could not be attended, where they are not there any more to be attended again.
    fn free_what_is_over(&mut self, left: &[(Job, Attend)]) {
        for run in std::mem::take(&mut self.unattended) {
            if left.iter().any(|it| it.0.run == run) {
                self.unattended.insert(run);
            } else {
                self.desk.places.leave(&run);
                self.looks.next = Instant::now();
            }
        }
    }

    /// Attends runs that nobody attends: ours at once, those of other workers when they do not come back.
    fn adopt(&mut self, left: Vec<(Job, Attend)>, all: bool) {
        if self.asked.is_some() {
            return;
        }
        let now = Instant::now();
        if all {
            let there: BTreeSet<&RunId> = left.iter().map(|it| &it.0.run).collect();
            self.looks.foreign.retain(|run, _| there.contains(run));
        }
        for (job, attend) in left {
            if self.running.contains_key(&job.run) {
                continue;
            }
            let ours = self.desk.places.owns(&job.worker);
            let since = *self.looks.foreign.entry(job.run.clone()).or_insert(now);
            if ours || now.duration_since(since) >= OTHERS {
                self.looks.foreign.remove(&job.run);
                self.resume(job, attend, ours);
            }
        }
    }

    pub(super) fn built_ahead(&mut self, task: &str, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.desk.tally.built_ahead.add(1);
                self.desk.counter.reporter.note(format!("task {task}: its image is ready ahead of its turn"));
            }
            // Its own build says so on the task; here it is only early.
            Err(error) => self.desk.counter.reporter.note(format!("task {task} cannot be built ahead: {error}")),
        }
        self.ahead.next(&self.desk.counter.crew.prebuild);
    }

    /// Looks at once instead of at the next regular moment.
    pub(super) fn look_soon(&mut self) {
        self.looks.again = self.looks.going.is_some();
        if !self.looks.backoff.is_failing() {
            self.looks.next = Instant::now();
        }
    }
}

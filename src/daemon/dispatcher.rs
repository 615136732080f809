//! The dispatcher: one loop that hears everything that happens around a daemon and decides what happens next.
//!
//! ```text
//! signals ───────┐                     ┌─▶ a try to take a task (`take`)        one at a time
//! tries, sweeps ─┤                     ├─▶ a sweep: orphans, runs nobody attends one at a time
//! news, endings ─┼─▶ one loop, which ──┼─▶ runs (`work`), a future each
//! builds ahead ──┤    never waits for  ├─▶ errands: reports, tasks put back
//! the clock ─────┘    the server       └─▶ a build ahead (`ahead`)
//! ```
//!
//! What talks to the server is a future of its own: a server that is slow or away delays what is asked of it, and
//! nothing else. No error of one touches what runs.

mod looks;
mod runs;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::ahead::Ahead;
use super::asked::{self, Asked};
use super::metrics::Metrics;
use super::notify::Notify;
use super::orphans::Watch;
use super::pace::Backoff;
use super::places::Places;
use super::queues::{Queue, Turn};
use super::schedule::Schedule;
use super::take::Counter;
use super::tally::Tally;
use super::work::{Asks, End, Job, News, Standing};
use super::worker::{self, Properties, Worker};
use crate::error::Failure;
use crate::run::RunId;
use runs::Running;
use workers::Stale;

/// How long runs may take to let go once they are to be left as they are.
const FAREWELL: Duration = Duration::from_secs(15);
/// How long reports under way may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a look at the queues may take once everything is to stop. What it was about to take stands in the journal.
const LOOKING: Duration = Duration::from_secs(3);

/// How a daemon behaves.
#[derive(Debug, Clone)]
pub struct Habits {
    /// How often the queues are looked at.
    pub interval: Duration,
    /// How often orphans and runs that nobody attends are looked for.
    pub sweep: Duration,
    /// When it works; absent: always.
    pub schedule: Option<Schedule>,
    /// Whether queues take turns.
    pub fair: bool,
    /// How many images are built ahead.
    pub ahead: usize,
    /// What the server is told of how many tasks may run at once.
    pub limit: Option<usize>,
    /// Whether GPUs are shared among tasks, so that others want to know which are free.
    pub shares_gpus: bool,
}

/// What a dispatcher works with.
pub struct Desk {
    /// The server, and who does the work.
    pub counter: Counter,
    /// The queues, by priority.
    pub queues: Arc<[Queue]>,
    /// The worker as the server knows it.
    pub worker: Worker,
    /// How many tasks run at once.
    pub places: Places,
    /// How it behaves.
    pub habits: Habits,
    /// What it does, for Prometheus.
    pub metrics: Arc<Metrics>,
    /// What else it has done.
    pub tally: Arc<Tally>,
    /// The service manager.
    pub notify: Notify,
    /// What time it is on this machine, for its hours.
    pub clock: Box<dyn Fn() -> jiff::Zoned + Send + Sync>,
    /// Hears what the daemon does whenever that changes.
    pub standing: Box<dyn Fn(Standing) + Send + Sync>,
}

/// A daemon at work.
struct Dispatcher {
    desk: Desk,
    turn: Turn,
    properties: Arc<Mutex<Properties>>,
    ahead: Ahead,
    asked: Option<Asked>,
    /// Since when everything is to stop.
    stopping: Option<Instant>,
    /// Whether something that ran here goes on without us.
    left_behind: bool,
    /// What counts more than the schedule, as the last look showed.
    forced: Vec<(String, bool)>,
    running: BTreeMap<RunId, Running>,
    /// Runs that have their places and that nobody attends now: what they started may go on.
    unattended: BTreeSet<RunId>,
    runs: JoinSet<(RunId, End)>,
    /// Which future attends which run, for those that panic.
    attending: BTreeMap<tokio::task::Id, RunId>,
    tell: mpsc::Sender<(RunId, News)>,
    hear: mpsc::Receiver<(RunId, News)>,
    errands: JoinSet<()>,
    looks: Looks,
}

/// What is asked of the server regularly.
struct Looks {
    going: Option<BoxFuture<'static, looks::Looked>>,
    next: Instant,
    /// Whether something became free while one went on.
    again: bool,
    backoff: Backoff,
    /// Queues that people have been told are gone.
    gone: Vec<String>,
    sweep: Option<BoxFuture<'static, looks::Swept>>,
    /// Whether what an earlier process left has been looked for.
    swept_once: bool,
    next_sweep: Instant,
    /// How many there have been.
    sweeps: usize,
    /// Tasks that may be ours, for the next sweep.
    open: Vec<Job>,
    /// What sweeps remember; absent while one goes on.
    watch: Option<Watch>,
    /// Workers of runs that are over.
    stale: Stale,
    /// Since when runs of other workers have been unattended.
    foreign: BTreeMap<RunId, Instant>,
    next_report: Instant,
    next_alive: Option<Instant>,
    /// Nothing is taken before this: what was started before broke at once.
    cautious: Backoff,
    not_before: Instant,
}

/// Serves until it is asked to end and has; `asks` are the wishes of people.
///
/// # Errors
/// The machine's: what the server does or does not is never one.
pub async fn serve(desk: Desk, mut asks: mpsc::Receiver<Asked>) -> Result<(), Failure> {
    let mut dispatcher = Dispatcher::new(desk);
    dispatcher.greet();
    while !dispatcher.over() {
        dispatcher.begin();
        dispatcher.wait(&mut asks).await;
    }
    dispatcher.farewell().await;
    Ok(())
}

impl Dispatcher {
    fn new(desk: Desk) -> Self {
        let (tell, hear) = mpsc::channel(256);
        let now = Instant::now();
        let habits = &desk.habits;
        let looks = Looks {
            going: None,
            next: now,
            again: false,
            backoff: Backoff::new(habits.interval, Duration::from_secs(60)),
            gone: Vec::new(),
            sweep: None,
            swept_once: false,
            next_sweep: now,
            sweeps: 0,
            open: Vec::new(),
            watch: Some(Watch::default()),
            stale: Stale::new(),
            foreign: BTreeMap::new(),
            next_report: now,
            next_alive: desk.notify.watchdog().map(|it| now + it),
            cautious: Backoff::new(Duration::from_secs(5), Duration::from_secs(300)),
            not_before: now,
        };
        Self {
            turn: Turn::new(habits.fair),
            properties: Arc::new(Mutex::new(Properties::new(worker::EVERY.min(habits.interval * 6)))),
            ahead: Ahead::new(habits.ahead),
            asked: None,
            stopping: None,
            left_behind: false,
            forced: Vec::new(),
            running: BTreeMap::new(),
            unattended: BTreeSet::new(),
            runs: JoinSet::new(),
            attending: BTreeMap::new(),
            tell,
            hear,
            errands: JoinSet::new(),
            looks,
            desk,
        }
    }

    /// Tells the world that the daemon is there.
    fn greet(&mut self) {
        let worker = self.desk.worker.clone();
        self.errands.spawn(async move {
            // A report registers as well: the next one does.
            let _ = worker.register().await;
        });
        if let Some(limit) = self.desk.habits.limit {
            self.tell_property("max_num_instances", limit.to_string());
        }
        self.desk.notify.ready();
        self.say_what_runs();
    }

    fn over(&self) -> bool {
        let left = self.asked == Some(Asked::Detach) && self.running.values().all(|it| it.has_had_its_time(FAREWELL));
        let looked = self.looks.going.is_none() || self.stopping.is_some_and(|it| it.elapsed() >= LOOKING);
        self.asked.is_some() && (left || (self.running.is_empty() && looked))
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let now = Instant::now();
        self.begin_look(now);
        self.begin_sweep(now);
        if now >= self.looks.next_report {
            self.looks.next_report = now + super::pace::about(worker::EVERY);
            self.report();
        }
        if self.looks.next_alive.is_some_and(|it| now >= it) {
            self.desk.notify.alive();
            self.looks.next_alive = self.desk.notify.watchdog().map(|it| now + it);
        }
    }

    /// Waits for the next thing to happen, and does what follows from it.
    async fn wait(&mut self, asks: &mut mpsc::Receiver<Asked>) {
        let due = self.due();
        tokio::select! {
            Some(asked) = asks.recv() => self.ask(asked),
            Some(ended) = self.runs.join_next(), if !self.runs.is_empty() => self.ended(ended),
            Some((run, news)) = self.hear.recv() => self.heard(&run, news),
            looked = of(&mut self.looks.going) => self.looked(looked),
            swept = of(&mut self.looks.sweep) => self.swept(swept),
            Some(_) = self.errands.join_next(), if !self.errands.is_empty() => {}
            (task, result) = self.ahead.ended() => self.built_ahead(&task, result),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }

    /// When something is due that nothing but the clock tells of.
    fn due(&self) -> Instant {
        let looks = &self.looks;
        let mut due = looks.next_report;
        if self.may_look() {
            due = due.min(looks.next.max(looks.not_before));
        }
        if self.may_sweep() {
            due = due.min(looks.next_sweep);
        }
        if self.asked == Some(Asked::Detach) {
            due = due.min(Instant::now() + Duration::from_millis(500));
        }
        if let Some(since) = self.stopping
            && self.running.is_empty()
        {
            due = due.min(since + LOOKING);
        }
        due.min(looks.next_alive.unwrap_or(due))
    }

    /// Obeys a wish.
    fn ask(&mut self, asked: Asked) {
        let asked = asked::and_then(self.asked, asked);
        if self.asked == Some(asked) {
            return;
        }
        self.asked = Some(asked);
        if asked >= Asked::Stop {
            self.stopping.get_or_insert_with(Instant::now);
        }
        self.ahead.clear();
        let count = self.running.len();
        let (asks, text) = match asked {
            Asked::Drain => (Asks::Nothing, format!("draining: {count} running, no more is taken")),
            Asked::Stop => (Asks::Stop, format!("stopping: {count} running")),
            Asked::Detach => {
                (Asks::Detach, format!("ending: {count} running go on and are attended by the next daemon"))
            }
        };
        self.desk.counter.reporter.note(text);
        for running in self.running.values_mut() {
            running.ask(asks);
        }
        if asked != Asked::Drain {
            self.desk.notify.stopping();
        }
        self.say_what_runs();
    }

    /// Ends what is under way, and tells the server that the worker is gone.
    async fn farewell(mut self) {
        self.desk.notify.stopping();
        let all = async { while self.errands.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
        // A report that comes after it would register the worker again.
        self.errands.shutdown().await;
        // Runs that go on without us keep their worker: the next daemon is the same one.
        if self.running.is_empty() && !self.left_behind {
            let _ = tokio::time::timeout(LAST_WORDS, self.unregister_all()).await;
        }
    }
}

/// What a future comes to; never, while there is none. It is gone once it has ended.
async fn of<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = slot.as_mut() else { return std::future::pending().await };
    let result = future.await;
    *slot = None;
    result
}

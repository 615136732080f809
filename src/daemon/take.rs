//! Taking a task: look, decide, write it down, take it out.
//!
//! ```text
//! look ─▶ choose ─▶ intent in the journal ─▶ pop with the task's id ─▶ journal: taken ─▶ a job
//!   ▲                                              │ somebody was faster
//!   └──────────────────────────────────────────────┘ intent forgotten
//! ```
//!
//! Taking a task out of a queue changes nothing on the task itself: one that was taken by a process that is killed right
//! after it is queued, and in no queue. The intent tells whose it was. Nothing here starts anything; whoever gets a job
//! starts it or puts it back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::pace::random_below;
use super::places::Places;
use super::queues::{self, Fit, Queue, Seen, Turn};
use super::work::{Crew, Job};
use crate::clearml::{ApiError, Client};
use crate::error::Failure;
use crate::gpu::Inventory;
use crate::report::SharedReporter;
use crate::run::RunId;

/// How often somebody else may be faster before the next regular look.
const RACES: usize = 20;
/// For how many seconds a worker that says nothing more still has its GPUs.
const LAST_SEEN: u64 = 600;
/// How long the driver may take to say what there is.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest pause after a lost race.
const PAUSE: Duration = Duration::from_millis(80);

/// What everything that asks the server about queues shares.
#[derive(Clone)]
pub struct Counter {
    /// The server, asked without much patience: the next look comes anyway.
    pub client: Client,
    /// Who writes down what is about to be taken.
    pub crew: Arc<Crew>,
    /// Where people are told.
    pub reporter: SharedReporter,
    /// The worker's id.
    pub worker: String,
    /// Asks the driver, where tasks get GPUs; nothing where it does not answer. May block.
    pub driver: Option<Driver>,
}

/// Asks the driver what there is and what runs on it.
pub type Driver = Arc<dyn Fn() -> Option<Inventory> + Send + Sync>;

/// What is wanted of one try.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The queues, by priority.
    pub queues: Arc<[Queue]>,
    /// What is free.
    pub places: Places,
    /// Where to begin.
    pub turn: Turn,
    /// The worker's property `force`.
    pub forced: Option<bool>,
    /// Whether the schedule says that work is taken now.
    pub scheduled: bool,
}

impl Wanted {
    /// Whether a queue is served now.
    #[must_use]
    pub fn serves(&self, seen: &Seen) -> bool {
        queues::active(&seen.tags, self.forced, self.scheduled)
    }

    /// Whether each queue's next task would have what it needs.
    #[must_use]
    pub fn fits(&self) -> Vec<Fit> {
        self.queues.iter().map(|it| self.places.fit(it)).collect()
    }
}

/// What came of a try.
#[derive(Debug)]
pub struct Tried {
    /// What the last look showed.
    pub seen: Vec<Option<Seen>>,
    /// What is free, with what was learnt of others' use.
    pub places: Places,
    /// The task that was taken.
    pub outcome: Outcome,
}

/// Whether a task was taken.
#[derive(Debug)]
pub enum Outcome {
    /// None: there is none that can be run now.
    Nothing,
    /// One.
    Taken {
        /// Which queue it came from.
        queue: usize,
        /// The task, and as whom it runs.
        job: Job,
    },
    /// The server did not say whether it was taken out.
    Open {
        /// The task, and as whom it would run.
        job: Job,
        /// What happened instead.
        error: Failure,
    },
}

impl Counter {
    /// Takes the next task, if there is one that can be run now.
    ///
    /// # Errors
    /// The server does not answer, or the intent cannot be written: nothing was taken.
    pub async fn take(&self, wanted: &Wanted) -> Result<Tried, Failure> {
        let mut wanted = wanted.clone();
        let mut seen = queues::look(&self.client, &wanted.queues).await?;
        let waits = seen.iter().flatten().any(|it| !it.entries.is_empty() && wanted.serves(it));
        if waits && (wanted.places.shares_gpus() || !wanted.places.full()) {
            self.observe(&mut wanted.places).await?;
        }
        let fits = wanted.fits();
        let mut outcome = Outcome::Nothing;
        for _ in 0..RACES {
            let chosen = queues::choose(&seen, |it| wanted.serves(it), &fits, wanted.turn);
            let Some((queue, task)) = chosen.and_then(|it| Some((it, seen[it].as_ref()?.entries.first()?.clone())))
            else {
                break;
            };
            outcome = self.take_this(&wanted, queue, task).await?;
            if let (Outcome::Taken { job, .. }, Some(seen)) = (&outcome, &mut seen[queue]) {
                seen.entries.retain(|it| *it != job.task);
            }
            if !matches!(outcome, Outcome::Nothing) {
                break;
            }
            tokio::time::sleep(random_below(PAUSE)).await;
            seen = queues::look(&self.client, &wanted.queues).await?;
        }
        Ok(Tried { seen, places: wanted.places, outcome })
    }

    /// Sees which GPUs are there, and who else uses those that are shared among tasks: programs, by the driver, and workers, by
    /// the server.
    async fn observe(&self, places: &mut Places) -> Result<(), Failure> {
        let Some(driver) = self.driver.clone() else { return Ok(()) };
        // A driver that does not answer now tells nothing: what it told before holds.
        let asked = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || driver())).await;
        let Ok(Ok(Some(inventory))) = asked else { return Ok(()) };
        if !places.shares_gpus() {
            places.observe(&inventory, &[]);
            return Ok(());
        }
        let query = json!({ "last_seen": LAST_SEEN, "worker_pattern": places.others() });
        let data = self.client.call("workers.get_all", &query).await?;
        let workers = data.get("workers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let ids = workers.iter().filter_map(|it| it.get("id")?.as_str().map(str::to_owned));
        places.observe(&inventory, &ids.collect::<Vec<_>>());
        Ok(())
    }

    /// Takes one task; nothing if somebody was faster.
    async fn take_this(&self, wanted: &Wanted, place: usize, task: String) -> Result<Outcome, Failure> {
        let queue = &wanted.queues[place];
        let mut job = wanted.places.offer(RunId::new()?, &task, queue);
        (self.crew.intend)(&job)?;
        match queues::pop(&self.client, &queue.id, &task).await {
            Ok(None) => {
                (self.crew.forget)(&job.run);
                return Ok(Outcome::Nothing);
            }
            // Not even asked: the login failed, the connection was refused.
            Err(error @ ApiError::Credentials { .. }) => {
                (self.crew.forget)(&job.run);
                return Err(error.into());
            }
            Err(error) => return Ok(Outcome::Open { job, error: error.into() }),
            Ok(Some(popped)) if popped != task => {
                // An older server takes out whichever is first.
                (self.crew.forget)(&job.run);
                job = wanted.places.offer(RunId::new()?, &popped, queue);
                (self.crew.intend)(&job)?;
            }
            Ok(Some(_)) => {}
        }
        // It is ours, whether or not that can be written down: then it is asked for again after a kill.
        if let Err(error) = (self.crew.taken)(&job.run) {
            self.reporter.warning(format!("task {task}: {error}"));
        }
        Ok(Outcome::Taken { queue: place, job })
    }

    /// A task's status; nothing for one that is gone.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn status(&self, task: &str) -> Result<Option<String>, ApiError> {
        let query = json!({ "id": [task], "search_hidden": true, "only_fields": ["id", "status"] });
        let data = self.client.call("tasks.get_all", &query).await?;
        Ok(data.pointer("/tasks/0/status").and_then(Value::as_str).map(str::to_owned))
    }

    /// Puts a task that was taken and not started back where it was, and forgets the intent.
    ///
    /// # Errors
    /// The server does not answer: the intent stays, and the task is put back later.
    pub async fn put_back(&self, job: &Job) -> Result<(), ApiError> {
        if let Some(queue) = &job.queue
            && self.status(&job.task).await?.as_deref() == Some("queued")
        {
            queues::put_back(&self.client, queue, &job.task).await?;
        }
        (self.crew.forget)(&job.run);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::clearml::testing::{self, Calls, Reply};
    use crate::daemon::settings::Slots;
    use crate::gpu::GpuSet;

    /// What is written down: task and whether it has been taken, by run.
    pub(in crate::daemon) type Ledger = Arc<Mutex<BTreeMap<RunId, (String, bool)>>>;

    /// A crew that only writes down.
    pub(in crate::daemon) fn scribe() -> (Crew, Ledger) {
        let ledger = Ledger::default();
        let of = |ledger: &Ledger| Arc::clone(ledger);
        let (intended, taken, forgotten) = (of(&ledger), of(&ledger), of(&ledger));
        let crew = Crew {
            intend: Box::new(move |job| {
                intended.lock().unwrap().insert(job.run.clone(), (job.task.clone(), false));
                Ok(())
            }),
            taken: Box::new(move |run| {
                taken.lock().unwrap().get_mut(run).unwrap().1 = true;
                Ok(())
            }),
            forget: Box::new(move |run| drop(forgotten.lock().unwrap().remove(run))),
            run: Box::new(|job| panic!("{job:?} is run")),
            left: Box::new(|_| Ok(Vec::new())),
            prebuild: Box::new(|task| panic!("{task} is built")),
        };
        (crew, ledger)
    }

    /// A counter before a server that answers what a closure says, by the last part of the path.
    pub(in crate::daemon) fn counter(
        mut answer: impl FnMut(&str, &Value) -> Reply + Send + 'static,
    ) -> (Counter, Calls, Ledger) {
        let (url, calls) = testing::serve(move |call| match call.path.rsplit('/').next().unwrap() {
            "auth.login" => Ok(json!({ "token": "t" })),
            path => answer(path, &serde_json::from_slice(&call.body).unwrap_or_default()),
        });
        let (crew, ledger) = scribe();
        let (client, reporter) = (testing::client(url), crate::report::silent());
        let (crew, worker) = (Arc::new(crew), "w:0".to_owned());
        (Counter { client, crew, reporter, worker, driver: None }, calls, ledger)
    }

    pub(in crate::daemon) fn queues() -> Arc<[Queue]> {
        Arc::new([Queue { id: "q".to_owned(), name: "queue".to_owned(), gpus: None, named: false }])
    }

    fn wanted() -> Wanted {
        let places = Places::new(Slots::One, "w:0", "w", GpuSet::default()).unwrap();
        Wanted { queues: queues(), places, turn: Turn::new(false), forced: None, scheduled: true }
    }

    pub(in crate::daemon) fn listed(tasks: &[String]) -> Reply {
        let entries: Vec<Value> = tasks.iter().map(|it| json!({ "task": it })).collect();
        Ok(json!({ "queues": [{ "id": "q", "entries": entries }] }))
    }

    #[tokio::test]
    async fn an_empty_queue_costs_one_request_and_nothing_on_disk() {
        let (counter, calls, _) = counter(|path, _| match path {
            "queues.get_all" => listed(&[]),
            _ => Err((404, 0, "no")),
        });
        for _ in 0..2 {
            assert!(matches!(counter.take(&wanted()).await.unwrap().outcome, Outcome::Nothing));
        }
        assert_eq!(calls.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_lost_race_leads_to_the_next_task_and_leaves_nothing() {
        let queue = Arc::new(Mutex::new(vec!["a".to_owned(), "b".to_owned()]));
        let (counter, _, ledger) = counter(move |path, body| {
            let mut queue = queue.lock().unwrap();
            match path {
                "queues.get_all" => listed(&queue),
                "queues.get_next_task" => {
                    let asked = body["task"].as_str().unwrap().to_owned();
                    queue.retain(|it| *it != asked);
                    // The first one was taken by somebody else just before.
                    if asked == "a" { Ok(json!({})) } else { Ok(json!({ "entry": { "task": asked } })) }
                }
                other => panic!("{other}"),
            }
        });
        let tried = counter.take(&wanted()).await.unwrap();
        let Outcome::Taken { queue: 0, job } = tried.outcome else { panic!("{tried:?}") };
        assert_eq!((job.task.as_str(), job.worker.as_str(), job.queue.as_deref()), ("b", "w:0", Some("q")));
        assert_eq!(tried.seen[0].as_ref().unwrap().entries.len(), 0);
        let ledger: Vec<_> = ledger.lock().unwrap().values().cloned().collect();
        assert_eq!(ledger, [("b".to_owned(), true)]);
    }

    #[tokio::test]
    async fn a_server_that_takes_out_another_task_is_believed() {
        let (counter, _, ledger) = counter(|path, _| match path {
            "queues.get_all" => listed(&["a".to_owned()]),
            _ => Ok(json!({ "entry": { "task": "b" } })),
        });
        let tried = counter.take(&wanted()).await.unwrap();
        assert!(matches!(&tried.outcome, Outcome::Taken { job, .. } if job.task == "b"), "{tried:?}");
        let ledger: Vec<_> = ledger.lock().unwrap().values().cloned().collect();
        assert_eq!(ledger, [("b".to_owned(), true)]);
    }

    #[tokio::test]
    async fn a_server_that_dies_while_a_task_is_taken_out_leaves_the_intent() {
        let (counter, _, ledger) = counter(|path, _| match path {
            "queues.get_all" => listed(&["a".to_owned()]),
            _ => Err((500, 0, "oops")),
        });
        let tried = counter.take(&wanted()).await.unwrap();
        assert!(matches!(&tried.outcome, Outcome::Open { job, .. } if job.task == "a"), "{tried:?}");
        let ledger: Vec<_> = ledger.lock().unwrap().values().cloned().collect();
        assert_eq!(ledger, [("a".to_owned(), false)]);
    }

    #[tokio::test]
    async fn what_was_not_started_goes_back_only_while_it_is_queued() {
        for (status, moves) in [("queued", 1), ("in_progress", 0)] {
            let (counter, calls, ledger) = counter(move |path, _| match path {
                "tasks.get_all" => Ok(json!({ "tasks": [{ "status": status }] })),
                _ => Ok(json!({})),
            });
            let job = wanted().places.offer(RunId::new().unwrap(), "a", &queues()[0]);
            (counter.crew.intend)(&job).unwrap();
            counter.put_back(&job).await.unwrap();
            let calls = calls.lock().unwrap();
            let moved = calls.iter().filter(|it| it.path.ends_with("move_task_to_front")).count();
            assert_eq!((moved, ledger.lock().unwrap().len()), (moves, 0), "{status}");
        }
    }
}

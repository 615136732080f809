//! Tasks that were taken out of a queue and never started: queued, and in no queue. They go back to the front.
//!
//! Whoever takes a task starts it within moments, so such a task is nothing strange for a moment. It goes back when this
//! process asked for it and never learned the answer, or when it has been seen like that for minutes without a break: a
//! server that was away in between has kept others from starting what they took. What a killed process of this machine
//! took stands in the journal and is not looked for here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::queues::{self, Queue};
use super::take::Counter;
use super::work::Job;
use crate::error::Failure;

/// How long is waited where the connection broke while we took a task out.
const OPEN: Duration = Duration::from_secs(30);
/// How long others are given to start what they took.
const OTHERS: Duration = Duration::from_secs(10 * 60);
/// How many queued tasks are asked for at once: servers answer with no more.
const PAGE: usize = 500;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Watch {
    /// Since when a task has been seen queued and in no queue.
    since: BTreeMap<String, Instant>,
    /// What this process asked for without learning the answer.
    open: Vec<Job>,
}

impl Watch {
    /// Notes a task that may be ours.
    pub fn open(&mut self, job: Job) {
        self.open.push(job);
    }

    /// Looks once; the tasks that were put back. `known` are those that are attended.
    ///
    /// # Errors
    /// The server does not answer: what was seen so far counts no more.
    pub async fn look(
        &mut self,
        counter: &Counter,
        queues: &Arc<[Queue]>,
        known: &BTreeSet<String>,
        now: Instant,
    ) -> Result<Vec<String>, Failure> {
        let found = match astray(counter, queues).await {
            Ok(found) => found,
            Err(error) => {
                self.since.clear();
                return Err(error);
            }
        };
        self.since.retain(|task, _| found.iter().any(|it| it.0 == *task));
        let mut back = Vec::new();
        for (task, queue) in found {
            let since = *self.since.entry(task.clone()).or_insert(now);
            let ours = self.open.iter().any(|it| it.task == task);
            let limit = if ours { OPEN } else { OTHERS };
            if !known.contains(&task) && now.duration_since(since) >= limit {
                match queues::put_back(&counter.client, &queue, &task).await {
                    // Deleted meanwhile: the others are looked after all the same.
                    Err(error) if error.is(queues::NO_QUEUE) => continue,
                    answer => answer?,
                }
                self.since.remove(&task);
                back.push(task);
            }
        }
        // Those that are not astray (any more) were taken by somebody, or are where they should be.
        self.open.retain(|it| {
            let astray = self.since.contains_key(&it.task);
            if !astray {
                (counter.crew.forget)(&it.run);
            }
            astray
        });
        Ok(back)
    }
}

/// Tasks that are queued in one of these queues and stand in none, with the queue. Tasks first, then entries: what is
/// enqueued in between is not taken for astray.
async fn astray(counter: &Counter, queues: &Arc<[Queue]>) -> Result<Vec<(String, String)>, Failure> {
    let text = |it: &Value, pointer: &str| it.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let mut candidates: BTreeMap<String, String> = BTreeMap::new();
    let mut before: Option<String> = None;
    for page in 0.. {
        // The oldest first: what is enqueued meanwhile moves no other to another page.
        let query = json!({
            "status": ["queued"], "only_fields": ["id", "execution.queue"], "search_hidden": true,
            "order_by": ["created"], "page": page, "page_size": PAGE,
        });
        let data = counter.client.call("tasks.get_all", &query).await?;
        let tasks = data.get("tasks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named = tasks.iter().filter_map(|it| Some((text(it, "/id")?, text(it, "/execution/queue")?)));
        candidates.extend(named.filter(|(_, queue)| queues.iter().any(|it| it.id == *queue)));
        // A server that knows no pages gives the first one again and again.
        let first = tasks.first().and_then(|it| text(it, "/id"));
        if tasks.len() < PAGE || first == before {
            break;
        }
        before = first;
    }
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let seen = queues::look(&counter.client, queues).await?;
    let listed: BTreeSet<&String> = seen.iter().flatten().flat_map(|it| &it.entries).collect();
    Ok(candidates.into_iter().filter(|(task, _)| !listed.contains(task)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::take::tests::{Ledger, counter as counter_before, listed, queues};
    use super::*;
    use crate::gpu::GpuSet;
    use crate::run::RunId;

    #[derive(Default)]
    struct World {
        /// Queued tasks, and those listed in the queue.
        queued: Vec<String>,
        listed: Vec<String>,
        away: bool,
    }

    fn counter(world: &Arc<Mutex<World>>) -> (Counter, Ledger) {
        let world = Arc::clone(world);
        let (counter, _, ledger) = counter_before(move |path, body| {
            let mut world = world.lock().unwrap();
            match path {
                _ if world.away => Err((500, 0, "away")),
                "tasks.get_all" => {
                    let task = |it: &String| json!({ "id": it, "execution": { "queue": "q" } });
                    let (page, size) = (body["page"].as_u64().unwrap(), body["page_size"].as_u64().unwrap());
                    let before = usize::try_from(page * size).unwrap();
                    let tasks = world.queued.iter().skip(before).take(usize::try_from(size).unwrap());
                    Ok(json!({ "tasks": tasks.map(task).collect::<Vec<_>>() }))
                }
                "queues.get_all" => listed(&world.listed),
                "queues.add_task" => {
                    world.listed.push(body["task"].as_str().unwrap().to_owned());
                    Ok(json!({ "added": 1 }))
                }
                _ => Ok(json!({})),
            }
        });
        (counter, ledger)
    }

    #[tokio::test]
    async fn what_is_open_goes_back_after_a_while_unless_somebody_has_it() {
        let world = Arc::new(Mutex::new(World { queued: vec!["open".to_owned()], ..World::default() }));
        let (counter, ledger) = counter(&world);
        let mut watch = Watch::default();
        for task in ["open", "elsewhere"] {
            let (run, gpus) = (RunId::new().unwrap(), GpuSet::default());
            let (task, queue, worker) = (task.to_owned(), Some("q".to_owned()), "w".to_owned());
            let job = Job { run, task, queue, worker, gpus };
            (counter.crew.intend)(&job).unwrap();
            watch.open(job);
        }
        let (queues, known, now) = (queues(), BTreeSet::new(), Instant::now());
        assert!(watch.look(&counter, &queues, &known, now).await.unwrap().is_empty());
        assert_eq!(ledger.lock().unwrap().len(), 1, "what somebody else has is forgotten");
        assert_eq!(watch.look(&counter, &queues, &known, now + OPEN).await.unwrap(), ["open"]);
        assert_eq!(world.lock().unwrap().listed, ["open"]);
        assert!(watch.look(&counter, &queues, &known, now + OTHERS).await.unwrap().is_empty());
        assert!(ledger.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_others_took_goes_back_after_minutes_without_a_break() {
        let world =
            Arc::new(Mutex::new(World { queued: vec!["theirs".to_owned(), "mine".to_owned()], ..World::default() }));
        let (counter, _) = counter(&world);
        let mut watch = Watch::default();
        let (queues, known, now) = (queues(), BTreeSet::from(["mine".to_owned()]), Instant::now());
        for at in [now, now + OTHERS / 2] {
            assert!(watch.look(&counter, &queues, &known, at).await.unwrap().is_empty());
        }
        // The server was away: others could not start what they took.
        world.lock().unwrap().away = true;
        watch.look(&counter, &queues, &known, now + OTHERS).await.unwrap_err();
        world.lock().unwrap().away = false;
        assert!(watch.look(&counter, &queues, &known, now + OTHERS).await.unwrap().is_empty());
        assert_eq!(watch.look(&counter, &queues, &known, now + 2 * OTHERS).await.unwrap(), ["theirs"]);
    }

    #[tokio::test]
    async fn tasks_on_every_page_are_seen() {
        let mut queued: Vec<String> = (0..2 * PAGE).map(|it| format!("listed-{it}")).collect();
        let listed = queued.clone();
        queued.push("theirs".to_owned());
        let world = Arc::new(Mutex::new(World { queued, listed, ..World::default() }));
        let (counter, _) = counter(&world);
        let (mut watch, queues, known, now) = (Watch::default(), queues(), BTreeSet::new(), Instant::now());
        assert!(watch.look(&counter, &queues, &known, now).await.unwrap().is_empty());
        assert_eq!(watch.look(&counter, &queues, &known, now + OTHERS).await.unwrap(), ["theirs"]);
    }
}

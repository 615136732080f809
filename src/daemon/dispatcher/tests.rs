//! The dispatcher before the embedded server, with a crew whose runs end when the test says so.

use std::collections::BTreeSet;
use std::sync::Mutex as Shared;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::clearml::{Client, Login, Server};
use crate::daemon::queues::resolve;
use crate::daemon::settings::{QueueChoice, Slots};
use crate::daemon::take::tests::{Ledger, scribe};
use crate::daemon::work::{Attend, Crew};
use crate::gpu::{GpuDevice, GpuSet};
use crate::http::Retry;
use crate::machine::Machine;
use crate::server::{self, ServerSettings};

/// The embedded server, asked as a person would.
struct World {
    running: Option<server::Running>,
    client: Client,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        crate::http::init_tls();
        let dir = tempfile::tempdir().unwrap();
        let running = server::serve(&ServerSettings::local(dir.path())).await.unwrap();
        let client = client(&running);
        Self { running: Some(running), client, dir }
    }

    async fn call(&self, endpoint: &str, body: Value) -> Value {
        self.client.call(endpoint, &body).await.unwrap()
    }

    /// A task that waits in a queue, which is made.
    async fn enqueue(&self, name: &str, queue: &str) -> String {
        let task = json!({ "name": format!("task {name}"), "type": "testing" });
        let task = self.call("tasks.create", task).await["id"].as_str().unwrap().to_owned();
        self.call("tasks.enqueue", json!({ "task": task, "queue_name": queue })).await;
        task
    }

    async fn listed(&self, queue: &str) -> Vec<String> {
        let data = self.call("queues.get_all", json!({ "name": queue })).await;
        let entries = data["queues"][0]["entries"].as_array().unwrap().clone();
        entries.iter().map(|it| it["task"].as_str().unwrap().to_owned()).collect()
    }

    async fn workers(&self) -> Value {
        self.call("workers.get_all", json!({})).await["workers"].clone()
    }
}

fn client(running: &server::Running) -> Client {
    let server = Server {
        api: running.api_url.parse().unwrap(),
        web: None,
        files: None,
        login: Login::Keys(running.credentials.clone()),
        verify: true,
    };
    Client::new(server, "host", Retry::NONE).unwrap()
}

/// Runs that have started, in order, and the strings that end them.
#[derive(Clone, Default)]
struct Stage(Arc<Shared<Vec<Actor>>>);

struct Actor {
    job: Job,
    asks: watch::Receiver<Asks>,
    news: mpsc::Sender<News>,
    end: Option<oneshot::Sender<End>>,
}

impl Stage {
    /// A run that says to the server that it has started, then ends when the test says so, or as it is asked.
    fn attend(&self, client: &Client, job: Job) -> Attend {
        let (stage, client) = (self.clone(), client.clone());
        Box::new(move |asks, news| {
            Box::pin(async move {
                let started = json!({ "task": job.task, "force": true });
                let _ = client.call("tasks.started", &started).await;
                let (end, ended) = oneshot::channel();
                let actor = Actor { job, asks: asks.clone(), news, end: Some(end) };
                stage.0.lock().unwrap().push(actor);
                let mut asks = asks;
                tokio::select! {
                    end = ended => end.unwrap(),
                    asked = async { *asks.wait_for(|it| *it != Asks::Nothing).await.unwrap() } => match asked {
                        Asks::Stop => settled("stopped"),
                        _ => End::Detached,
                    },
                }
            })
        })
    }

    fn jobs(&self) -> Vec<Job> {
        self.0.lock().unwrap().iter().map(|it| it.job.clone()).collect()
    }

    fn tasks(&self) -> Vec<String> {
        self.jobs().into_iter().map(|it| it.task).collect()
    }

    /// Waits until so many runs have started in all.
    async fn started(&self, count: usize) -> Vec<String> {
        until("runs start", || self.0.lock().unwrap().len() >= count).await;
        let tasks = self.tasks();
        assert_eq!(tasks.len(), count, "{tasks:?}");
        tasks
    }

    fn end(&self, at: usize, end: End) {
        self.0.lock().unwrap()[at].end.take().unwrap().send(end).unwrap();
    }

    fn tell(&self, at: usize) -> mpsc::Sender<News> {
        self.0.lock().unwrap()[at].news.clone()
    }

    fn asked(&self, at: usize) -> Asks {
        *self.0.lock().unwrap()[at].asks.borrow()
    }
}

fn settled(status: &str) -> End {
    End::Settled { status: status.to_owned(), reason: "a test".to_owned(), machinery: false }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What time it is, if nothing else is said.
const MONDAY: &str = "2026-11-30T12:00[UTC]";

/// A daemon under test.
struct Daemon {
    stage: Stage,
    ledger: Ledger,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    standing: Arc<Shared<Standing>>,
    asks: mpsc::Sender<Asked>,
    /// Runs that nobody attends.
    left: Arc<Shared<Vec<Job>>>,
    /// What time it is.
    clock: Arc<Shared<String>>,
    serving: JoinHandle<Result<(), Failure>>,
}

struct Options {
    slots: Slots,
    gpus: u32,
    fair: bool,
    ahead: usize,
    left: Vec<Job>,
    worker: &'static str,
    schedule: Option<Schedule>,
}

impl Default for Options {
    fn default() -> Self {
        Self { slots: Slots::One, gpus: 0, fair: false, ahead: 0, left: Vec::new(), worker: "vm:0", schedule: None }
    }
}

impl Daemon {
    async fn start(world: &World, queues: &[(&str, Option<(u32, u32)>)], options: Options) -> Self {
        let choices: Vec<QueueChoice> =
            queues.iter().map(|it| QueueChoice { name: it.0.to_owned(), gpus: it.1 }).collect();
        let queues: Arc<[Queue]> = resolve(&world.client, &choices, true).await.unwrap().into();
        let (stage, tally, metrics) = (Stage::default(), Arc::new(Tally::default()), Arc::new(Metrics::default()));
        let (crew, ledger) = scribe();
        let left = Arc::new(Shared::new(options.left));
        let crew = on_stage(crew, &stage, &world.client, &left);
        let device = |index| GpuDevice { index, uuid: format!("GPU-{index}"), instance: None };
        let gpus = GpuSet { devices: (0..options.gpus).map(device).collect() };
        let worker = Worker::new(
            world.client.clone(),
            options.worker.to_owned(),
            queues.iter().map(|it| it.id.clone()).collect(),
            Vec::new(),
            (Machine::new("/"), GpuSet::default()),
        );
        let standing = Arc::new(Shared::new(Standing::default()));
        let told = Arc::clone(&standing);
        let clock = Arc::new(Shared::new(MONDAY.to_owned()));
        let desk = Desk {
            counter: Counter {
                client: world.client.clone(),
                crew: Arc::new(crew),
                reporter: crate::report::silent(),
                worker: options.worker.to_owned(),
                driver: None,
            },
            queues,
            worker,
            places: Places::new(options.slots, options.worker, "vm", gpus).unwrap(),
            habits: Habits {
                interval: Duration::from_millis(50),
                sweep: Duration::from_millis(200),
                schedule: options.schedule,
                fair: options.fair,
                ahead: options.ahead,
                limit: Some(3),
                shares_gpus: options.slots == Slots::Dynamic,
            },
            metrics: Arc::clone(&metrics),
            tally: Arc::clone(&tally),
            notify: Notify::default(),
            clock: {
                let clock = Arc::clone(&clock);
                Box::new(move || clock.lock().unwrap().parse().unwrap())
            },
            standing: Box::new(move |it| *told.lock().unwrap() = it),
        };
        let (asks, asked) = mpsc::channel(4);
        Self { stage, ledger, tally, metrics, standing, asks, left, clock, serving: tokio::spawn(serve(desk, asked)) }
    }

    async fn ask(&self, asked: Asked) {
        self.asks.send(asked).await.unwrap();
    }

    async fn ends(self) {
        tokio::time::timeout(Duration::from_secs(60), self.serving).await.unwrap().unwrap().unwrap();
    }

    fn figure(&self, name: &str) -> f64 {
        self.tally.figures().iter().find(|it| it.0 == name).unwrap().1
    }

    /// A number of the page for Prometheus; zero while it is not there.
    fn metric(&self, name: &str) -> f64 {
        let page = self.metrics.render();
        let line = page.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |it| it.parse().unwrap())
    }
}

/// Runs go on the stage; builds ahead end at once; what was left is found once.
fn on_stage(crew: Crew, stage: &Stage, client: &Client, left: &Arc<Shared<Vec<Job>>>) -> Crew {
    let (actors, again, before) = (stage.clone(), stage.clone(), client.clone());
    let left = Arc::clone(left);
    let client = client.clone();
    Crew {
        run: Box::new(move |job| actors.attend(&before, job)),
        left: Box::new(move |wants| {
            let mut left = left.lock().unwrap();
            let wanted = left.extract_if(.., |it| wants(&it.worker));
            Ok(wanted.map(|job| (job.clone(), again.attend(&client, job))).collect())
        }),
        prebuild: Box::new(|_| Box::pin(async { Ok(()) })),
        ..crew
    }
}

fn job(task: &str, worker: &str) -> Job {
    let (run, gpus) = (RunId::new().unwrap(), GpuSet::default());
    Job { run, task: task.to_owned(), queue: None, worker: worker.to_owned(), gpus }
}

#[tokio::test]
async fn tasks_are_taken_by_priority_and_one_at_a_time() {
    let world = World::new().await;
    let low = [world.enqueue("a", "low").await, world.enqueue("b", "low").await];
    let high = [world.enqueue("c", "high").await, world.enqueue("d", "high").await];
    let daemon = Daemon::start(&world, &[("high", None), ("low", None)], Options::default()).await;
    let expected = [&high[0], &high[1], &low[0], &low[1]];
    for (at, task) in expected.into_iter().enumerate() {
        assert_eq!(daemon.stage.started(at + 1).await.last(), Some(task));
        assert_eq!(daemon.ledger.lock().unwrap().values().filter(|it| it.1).count(), at + 1);
        daemon.stage.end(at, settled("completed"));
    }
    until("all are counted", || daemon.metric("agent_tasks_total{status=\"completed\"}") == 4.0).await;
    daemon.ask(Asked::Stop).await;
    daemon.ends().await;
    assert_eq!(world.workers().await, json!([]), "the worker is unregistered");
}

#[tokio::test]
async fn with_fairness_queues_take_turns() {
    let world = World::new().await;
    let mut tasks = Vec::new();
    for (task, queue) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")] {
        tasks.push(world.enqueue(task, queue).await);
    }
    let options = Options { fair: true, ..Options::default() };
    let daemon = Daemon::start(&world, &[("one", None), ("two", None)], options).await;
    for (at, task) in [0, 2, 1, 3].into_iter().enumerate() {
        assert_eq!(daemon.stage.started(at + 1).await.last(), Some(&tasks[task]));
        daemon.stage.end(at, settled("failed"));
    }
}

#[tokio::test]
async fn what_the_machinery_failed_keeps_the_next_task_in_its_queue_for_a_while() {
    let world = World::new().await;
    let tasks = [world.enqueue("a", "one").await, world.enqueue("b", "one").await];
    let daemon = Daemon::start(&world, &[("one", None)], Options::default()).await;
    daemon.stage.started(1).await;
    daemon.stage.end(0, End::Settled { status: "failed".to_owned(), reason: "no engine".to_owned(), machinery: true });
    until("it is counted", || daemon.metric("agent_tasks_total{status=\"failed\"}") == 1.0).await;
    // Many times as long as a look at the queue takes.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(daemon.stage.tasks(), tasks[..1]);
    assert_eq!(world.listed("one").await.len(), 1);
    daemon.stage.started(2).await;
}

/// As it is after a kill between the end of a run and the word that its worker is gone.
#[tokio::test]
async fn workers_of_runs_that_are_over_are_not_left_on_the_server() {
    let world = World::new().await;
    for worker in ["vm:0:service:gone", "vm:1:service:other", "another"] {
        world.call("workers.register", json!({ "worker": worker, "queues": [] })).await;
    }
    let options = Options { slots: Slots::Services(None), ..Options::default() };
    let _daemon = Daemon::start(&world, &[("services", None)], options).await;
    let listed = async || {
        let workers = world.workers().await;
        let mut ids: Vec<String> =
            workers.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let expected = ["another", "vm:0", "vm:1:service:other"];
    for _ in 0..200 {
        if listed().await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(listed().await, expected);
}

/// A daemon that gives all of a device to each task has the name that a run beside others would have.
#[tokio::test]
async fn a_worker_that_may_be_another_daemons_stays_on_the_server() {
    let world = World::new().await;
    for worker in ["vm:gpu0", "vm:dgpu0,1:service:x"] {
        world.call("workers.register", json!({ "worker": worker, "queues": [] })).await;
    }
    let options = Options { slots: Slots::Dynamic, gpus: 2, worker: "vm:dgpu0,1", ..Options::default() };
    let daemon = Daemon::start(&world, &[("queue", Some((1, 1)))], options).await;
    // The other one shows that it has been looked for.
    while world.workers().await.as_array().unwrap().iter().any(|it| it["id"] == "vm:dgpu0,1:service:x") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.workers().await.as_array().unwrap().iter().any(|it| it["id"] == "vm:gpu0"));
    daemon.ask(Asked::Stop).await;
    daemon.ends().await;
}

#[tokio::test]
async fn services_run_together_up_to_their_limit() {
    let world = World::new().await;
    for task in ["a", "b", "c", "d"] {
        world.enqueue(task, "services").await;
    }
    let options = Options { slots: Slots::Services(Some(3)), ..Options::default() };
    let daemon = Daemon::start(&world, &[("services", None)], options).await;
    let started = daemon.stage.started(3).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(daemon.stage.started(3).await, started);
    let workers: Vec<String> = daemon.stage.jobs().into_iter().map(|it| it.worker).collect();
    assert_eq!(workers[0], format!("vm:0:service:{}", started[0]));
    let property = world.call("workers.get_runtime_properties", json!({ "worker": "vm:0" })).await;
    let property = &property["runtime_properties"][0];
    assert_eq!((&property["key"], &property["value"]), (&json!("max_num_instances"), &json!("3")));
    daemon.stage.end(1, settled("completed"));
    daemon.stage.started(4).await;
    daemon.ask(Asked::Drain).await;
    until("it drains", || daemon.standing.lock().unwrap().draining).await;
    world.enqueue("e", "services").await;
    assert_eq!(daemon.standing.lock().unwrap().running.len(), 3);
    for at in [0, 2, 3] {
        assert_eq!(daemon.stage.asked(at), Asks::Nothing);
        daemon.stage.end(at, settled("completed"));
    }
    let stage = daemon.stage.clone();
    daemon.ends().await;
    assert_eq!(stage.tasks().len(), 4);
    assert_eq!(world.listed("services").await.len(), 1);
}

#[tokio::test]
async fn gpus_are_shared_and_a_large_task_is_not_overtaken() {
    let world = World::new().await;
    let tasks =
        [world.enqueue("a", "small").await, world.enqueue("b", "large").await, world.enqueue("c", "small").await];
    let options = Options { slots: Slots::Dynamic, gpus: 2, worker: "vm:dgpu0,1", ..Options::default() };
    let daemon = Daemon::start(&world, &[("large", Some((2, 2))), ("small", Some((1, 1)))], options).await;
    assert_eq!(daemon.stage.started(1).await, [tasks[1].clone()]);
    daemon.stage.end(0, settled("completed"));
    daemon.stage.started(3).await;
    let workers: BTreeSet<String> = daemon.stage.jobs().into_iter().map(|it| it.worker).collect();
    assert_eq!(workers, BTreeSet::from(["vm:gpu0", "vm:gpu1", "vm:gpu0,1"].map(str::to_owned)));
    daemon.stage.end(1, settled("completed"));
    until("one is free", || daemon.standing.lock().unwrap().running.len() == 1).await;
    let large = world.enqueue("d", "large").await;
    world.enqueue("e", "small").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // The free GPU is kept for the large task.
    daemon.stage.started(3).await;
    daemon.stage.end(2, settled("completed"));
    assert_eq!(daemon.stage.started(4).await[3], large);
    let properties = world.call("workers.get_runtime_properties", json!({ "worker": "vm:dgpu0,1" })).await;
    assert!(properties.to_string().contains("available_gpus"), "{properties}");
}

#[tokio::test]
async fn a_stop_asks_what_runs_to_stop_and_a_second_one_leaves_it() {
    let world = World::new().await;
    for task in ["a", "b"] {
        world.enqueue(task, "queue").await;
    }
    let daemon = Daemon::start(&world, &[("queue", None)], Options::default()).await;
    daemon.stage.started(1).await;
    daemon.ask(Asked::Stop).await;
    daemon.ends().await;
    assert_eq!(world.listed("queue").await.len(), 1, "nothing more was taken");

    let daemon = Daemon::start(&world, &[("queue", None)], Options::default()).await;
    daemon.stage.started(1).await;
    daemon.ask(Asked::Detach).await;
    let stage = daemon.stage.clone();
    daemon.ends().await;
    assert_eq!(stage.asked(0), Asks::Detach);
}

#[tokio::test]
async fn two_daemons_never_take_the_same_task() {
    let world = World::new().await;
    let mut tasks = BTreeSet::new();
    for task in 0..30 {
        tasks.insert(world.enqueue(&task.to_string(), "queue").await);
    }
    let services = |worker| Options { slots: Slots::Services(None), worker, ..Options::default() };
    let one = Daemon::start(&world, &[("queue", None)], services("one:0")).await;
    let two = Daemon::start(&world, &[("queue", None)], services("two:0")).await;
    let count = || one.stage.tasks().len() + two.stage.tasks().len();
    until("all are taken", || count() >= 30).await;
    let all: BTreeSet<String> = one.stage.tasks().into_iter().chain(two.stage.tasks()).collect();
    assert_eq!((count(), all), (30, tasks));
}

#[tokio::test]
async fn what_an_earlier_process_left_comes_first_and_has_its_place() {
    let world = World::new().await;
    let waiting = world.enqueue("a", "queue").await;
    let left = vec![job("left", "vm:0"), job("foreign", "vm:1")];
    let daemon = Daemon::start(&world, &[("queue", None)], Options { left, ..Options::default() }).await;
    daemon.stage.started(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The queue waits for the place, and another worker's run is left to it.
    assert_eq!(daemon.stage.started(1).await, ["left"]);
    assert_eq!(daemon.figure("tasks_adopted"), 1.0);
    daemon.stage.end(0, settled("completed"));
    assert_eq!(daemon.stage.started(2).await[1], waiting);
}

#[tokio::test]
async fn a_server_that_is_away_disturbs_nothing_that_runs() {
    let mut world = World::new().await;
    let first = world.enqueue("a", "queue").await;
    world.enqueue("b", "queue").await;
    let options = Options { slots: Slots::Services(Some(1)), ahead: 1, ..Options::default() };
    let daemon = Daemon::start(&world, &[("queue", None)], options).await;
    assert_eq!(daemon.stage.started(1).await, [first]);
    until("the next image is built ahead", || daemon.figure("images_built_ahead") == 1.0).await;
    world.running.take().unwrap().stop().await;
    until("the server is missed", || daemon.metric("agent_poll_errors_total") >= 2.0).await;
    assert_eq!((daemon.stage.asked(0), daemon.standing.lock().unwrap().running.len()), (Asks::Nothing, 1));
    // The same addresses, keys and tasks.
    world.running = Some(server::serve(&ServerSettings::local(world.dir.path())).await.unwrap());
    daemon.stage.end(0, settled("completed"));
    daemon.stage.started(2).await;
}

#[tokio::test]
async fn what_cannot_be_attended_is_told_and_nothing_is_taken_for_a_while() {
    let world = World::new().await;
    world.enqueue("a", "queue").await;
    world.enqueue("b", "queue").await;
    let daemon = Daemon::start(&world, &[("queue", None)], Options::default()).await;
    daemon.stage.started(1).await;
    daemon.stage.end(0, End::Failed(std::io::Error::other("no journal").into()));
    until("it is counted", || daemon.figure("runs_broken") == 1.0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    daemon.stage.started(1).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_attended_keeps_its_place_until_it_is_known_to_be_over() {
    let world = World::new().await;
    let task = world.enqueue("waits", "queue").await;
    let before = job("left", "vm:0");
    let options = Options { left: vec![before.clone()], ..Options::default() };
    let daemon = Daemon::start(&world, &[("queue", None)], options).await;
    daemon.stage.started(1).await;
    daemon.stage.tell(0).send(News::Running).await.unwrap();
    daemon.left.lock().unwrap().push(before);
    daemon.stage.end(0, End::Failed(std::io::Error::other("no journal").into()));
    assert_eq!(daemon.stage.started(2).await, ["left", "left"]);
    daemon.stage.tell(1).send(News::Running).await.unwrap();
    daemon.stage.end(1, End::Failed(std::io::Error::other("no journal").into()));
    // Nobody finds it any more.
    assert_eq!(daemon.stage.started(3).await[2], task);
}

#[tokio::test]
async fn a_queue_that_is_made_anew_under_its_name_is_served() {
    let world = World::new().await;
    let first = world.enqueue("a", "queue").await;
    let daemon = Daemon::start(&world, &[("queue", None)], Options::default()).await;
    assert_eq!(daemon.stage.started(1).await, [first]);
    daemon.stage.end(0, settled("completed"));
    let queue = world.call("queues.get_all", json!({ "name": "queue" })).await["queues"][0]["id"].clone();
    world.call("queues.delete", json!({ "queue": queue, "force": true })).await;
    let second = world.enqueue("b", "queue").await;
    assert_eq!(daemon.stage.started(2).await[1], second);
    daemon.stage.end(1, settled("completed"));
    let queue = world.call("queues.get_all", json!({ "name": "queue" })).await["queues"][0]["id"].clone();
    let end = Instant::now() + Duration::from_secs(60);
    while world.workers().await[0]["queues"][0]["id"] != queue {
        assert!(Instant::now() < end, "the worker does not serve {queue}: {}", world.workers().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn tags_and_the_property_force_decide_whether_a_queue_is_served() {
    let world = World::new().await;
    world.enqueue("a", "queue").await;
    let queue = world.call("queues.get_all", json!({ "name": "queue" })).await["queues"][0]["id"].clone();
    world.call("queues.update", json!({ "queue": queue, "tags": ["force_workers:off"] })).await;
    let daemon = Daemon::start(&world, &[("queue", None)], Options::default()).await;
    until("the tag is seen", || !daemon.standing.lock().unwrap().forced.is_empty()).await;
    assert_eq!(daemon.standing.lock().unwrap().forced, [("queue".to_owned(), false)]);
    daemon.stage.started(0).await;
    let property = json!([{ "key": "force", "value": "off", "expiry": 600 }]);
    world.call("workers.set_runtime_properties", json!({ "worker": "vm:0", "runtime_properties": property })).await;
    until("the property is seen", || daemon.standing.lock().unwrap().forced.len() == 2).await;
    world.call("queues.update", json!({ "queue": queue, "tags": [] })).await;
    let off = [("worker".to_owned(), false)];
    until("the tag is gone", || daemon.standing.lock().unwrap().forced == off).await;
    daemon.stage.started(0).await;
    world.call("queues.update", json!({ "queue": queue, "tags": ["force_workers:on"] })).await;
    daemon.stage.started(1).await;
}

#[tokio::test]
async fn nothing_is_taken_outside_of_the_hours_and_what_waits_is_taken_within_them() {
    let world = World::new().await;
    let tasks = [world.enqueue("a", "queue").await, world.enqueue("b", "queue").await];
    let schedule = Some(Schedule::uptime(&["22-6 MON-FRI"]).unwrap());
    let daemon = Daemon::start(&world, &[("queue", None)], Options { schedule, ..Options::default() }).await;
    let (clock, length) =
        (|at: &str| at.clone_into(&mut daemon.clock.lock().unwrap()), "agent_queue_length{queue=\"queue\"}");
    until("the queue is looked at", || daemon.metric(length) == 2.0).await;
    // Many times as long as a look at the queue takes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(daemon.stage.started(0).await, [""; 0]);
    clock("2026-11-30T22:00[UTC]");
    assert_eq!(daemon.stage.started(1).await, tasks[..1]);
    // What runs goes on when the hours end; the next one waits for them.
    clock("2026-12-01T06:00[UTC]");
    daemon.stage.end(0, settled("completed"));
    until("it is over", || daemon.metric("agent_tasks_total{status=\"completed\"}") == 1.0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(daemon.stage.started(1).await, tasks[..1]);
    clock("2026-12-01T23:59[UTC]");
    assert_eq!(daemon.stage.started(2).await, tasks);
}

#[tokio::test]
async fn gpu_seconds_of_preparation_are_counted_and_noted_on_the_task() {
    let world = World::new().await;
    let task = world.enqueue("a", "queue").await;
    let daemon = Daemon::start(&world, &[("queue", None)], Options { gpus: 2, ..Options::default() }).await;
    daemon.stage.started(1).await;
    let worker = || async { world.workers().await[0].clone() };
    tokio::time::sleep(Duration::from_millis(120)).await;
    daemon.stage.tell(0).send(News::Running).await.unwrap();
    until("it is counted", || daemon.metric("agent_gpu_idle_seconds_total") >= 0.2).await;
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let noted = world.call("tasks.get_by_id", json!({ "task": task })).await["task"]["runtime"].clone();
        if noted["_agent_gpu_idle_seconds"].as_f64().is_some_and(|it| it >= 0.2) {
            assert!(noted["_agent_prepare_seconds"].as_f64().unwrap() >= 0.1, "{noted}");
            break;
        }
        assert!(Instant::now() < end, "{noted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(worker().await["task"]["id"], json!(task));
    assert_eq!(daemon.standing.lock().unwrap().running[0].phase, "running");
}

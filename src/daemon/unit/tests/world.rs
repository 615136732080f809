//! A server, an engine and a build of a test's own.

use std::collections::{HashMap, VecDeque};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use fs_err as fs;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::*;
use crate::clearml::{Client, Login, Server};
use crate::daemon::journal::Journal;
use crate::daemon::settings::{ExecutionSettings, Limits};
use crate::digest::Digest;
use crate::error::Explain;
use crate::http::Retry;
use crate::report::silent;
use crate::run::choice::{BaseChoice, ImageChoice};
use crate::run::{Engine, EngineKind, Found, Outcome, RunImage, RunSpec};
use crate::server::{Running, ServerSettings, serve};
use crate::spool::{LeftEnd, ProgramEnd, Spool};

/// Everything happens quickly.
pub(super) const PACE: Pace = Pace {
    poll: Duration::from_millis(40),
    ping: Duration::from_millis(40),
    report: Duration::from_millis(40),
    lines: Duration::from_millis(40),
    say: Duration::ZERO,
    pause: Duration::from_millis(20),
    longest: Duration::from_millis(80),
    orphan: Duration::from_millis(200),
    leave: Duration::from_millis(1500),
    late: Duration::from_millis(300),
    probe: Duration::from_millis(200),
};
/// Longer than anything takes.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// The same, but nobody that is to stop leaves for a server or an engine that is slow to answer.
pub(super) const PATIENT: Pace = Pace { leave: Duration::from_secs(600), ..PACE };

/// A build that succeeds at once.
pub(super) const BUILDS: &str = r#"
echo '{"event":"started","id":"layer code","title":"layer code"}' >&2
echo '{"event":"finished","id":"layer code","outcome":"built"}' >&2
cp "$here/lock.toml" "$lock"; cp "$here/build.json" "$metadata""#;

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) server: Option<Running>,
    pub(super) client: Client,
    pub(super) engine: Arc<Fake>,
    pub(super) settings: ExecutionSettings,
    pub(super) task: String,
    pub(super) queue: Option<String>,
    pub(super) tags: Vec<String>,
}

/// A unit that goes on.
pub(super) struct Going {
    pub(super) asks: watch::Sender<Ask>,
    pub(super) events: mpsc::Receiver<UnitEvent>,
    pub(super) end: JoinHandle<Result<UnitEnd, Failure>>,
    pub(super) phases: Vec<Phase>,
    pub(super) notes: Vec<String>,
}

impl World {
    pub(super) async fn new() -> Self {
        crate::http::init_tls();
        let dir = tempfile::tempdir().unwrap();
        let server = serve(&ServerSettings::local(&dir.path().join("server"))).await.unwrap();
        let api = crate::config::Api {
            server: Some(server.api_url.parse().unwrap()),
            credentials: Some(server.credentials.clone()),
            verify_certificate: true,
            ..crate::config::Api::default()
        };
        let login = Login::Keys(server.credentials.clone());
        let address = Server { api: server.api_url.parse().unwrap(), web: None, files: None, login, verify: true };
        let client = Client::new(address, "host", Retry::NONE).unwrap();
        let settings = settings(dir.path(), api);
        let task = json!({
            "name": "a task", "type": "training", "script": { "entry_point": "train.py" },
            "container": { "arguments": "-e API_TOKEN=hush -e PLAIN=seen" },
        });
        let task = client.call("tasks.create", &task).await.unwrap()["id"].as_str().unwrap().to_owned();
        let world = Self {
            dir,
            server: Some(server),
            client,
            engine: Arc::default(),
            settings,
            task,
            queue: None,
            tags: Vec::new(),
        };
        world.builds(BUILDS);
        fs::write(world.dir.path().join("lock.toml"), lock()).unwrap();
        let metadata = json!({
            "containerimage.digest": Digest::of("manifest"), "containerimage.config.digest": Digest::of("config"),
            "image.user": "",
        });
        fs::write(world.dir.path().join("build.json"), metadata.to_string()).unwrap();
        world
    }

    /// The same with the task just taken out of a queue.
    pub(super) async fn queued() -> Self {
        let mut world = Self::new().await;
        let queue = world.call("queues.create", json!({ "name": "work" })).await["id"].as_str().unwrap().to_owned();
        world.call("tasks.enqueue", json!({ "task": world.task, "queue": queue })).await;
        world.call("queues.get_next_task", json!({ "queue": queue })).await;
        world.queue = Some(queue);
        world
    }

    /// What stands in the place of `agent build`.
    pub(super) fn builds(&self, script: &str) {
        let text = format!(
            "#!/bin/sh\nhere='{}'\nwhile [ $# -gt 0 ]; do case \"$1\" in --lock-file) lock=$2;; --metadata-file) \
             metadata=$2;; esac; shift; done\n{script}\n",
            self.dir.path().display()
        );
        let path = self.dir.path().join("agent");
        crate::fs::write_whole(&path, text.as_bytes(), 0o700).unwrap();
    }

    pub(super) fn journal(&self) -> Journal {
        Journal::open(self.dir.path()).unwrap()
    }

    pub(super) fn executor(&self) -> Arc<Executor> {
        self.executor_of(Arc::clone(&self.engine) as Arc<dyn Engine>)
    }

    /// The same with another engine.
    pub(super) fn executor_of(&self, engine: Arc<dyn Engine>) -> Arc<Executor> {
        Arc::new(Executor {
            settings: self.settings.clone(),
            client: self.client.clone(),
            engine,
            open: Arc::new(|_| Box::pin(async { Err(Broken(Kind::NotFound).into()) })),
            journal: self.journal(),
            program: self.dir.path().join("agent"),
            reporter: silent(),
        })
    }

    pub(super) fn claim(&self) -> Claim {
        Claim {
            task: self.task.clone(),
            queue: self.queue.clone(),
            worker: "me:0".to_owned(),
            parent: None,
            gpus: GpuSet::default(),
            tags: self.tags.clone(),
            attempt: 0,
            run: RunId::new().unwrap(),
        }
    }

    /// Begins a unit.
    pub(super) fn begin(&self) -> Going {
        self.begin_in("fake")
    }

    /// The same with an engine that the journal calls by another name.
    pub(super) fn begin_in(&self, engine: &str) -> Going {
        self.begin_with(engine, PACE)
    }

    /// The same at another pace.
    pub(super) fn begin_at(&self, pace: Pace) -> Going {
        self.begin_with("fake", pace)
    }

    fn begin_with(&self, engine: &str, pace: Pace) -> Going {
        let executor = self.executor();
        let entry = executor.journal.begin(&self.claim(), engine, "here").unwrap();
        let (asks, asked) = watch::channel(Ask::Nothing);
        let (told, events) = mpsc::channel(1000);
        let unit = Unit::new(executor, entry, asked, told, pace);
        Going { asks, events, end: tokio::spawn(unit.drive()), phases: Vec::new(), notes: Vec::new() }
    }

    /// Goes on with the only unit that was left behind.
    pub(super) fn resume(&self) -> Going {
        self.resume_with(&self.executor())
    }

    /// The same with an executor of the test's own.
    pub(super) fn resume_with(&self, executor: &Arc<Executor>) -> Going {
        self.resume_at(executor, PACE)
    }

    /// The same at another pace.
    pub(super) fn resume_at(&self, executor: &Arc<Executor>, pace: Pace) -> Going {
        let mut found = executor.journal.abandoned(|_| true).unwrap().units;
        assert_eq!(found.len(), 1);
        let (asks, asked) = watch::channel(Ask::Nothing);
        let (told, events) = mpsc::channel(1000);
        let unit = resumed(executor, found.remove(0), asked, told, pace).unwrap();
        Going { asks, events, end: tokio::spawn(unit.drive()), phases: Vec::new(), notes: Vec::new() }
    }

    pub(super) async fn call(&self, name: &str, body: Value) -> Value {
        self.client.call(name, &body).await.unwrap()
    }

    pub(super) async fn document(&self) -> Value {
        self.call("tasks.get_by_id", json!({ "task": self.task })).await["task"].take()
    }

    pub(super) async fn status(&self) -> String {
        self.document().await["status"].as_str().unwrap().to_owned()
    }

    /// Status and reason.
    pub(super) async fn told(&self) -> (String, String) {
        let task = self.document().await;
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("status_reason"))
    }

    pub(super) async fn console(&self) -> String {
        let query = json!({ "task": self.task, "batch_size": 1000, "order": "asc" });
        let data = self.call("events.get_task_log", query).await;
        data["events"].as_array().unwrap().iter().map(|it| it["msg"].as_str().unwrap()).collect()
    }

    /// Waits until the task's status message begins with a text.
    pub(super) async fn says(&self, text: &str) {
        let waiting = async {
            loop {
                let task = self.document().await;
                if task["status_message"].as_str().unwrap_or_default().starts_with(text) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("the task never said `{text}`"));
    }

    pub(super) async fn stop_server(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    pub(super) async fn start_server(&mut self) {
        let server = serve(&ServerSettings::local(&self.dir.path().join("server"))).await.unwrap();
        assert_eq!(server.api_url, self.client.address());
        self.server = Some(server);
    }
}

impl Going {
    /// Waits for a phase.
    pub(super) async fn reaches(&mut self, phase: Phase) {
        while self.phases.last() != Some(&phase) {
            let heard = tokio::time::timeout(LONG, self.events.recv()).await;
            let heard =
                heard.unwrap_or_else(|_| panic!("{phase:?} is not reached: {:?}, {:?}", self.phases, self.notes));
            match heard {
                Some(UnitEvent::Phase(next)) => self.phases.push(next),
                Some(UnitEvent::Note(text)) => self.notes.push(text),
                Some(UnitEvent::Line(..)) => {}
                None => panic!("it ended before {phase:?}: {:?}, {:?}", self.phases, self.notes),
            }
        }
    }

    /// Waits for the end.
    pub(super) async fn ends(&mut self) -> UnitEnd {
        let end = tokio::time::timeout(LONG, &mut self.end).await.expect("it does not end").unwrap().unwrap();
        while let Some(event) = self.events.recv().await {
            match event {
                UnitEvent::Phase(phase) => self.phases.push(phase),
                UnitEvent::Note(text) => self.notes.push(text),
                UnitEvent::Line(..) => {}
            }
        }
        end
    }

    /// Ends the process that attends it, as a kill does: nothing more is written.
    pub(super) async fn die(mut self) {
        self.end.abort();
        let _ = (&mut self.end).await;
        // What it had sent is answered before anybody can go on with it.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn settings(state: &std::path::Path, api: crate::config::Api) -> ExecutionSettings {
    ExecutionSettings {
        engine: EngineKind::Native,
        docker: None,
        base: base(),
        gpus: crate::gpu::Ask::None,
        prebuilt_only: false,
        retries: 0,
        standalone: false,
        limits: Limits {
            build: LONG,
            silence: LONG,
            start: LONG,
            run: None,
            quiet: None,
            grace: Duration::from_secs(1),
            abort_callback: LONG,
        },
        spool_bytes: 1 << 20,
        images: crate::daemon::images::Bounds { most: 100, unused: Duration::from_secs(3600) },
        log_level: None,
        optimize: 0,
        state: state.to_owned(),
        config_file: None,
        build_environment: Vec::new(),
        notes: Vec::new(),
        api,
        agent: crate::config::Config::default().agent().unwrap(),
    }
}

fn base() -> BaseChoice {
    let fallback = ImageChoice { image: "default:1".to_owned(), arguments: None, of_task: false };
    BaseChoice { fallback, force: false, given: false, meant: false }
}

/// A lock of a task that asks for a variable, for a secret and for room.
fn lock() -> String {
    let digest = Digest::of("x");
    format!(
        r#"version = 1
format = 1
created = 1
guest = "{digest}"
bytecode = false
[base]
config = "{digest}"
layers = []
[base.platform]
os = "linux"
architecture = "amd64"
[python]
version = "3.11.2"
executable = "/usr/bin/python3"
libc = "glibc 2.36"
digest = "{digest}"
site_packages = true
distributions = []
[launch]
mode = "reuse_task"
name = "a task"
entry_point = ["train.py"]
working_dir = ""
secrets = ["HOME", "NOT_SET_ANYWHERE_TOKEN"]
secret_parameters = []
[launch.env]
[launch.record]
sha256 = "{}"
text = "{{}}"
"#,
        Digest::of("{}")
    )
}

/// What an engine does when it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Fail(Kind),
    /// Somebody else has a port of the run's.
    Taken,
    Hang,
    /// Starts the run, whose program leaves this of its end, and goes down knowing nothing of it.
    Forget(LeftEnd),
    /// The same with a program that goes on: this process is it.
    Orphan,
    /// The same with a process of its own.
    OrphanProcess,
}

#[derive(Debug, thiserror::Error)]
#[error("the engine is broken")]
struct Broken(Kind);

impl Explain for Broken {
    fn kind(&self) -> Kind {
        self.0
    }
}

/// An engine whose runs end when the test says so.
#[derive(Default)]
pub(super) struct Fake {
    runs: Mutex<HashMap<RunId, Found>>,
    /// What the next calls do, before they work.
    pub(super) prepares: Mutex<VecDeque<Act>>,
    pub(super) starts: Mutex<VecDeque<Act>>,
    pub(super) finds: Mutex<VecDeque<Act>>,
    pub(super) stops: Mutex<VecDeque<Act>>,
    pub(super) discards: Mutex<VecDeque<Act>>,
    /// The spool of a program that goes on without its engine.
    pub(super) orphan: Mutex<Option<Spool>>,
    /// Such a program as a process of its own.
    pub(super) process: Mutex<Option<Child>>,
    /// How runs end by themselves, right after their start.
    pub(super) ends: Mutex<VecDeque<Outcome>>,
    /// Everything that was asked, without questions.
    pub(super) calls: Mutex<Vec<&'static str>>,
    pub(super) specs: Mutex<Vec<RunSpec>>,
    /// Names of images that were to be removed.
    pub(super) discarded: Mutex<Vec<String>>,
}

impl Fake {
    /// Runs end like this from now on.
    pub(super) fn ends_with(&self, code: i32) {
        self.ends.lock().unwrap().push_back(Outcome::Exited { code, out_of_memory: false });
    }

    /// Ends all runs.
    pub(super) fn end(&self, outcome: &Outcome) {
        for found in self.runs.lock().unwrap().values_mut() {
            if *found == Found::Running {
                *found = Found::Ended(outcome.clone());
            }
        }
    }

    /// A run goes on that nobody here has started.
    pub(super) fn goes_on(&self, run: &RunId) {
        self.runs.lock().unwrap().insert(run.clone(), Found::Running);
    }

    /// Loses all runs.
    pub(super) fn lose(&self) {
        self.runs.lock().unwrap().clear();
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.runs.lock().unwrap().values().any(|it| *it == Found::Running)
    }

    async fn act(&self, acts: &Mutex<VecDeque<Act>>) -> Result<(), Failure> {
        let act = acts.lock().unwrap().pop_front();
        match act {
            None => Ok(()),
            Some(Act::Fail(kind)) => Err(Broken(kind).into()),
            Some(Act::Taken) => {
                Err(std::io::Error::other("Bind for 0.0.0.0:8080 failed: port is already allocated").into())
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Forget(_) | Act::Orphan | Act::OrphanProcess) => Err(Broken(Kind::Unreachable).into()),
        }
    }

    fn called(&self, name: &'static str) {
        self.calls.lock().unwrap().push(name);
    }
}

impl Engine for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn prepare<'a>(&'a self, _: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.called("prepare");
            self.act(&self.prepares).await
        })
    }

    fn start<'a>(&'a self, spec: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let next = self.starts.lock().unwrap().front().copied();
            let spool = spec.directory.join("spool");
            match next {
                Some(Act::Forget(LeftEnd::End(end))) => end.leave(&spool).unwrap(),
                Some(Act::Forget(_)) => ProgramEnd::promise(&spool).unwrap(),
                Some(Act::Orphan) => {
                    ProgramEnd::promise(&spool).unwrap();
                    *self.orphan.lock().unwrap() = Spool::adopt(&spool).unwrap();
                }
                Some(Act::OrphanProcess) => {
                    ProgramEnd::promise(&spool).unwrap();
                    let mut command = Command::new("flock");
                    command.arg("-o").arg(spool.join("lock")).args(["sh", "-c", "read end"]);
                    *self.process.lock().unwrap() = Some(command.stdin(Stdio::piped()).spawn().unwrap());
                    while Spool::adopt(&spool).is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                _ => {}
            }
            self.act(&self.starts).await?;
            let mut runs = self.runs.lock().unwrap();
            if runs.contains_key(&spec.id) {
                return Ok(());
            }
            self.called("start");
            self.specs.lock().unwrap().push(spec.clone());
            let end = self.ends.lock().unwrap().pop_front();
            runs.insert(spec.id.clone(), end.map_or(Found::Running, Found::Ended));
            Ok(())
        })
    }

    fn find<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>> {
        Box::pin(async move {
            self.act(&self.finds).await?;
            Ok(self.runs.lock().unwrap().get(run).cloned().unwrap_or(Found::Absent))
        })
    }

    fn wait<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async move {
            loop {
                match self.runs.lock().unwrap().get(run) {
                    Some(Found::Ended(outcome)) => return Ok(outcome.clone()),
                    Some(_) => {}
                    None => return Ok(Outcome::Lost { reason: "somebody removed it".to_owned() }),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn stop<'a>(&'a self, run: &'a RunId, _: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.act(&self.stops).await?;
            if self.runs.lock().unwrap().get(run) == Some(&Found::Running) {
                self.called("stop");
                // It takes its time, as programs do.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let end = Found::Ended(Outcome::Exited { code: 143, out_of_memory: false });
                self.runs.lock().unwrap().insert(run.clone(), end);
                self.called("stopped");
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.called("remove");
            self.runs.lock().unwrap().remove(run);
            Ok(())
        })
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>> {
        Box::pin(async move { Ok(self.runs.lock().unwrap().keys().cloned().collect()) })
    }

    fn discard<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            self.discarded.lock().unwrap().push(image.name.clone());
            self.act(&self.discards).await.map(|()| true)
        })
    }
}

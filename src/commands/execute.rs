//! `agent execute`: one task without a queue, from its image to its end on the server; its program's exit code is ours.
//!
//! A unit does the work (`daemon::unit`); here is what makes it a command: which task, signals, and the program's output
//! on our own. A run that an earlier `agent execute` of the task left behind is gone on with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::workshop::client as client_of;
use super::{Context, Interrupted, blocking};
use crate::clearml::{Client, tasks};
use crate::cli::execute::ExecuteArgs;
use crate::daemon::journal::{Journal, Journalled};
use crate::daemon::{Ask, Claim, ExecuteSettings, Executor, UnitEnd, UnitEvent, unit};
use crate::error::{Explain, Failure, Kind};
use crate::gpu::GpuSet;
use crate::registry;
use crate::run::{Engine, Ground, RunId, engine_of};
use crate::settings::execute::merge;
use crate::spool::OutputReader;
use crate::store::Store;

/// How often the program's output is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Why a task is not executed.
#[derive(Debug, thiserror::Error)]
enum ExecuteError {
    /// `--require-queue`, and it waits in none.
    #[error("the task `{task}` waits in no queue: it is {status}")]
    NotQueued { task: String, status: String },
    /// It is somebody else's, or over for good.
    #[error("the task `{task}` is {status}{}", .worker.as_ref().map(|it| format!(" at worker `{it}`")).unwrap_or_default())]
    Refused { task: String, status: String, worker: Option<String> },
    /// The log file cannot be written.
    #[error("cannot write the log file `{}`", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Explain for ExecuteError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotQueued { .. } | Self::Refused { .. } => Kind::Conflict,
            Self::Log { source, .. } => Kind::of_io(source),
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::NotQueued { .. } => "Enqueue it, or leave out --require-queue.",
            Self::Refused { status, .. } if status == "in progress" => {
                "Wait for its end, stop it there, or run a clone of it: --clone."
            }
            Self::Refused { .. } => "Run a clone of it: --clone.",
            Self::Log { .. } => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// Runs a task to its end.
pub(super) async fn run(args: ExecuteArgs, context: &Context) -> Result<u8, Failure> {
    let settings = merge(&args, &context.session)?;
    settings.execution.notes.iter().for_each(|it| context.ui.reporter().note(it));
    // Before anything is begun, so that no signal ends us in the middle of it.
    let mut signals = Signals::listen()?;
    let client = client_of(&settings.execution.api, context)?;
    let task = task(&client, &settings, context).await?;
    let executor = Arc::new(executor(&settings, client, context).await?);
    let mut output = Output::open(settings.log_file.as_deref(), context)?;
    let worker = worker(&settings);
    let mut claim = Claim {
        task,
        queue: None,
        worker,
        gpus: gpus(&settings).await?,
        tags: Vec::new(),
        attempt: 0,
        run: RunId::new()?,
    };
    let left = left_behind(&executor.journal, &claim.task, executor.engine.name()).await?;
    if left.is_none() && settings.require_queue {
        // Written down before it leaves its queue: it is not lost with us.
        intend(&executor, &claim, settings.monitored)?;
        if let Err(failure) = dequeue(&executor.client, &claim).await {
            // Where the server did not answer, it may have left: the next start finds out.
            if failure.kind() == Kind::Conflict {
                executor.journal.forget(&claim.run)?;
            }
            return Err(failure);
        }
    }
    executor.client.call("workers.register", &json!({ "worker": claim.worker, "queues": [] })).await?;
    let (ask, asks) = watch::channel(Ask::Nothing);
    let (current, runs) = watch::channel(claim.run.clone());
    let engine = Arc::clone(&executor.engine);
    let listening = tokio::spawn(async move { signals.obey(&ask, &*engine, &runs).await });
    let attending = Attending { executor: &executor, settings: &settings, context, asks, current };
    let ended = attending.to_the_end(&mut claim, left, &mut output).await;
    listening.abort();
    let goodbye = json!({ "worker": claim.worker, "queues": [] });
    // A server that is away does not need to know.
    let _ = tokio::time::timeout(Duration::from_secs(5), executor.client.call("workers.unregister", &goodbye)).await;
    judge(&claim.task, ended?, context)
}

/// The task's id: the one that was named, or a clone's.
async fn task(client: &Client, settings: &ExecuteSettings, context: &Context) -> Result<String, Failure> {
    let found = tasks::find(client, &settings.task).await?;
    let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !settings.clone {
        return Ok(text("id"));
    }
    let id = tasks::clone(client, &text("id"), &format!("Clone of {}", text("name"))).await?;
    context.ui.say(&format!("running a clone of task {}: {id}", text("id")));
    Ok(id)
}

async fn executor(settings: &ExecuteSettings, client: Client, context: &Context) -> Result<Executor, Failure> {
    let execution = settings.execution.clone();
    let journal = Journal::open(&execution.state)?;
    let ground = Ground {
        runs: execution.state.join("runs"),
        store: Store::default_path(),
        registry: registry::Client::new(registry::Settings {
            credentials: registry::auth::Sources::of_process(),
            ..registry::Settings::default()
        })?,
        container_host: context.session.environment.get("CONTAINER_HOST").map(str::to_owned),
        lends: true,
        reporter: context.ui.reporter(),
    };
    let engine: Arc<dyn Engine> = engine_of(execution.engine, &ground).await?;
    let program = std::env::current_exe()?;
    Ok(Executor { settings: execution, client, engine, journal, program, reporter: context.ui.reporter() })
}

/// What attending takes.
struct Attending<'a> {
    executor: &'a Arc<Executor>,
    settings: &'a ExecuteSettings,
    context: &'a Context,
    asks: watch::Receiver<Ask>,
    /// The run that signals are about.
    current: watch::Sender<RunId>,
}

impl Attending<'_> {
    /// Attends the unit, and those that follow it where the machinery failed.
    async fn to_the_end(
        &self,
        claim: &mut Claim,
        mut left: Option<Journalled>,
        output: &mut Output,
    ) -> Result<UnitEnd, Failure> {
        loop {
            match self.once(claim, left.take(), output).await? {
                UnitEnd::Again { reason, attempt } => {
                    self.context.ui.reporter().warning(format!("trying again: {reason}"));
                    (claim.attempt, claim.run) = (attempt, RunId::new()?);
                }
                end => return Ok(end),
            }
        }
    }

    /// Attends one unit, and hands on what its run prints.
    async fn once(&self, claim: &Claim, left: Option<Journalled>, output: &mut Output) -> Result<UnitEnd, Failure> {
        let (events, news) = mpsc::channel(64);
        let telling = tokio::spawn(tell(news, self.context.clone()));
        let run = left.as_ref().map_or_else(|| claim.run.clone(), |it| it.record().run.clone());
        let mut reader = OutputReader::new(&self.executor.journal.spool(&run));
        let _ = self.current.send(run);
        let end = {
            let unit = self.unit(claim, left, events);
            tokio::pin!(unit);
            loop {
                tokio::select! {
                    end = &mut unit => break end,
                    () = tokio::time::sleep(LOOK) => output.pass_on(&mut reader).await,
                }
            }
        };
        output.pass_on(&mut reader).await;
        let _ = telling.await;
        end
    }

    async fn unit(
        &self,
        claim: &Claim,
        left: Option<Journalled>,
        events: mpsc::Sender<UnitEvent>,
    ) -> Result<UnitEnd, Failure> {
        let (executor, asks) = (Arc::clone(self.executor), self.asks.clone());
        if let Some(journalled) = left {
            return unit::resume(executor, journalled, asks, events).await;
        }
        if !executor.journal.directory(&claim.run).exists() {
            intend(&executor, claim, self.settings.monitored)?;
        }
        unit::run(executor, claim.clone(), asks, events).await
    }
}

/// Writes down what is about to be taken.
fn intend(executor: &Executor, claim: &Claim, monitored: bool) -> Result<(), Failure> {
    executor.journal.intend(claim, executor.engine.name(), &executor.client.address())?;
    if !monitored {
        executor.journal.quiet(&claim.run)?;
    }
    Ok(())
}

/// What the end means for whoever called us.
fn judge(task: &str, end: UnitEnd, context: &Context) -> Result<u8, Failure> {
    match end {
        UnitEnd::Settled { status, reason, exit_code } => {
            context.ui.say(&format!("task {task} {status}: {reason}"));
            Ok(if status == "failed" { exit_code.max(1) } else { exit_code })
        }
        UnitEnd::Left { status, exit_code } => {
            context.ui.say(&format!("task {task}: it is {status}, which stands"));
            Ok(exit_code)
        }
        UnitEnd::Refused { status, worker } => {
            let status = status.replace('_', " ");
            Err(ExecuteError::Refused { task: task.to_owned(), status, worker }.into())
        }
        UnitEnd::Detached => Err(Interrupted.into()),
        UnitEnd::Requeued { reason } | UnitEnd::Again { reason, .. } => {
            context.ui.say(&format!("task {task}: it is to be tried again: {reason}"));
            Ok(Kind::Unreachable.exit_code())
        }
        UnitEnd::Returned => {
            context.ui.say(&format!("task {task}: it waits in its queue"));
            Ok(Kind::Conflict.exit_code())
        }
    }
}

/// Shows what a unit tells, each thing once.
async fn tell(mut news: mpsc::Receiver<UnitEvent>, context: Context) {
    let mut last = String::new();
    while let Some(event) = news.recv().await {
        if let UnitEvent::Note(text) = event
            && text != last
        {
            context.ui.reporter().note(text.clone());
            last = text;
        }
    }
}

/// The run of this task that an earlier process left behind.
async fn left_behind(journal: &Journal, task: &str, engine: &str) -> Result<Option<Journalled>, Failure> {
    let (journal, task, engine) = (journal.clone(), task.to_owned(), engine.to_owned());
    blocking(move || {
        let found = journal.abandoned(|it| it.task == task && it.queue.is_none() && it.engine == engine)?;
        Ok(found.units.into_iter().next())
    })
    .await
}

/// Takes the task out of the queue it must wait in.
async fn dequeue(client: &Client, claim: &Claim) -> Result<(), Failure> {
    let task = &claim.task;
    let answer = client.call("tasks.dequeue", &json!({ "task": task, "new_status": "in_progress" })).await?;
    if answer.get("updated").and_then(Value::as_u64).unwrap_or(0) > 0 {
        // It runs now, as far as anybody can see: at this worker.
        let now = jiff::Timestamp::now().as_second() * 1000;
        let report = json!({ "worker": claim.worker, "task": task, "timestamp": now, "tags": [], "queues": [] });
        client.call("workers.status_report", &report).await?;
        return Ok(());
    }
    let status = tasks::status(client, task).await?.map_or_else(|| "deleted".to_owned(), |it| it.status);
    Err(ExecuteError::NotQueued { task: task.clone(), status: status.replace('_', " ") }.into())
}

/// The worker of this process: `worker_id`, or the name with the process's number, as the original calls one without a
/// queue.
fn worker(settings: &ExecuteSettings) -> String {
    let agent = &settings.execution.agent;
    agent.worker_id.clone().unwrap_or_else(|| {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{}:{}", agent.worker_name.clone().unwrap_or_else(host), std::process::id())
    })
}

/// What the program prints: on standard output, and in the log file.
struct Output {
    context: Context,
    log: Option<(PathBuf, tokio::fs::File)>,
    /// Whether people know that it cannot be read.
    troubled: bool,
}

impl Output {
    fn open(log: Option<&Path>, context: &Context) -> Result<Self, Failure> {
        let log = match log {
            None => None,
            Some(path) => {
                let failed = |source| ExecuteError::Log { path: path.to_owned(), source };
                let file = fs_err::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
                Some((path.to_owned(), tokio::fs::File::from_std(file.into_file())))
            }
        };
        Ok(Self { context: context.clone(), log, troubled: false })
    }

    /// Hands on what has come since.
    async fn pass_on(&mut self, reader: &mut OutputReader) {
        loop {
            let piece = match reader.read_next() {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err(error) => {
                    // The program may have put anything there; the run is not left for that.
                    if !std::mem::replace(&mut self.troubled, true) {
                        self.context.ui.reporter().warning(format!("the output cannot be read: {error}"));
                    }
                    return;
                }
            };
            if piece.missing > 0 {
                self.context.ui.reporter().warning(format!("{} bytes of the output were not kept", piece.missing));
            }
            // A reader that is gone must not end the run.
            let _ = self.context.ui.write(&piece.bytes);
            if let Some((path, file)) = &mut self.log {
                let written = match file.write_all(&piece.bytes).await {
                    Ok(()) => file.flush().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = written {
                    let text = format!("the log file `{}` is not written any more: {error}", path.display());
                    self.context.ui.reporter().warning(text);
                    self.log = None;
                }
            }
        }
    }
}

/// The signals that ask us to end: the first stops the run, the second kills it, the third leaves it as it is.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    async fn obey(&mut self, ask: &watch::Sender<Ask>, engine: &dyn Engine, run: &watch::Receiver<RunId>) {
        self.next().await;
        let _ = ask.send(Ask::Stop);
        self.next().await;
        let run = run.borrow().clone();
        tokio::select! {
            // Whether it worked is seen by whoever waits for the run.
            _ = engine.stop(&run, Duration::ZERO) => self.next().await,
            () = self.next() => {}
        }
        let _ = ask.send(Ask::Detach);
        std::future::pending::<()>().await;
    }
}

/// The devices that were asked for.
async fn gpus(settings: &ExecuteSettings) -> Result<GpuSet, Failure> {
    let ask = settings.execution.gpus.clone();
    blocking(move || Ok(crate::gpu::resolve(&ask, &crate::gpu::discover()?)?)).await
}

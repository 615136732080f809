//! `agent execute`: one task without a queue, from its image to its end on the server; its program's exit code is ours.
//!
//! A unit does the work (`daemon::unit`); here is what makes it a command: which task, signals, and the program's output
//! on our own. A run that an earlier `agent execute` of the task left behind is gone on with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::workshop::client as client_of;
use super::{Context, Interrupted, blocking};
use crate::clearml::events::Level;
use crate::clearml::{Client, tasks};
use crate::cli::execute::ExecuteArgs;
use crate::daemon::aside::{self, Aside};
use crate::daemon::journal::{Journal, Journalled};
use crate::daemon::{Ask, Claim, ExecuteSettings, Executor, Phase, UnitEnd, UnitEvent, engines, unit};
use crate::error::{Explain, Failure, Kind};
use crate::registry;
use crate::report::SharedReporter;
use crate::run::{Ground, RunId, engine_of};
use crate::settings::execute::merge;
use crate::spool::OutputReader;
use crate::store::Store;

mod output;
mod signals;

use output::Output;
use signals::{Current, Signals};

/// How often the program's output is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long images that nobody uses may take to be removed at the end.
const TIDYING: Duration = Duration::from_secs(60);
/// How long the last of it may take to be read when we are to end.
const LAST: Duration = Duration::from_secs(1);

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
    // Before anything is begun, so that no signal ends us in the middle of it.
    let mut signals = Signals::listen()?;
    let aside = Aside::of(context.ui.reporter())?;
    let reporter: SharedReporter = aside.clone();
    settings.execution.notes.iter().for_each(|it| reporter.note(it));
    let ready = tokio::select! {
        ready = get_ready(&settings, reporter, context) => ready,
        // What has been written down by then is found by the next start.
        () = signals.next() => Err(Interrupted.into()),
    };
    let ended = match ready {
        Ok(ready) => attend(ready, &settings, signals).await,
        Err(failure) => Err(failure),
    };
    aside.finish();
    let (task, end) = ended?;
    judge(&task, end, context)
}

/// All that a run needs.
struct Ready {
    executor: Arc<Executor>,
    output: Output,
    claim: Claim,
    /// What an earlier process left of this task.
    left: Option<Journalled>,
}

/// Asks the server for the task and takes it where that has to be done first.
async fn get_ready(settings: &ExecuteSettings, reporter: SharedReporter, context: &Context) -> Result<Ready, Failure> {
    let client = client_of(&settings.execution.api, context)?;
    let task = task(&client, settings, context).await?;
    let executor = Arc::new(executor(settings, client, reporter, context).await?);
    let output = Output::open(settings.log_file.as_deref(), &executor.reporter, &context.ui)?;
    let claim = Claim {
        task,
        queue: None,
        worker: worker(settings),
        parent: None,
        gpus: super::gpus::resolved(settings.execution.gpus.clone(), &executor.reporter).await?,
        tags: Vec::new(),
        attempt: 0,
        run: RunId::new()?,
    };
    let left = left_behind(&executor.journal, &claim.task).await?;
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
    Ok(Ready { executor, output, claim, left })
}

/// Attends the task to its end: its id, and how it ended.
async fn attend(ready: Ready, settings: &ExecuteSettings, mut signals: Signals) -> Result<(String, UnitEnd), Failure> {
    let Ready { executor, output, mut claim, left } = ready;
    let (ask, asks) = watch::channel(Ask::Nothing);
    let current = Current { run: claim.run.clone(), engine: Arc::clone(&executor.engine), runs: false };
    let (current, watched) = watch::channel(current);
    let listening = tokio::spawn(async move { signals.obey(&ask, &watched).await });
    let output = Arc::new(Mutex::new(output));
    let attending = Attending { executor: &executor, settings, asks, current, output };
    let ended = attending.to_the_end(&mut claim, left).await;
    if !matches!(ended, Ok(UnitEnd::Detached)) {
        // Whoever wants us to end does not wait for it.
        tokio::select! {
            () = executor.tidy(TIDYING) => {}
            () = attending.asked() => {}
        }
    }
    listening.abort();
    // A run that goes on keeps its worker.
    if !matches!(ended, Ok(UnitEnd::Detached)) {
        let goodbye = json!({ "worker": claim.worker, "queues": [] });
        let told = executor.client.call("workers.unregister", &goodbye);
        // A server that is away does not need to know.
        let _ = tokio::time::timeout(Duration::from_secs(5), told).await;
    }
    Ok((claim.task, ended?))
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

async fn executor(
    settings: &ExecuteSettings,
    client: Client,
    reporter: SharedReporter,
    context: &Context,
) -> Result<Executor, Failure> {
    let execution = settings.execution.clone();
    let journal = Journal::open(&execution.state)?;
    let ground = Ground {
        runs: execution.state.join("runs"),
        store: Store::default_path(),
        registry: registry::Client::new(registry::Settings {
            credentials: registry::auth::Sources::of_process(),
            offline: execution.standalone,
            ..registry::Settings::default()
        })?,
        container_host: context.session.environment.get("CONTAINER_HOST").map(str::to_owned),
        lends: true,
        silence: execution.limits.silence,
        reporter: Arc::clone(&reporter),
    };
    let engine = engine_of(execution.engine, &ground).await?;
    let open = engines::on(ground);
    let program = std::env::current_exe()?;
    Ok(Executor { settings: execution, client, engine, open, journal, program, reporter })
}

/// What attending takes.
struct Attending<'a> {
    executor: &'a Arc<Executor>,
    settings: &'a ExecuteSettings,
    asks: watch::Receiver<Ask>,
    /// The run that signals are about.
    current: watch::Sender<Current>,
    /// Where what it prints goes.
    output: Arc<Mutex<Output>>,
}

impl Attending<'_> {
    /// Attends the unit, and those that follow it where the machinery failed.
    async fn to_the_end(&self, claim: &mut Claim, mut left: Option<Journalled>) -> Result<UnitEnd, Failure> {
        loop {
            match self.once(claim, left.take()).await? {
                UnitEnd::Again { reason, attempt } => {
                    self.executor.reporter.warning(format!("trying again: {reason}"));
                    (claim.attempt, claim.run) = (attempt, RunId::new()?);
                }
                end => return Ok(end),
            }
        }
    }

    /// Attends one unit, and hands on what its run prints.
    async fn once(&self, claim: &Claim, left: Option<Journalled>) -> Result<UnitEnd, Failure> {
        let (events, news) = mpsc::channel(64);
        let run = left.as_ref().map_or_else(|| claim.run.clone(), |it| it.record().run.clone());
        let reader = OutputReader::new(&self.executor.journal.spool(&run));
        let output = Arc::clone(&self.output);
        let showing = aside::show(reader, LOOK, move |piece| {
            output.lock().unwrap_or_else(PoisonError::into_inner).pass_on(piece);
        })?;
        let executor = match &left {
            Some(left) => engines::executor_of(self.executor, left.record()),
            None => Arc::clone(self.executor),
        };
        self.current.send_modify(|it| {
            *it = Current { run, engine: Arc::clone(&executor.engine), runs: false };
        });
        let hearing = self.hear(news);
        let (end, ()) = tokio::join!(self.unit(executor, claim, left, events), hearing);
        // Whoever reads what we print may take its time, unless we are to end.
        tokio::select! {
            () = showing.finish() => {}
            () = async { self.asked().await; tokio::time::sleep(LAST).await } => {}
        }
        end
    }

    /// Comes when we are asked to end.
    async fn asked(&self) {
        let mut asks = self.asks.clone();
        if asks.wait_for(|it| *it != Ask::Nothing).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hears what the unit tells; shows each thing once.
    async fn hear(&self, mut news: mpsc::Receiver<UnitEvent>) {
        let mut last = String::new();
        while let Some(event) = news.recv().await {
            match event {
                UnitEvent::Phase(phase) => {
                    self.current.send_modify(|it| it.runs = matches!(phase, Phase::Start | Phase::Run));
                }
                UnitEvent::Note(text) if text != last => {
                    self.executor.reporter.note(text.clone());
                    last = text;
                }
                UnitEvent::Note(_) => {}
                UnitEvent::Line(Level::Warning | Level::Error, text) => self.executor.reporter.warning(text),
                UnitEvent::Line(Level::Info | Level::Debug, text) => self.executor.reporter.note(text),
            }
        }
    }

    async fn unit(
        &self,
        executor: Arc<Executor>,
        claim: &Claim,
        left: Option<Journalled>,
        events: mpsc::Sender<UnitEvent>,
    ) -> Result<UnitEnd, Failure> {
        let asks = self.asks.clone();
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
        UnitEnd::Settled { status, reason, exit_code, .. } => {
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
        UnitEnd::Detached => {
            context.ui.say(&format!("task {task} is left as it is; the next `agent execute` of it goes on from here"));
            Err(Interrupted.into())
        }
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

/// The run of this task that an earlier process left behind.
async fn left_behind(journal: &Journal, task: &str) -> Result<Option<Journalled>, Failure> {
    let (journal, task) = (journal.clone(), task.to_owned());
    blocking(move || {
        let found = journal.abandoned(|it| it.task == task && it.queue.is_none())?;
        let mut left = found.units.into_iter().next();
        // Whoever asks for the task now wants it to run, whatever was asked before it did.
        left.as_mut().map_or(Ok(()), Journalled::withdraw)?;
        Ok(left)
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

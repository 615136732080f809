//! `agent daemon`: serves queues until it is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::workshop::client as client_of;
use super::{Context, daemons};
use crate::clearml::Client;
use crate::cli::daemon::DaemonArgs;
use crate::daemon::aside::Aside;
use crate::daemon::asked::Signals;
use crate::daemon::dispatcher::{self, Desk, Habits};
use crate::daemon::instances::{About, Forced, Instance, Instances, Now, Running};
use crate::daemon::metrics::{self, Metrics};
use crate::daemon::notify::Notify;
use crate::daemon::pace::Backoff;
use crate::daemon::places::Places;
use crate::daemon::queues::{self, Queue, QueueError};
use crate::daemon::settings::{QueueChoice, Slots};
use crate::daemon::take::{Counter, Driver};
use crate::daemon::tally::Tally;
use crate::daemon::work::Standing;
use crate::daemon::worker::Worker;
use crate::daemon::{DaemonAsk, DaemonSettings, Executor, Journal, Phase, crew, detach, engines};
use crate::error::Failure;
use crate::gpu::{self, Discovery, GpuSet};
use crate::http::Retry;
use crate::machine::Machine;
use crate::registry;
use crate::report::SharedReporter;
use crate::run::{EngineKind, Ground, engine_of};
use crate::settings::daemon::{identity, merge};
use crate::store::Store;

/// How often runs and lost tasks that nobody attends are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long images that nobody uses may take to be removed at the start.
const TIDYING: Duration = Duration::from_secs(600);

/// Does what was asked of `agent daemon`.
pub(super) async fn run(args: DaemonArgs, context: &Context) -> Result<u8, Failure> {
    match merge(&args, &context.session)? {
        DaemonAsk::Serve(settings) => serve(*settings, context).await,
        DaemonAsk::Detach(settings) => daemons::detach(&settings, context).await,
        DaemonAsk::Stop(settings) => daemons::stop(settings, context).await,
        DaemonAsk::Status(state) => daemons::status(&state, context).await,
    }
}

/// Serves queues until it is told to end and has.
async fn serve(settings: DaemonSettings, context: &Context) -> Result<u8, Failure> {
    // Before anything is begun, so that no signal ends us in the middle of it.
    let signals = Signals::listen()?;
    if settings.background_log.is_some() {
        crate::daemon::detach::become_session()?;
    }
    let aside = Aside::of(context.ui.reporter())?;
    let served = serve_with(&settings, aside.clone(), signals, context).await;
    aside.finish();
    served
}

async fn serve_with(
    settings: &DaemonSettings,
    reporter: SharedReporter,
    mut signals: Signals,
    context: &Context,
) -> Result<u8, Failure> {
    for note in &settings.execution.notes {
        reporter.note(note.clone());
    }
    let client = client_of(&settings.execution.api, context)?;
    // A driver or an engine may never answer.
    let (gpus, executor) = tokio::select! {
        ready = async {
            let gpus = super::gpus::resolved(settings.execution.gpus.clone(), &reporter).await?;
            Ok::<_, Failure>((gpus, executor(settings, client.clone(), &reporter, context).await?))
        } => ready?,
        _ = signals.next() => return Ok(0),
    };
    let executor = Arc::new(executor);
    let instances = Instances::open(&settings.execution.state)?;
    let tally = Arc::new(Tally::default());
    let figures = Arc::clone(&tally);
    let metrics = Arc::new(Metrics::with(Box::new(move || figures.figures())));
    let page = match settings.metrics {
        Some(address) => Some(metrics::serve(address, Arc::clone(&metrics)).await?),
        None => None,
    };
    let told = page.as_ref().map(|it| it.0.to_string());
    let queues = tokio::select! {
        queues = find_queues(&client, settings, &executor) => queues?,
        _ = signals.next() => return Ok(0),
    };
    let instance = instances.claim(&identity(settings), about(settings, told))?;
    tokio::spawn(remove_leftovers(Arc::clone(&executor)));
    if let Some(log) = &settings.background_log {
        tokio::spawn(detach::bound_log(log.clone()));
    }
    let shown = Shown { instance, metrics, tally };
    let desk = desk(settings, &executor, (queues, gpus), shown, context)?;
    reporter.note(greeting(&desk, settings));
    let (ask, asks) = mpsc::channel(8);
    let listening = tokio::spawn(async move { while ask.send(signals.next().await).await.is_ok() {} });
    let answering = page.map(|it| tokio::spawn(it.1));
    let served = dispatcher::serve(desk, asks).await;
    listening.abort();
    if let Some(answering) = answering {
        answering.abort();
    }
    served.map(|()| 0)
}

/// Finds the queues. A server that is away is waited for where runs of an earlier daemon may need us; else that is an
/// error at once, for the address may be wrong.
async fn find_queues(client: &Client, settings: &DaemonSettings, executor: &Executor) -> Result<Arc<[Queue]>, Failure> {
    let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
    loop {
        match queues::resolve(client, &settings.queues, settings.create_queues).await {
            Ok(found) => return Ok(found.into()),
            Err(QueueError::Api(error)) if error.is_passing() && has_left_runs(executor)? => {
                let text = format!("{}; runs of an earlier daemon wait for it", Failure::from(error));
                executor.reporter.warning(text);
                tokio::time::sleep(backoff.failed()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn executor(
    settings: &DaemonSettings,
    client: Client,
    reporter: &SharedReporter,
    context: &Context,
) -> Result<Executor, Failure> {
    let execution = settings.execution.clone();
    let journal = Journal::open(&execution.state)?;
    journal.prune()?;
    let credentials = registry::auth::Sources::of_process();
    let ground = Ground {
        runs: execution.state.join("runs"),
        store: Store::default_path(),
        registry: registry::Client::new(registry::Settings {
            credentials,
            offline: execution.standalone,
            ..registry::Settings::default()
        })?,
        container_host: context.session.environment.get("CONTAINER_HOST").map(str::to_owned),
        lends: true,
        silence: execution.limits.silence,
        reporter: Arc::clone(reporter),
    };
    let engine = engine_of(execution.engine, &ground).await?;
    let open = engines::on(ground);
    let (program, reporter) = (std::env::current_exe()?, Arc::clone(reporter));
    Ok(Executor { settings: execution, client, engine, open, journal, program, reporter })
}

/// Whether runs of this server wait for somebody; those of another would make a wrong address wait for ever.
fn has_left_runs(executor: &Executor) -> Result<bool, Failure> {
    let (found, server) = (executor.journal.all()?, executor.client.address());
    let mut left = found.units.iter().filter(|it| it.phase != Phase::Done && it.queue.is_some());
    Ok(left.any(|it| crew::is_same_server(&it.server, &server)))
}

/// Removes what the engine still has of runs that are over: it was away when they ended. And images that nobody uses.
async fn remove_leftovers(executor: Arc<Executor>) {
    if let (Ok(runs), Ok(found)) = (executor.engine.runs().await, executor.journal.all()) {
        for record in found.units.iter().filter(|it| it.phase == Phase::Done && runs.contains(&it.run)) {
            if let Err(failure) = executor.engine.remove(&record.run).await {
                let text = format!("{} does not remove the run {}: {failure}", executor.engine.name(), record.run);
                executor.reporter.note(text);
            }
        }
    }
    executor.tidy(TIDYING).await;
}

fn about(settings: &DaemonSettings, metrics: Option<String>) -> About {
    let queue = |it: &QueueChoice| match it.gpus {
        Some((least, most)) if least == most => format!("{}={least}", it.name),
        Some((least, most)) => format!("{}={least}-{most}", it.name),
        None => it.name.clone(),
    };
    About {
        engine: settings.execution.engine,
        queues: settings.queues.iter().map(queue).collect(),
        schedule: settings.schedule.as_ref().map(ToString::to_string),
        many: settings.slots != Slots::One,
        log: settings.background_log.clone(),
        metrics,
    }
}

/// Where a daemon shows what it does.
struct Shown {
    instance: Instance,
    metrics: Arc<Metrics>,
    tally: Arc<Tally>,
}

fn desk(
    settings: &DaemonSettings,
    executor: &Arc<Executor>,
    (queues, gpus): (Arc<[Queue]>, GpuSet),
    shown: Shown,
    context: &Context,
) -> Result<Desk, Failure> {
    let Shown { instance, metrics, tally } = shown;
    let worker_id = instance.worker().to_owned();
    let home = context.session.environment.get("HOME").unwrap_or("/");
    // The next look comes anyway: nothing is asked twice.
    let client = Client::new(executor.client.server().clone(), settings.worker_name.clone(), Retry::NONE)?;
    let ids = queues.iter().map(|it| it.id.clone()).collect();
    let machine = (Machine::new(home), gpus.clone());
    let worker = Worker::new(client.clone(), worker_id.clone(), ids, settings.tags.clone(), machine);
    let ui = context.ui.clone();
    // A reader that is gone must not end what runs.
    let console: Option<crew::Console> =
        settings.show_console.then(|| -> crew::Console { Arc::new(move |bytes| drop(ui.write(bytes))) });
    let reporter = Arc::clone(&executor.reporter);
    let troubled = Arc::clone(&reporter);
    let notify = Notify::from(&context.session.environment);
    let limit = match settings.slots {
        Slots::Services(limit) => limit,
        _ => None,
    };
    let whose = crew::Whose { worker: worker_id.clone(), tags: settings.tags.clone() };
    Ok(Desk {
        counter: Counter {
            client,
            crew: Arc::new(crew::of(executor, whose, console)),
            reporter,
            worker: worker_id.clone(),
            driver: (!gpus.is_empty()).then(driver),
        },
        places: Places::new(settings.slots, &worker_id, &settings.worker_name, gpus)?,
        queues,
        worker,
        habits: Habits {
            interval: settings.interval,
            sweep: SWEEP,
            schedule: settings.schedule.clone(),
            fair: settings.fair,
            ahead: settings.ahead,
            limit,
            shares_gpus: settings.slots == Slots::Dynamic,
        },
        metrics,
        tally,
        notify,
        clock: Box::new(jiff::Zoned::now),
        standing: Box::new(move |standing| {
            if let Err(error) = instance.tell(now(standing)) {
                troubled.warning(Failure::from(error).to_string());
            }
        }),
    })
}

/// Asks the driver what there is and what runs on it. One that still owes an answer is not asked again meanwhile.
fn driver() -> Driver {
    let owed = AtomicBool::new(false);
    Arc::new(move || {
        if owed.swap(true, Ordering::SeqCst) {
            return None;
        }
        let found = gpu::discover();
        owed.store(false, Ordering::SeqCst);
        match found {
            Ok(Discovery::Found(inventory)) => Some(inventory),
            Ok(Discovery::NoDriver(_)) | Err(_) => None,
        }
    })
}

/// What a daemon does, in the words of the records.
fn now(standing: Standing) -> Now {
    Now {
        forced: standing.forced.into_iter().map(|(by, on)| Forced { by, on }).collect(),
        draining: standing.draining,
        running: standing
            .running
            .into_iter()
            .map(|it| Running { task: it.task, queue: it.queue, phase: it.phase.to_owned() })
            .collect(),
    }
}

fn greeting(desk: &Desk, settings: &DaemonSettings) -> String {
    let queues: Vec<String> = desk.queues.iter().map(|it| format!("`{}`", it.name)).collect();
    let engine = match settings.execution.engine {
        EngineKind::Docker => "in Docker",
        EngineKind::Podman => "in Podman",
        EngineKind::Native => "natively",
    };
    format!("worker {} serves {} {engine}", desk.worker.id(), queues.join(", "))
}

//! Units as the dispatcher's crew: what it asks and hears, in their words.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::settings::ExecutionSettings;
use super::unit::{self, Ask, Claim, Executor, UnitEnd, UnitEvent};
use super::work::{Asks, Attend, Crew, End, Job, Left, News, Wants};
use super::{Journalled, Phase};
use crate::error::Failure;
use crate::run::RunId;
use crate::spool::OutputReader;

/// Where what programs print is shown.
pub type Console = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How often new output is looked for, where it is shown.
const LOOK: Duration = Duration::from_millis(200);

/// A crew of units. `tags` are the worker's; `console` is where what programs print is shown, if it is.
#[must_use]
pub fn of(executor: &Arc<Executor>, tags: Vec<String>, console: Option<Console>) -> Crew {
    let it = || Arc::clone(executor);
    let tags: Arc<[String]> = tags.into();
    let (intending, taking, forgetting, running, finding, building) = (it(), it(), it(), it(), it(), it());
    let (worker_tags, consoles) = (Arc::clone(&tags), console.clone());
    Crew {
        intend: Box::new(move |job| {
            let (engine, server) = (intending.engine.name(), intending.client.address());
            Ok(intending.journal.intend(&claim(job, &worker_tags), engine, &server)?)
        }),
        taken: Box::new(move |run| Ok(taking.journal.taken(run)?)),
        forget: Box::new(move |run| {
            // What stays is found again at the next start: the task is not in its queue then, or somebody else's.
            if let Err(error) = forgetting.journal.forget(run) {
                forgetting.reporter.warning(Failure::from(error).to_string());
            }
        }),
        run: Box::new(move |job| {
            let (executor, claim) = (Arc::clone(&running), claim(&job, &tags));
            let output = output(&executor, &claim.run, console.as_ref());
            attend(output, move |asks, events| Box::pin(unit::run(executor, claim, asks, events)))
        }),
        left: Box::new(move |wants| left(&finding, &wants, consoles.as_ref())),
        prebuild: Box::new(move |task| {
            let executor = Arc::clone(&building);
            Box::pin(async move { unit::prebuild(&executor, &task).await })
        }),
    }
}

fn claim(job: &Job, tags: &[String]) -> Claim {
    Claim {
        task: job.task.clone(),
        queue: job.queue.clone(),
        worker: job.worker.clone(),
        gpus: job.gpus.clone(),
        tags: tags.to_vec(),
        attempt: 0,
        run: job.run.clone(),
    }
}

/// The runs of this engine and this server that nobody attends.
fn left(executor: &Arc<Executor>, wants: &Wants, console: Option<&Console>) -> Left {
    let (engine, server) = (executor.engine.name(), executor.client.address());
    let found = executor.journal.abandoned(|it| it.engine == engine && it.server == server && wants(&it.worker))?;
    for error in found.unreadable {
        executor.reporter.warning(Failure::from(error).to_string());
    }
    Ok(found.units.into_iter().map(|it| resume(executor, it, console)).collect())
}

fn resume(executor: &Arc<Executor>, journalled: Journalled, console: Option<&Console>) -> (Job, Attend) {
    let record = journalled.record();
    let job = Job {
        run: record.run.clone(),
        task: record.task.clone(),
        queue: record.queue.clone(),
        worker: record.worker.clone(),
        gpus: record.gpus.clone(),
    };
    let executor = if job.queue.is_some() { Arc::clone(executor) } else { Arc::new(without_retries(executor)) };
    let output = output(&executor, &job.run, console);
    (job, attend(output, move |asks, events| Box::pin(unit::resume(executor, journalled, asks, events))))
}

/// Who claimed a task without a queue would try it again, and is gone: what it left ends as it is, or nobody ends it.
fn without_retries(executor: &Executor) -> Executor {
    Executor {
        settings: ExecutionSettings { retries: 0, ..executor.settings.clone() },
        client: executor.client.clone(),
        engine: Arc::clone(&executor.engine),
        journal: executor.journal.clone(),
        program: executor.program.clone(),
        reporter: Arc::clone(&executor.reporter),
    }
}

type Unit = BoxFuture<'static, Result<UnitEnd, Failure>>;

/// What a run's program prints, and where it is shown.
struct Output {
    console: Console,
    reader: OutputReader,
}

fn output(executor: &Executor, run: &RunId, console: Option<&Console>) -> Option<Output> {
    let console = Arc::clone(console?);
    Some(Output { console, reader: OutputReader::new(&executor.journal.spool(run)) })
}

impl Output {
    /// Shows what has come since.
    fn show(&mut self) {
        while let Ok(Some(piece)) = self.reader.read_next() {
            (self.console)(&piece.bytes);
        }
    }
}

/// Attends a unit: passes on what is asked of it, what it tells and what its program prints.
fn attend(
    mut output: Option<Output>,
    begin: impl FnOnce(watch::Receiver<Ask>, mpsc::Sender<UnitEvent>) -> Unit + Send + 'static,
) -> Attend {
    Box::new(|mut asked, news| {
        Box::pin(async move {
            let (ask, asks) = watch::channel(Ask::Nothing);
            let (events, mut heard) = mpsc::channel(64);
            let mut unit = begin(asks, events);
            loop {
                tokio::select! {
                    end = &mut unit => {
                        if let Some(output) = &mut output {
                            output.show();
                        }
                        return ended(end);
                    }
                    () = tokio::time::sleep(LOOK), if output.is_some() => {
                        if let Some(output) = &mut output {
                            output.show();
                        }
                    }
                    Some(event) = heard.recv() => drop(news.send(told(event)).await),
                    Ok(()) = asked.changed() => drop(ask.send(wish(*asked.borrow_and_update()))),
                }
            }
        })
    })
}

fn wish(asks: Asks) -> Ask {
    match asks {
        Asks::Nothing => Ask::Nothing,
        Asks::Stop => Ask::Stop,
        Asks::Detach => Ask::Detach,
    }
}

fn told(event: UnitEvent) -> News {
    match event {
        UnitEvent::Phase(Phase::Run) => News::Running,
        UnitEvent::Phase(phase) => News::Phase(phase.as_str()),
        UnitEvent::Note(text) => News::Note(text),
    }
}

fn ended(end: Result<UnitEnd, Failure>) -> End {
    match end {
        Ok(UnitEnd::Settled { status, reason, .. }) => End::Settled { status, reason },
        Ok(UnitEnd::Left { status, .. }) => End::Settled { reason: "which stands".to_owned(), status },
        Ok(UnitEnd::Refused { status, worker }) => {
            let whose = worker.map(|it| format!(" at worker {it}")).unwrap_or_default();
            End::GivenBack { reason: format!("it is {status}{whose}") }
        }
        Ok(UnitEnd::Returned) => End::GivenBack { reason: "it is in its queue, or somebody else's".to_owned() },
        Ok(UnitEnd::Requeued { reason } | UnitEnd::Again { reason, .. }) => End::Requeued { reason },
        Ok(UnitEnd::Detached) => End::Detached,
        Err(error) => End::Failed(error),
    }
}

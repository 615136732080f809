//! Units as the dispatcher's crew: what it asks and hears, in their words.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use url::{Host, Url};

use super::aside::{self, Showing};
use super::settings::ExecutionSettings;
use super::unit::{self, Ask, Claim, Executor, UnitEnd, UnitEvent};
use super::work::{Asks, Attend, Broken, Crew, End, Job, Left, News, Wants};
use super::{Journal, Phase, journal::Record};
use crate::error::Failure;
use crate::run::RunId;
use crate::spool::{OutputReader, Piece};

/// Where what programs print is shown.
pub type Console = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How often new output is looked for, where it is shown.
const LOOK: Duration = Duration::from_millis(200);
/// How long the server may take to say whose a task is.
const ASKING: Duration = Duration::from_secs(5);
/// How often the code that attends a unit may break before the unit is left alone.
const GIVEN_UP: u32 = 6;
/// How long images that nobody uses may take to be removed after a run.
const TIDYING: Duration = Duration::from_secs(600);
/// How long a run that is over waits for the last of its output to be read.
const READ: Duration = Duration::from_secs(2);

/// Whose crew it is.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The daemon's worker id.
    pub worker: String,
    /// The worker's tags.
    pub tags: Vec<String>,
}

/// A crew of units; `console` is where what programs print is shown, if it is.
#[must_use]
pub fn of(executor: &Arc<Executor>, whose: Whose, console: Option<Console>) -> Crew {
    let it = || Arc::clone(executor);
    let tags = Arc::new(whose);
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
            let kept = Kept { journal: executor.journal.clone(), run: claim.run.clone(), output };
            let attending = attend(kept, {
                let executor = Arc::clone(&executor);
                move |asks, events| Box::pin(unit::run(executor, claim, asks, events))
            });
            tidied_after(executor, attending)
        }),
        left: Box::new(move |wants| left(&finding, &wants, consoles.as_ref())),
        prebuild: Box::new(move |task| {
            let executor = Arc::clone(&building);
            Box::pin(async move {
                // Ended when it is dropped.
                unit::prebuild(&executor, &task).await
            })
        }),
    }
}

fn claim(job: &Job, tags: &Whose) -> Claim {
    Claim {
        task: job.task.clone(),
        queue: job.queue.clone(),
        worker: job.worker.clone(),
        parent: Some(tags.worker.clone()).filter(|it| *it != job.worker),
        gpus: job.gpus.clone(),
        tags: tags.tags.clone(),
        attempt: 0,
        run: job.run.clone(),
    }
}

/// The runs of this server that nobody attends, in whichever engine. Nobody's lock is kept: a worker that comes back
/// meanwhile has its own.
fn left(executor: &Arc<Executor>, wants: &Wants, console: Option<&Console>) -> Left {
    let found = executor.journal.unattended(|it| it.broken < GIVEN_UP && wants(&it.worker))?;
    for error in found.unreadable {
        executor.reporter.warning(Failure::from(error).to_string());
    }
    tell_again(executor, wants);
    let ours = found.units.iter().filter(|it| is_here(executor, it));
    Ok(ours.map(|it| resume(executor, it, console)).collect())
}

/// Tells ends again that late messages took back. What cannot be told now is the next time.
fn tell_again(executor: &Executor, wants: &Wants) {
    let Ok(found) = executor.journal.all() else { return };
    let (mut units, ours) = (found.units, executor.client.address());
    units.retain(|it| wants(&it.worker) && is_same_server(&it.server, &ours));
    let told = unit::tell_again(&executor.client, &units);
    let told = tokio::runtime::Handle::current().block_on(async { tokio::time::timeout(ASKING, told).await });
    for task in told.ok().and_then(Result::ok).into_iter().flatten() {
        let text = format!("task {task}: a message of its run came after its end and took it back: it is told again");
        executor.reporter.note(text);
    }
}

/// Whether a unit's task is on our server, which it may have known under another name: then the task says whose it is.
fn is_here(executor: &Executor, record: &Record) -> bool {
    if is_same_server(&record.server, &executor.client.address()) {
        return true;
    }
    let asked = unit::is_marked(&executor.client, &record.task, &record.run);
    let answer = tokio::runtime::Handle::current().block_on(async { tokio::time::timeout(ASKING, asked).await });
    matches!(answer, Ok(Ok(true)))
}

/// Whether two addresses are one, in whatever spelling.
#[must_use]
pub fn is_same_server(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let url: Url = text.parse().ok()?;
        let host = match url.host()? {
            Host::Domain("localhost") => None,
            Host::Ipv4(address) if address.is_loopback() => None,
            Host::Ipv6(address) if address.is_loopback() => None,
            host => Some(host.to_string().trim_end_matches('.').to_owned()),
        };
        Some((url.scheme().to_owned(), host, url.port_or_known_default(), url.path().trim_end_matches('/').to_owned()))
    };
    one == other || parts(one).is_some_and(|it| Some(it) == parts(other))
}

fn resume(executor: &Arc<Executor>, record: &Record, console: Option<&Console>) -> (Job, Attend) {
    let job = Job {
        run: record.run.clone(),
        task: record.task.clone(),
        queue: record.queue.clone(),
        worker: record.worker.clone(),
        gpus: record.gpus.clone(),
    };
    let executor = if job.queue.is_some() { Arc::clone(executor) } else { Arc::new(without_retries(executor)) };
    let (console, run, tidying) = (console.cloned(), job.run.clone(), Arc::clone(&executor));
    let attend: Attend = Box::new(move |asked, news| {
        Box::pin(async move {
            let journalled = match executor.journal.attend(&run) {
                Ok(Some(journalled)) => journalled,
                Ok(None) => return End::Detached,
                Err(error) => return End::Failed(error.into()),
            };
            let output = output(&executor, &run, console.as_ref());
            let unit = Kept { journal: executor.journal.clone(), run, output };
            let begin = move |asks, events| -> Unit { Box::pin(unit::resume(executor, journalled, asks, events)) };
            attend(unit, begin)(asked, news).await
        })
    });
    (job, tidied_after(tidying, attend))
}

/// The same, and once it has ended images that nobody uses any more are removed from the engine: beside whatever comes
/// next, for the run's place is free by then.
pub(super) fn tidied_after(executor: Arc<Executor>, attend: Attend) -> Attend {
    Box::new(|asked, news| {
        Box::pin(async move {
            let end = attend(asked, news).await;
            tokio::spawn(async move { executor.tidy(TIDYING).await });
            end
        })
    })
}

/// Who claimed a task without a queue would try it again, and is gone: what it left ends as it is, or nobody ends it.
fn without_retries(executor: &Executor) -> Executor {
    Executor { settings: ExecutionSettings { retries: 0, ..executor.settings.clone() }, ..executor.clone() }
}

/// What is kept of a unit beside itself.
struct Kept {
    journal: Journal,
    run: RunId,
    output: Option<Showing>,
}

type Unit = BoxFuture<'static, Result<UnitEnd, Failure>>;

/// What a run's program prints, on its way to where it is shown.
fn output(executor: &Executor, run: &RunId, console: Option<&Console>) -> Option<Showing> {
    let console = Arc::clone(console?);
    let show = move |piece: std::io::Result<Piece>| {
        if let Ok(piece) = piece {
            console(&piece.bytes);
        }
    };
    let shown = aside::show(OutputReader::new(&executor.journal.spool(run)), LOOK, show);
    let failed = |error| executor.reporter.warning(format!("what the run {run} prints is not shown: {error}"));
    shown.map_err(failed).ok()
}

/// Attends a unit: passes on what is asked of it and what it tells, while what its program prints is shown.
fn attend(
    kept: Kept,
    begin: impl FnOnce(watch::Receiver<Ask>, mpsc::Sender<UnitEvent>) -> Unit + Send + 'static,
) -> Attend {
    Box::new(|mut asked, news| {
        Box::pin(async move {
            let (ask, asks) = watch::channel(Ask::Nothing);
            let (events, mut heard) = mpsc::channel(64);
            let mut unit = AssertUnwindSafe(begin(asks, events)).catch_unwind();
            loop {
                tokio::select! {
                    end = &mut unit => {
                        drop(unit);
                        // Who reads slowly reads on, beside the next run.
                        if let Some(output) = kept.output {
                            let _ = tokio::time::timeout(READ, output.finish()).await;
                        }
                        return match end {
                            Ok(end) => ended(end),
                            Err(panic) => broken(&kept.journal, &kept.run, &*panic),
                        };
                    }
                    Some(event) = heard.recv() => if let Some(event) = told(event) {
                        drop(news.send(event).await);
                    },
                    Ok(()) = asked.changed() => drop(ask.send(wish(*asked.borrow_and_update()))),
                }
            }
        })
    })
}

/// The code that attends a unit broke. It is tried again, for it may have been the moment; a unit that breaks it again and
/// again ends for that, and one that cannot even be ended so is left alone.
fn broken(journal: &Journal, run: &RunId, panic: &(dyn Any + Send)) -> End {
    let text = panic.downcast_ref::<&str>().map(|it| (*it).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned());
    let noted = journal.attend(run).and_then(|it| it.map_or(Ok(()), |mut it| it.broke(&text)));
    match noted {
        Ok(()) => End::Failed(Broken(text).into()),
        Err(error) => End::Failed(error.into()),
    }
}

fn wish(asks: Asks) -> Ask {
    match asks {
        Asks::Nothing => Ask::Nothing,
        Asks::Stop => Ask::Stop,
        Asks::Detach => Ask::Detach,
    }
}

fn told(event: UnitEvent) -> Option<News> {
    match event {
        UnitEvent::Phase(Phase::Run) => Some(News::Running),
        UnitEvent::Phase(phase) => Some(News::Phase(phase.as_str())),
        UnitEvent::Note(text) => Some(News::Note(text)),
        // The server has it, and `agent logs`; what many tasks say at once nobody reads.
        UnitEvent::Line(..) => None,
    }
}

fn ended(end: Result<UnitEnd, Failure>) -> End {
    match end {
        Ok(UnitEnd::Settled { status, reason, machinery, .. }) => End::Settled { status, reason, machinery },
        Ok(UnitEnd::Left { status, .. }) => {
            End::Settled { reason: "which stands".to_owned(), status, machinery: false }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::journal::Ending;
    use crate::gpu::GpuSet;

    #[tokio::test]
    async fn a_unit_that_breaks_its_code_again_and_again_ends_for_that_and_is_left_alone_at_last() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::new().unwrap();
        let job = Job {
            run: run.clone(),
            task: "t".to_owned(),
            queue: None,
            worker: "w:service:t".to_owned(),
            gpus: GpuSet::default(),
        };
        let whose = Whose { worker: "w".to_owned(), tags: Vec::new() };
        assert_eq!(claim(&job, &whose).parent.as_deref(), Some("w"));
        Journal::open(dir.path()).unwrap().intend(&claim(&job, &whose), "native", "here").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        for times in 1..=GIVEN_UP {
            let kept = Kept { journal: journal.clone(), run: run.clone(), output: None };
            let attending = attend(kept, |_, _| Box::pin(async { panic!("no such thing") }));
            let (_asks, asked) = watch::channel(Asks::Nothing);
            let end = attending(asked, mpsc::channel(1).0).await;
            assert!(matches!(&end, End::Failed(it) if it.to_string().ends_with("no such thing")), "{end:?}");
            let record = journal.all().unwrap().units.remove(0);
            assert_eq!((record.broken, record.phase == Phase::Drain), (times, times >= 3));
            let failed = matches!(&record.end, Some(Ending::Failed { passing: false, .. }));
            assert_eq!(failed, times >= 3, "{:?}", record.end);
        }
        assert!(journal.unattended(|it| it.broken < GIVEN_UP).unwrap().units.is_empty());
    }

    #[test]
    fn an_address_is_the_same_in_other_spellings() {
        for (one, other, same) in [
            ("http://h:8008", "http://H:8008/", true),
            ("https://api.example.com", "https://api.example.com.:443", true),
            ("http://localhost:8008", "http://127.0.0.1:8008", true),
            ("http://[::1]:8008/", "http://localhost:8008", true),
            ("http://h:8008", "http://h:8009", false),
            ("http://h:8008", "https://h:8008", false),
            ("http://h/api", "http://h/api/", true),
            ("http://h/api", "http://h/other", false),
            ("here", "here", true),
            ("here", "there", false),
        ] {
            assert_eq!(is_same_server(one, other), same, "{one} {other}");
        }
    }
}

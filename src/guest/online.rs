//! A run with a server: which task, its status, its console, its statistics, its end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::child::{End, Program};
use super::console::{Console, Keep, Recorder};
use super::settings::{Settings, hostname};
use super::supervise::{Cause, Ended, Signals, supervise};
use super::{GuestError, environment, parameters};
use crate::clearml::events::Level;
use crate::clearml::tasks::{self, Change, State};
use crate::clearml::{ApiError, Client};
use crate::error::{Failure, Kind};
use crate::http::Retry;
use crate::launch::Mode;
use crate::machine::cgroup;
use crate::spool::{EndCause, LeftEnd, OutputWriter, Owner, ProgramEnd, Spool, drain};

mod watch;

use watch::{Subject, Verdict};

/// Patience of a single call. What matters is repeated above.
const RETRY: Retry =
    Retry { attempts: 4, pause: Duration::from_millis(400), longest: Duration::from_secs(3), heard: true };
/// How often waiting lines are sent.
const LINES: Duration = Duration::from_secs(2);
/// A task whose worker said nothing for so long is nobody's: the server itself counts so when a task is to be stopped.
const SILENT: i64 = 600;
/// What is kept of the time between being asked to end and being killed for ending.
const ENDING: Duration = Duration::from_secs(1);
/// How long lines may take of that.
const LAST_LINES: Duration = Duration::from_millis(1500);

/// How long a program's pipes may stay open after its end: somebody it left behind has them.
const LEFT_OPEN: Duration = Duration::from_secs(1);

/// "Invalid task status": a change that the server's table does not have.
const NO_CHANGE: (u16, i64) = (400, 110);

/// A task that is ours.
struct Run<'a> {
    settings: &'a Settings,
    client: Client,
    id: String,
    recorder: Arc<Recorder>,
    spool: Option<Arc<Mutex<Spool>>>,
    message: String,
}

/// Runs the task to its end.
pub(super) async fn run(settings: &Settings) -> Result<Ended, GuestError> {
    let Some(server) = settings.server.clone() else { return Err(GuestError::NoServer) };
    let client = Client::with_variables(server, hostname(), RETRY, settings.lent.clone())?;
    let mut signals = Signals::listen()?;
    if let (true, Some(spool)) = (settings.executor, settings.spools.first()) {
        // An engine that went down while it started a run may start it again.
        if LeftEnd::of(spool) != LeftEnd::Nothing {
            return Err(GuestError::Again);
        }
        // Where that cannot be, the executor takes the engine's word.
        let _ = ProgramEnd::promise(spool);
    }
    let mut task = tokio::select! {
        task = take(settings, &client) => task?,
        () = signals.asked_to_end() => return Err(GuestError::Interrupted),
    };
    let id = text(&task, "id");
    let (keep, spool, copy) = open_spool(settings, &id);
    let recorder = Recorder::new(keep);
    let run = Run { settings, client, id, recorder, spool, message: tasks::changed_by(&settings.worker) };
    let started = tokio::select! {
        started = run.start(&mut task) => started,
        () = signals.asked_to_end() => Err(GuestError::Interrupted),
    };
    let outcome = match started {
        Ok(()) => run.to_the_end(&mut signals, copy).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &outcome
        && !matches!(error, GuestError::Busy { .. })
    {
        // From here on the task is ours on the server, and must not stay running there.
        run.give_up(error).await;
    }
    outcome
}

/// The task that will run: the recorded one or its clone.
async fn take(settings: &Settings, client: &Client) -> Result<Value, GuestError> {
    let wanted = settings.task.as_deref().ok_or(GuestError::NoTask)?;
    let task = match tasks::find(client, wanted).await {
        // The executor has taken it, and the program may start while the server is away for a while.
        Err(error) if error.is_passing() && settings.executor && settings.set.is_empty() => {
            return Ok(json!({ "id": wanted, "name": settings.launch.name }));
        }
        found => found?,
    };
    if settings.mode == Mode::CloneTask {
        let name = format!("Clone of {}", text(&task, "name"));
        let id = tasks::clone(client, &text(&task, "id"), &name).await?;
        super::tell(&format!("agent: running a clone of task {}: {id}\n", text(&task, "id")));
        return Ok(tasks::get(client, &id).await?);
    }
    let free = settings.executor || settings.force || is_free(&task, Timestamp::now());
    if free { Ok(task) } else { Err(busy(&task)) }
}

/// Whether nobody runs the task, as far as the server knows, and it may be run again.
fn is_free(task: &Value, now: Timestamp) -> bool {
    match text(task, "status").as_str() {
        "published" | "publishing" => false,
        "in_progress" => {
            let last = text(task, "last_update").parse::<Timestamp>().ok();
            last.is_some_and(|it| now.as_second() - it.as_second() > SILENT)
        }
        _ => true,
    }
}

fn busy(task: &Value) -> GuestError {
    let worker = Some(text(task, "last_worker")).filter(|it| !it.is_empty());
    GuestError::Busy { task: text(task, "id"), status: text(task, "status").replace('_', " "), worker }
}

fn open_spool(settings: &Settings, id: &str) -> (Keep, Option<Arc<Mutex<Spool>>>, Option<OutputWriter>) {
    let owner = Owner { task: id.to_owned(), worker: settings.worker.clone() };
    for directory in &settings.spools {
        // What an executor mounts is this run's alone; elsewhere a container may have run another task before.
        let mounted = settings.environment.get("AGENT_SPOOL").is_some_and(|it| Path::new(it) == directory);
        let directory: PathBuf = if mounted { directory.clone() } else { directory.join(id) };
        if let Ok(spool) = Spool::open(&directory, owner.clone(), settings.spool_bytes) {
            let spool = Arc::new(Mutex::new(spool));
            let copied = mounted && settings.executor;
            let copy = copied.then(|| OutputWriter::open(&directory, settings.spool_bytes).ok()).flatten();
            return (Keep::Spool(Arc::clone(&spool)), Some(spool), copy);
        }
    }
    super::tell("agent: warning: no directory is writable: the console is not sent to the server\n");
    (Keep::Nowhere, None, None)
}

impl Run<'_> {
    /// Tells the server that the task runs, and what was changed in it.
    async fn start(&self, task: &mut Value) -> Result<(), GuestError> {
        if !self.settings.executor {
            if State::of(task).status == "queued" {
                tasks::dequeue(&self.client, &self.id).await?;
            }
            // Forced only where the server's table has no way back: whoever was quicker must not be overrun.
            let over = matches!(State::of(task).status.as_str(), "failed" | "closed");
            let change = self.change("worker starting task execution", over || self.settings.force);
            match tasks::started(&self.client, change).await {
                Err(error) if error.is(NO_CHANGE) => {
                    return Err(busy(&tasks::get(&self.client, &self.id).await?));
                }
                other => other?,
            };
        }
        if !self.settings.set.is_empty() {
            parameters::apply(task, &self.settings.set);
            let edit = json!({ "task": self.id, "force": true, "hyperparams": task["hyperparams"] });
            self.client.call("tasks.edit", &edit).await?;
        }
        let missing = self.settings.missing_secrets();
        if !missing.is_empty() {
            let text = format!("these secrets of the task were not given: {}", missing.join(", "));
            self.recorder.note(Level::Warning, &text);
        }
        let name = text(task, "name");
        self.recorder
            .record(Level::Info, &format!("task {} ({name}) started by worker {}", self.id, self.settings.worker));
        Ok(())
    }

    async fn to_the_end(&self, signals: &mut Signals, copy: Option<OutputWriter>) -> Result<Ended, GuestError> {
        let before = kills();
        let program = Program::of_task(&self.settings.launch, environment::task(self.settings, &self.id));
        let mut child = program.start()?;
        let console = child.pipes.take().map(|it| Console::start(it, &self.recorder, copy));
        let (wish, mut wishes) = mpsc::channel(1);
        let subject = Subject {
            client: self.client.clone(),
            task: self.id.clone(),
            worker: self.settings.worker.clone(),
            tags: watch::tags(self.settings.environment.get("CLEARML_WORKER_TAGS").unwrap_or_default()),
            abort_callback: self.settings.abort_callback,
        };
        let verdict = Arc::new(OnceLock::new());
        let beside = [
            tokio::spawn(watch::until_stop(subject.clone(), Arc::clone(&self.recorder), Arc::clone(&verdict), wish)),
            tokio::spawn(watch::keep_alive(subject.clone())),
            tokio::spawn(send_lines(self.spool.clone(), self.client.clone())),
        ];
        let ended = supervise(&child, signals, &mut wishes, self.settings.grace).await;
        let out_of_memory = before.zip(kills()).is_some_and(|(before, now)| now > before);
        if let (true, Some(spool)) = (self.settings.executor, self.settings.spools.first()) {
            // What the engine tells of the container is enough as a rule.
            let cause = match (verdict.get(), ended.cause) {
                (Some(_), _) | (None, Cause::Server) => EndCause::Server,
                (None, Cause::Asked(_)) => EndCause::Asked,
                (None, Cause::Itself) if ended.is_aborted() => EndCause::Aborted,
                (None, Cause::Itself) => EndCause::Itself,
            };
            let _ = ProgramEnd { code: ended.code, out_of_memory, cause }.leave(spool);
        }
        beside.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(console) = console {
            console.finish(LEFT_OPEN).await;
        }
        self.finish(ended, verdict.get(), signals).await;
        if !self.settings.executor {
            let _ = timeout(LAST_LINES, subject.unregister()).await;
        }
        Ok(ended)
    }

    /// The last lines, then the status.
    async fn finish(&self, ended: Ended, verdict: Option<&Verdict>, signals: &mut Signals) {
        let last = Last::of(ended, verdict);
        // Who asked, and what for, the executor alone knows, and says it.
        if !(self.settings.executor && verdict.is_none() && matches!(ended.cause, Cause::Asked(_))) {
            self.recorder.record(last.level(), &last.line());
        }
        let asked = self.asked();
        let deadline = match ended.cause {
            Cause::Asked(at) => at + asked,
            // Whoever sits at the terminal does not wait long.
            Cause::Itself if ended.is_aborted() => Instant::now() + asked,
            // What waits then is the executor's to send.
            _ if self.settings.executor => Instant::now() + asked,
            _ => Instant::now() + self.settings.patience,
        };
        let reported = tokio::select! {
            reported = self.report(&last, deadline) => reported,
            () = signals.asked_to_end() => self.report(&last, Instant::now() + asked - LAST_LINES).await,
        };
        if let Err(error) = reported {
            let what = if self.settings.executor { "the last lines were" } else { "the last lines or the status were" };
            super::tell(&format!("agent: warning: {what} not reported: {error}\n"));
        }
    }

    /// Sends what waits and sets the status; again and again until `deadline`.
    async fn report(&self, last: &Last, deadline: Instant) -> Result<(), Failure> {
        // Lines get no more than half of what is left, the status the rest.
        let left = deadline.saturating_duration_since(Instant::now());
        let lines = insist(Instant::now() + left / 2, || self.drain()).await;
        if self.settings.executor {
            return lines;
        }
        insist(deadline, || async { Ok(self.settle(last).await?) }).await?;
        lines
    }

    async fn drain(&self) -> Result<(), Failure> {
        let Some(spool) = &self.spool else { return Ok(()) };
        Ok(drain(spool, &self.client).await.map(|_| ())?)
    }

    async fn settle(&self, last: &Last) -> Result<(), ApiError> {
        let outcome = match last {
            Last::Left(_) => return Ok(()),
            Last::Completed => tasks::completed(&self.client, self.change("worker execution done", false)).await,
            Last::Stopped(reason) => tasks::stopped(&self.client, self.change(reason, false)).await,
            Last::Failed(code) => {
                let reason = format!("worker execution exit code {code}");
                tasks::failed(&self.client, self.change(&reason, false)).await
            }
        };
        match outcome {
            // The program, or somebody, settled it differently meanwhile: that stands.
            Err(error) if error.is(NO_CHANGE) => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }

    /// The task is ours on the server, but its program never ran.
    async fn give_up(&self, error: &GuestError) {
        self.recorder.record(Level::Error, &error.to_string());
        let last = match error {
            GuestError::Interrupted => Last::Stopped("user abort"),
            _ => Last::Failed(i32::from(error.exit_code())),
        };
        let _ = self.report(&last, Instant::now() + self.asked() - LAST_LINES).await;
    }

    /// How long we have once we are asked to end.
    fn asked(&self) -> Duration {
        self.settings.grace.saturating_sub(ENDING).max(LAST_LINES)
    }

    fn change<'b>(&'b self, reason: &'b str, force: bool) -> Change<'b> {
        Change { task: &self.id, reason, message: &self.message, force }
    }
}

/// What becomes of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Last {
    Completed,
    Stopped(&'static str),
    Failed(i32),
    /// Somebody else settled it: its status.
    Left(String),
}

impl Last {
    fn of(ended: Ended, verdict: Option<&Verdict>) -> Self {
        match (verdict, ended.cause, ended.end) {
            (Some(Verdict::Leave(status)), ..) => Self::Left(status.clone()),
            (Some(Verdict::Stop), ..) | (None, Cause::Server, _) => Self::Stopped("task was stopped by tasks.stop"),
            (None, Cause::Asked(_), _) => Self::Stopped("user abort"),
            (None, Cause::Itself, End::Code(0)) => Self::Completed,
            (None, Cause::Itself, _) if ended.is_aborted() => Self::Stopped("user abort"),
            (None, Cause::Itself, _) => Self::Failed(i32::from(ended.code)),
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Completed | Self::Failed(_) => Level::Debug,
            Self::Stopped(_) | Self::Left(_) => Level::Error,
        }
    }

    /// The console's last line, in the original's words.
    fn line(&self) -> String {
        match self {
            Self::Completed => "Process completed successfully".to_owned(),
            Self::Failed(code) => format!("Process failed, exit code {code}"),
            Self::Stopped(reason) => format!("User aborted: stopping task ({reason})"),
            Self::Left(status) => format!("The task was ended elsewhere: it is {status}"),
        }
    }
}

/// Tries until it works, until it cannot work, or until `deadline`.
async fn insist<F: Future<Output = Result<(), Failure>>>(
    deadline: Instant,
    mut work: impl FnMut() -> F,
) -> Result<(), Failure> {
    let mut pause = Duration::from_millis(300);
    loop {
        let outcome = timeout_at(deadline, work()).await;
        match outcome {
            Ok(Err(error)) if error.kind() == Kind::Unreachable && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            Ok(outcome) => return outcome,
            Err(_) => return Err(GuestError::Late.into()),
        }
    }
}

async fn send_lines(spool: Option<Arc<Mutex<Spool>>>, client: Client) {
    let Some(spool) = spool else { return };
    let mut pause = LINES;
    loop {
        tokio::time::sleep(pause).await;
        // A server that is away is asked less and less often, but never given up.
        pause = if drain(&spool, &client).await.is_ok() { LINES } else { (pause * 2).min(Duration::from_secs(60)) };
    }
}

/// How many processes the kernel has killed for memory in our control group: not every engine hears of it, and tells it.
/// Without a container of our own the group may be that of others as well: then the figure means nothing, and nobody
/// heeds it.
fn kills() -> Option<u64> {
    let place = cgroup::own("memory")?;
    cgroup::kills(&place.group, place.version).or_else(|| cgroup::kills(&place.top, place.version))
}

fn text(task: &Value, field: &str) -> String {
    task.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_free_unless_somebody_was_heard_of_lately() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let task = |status: &str, last: &str| json!({ "status": status, "last_update": last, "last_worker": "w:0" });
        assert!(is_free(&task("completed", ""), now));
        assert!(is_free(&task("in_progress", "2026-01-01T11:00:00.123000+00:00"), now));
        assert!(!is_free(&task("in_progress", "2026-01-01T11:59:00+00:00"), now));
        assert!(!is_free(&task("in_progress", ""), now));
        assert!(!is_free(&task("published", "2020-01-01T00:00:00+00:00"), now));
        assert_eq!(busy(&task("in_progress", "")).to_string(), "the task `` is in progress at worker `w:0`");
    }

    #[test]
    fn the_status_is_what_happened() {
        let ended = |end: End, cause| Ended { end, cause, code: end.code() };
        let asked = Cause::Asked(Instant::now());
        assert_eq!(Last::of(ended(End::Code(0), Cause::Itself), None), Last::Completed);
        assert_eq!(Last::of(ended(End::Code(3), Cause::Itself), None), Last::Failed(3));
        assert_eq!(Last::of(ended(End::Signal(9), Cause::Itself), None), Last::Failed(137));
        assert_eq!(Last::of(ended(End::Code(0), asked), None), Last::Stopped("user abort"));
        // As the original has it, and a code that a shell makes of the signal is no such end there.
        assert_eq!(Last::of(ended(End::Signal(2), Cause::Itself), None), Last::Stopped("user abort"));
        assert_eq!(Last::of(ended(End::Code(254), Cause::Itself), None), Last::Stopped("user abort"));
        assert_eq!(Last::of(ended(End::Code(130), Cause::Itself), None), Last::Failed(130));
        assert!(!ended(End::Signal(2), asked).is_aborted() && !ended(End::Code(254), Cause::Server).is_aborted());
        let stop = Some(&Verdict::Stop);
        assert!(matches!(Last::of(ended(End::Signal(15), Cause::Server), stop), Last::Stopped(_)));
        let left = Verdict::Leave("queued".to_owned());
        assert_eq!(Last::of(ended(End::Signal(15), Cause::Server), Some(&left)), Last::Left("queued".to_owned()));
    }
}

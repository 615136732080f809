//! A unit's image, built by this program in a process of its own: it can be given a deadline, be looked at for progress
//! and be ended with all it started, and its memory goes with it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStderr;
use tokio::time::{Instant, sleep, sleep_until};

use super::prebuilt::Looked;
use super::{Ending, Executor, Halt, Step, Unit, is_passing};
use crate::clearml::events::Level;
use crate::daemon::journal::{Builder, Phase};
use crate::daemon::writeback;
use crate::digest::Digest;
use crate::error::{Failure, Kind};
use crate::process::{Group, exit_code};
use crate::report::{Event, SharedReporter, silent};
use crate::run::RunImage;

/// How long a build that is to end may take to remove what it began.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often a build that says nothing is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long its standard error is listened to after its end.
const LINGER: Duration = Duration::from_secs(1);
/// How many of the last lines of programs are told when a build fails.
const TOLD: usize = 40;

/// Where a build writes what came out.
pub(super) const LOCK: &str = "agent.lock";
const METADATA: &str = "build.json";

/// What makes a build end before its time.
enum Stop {
    Ended,
    Interrupted(super::Interruption),
    Late(String),
}

impl Unit {
    /// Builds the image, or finds that it is there.
    pub(super) async fn build(&mut self) -> Result<Step, Halt> {
        self.open_lines()?;
        if let Some(builder) = self.record().builder {
            end_leftover(builder).await;
        }
        match self.is_allowed().await {
            Looked::Allowed => {}
            Looked::Refused(failure) => {
                failure.hints().iter().for_each(|it| self.line(Level::Info, &format!("hint: {it}")));
                return self.failed("the task is not run here", &failure);
            }
            Looked::Interrupted(interruption) => {
                self.wished(interruption)?;
                return self.ended(Ending::Stopped);
            }
        }
        self.say("building image");
        let mut child = match Child::start(self.command()) {
            Ok(child) => child,
            Err(error) => {
                let failure = Failure::from(error);
                return self.failed("cannot start the build", &failure);
            }
        };
        let builder = Builder { pid: child.group.pid(), started: started(child.group.pid()).unwrap_or(0) };
        self.entry.update(|it| it.builder = Some(builder))?;
        let mut progress = Progress::new(&self.record().task, &self.executor.reporter);
        let stop = self.follow(&mut child, &mut progress).await;
        let code = match stop {
            Stop::Ended => child.ended().await,
            Stop::Interrupted(interruption) => {
                child.cancel().await;
                self.entry.update(|it| it.builder = None)?;
                self.wished(interruption)?;
                return self.ended(Ending::Stopped);
            }
            Stop::Late(why) => {
                child.cancel().await;
                self.entry.update(|it| it.builder = None)?;
                self.line(Level::Error, &why);
                return self.ended(Ending::Failed { reason: why, passing: true, code: Kind::System.exit_code() });
            }
        };
        self.entry.update(|it| it.builder = None)?;
        if code != 0 {
            return self.unbuilt(code, &progress);
        }
        match self.built() {
            Ok((image, user)) => {
                self.write_back().await;
                self.entry.update(|it| (it.image, it.user) = (Some(image), user))?;
                Ok(Step::Go(Phase::Prepare))
            }
            Err(failure) => self.failed("the build's results cannot be read", &failure),
        }
    }

    /// Leaves with the task what it runs with. Nothing of it may keep the task from running.
    async fn write_back(&self) {
        let lock = match lock_of(self.entry.directory()) {
            Ok(lock) => lock,
            Err(error) => return self.line(Level::Warning, &format!("the lock cannot be read: {error}")),
        };
        let (client, task) = (&self.executor.client, &self.record().task);
        let mut told = writeback::after_build(client, task, &lock).await;
        if self.executor.settings.agent.write_default_image {
            told = told.and(writeback::default_image(client, task, &lock).await);
        }
        if let Err(error) = told {
            let text = format!("what the task runs with is not written to it: {}", Failure::from(error));
            self.line(Level::Warning, &text);
        }
    }

    fn command(&self) -> Command {
        let (record, directory) = (self.record(), self.entry.directory());
        let mut command = build_command(&self.executor, &record.task, &record.engine);
        command.arg("--lock-file").arg(directory.join(LOCK)).arg("--metadata-file").arg(directory.join(METADATA));
        command
    }

    /// Hands on what the build tells, until it ends or is to end.
    async fn follow(&self, child: &mut Child, progress: &mut Progress) -> Stop {
        let limits = self.executor.settings.limits;
        let began = Instant::now();
        let (mut heard, mut over) = (began, None::<Instant>);
        loop {
            let late = (began + limits.build).min(heard + limits.silence);
            tokio::select! {
                line = child.line() => match line {
                    Some(line) => {
                        heard = Instant::now();
                        for (level, text) in progress.take(&line) {
                            self.line(level, &text);
                        }
                        self.say(progress.text());
                    }
                    None => return Stop::Ended,
                },
                interruption = self.interrupted() => return Stop::Interrupted(interruption),
                // Something it left behind may hold its standard error.
                () = sleep(TICK) => {
                    if child.has_ended() {
                        over.get_or_insert_with(Instant::now);
                    }
                    if over.is_some_and(|it| it.elapsed() >= LINGER) {
                        return Stop::Ended;
                    }
                }
                () = sleep_until(late) => {
                    let at = progress.text();
                    return Stop::Late(if began.elapsed() >= limits.build {
                        format!("the image was not built within {} s ({at})", limits.build.as_secs())
                    } else {
                        format!("the build made no progress for {} s ({at})", limits.silence.as_secs())
                    });
                }
            }
        }
    }

    /// The build says that it failed: its reason becomes the task's, its last words console lines.
    fn unbuilt(&mut self, code: i32, progress: &Progress) -> Result<Step, Halt> {
        let error = progress.error.as_ref();
        let reason =
            error.map_or_else(|| format!("its process ended with {code} and said nothing"), |it| it.text.clone());
        for line in &progress.last {
            self.line(Level::Debug, line);
        }
        self.line(Level::Error, &format!("the image could not be built: {reason}"));
        for hint in error.map(|it| it.hints.as_slice()).unwrap_or_default() {
            self.line(Level::Info, &format!("hint: {hint}"));
        }
        // One that a signal ended was ended by somebody, or by the kernel for memory: the task had no part in it.
        let passing = error.map_or(code >= 128, |it| it.passing);
        let code = u8::try_from(code).unwrap_or(1);
        self.ended(Ending::Failed { reason: format!("the image could not be built: {reason}"), passing, code })
    }

    fn built(&self) -> Result<(RunImage, Option<String>), Failure> {
        let path = self.entry.directory().join(METADATA);
        let document: Value = serde_json::from_slice(&fs::read(&path)?).map_err(std::io::Error::other)?;
        let digest = |name: &str| -> Result<Digest, Failure> {
            let text = document.get(name).and_then(Value::as_str).unwrap_or_default();
            let digest: Result<Digest, _> = text.parse();
            Ok(digest.map_err(|it| std::io::Error::other(format!("`{}`: {name}: {it}", path.display())))?)
        };
        let image = RunImage {
            name: image_name(&self.record().task),
            manifest: digest("containerimage.digest")?,
            config: digest("containerimage.config.digest")?,
        };
        let user = document.get("image.user").and_then(Value::as_str).filter(|it| !it.is_empty());
        Ok((image, user.map(str::to_owned)))
    }
}

/// The build of a task's image to where an engine takes it from.
fn build_command(executor: &Executor, task: &str, engine: &str) -> Command {
    let settings = &executor.settings;
    let mut command = Command::new(&executor.program);
    command.arg("--json");
    if let Some(file) = &settings.config_file {
        command.arg("--config-file").arg(file);
    }
    command.args(["build", "--id", task, "--entry-point", "reuse_task"]);
    command.args(["--target", &image_name(task), "-o", &format!("type={}", place(engine))]);
    if let Some(text) = &settings.docker {
        command.arg(format!("--docker={text}"));
    }
    if settings.standalone {
        command.arg("--locked");
    }
    command.envs(settings.build_environment.iter().map(|(name, value)| (name, value.reveal())));
    // Who watches over us hears from us, not from what we start.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Builds the image of a task that still waits, so that its own build finds all of it. Ended when dropped.
///
/// # Errors
/// It cannot be built now, or not at all.
pub(in crate::daemon) async fn prebuild(executor: &Executor, task: &str) -> Result<(), Failure> {
    let mut child = Child::start(build_command(executor, task, executor.engine.name()))?;
    let mut progress = Progress::new(task, &silent());
    while let Some(line) = child.line().await {
        progress.take(&line);
    }
    match child.ended().await {
        0 => Ok(()),
        code => {
            let reason = progress.error.map_or_else(|| format!("its process ended with {code}"), |it| it.text);
            Err(std::io::Error::other(reason).into())
        }
    }
}

/// What the image of a task is called on this machine.
fn image_name(task: &str) -> String {
    format!("agent/task-{task}:latest")
}

/// Where an engine takes images from, as `-o` has it.
fn place(engine: &str) -> &str {
    match engine {
        "docker" | "podman" => engine,
        _ => "store",
    }
}

/// A build that goes on; ended when dropped.
struct Child {
    group: Group,
    errors: BufReader<ChildStderr>,
    /// A line that has no end yet.
    unfinished: Vec<u8>,
}

impl Child {
    fn start(mut command: Command) -> std::io::Result<Self> {
        let mut group = Group::start(&mut command)?;
        let stderr = group.child().stderr.take().ok_or_else(|| std::io::Error::other("it has no standard error"))?;
        Ok(Self { group, errors: BufReader::new(ChildStderr::from_std(stderr)?), unfinished: Vec::new() })
    }

    /// The next line of its standard error; what is no text in it is replaced. May be dropped and called again.
    async fn line(&mut self) -> Option<String> {
        let read = self.errors.read_until(b'\n', &mut self.unfinished).await;
        if read.is_err() || self.unfinished.is_empty() {
            return None;
        }
        let line = std::mem::take(&mut self.unfinished);
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Whether its process has ended.
    fn has_ended(&mut self) -> bool {
        !matches!(self.group.try_wait(), Ok(None))
    }

    /// Waits for its end; its exit code.
    async fn ended(&mut self) -> i32 {
        loop {
            match self.group.try_wait() {
                Ok(Some(status)) => return exit_code(status),
                Ok(None) => sleep(Duration::from_millis(10)).await,
                Err(_) => return 1,
            }
        }
    }

    /// Ends it: it is asked to, so that it can end what runs in containers for it, and killed after a while.
    async fn cancel(&mut self) {
        self.group.signal(Signal::TERM);
        let _ = tokio::time::timeout(FAREWELL, self.ended()).await;
        self.group.kill();
    }
}

/// Ends a build that an earlier process of ours began and did not outlive.
async fn end_leftover(builder: Builder) {
    let same = || started(builder.pid) == Some(builder.started);
    let Some(pid) = i32::try_from(builder.pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    let late = Instant::now() + FAREWELL;
    while same() {
        let signal = if Instant::now() < late { Signal::TERM } else { Signal::KILL };
        if rustix::process::kill_process_group(pid, signal).is_err() {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// When a process started, in ticks since the kernel did; `None` for one that has ended.
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

/// What a build has told so far.
struct Progress {
    /// Before the names of its pieces of work: several builds may go on at once.
    prefix: String,
    reporter: SharedReporter,
    /// Pieces of work that go on: name and title.
    going_on: Vec<(String, String)>,
    note: Option<String>,
    last: VecDeque<String>,
    error: Option<BuildError>,
}

struct BuildError {
    text: String,
    hints: Vec<String>,
    passing: bool,
}

impl Progress {
    fn new(task: &str, reporter: &SharedReporter) -> Self {
        Self {
            prefix: task.chars().take(8).collect(),
            reporter: std::sync::Arc::clone(reporter),
            going_on: Vec::new(),
            note: None,
            last: VecDeque::new(),
            error: None,
        }
    }

    /// What it does now, for the task's status message.
    fn text(&self) -> String {
        match self.going_on.last() {
            Some((_, title)) => format!("building image: {title}"),
            None => match &self.note {
                Some(note) => format!("building image: {note}"),
                None => "building image".to_owned(),
            },
        }
    }

    /// One line of its standard error; the console lines that come of it.
    fn take(&mut self, line: &str) -> Vec<(Level, String)> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            self.remember(line.to_owned());
            return Vec::new();
        };
        if let Some(error) = event.get("error") {
            self.error = Some(BuildError::of(error));
            return Vec::new();
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = || format!("{} {}", self.prefix, text("id"));
        match text("event").as_str() {
            "started" => {
                self.reporter.started(id(), text("title"));
                self.going_on.retain(|(it, _)| *it != text("id"));
                self.going_on.push((text("id"), text("title")));
            }
            "progress" => {
                let number = |name: &str| event.get(name).and_then(Value::as_u64);
                self.reporter.progress(id(), number("done").unwrap_or(0), number("total"));
            }
            "finished" => {
                self.reporter.finished(id(), text("outcome"));
                let found = self.going_on.iter().position(|(it, _)| *it == text("id"));
                let title = found.map_or_else(|| text("id"), |at| self.going_on.remove(at).1);
                let outcome = Some(text("outcome")).filter(|it| !it.is_empty());
                return vec![(Level::Info, outcome.map_or(title.clone(), |it| format!("{title}: {it}")))];
            }
            "note" => {
                self.reporter.note(text("text"));
                self.note = Some(text("text"));
                return vec![(Level::Info, text("text"))];
            }
            "warning" => {
                self.reporter.warning(text("text"));
                return vec![(Level::Warning, text("text"))];
            }
            "line" => {
                self.reporter.report(Event::Line { source: text("source"), text: text("text") });
                self.remember(format!("{}: {}", text("source"), text("text")));
            }
            _ => {}
        }
        Vec::new()
    }

    fn remember(&mut self, line: String) {
        if self.last.len() == TOLD {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl BuildError {
    fn of(error: &Value) -> Self {
        let list = |name: &str| -> Vec<String> {
            let items = error.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason was given").to_owned();
        let text = std::iter::once(message).chain(list("causes")).collect::<Vec<_>>().join(": ");
        let code = error.get("exit_code").and_then(Value::as_u64).and_then(|it| u8::try_from(it).ok());
        let passing = code.and_then(Kind::of_exit_code).is_some_and(is_passing);
        Self { text, hints: list("hints"), passing }
    }
}

/// The lock that a build wrote.
pub(super) fn lock_of(directory: &Path) -> Result<crate::lock::Lock, crate::lock::DocumentError> {
    crate::lock::Lock::read(&directory.join(LOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_what_it_does_and_why_it_failed() {
        let mut progress = Progress::new("0123456789abcdef", &silent());
        let mut lines = Vec::new();
        for line in [
            r#"{"event":"started","id":"layer python","title":"layer python"}"#,
            r#"{"event":"progress","id":"layer python","done":10,"total":20}"#,
            r#"{"event":"started","id":"fetch","title":"fetching torch"}"#,
        ] {
            lines.extend(progress.take(line));
        }
        assert_eq!(progress.text(), "building image: fetching torch");
        for line in [
            r#"{"event":"finished","id":"fetch","outcome":"800 MB"}"#,
            r#"{"event":"warning","text":"an odd thing"}"#,
            r#"{"event":"line","source":"uv","text":"no such package"}"#,
            "thread panicked",
            r#"{"error":{"message":"cannot resolve","causes":["x==9 is not there"],"hints":["Ask for another."],"kind":"unsatisfiable","exit_code":80}}"#,
        ] {
            lines.extend(progress.take(line));
        }
        let expected =
            [(Level::Info, "fetching torch: 800 MB".to_owned()), (Level::Warning, "an odd thing".to_owned())];
        assert_eq!(lines, expected);
        assert_eq!(progress.text(), "building image: layer python");
        assert_eq!(progress.last, ["uv: no such package", "thread panicked"]);
        let error = progress.error.unwrap();
        assert_eq!((error.text.as_str(), error.passing), ("cannot resolve: x==9 is not there", false));
        assert!(BuildError::of(&serde_json::json!({"message": "m", "exit_code": 69})).passing);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_id() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let at = started(child.id()).unwrap();
        assert_eq!(started(child.id()), Some(at));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }
}

//! A unit's image, built by this program in a process of its own: it can be given a deadline, be looked at for progress
//! and be ended with all it started, and its memory goes with it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

mod child;
mod progress;

use child::{Child, end_leftover, started};
use progress::Progress;

use super::prebuilt::{self, Looked};
use super::{Ending, Executor, Halt, Step, Unit, is_passing, server};
use crate::clearml::events::Level;
use crate::daemon::journal::{Builder, Phase};
use crate::daemon::writeback;
use crate::digest::Digest;
use crate::error::{Failure, Kind};
use crate::gpu::{self, GpuDevice, GpuSet};
use crate::report::silent;
use crate::run::RunImage;

/// How often a build that says nothing is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often a build is done again that failed because a registry, an index or an engine did not answer.
const TRIES: u32 = 2;
/// How long its standard error is listened to after its end.
const LINGER: Duration = Duration::from_secs(1);

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
        let there = self.engine_answers().await?;
        if !matches!(there, Step::Go(Phase::Build)) {
            return Ok(there);
        }
        if let Some(gpu) = self.lost_gpu().await {
            let (reason, code) = (format!("GPU lost: {gpu}"), Kind::System.exit_code());
            return self.ended(Ending::Failed { reason, passing: true, code });
        }
        // The build asks the server as well, and is less patient.
        let (client, task) = (self.executor.client.clone(), self.record().task.clone());
        self.insist("before the build", || server::look(&client, &task)).await?;
        match self.look().await {
            Looked::Build => {}
            Looked::AsItIs(found) => return self.take_as_it_is(*found).await,
            Looked::Refused(failure) => {
                if failure.kind() == Kind::Unreachable
                    && let Some(step) = self.again_soon(&failure.to_string()).await?
                {
                    return Ok(step);
                }
                return self.refuse(&failure);
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
        let builder = Builder { pid: child.pid(), started: started(child.pid()).unwrap_or(0) };
        self.entry.update(|it| it.builder = Some(builder))?;
        let mut progress = Progress::new(&self.record().task, &self.executor.reporter);
        let stop = self.follow(&mut child, &mut progress).await;
        let code = match stop {
            Stop::Ended => child.ended().await,
            Stop::Interrupted(interruption) => {
                // One that is not waited for is killed when it is dropped.
                tokio::select! {
                    () = child.cancel() => {}
                    () = self.detached() => {}
                }
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
            return self.unbuilt(code, &progress).await;
        }
        match built(&self.entry.directory().join(METADATA), &self.record().task) {
            Ok((image, user)) => {
                self.executor.keep(&self.record().task, &image);
                tokio::select! {
                    () = self.write_back() => {}
                    () = self.dismissed() => return Err(Halt::Detached),
                }
                self.entry.update(|it| (it.image, it.user) = (Some(image), user))?;
                Ok(Step::Go(Phase::Prepare))
            }
            Err(failure) => self.failed("the build's results cannot be read", &failure),
        }
    }

    /// Leaves with the task what it runs with. Nothing of it may keep the task from running.
    pub(super) async fn write_back(&self) {
        let lock = match lock_of(self.entry.directory()) {
            Ok(lock) => lock,
            Err(error) => return self.line(Level::Warning, &format!("the lock cannot be read: {error}")),
        };
        let (client, task) = (&self.executor.client, &self.record().task);
        if lock.carried().is_none() {
            self.line(Level::Warning, "the lock is larger than 4 MiB and is not left with the task");
        }
        let mut told = writeback::after_build(client, task, &lock).await;
        if self.executor.settings.agent.write_default_image {
            told = told.and(writeback::default_image(client, task, &lock).await);
        }
        if let Err(error) = told {
            let text = format!("what the task runs with is not written to it: {}", Failure::from(error));
            self.line(Level::Warning, &text);
        }
    }

    fn command(&self) -> (Command, Option<String>) {
        let (record, directory) = (self.record(), self.entry.directory());
        let (mut command, told) = build_command(&self.executor, &record.task, &record.engine);
        command.arg("--lock-file").arg(directory.join(LOCK)).arg("--metadata-file").arg(directory.join(METADATA));
        command.args(for_gpus(&record.gpus));
        (command, told)
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
                            self.keep_line(level, &text);
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
    async fn unbuilt(&mut self, code: i32, progress: &Progress) -> Result<Step, Halt> {
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
        if error.is_some_and(|it| it.unanswered)
            && let Some(step) = self.again_soon(&reason).await?
        {
            return Ok(step);
        }
        // One that a signal ended was ended by somebody, or by the kernel for memory: the task had no part in it.
        let passing = error.map_or(code >= 128, |it| it.passing);
        let code = u8::try_from(code).unwrap_or(1);
        self.ended(Ending::Failed { reason: format!("the image could not be built: {reason}"), passing, code })
    }

    /// The build once more after a pause, if somebody did not answer and has not been waited for too often.
    pub(super) async fn again_soon(&mut self, reason: &str) -> Result<Option<Step>, Halt> {
        if self.unanswered >= TRIES {
            return Ok(None);
        }
        self.unanswered += 1;
        self.line(Level::Info, &format!("somebody did not answer ({reason}): the image is built again soon"));
        self.say(format!("building again soon: {reason}"));
        tokio::select! {
            () = sleep(self.pace.longest) => Ok(Some(Step::Go(Phase::Build))),
            interruption = self.interrupted() => {
                self.wished(interruption)?;
                self.ended(Ending::Stopped).map(Some)
            }
        }
    }
}

/// What a build says that it made: the image, and its user.
fn built(path: &Path, task: &str) -> Result<(RunImage, Option<String>), Failure> {
    let document: Value = serde_json::from_slice(&fs::read(path)?).map_err(std::io::Error::other)?;
    let digest = |name: &str| -> Result<Digest, Failure> {
        let text = document.get(name).and_then(Value::as_str).unwrap_or_default();
        let digest: Result<Digest, _> = text.parse();
        Ok(digest.map_err(|it| std::io::Error::other(format!("`{}`: {name}: {it}", path.display())))?)
    };
    let image = RunImage {
        name: image_name(task),
        manifest: digest("containerimage.digest")?,
        config: digest("containerimage.config.digest")?,
    };
    let user = document.get("image.user").and_then(Value::as_str).filter(|it| !it.is_empty());
    Ok((image, user.map(str::to_owned)))
}

/// The build of a task's image to where an engine takes it from, and what it is told on its standard input: container
/// arguments may have secrets in them, and a command line is seen by all.
fn build_command(executor: &Executor, task: &str, engine: &str) -> (Command, Option<String>) {
    let settings = &executor.settings;
    let mut command = Command::new(&executor.program);
    command.arg("--json");
    if let Some(file) = &settings.config_file {
        command.arg("--config-file").arg(file);
    }
    command.args(["build", "--id", task, "--entry-point", "reuse_task"]);
    command.args(["--target", &image_name(task), "-o", &format!("type={}", place(engine))]);
    let told = settings.docker.clone().filter(|it| !it.is_empty());
    if told.is_some() {
        command.arg("--docker=-");
    }
    if settings.standalone {
        command.arg("--locked").env(crate::http::OFFLINE, "1");
    }
    command.envs(settings.build_environment.iter().map(|(name, value)| (name, value.reveal())));
    // Who watches over us hears from us, not from what we start.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
    command.stdin(if told.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    (command, told)
}

/// What tells a build which devices its image is for: what cannot run with them is refused before it is fetched.
fn for_gpus(gpus: &GpuSet) -> Vec<String> {
    if gpus.is_empty() {
        return vec!["--cpu-only".to_owned()];
    }
    vec!["--gpus".to_owned(), gpus.devices.iter().map(GpuDevice::id).collect::<Vec<_>>().join(",")]
}

/// The devices that tasks of this worker get some of; none where the driver does not answer now.
async fn of_worker(executor: &Executor) -> GpuSet {
    let ask = executor.settings.gpus.clone();
    let found = tokio::task::spawn_blocking(move || gpu::resolve(&ask, &gpu::discover().ok()?).ok()).await;
    found.ok().flatten().unwrap_or_default()
}

/// Builds the image of a task that still waits, so that its own build finds all of it. Ended when dropped.
///
/// # Errors
/// It cannot be built now, not at all, or not within the time that any build may take.
pub(in crate::daemon) async fn prebuild(executor: &Arc<Executor>, task: &str) -> Result<(), Failure> {
    let limit = executor.settings.limits.build;
    let built = timeout(limit, prebuild_whole(executor, task)).await;
    built.unwrap_or_else(|_| {
        let reason = format!("it was not built within {} s", limit.as_secs());
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, reason).into())
    })
}

async fn prebuild_whole(executor: &Arc<Executor>, task: &str) -> Result<(), Failure> {
    let gpus = of_worker(executor).await;
    if prebuilt::ahead(executor, task, &gpus).await? {
        return Ok(());
    }
    let metadata = tempfile::NamedTempFile::new_in(&executor.settings.state)?;
    let (mut command, told) = build_command(executor, task, executor.engine.name());
    command.arg("--metadata-file").arg(metadata.path()).args(for_gpus(&gpus));
    let mut child = Child::start((command, told))?;
    let mut progress = Progress::new(task, &silent());
    let silence = executor.settings.limits.silence;
    while let Some(line) = timeout(silence, child.line()).await.map_err(|_| {
        let reason = format!("it made no progress for {} s ({})", silence.as_secs(), progress.text());
        std::io::Error::new(std::io::ErrorKind::TimedOut, reason)
    })? {
        progress.take(&line);
    }
    match child.ended().await {
        0 => {
            executor.keep(task, &built(metadata.path(), task)?.0);
            Ok(())
        }
        code => {
            let reason = progress.error.map_or_else(|| format!("its process ended with {code}"), |it| it.text);
            Err(std::io::Error::other(reason).into())
        }
    }
}

/// What the image of a task is called on this machine.
pub(super) fn image_name(task: &str) -> String {
    format!("agent/task-{task}:latest")
}

/// Where an engine takes images from, as `-o` has it.
fn place(engine: &str) -> &str {
    match engine {
        "docker" | "podman" => engine,
        _ => "store",
    }
}

/// The lock that a build wrote.
pub(super) fn lock_of(directory: &Path) -> Result<crate::lock::Lock, crate::lock::DocumentError> {
    crate::lock::Lock::read(&directory.join(LOCK))
}

//! Tasks whose own image is what they ask for now: it runs as it is, and nothing is built.
//!
//! Where only such tasks may run (`--prebuilt-only`), any other is refused. Else what cannot be found out here is the
//! build's business, which tells it.

use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::building::image_name;
use super::{Ending, Executor, Halt, Interruption, Step, Unit, building};
use crate::base::{self, Around, Request};
use crate::clearml::events::Level;
use crate::clearml::tasks;
use crate::config::Environment;
use crate::daemon::journal::Phase;
use crate::daemon::prebuilt::{self, Place, Prebuilt, Question, Ready};
use crate::daemon::preflight::{self, Machine};
use crate::engine::Docker;
use crate::error::{During as _, Failure};
use crate::gpu::{self, Discovery, GpuSet};
use crate::image::deliver::{DeliverError, Destination, deliver};
use crate::image::named;
use crate::lock::Lock;
use crate::oci::{Platform, Reference};
use crate::registry;
use crate::run::choice::Counted;
use crate::run::settings::{self, Early, SettingsError};
use crate::run::{EngineKind, RunImage, variables};
use crate::store::Store;
use crate::task::clearml;

/// What came of looking at a task's image.
pub(super) enum Looked {
    /// It is built, or found to be built already.
    Build,
    /// It runs as it is.
    AsItIs(Box<AsItIs>),
    /// The task does not run here.
    Refused(Failure),
    Interrupted(Interruption),
}

/// An image that runs as it is.
pub(super) struct AsItIs {
    /// What it is called, for people.
    shown: String,
    lock: Lock,
    image: RunImage,
    user: Option<String>,
    warnings: Vec<preflight::Warning>,
}

impl Unit {
    /// Looks at the image that the task names.
    pub(super) async fn look(&self) -> Looked {
        self.say("looking at the task's image");
        let (executor, task) = (Arc::clone(&self.executor), self.record().task.clone());
        let (runtime, gpus) = (Handle::current(), self.record().gpus.clone());
        let only = executor.settings.prebuilt_only;
        let found = tokio::task::spawn_blocking(move || runtime.block_on(find(&executor, &task, &gpus)));
        tokio::select! {
            found = found => match found.unwrap_or_else(|error| Err(std::io::Error::other(error).into())) {
                Ok(Some(found)) => Looked::AsItIs(Box::new(found)),
                Ok(None) => Looked::Build,
                Err(Wrong::Refused(failure)) => Looked::Refused(failure),
                Err(Wrong::Unknown(failure)) if only => Looked::Refused(failure),
                Err(Wrong::Unknown(failure)) => {
                    self.line(Level::Debug, &format!("the task's image cannot be looked at: {failure}"));
                    Looked::Build
                }
            },
            interruption = self.interrupted() => Looked::Interrupted(interruption),
            () = sleep(self.executor.settings.limits.build) => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the task's image was not found in time");
                Looked::Refused(late.into())
            }
        }
    }

    /// Takes the image as it is.
    pub(super) async fn take_as_it_is(&mut self, found: AsItIs) -> Result<Step, Halt> {
        let text = format!("the image `{}` is what the task asks for: it runs as it is", found.shown);
        self.line(Level::Info, &text);
        for warning in &found.warnings {
            self.line(Level::Warning, &warning.0);
        }
        let path = self.entry.directory().join(building::LOCK);
        let lock = found.lock;
        tokio::task::spawn_blocking(move || lock.write(&path)).await.map_err(std::io::Error::other)??;
        tokio::select! {
            () = self.write_back() => {}
            () = self.dismissed() => return Err(Halt::Detached),
        }
        self.entry.update(|it| (it.image, it.user) = (Some(found.image), found.user))?;
        Ok(Step::Go(Phase::Prepare))
    }

    /// Tells why the task does not run here.
    pub(super) fn refuse(&mut self, failure: &Failure) -> Result<Step, Halt> {
        let reason = format!("the task is not run here: {failure}");
        self.line(Level::Error, &reason);
        failure.hints().iter().for_each(|it| self.line(Level::Info, &format!("hint: {it}")));
        let (passing, code) = (super::is_passing(failure.kind()), failure.kind().exit_code());
        self.ended(Ending::Failed { reason, passing, code })
    }
}

/// What a task that still waits needs nothing but time for: an image that runs as it is, ready in the engine. Whether it
/// is one.
///
/// # Errors
/// The task does not run here, or the engine cannot have the image.
pub(super) async fn ahead(executor: &Arc<Executor>, task: &str, gpus: &GpuSet) -> Result<bool, Failure> {
    let (runtime, own, id, gpus) = (Handle::current(), Arc::clone(executor), task.to_owned(), gpus.clone());
    let found = tokio::task::spawn_blocking(move || runtime.block_on(find(&own, &id, &gpus))).await;
    match found.unwrap_or_else(|error| Err(std::io::Error::other(error).into())) {
        Ok(Some(found)) => executor.engine.prepare(&found.image).await.map(|()| true),
        Ok(None) => Ok(false),
        Err(Wrong::Refused(failure)) => Err(failure),
        Err(Wrong::Unknown(failure)) if executor.settings.prebuilt_only => Err(failure),
        Err(Wrong::Unknown(_)) => Ok(false),
    }
}

/// Why there is no answer.
enum Wrong {
    /// There is one: no.
    Refused(Failure),
    /// It could not be found out.
    Unknown(Failure),
}

impl<E: Into<Failure>> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Unknown(error.into())
    }
}

/// The image that runs as it is; none where one is to be built.
async fn find(executor: &Executor, task: &str, gpus: &GpuSet) -> Result<Option<AsItIs>, Wrong> {
    let settings = &executor.settings;
    let counted = counted(executor, &tasks::get(&executor.client, task).await?).await?;
    followable(executor, &counted).map_err(|it| Wrong::Refused(it.into()))?;
    let named = counted.choice.of_task.then_some(counted.choice.image.as_str());
    let refused = |error: prebuilt::PrebuiltError| Wrong::Refused(error.into());
    if named.is_none() {
        return if settings.prebuilt_only {
            Prebuilt::NotOurs.only(None).map(|_| None).map_err(refused)
        } else {
            Ok(None)
        };
    }
    let around = around(executor)?;
    let force_task_init = Environment::current().get("CLEARML_AGENT_FORCE_TASK_INIT").is_some_and(|it| it != "0");
    let question = Question {
        counted: &counted,
        agent: &settings.agent,
        force_task_init,
        engine: settings.engine,
        offline: settings.standalone,
    };
    let checked = prebuilt::check(&around, question).await?;
    let (lock, ready) = match checked {
        Prebuilt::Same { lock, ready } => (*lock, *ready),
        _ if !settings.prebuilt_only => return Ok(None),
        other => return other.only(named).map(|_| None).map_err(refused),
    };
    let own = variables(counted.choice.arguments.as_deref(), &settings.agent, &Environment::current());
    let warnings = fits(&around, &ready, (&lock, preflight::is_off(&own)), gpus)?;
    let user = ready.config.pointer("/config/User").and_then(Value::as_str).filter(|it| !it.is_empty());
    let user = user.map(str::to_owned);
    match place(&around, settings.engine, task, ready.place).await? {
        Some(image) => {
            // One that was made here for another task is this one's too: it must not be removed before this one runs.
            executor.images().used(&image);
            Ok(Some(AsItIs { shown: counted.choice.image.clone(), lock, image, user, warnings }))
        }
        None => Ok(None),
    }
}

/// The task, with the container that counts here.
pub(super) async fn counted(executor: &Executor, answer: &Value) -> Result<Counted, Failure> {
    let task = clearml::parse(answer)?;
    let (base, rules) = (&executor.settings.base, &executor.settings.agent.container.match_rules);
    base.count(rules, task, Some(&executor.client)).await
}

/// Whether the container that counts can be made in the engine: known before anything is fetched or built.
fn followable(executor: &Executor, counted: &Counted) -> Result<(), SettingsError> {
    let settings = &executor.settings;
    settings::check(&Early {
        engine: settings.engine,
        arguments: counted.choice.arguments.as_deref().unwrap_or_default(),
        agent: &settings.agent,
        machine: &Environment::current(),
        read: &|path| fs_err::read_to_string(path),
    })
}

/// Whether the image can run on this machine at all.
fn fits(
    around: &Around,
    ready: &Ready,
    (lock, unchecked): (&Lock, bool),
    gpus: &GpuSet,
) -> Result<Vec<preflight::Warning>, Wrong> {
    // A driver that is broken is nothing to a run that does not need it.
    let found = if gpus.is_empty() { Discovery::NoDriver(String::new()) } else { gpu::discover()? };
    // Nothing of it is built here: what the lock names is in the image.
    let machine = Machine { free: None, ..Machine::here(gpus, &found, &around.store, lock) };
    preflight::preflight(&ready.config, lock, unchecked, &machine).map_err(|it| Wrong::Refused(it.into()))
}

/// Has the image where the engine takes it from, or finds it; none where it has to be built after all. What a registry has
/// is fetched when the engine makes it ready.
async fn place(around: &Around, engine: EngineKind, task: &str, place: Place) -> Result<Option<RunImage>, Failure> {
    let run = |name: String, pin: &base::Pin| RunImage {
        name,
        manifest: pin.manifest.unwrap_or(pin.config),
        config: pin.config,
    };
    let native = engine == EngineKind::Native;
    let own = || image_name(task).parse::<Reference>();
    match place {
        Place::Engine { name, .. } if native => {
            let request = Request::Docker(name);
            let pin = base::find(around, &request, &Platform::host()).await?.pin;
            let name = own()?;
            named::remember_pin(&around.store, &name, &pin)?;
            Ok(Some(run(name.familiar(), &pin)))
        }
        Place::Engine { name, id } => Ok(Some(RunImage { name, manifest: id, config: id })),
        Place::Registry(pin) if native => {
            let name = own()?;
            named::remember_pin(&around.store, &name, &pin)?;
            Ok(Some(run(name.familiar(), &pin)))
        }
        Place::Registry(pin) => Ok(pin.source.as_ref().map(|it| run(it.familiar(), &pin))),
        Place::Store(name, pin) if native => Ok(Some(run(name.familiar(), &pin))),
        Place::Store(name, pin) => {
            let Some(image) = named::image(&around.store, &pin)? else { return Ok(None) };
            let to = if engine == EngineKind::Podman {
                Destination::Podman(name.clone())
            } else {
                Destination::Docker(name.clone())
            };
            let delivered: Result<_, DeliverError> = deliver(around, &image, &to).await;
            delivered.during(|| format!("cannot deliver the image to {to}"))?;
            Ok(Some(run(name.familiar(), &pin)))
        }
    }
}

fn around(executor: &Executor) -> Result<Around, Failure> {
    let settings = registry::Settings {
        credentials: registry::auth::Sources::of_process(),
        offline: executor.settings.standalone,
        ..registry::Settings::default()
    };
    let docker = match executor.settings.engine {
        EngineKind::Native => Docker::connect_default().ok(),
        _ => executor.engine.docker(),
    };
    let registry = registry::Client::new(settings)?;
    Ok(Around {
        store: Store::open(&Store::default_path())?,
        // Where it may be built as well, the build asks once more.
        registry: if executor.settings.prebuilt_only { registry } else { registry.once() },
        docker,
        reporter: Arc::clone(&executor.reporter),
    })
}

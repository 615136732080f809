//! `agent build`: a task or a lock to an image, and the image to where it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::preflight::Here;
use super::workshop::{self, secrets, task, workshop as make_workshop, write_file};
use super::{Context, blocking, built, cache};
use crate::base::Around;
use crate::clearml::Client;
use crate::clearml::tasks::State;
use crate::cli::build::BuildArgs;
use crate::daemon::preflight::is_off;
use crate::daemon::writeback;
use crate::engine::Podman;
use crate::error::{During, Explain, Failure, Kind};
use crate::image::deliver::{Delivered, Destination, deliver};
use crate::image::{Image, named, scan};
use crate::lock::Lock;
use crate::lock::arguments::without_secrets;
use crate::oci::Reference;
use crate::pipeline::{self, Built};
use crate::report::Reporter;
use crate::run::{EngineKind, arguments, variables};
use crate::secret::Secret;
use crate::settings::{BuildSettings, Output, TaskSource, size};
use crate::task::{Container, Task};

/// Builds an image.
pub(super) async fn run(args: BuildArgs, context: &Context) -> Result<u8, Failure> {
    let settings = BuildSettings::merge(&args, &context.session)?;
    let bound = size::store_bound(&context.session)?;
    settings.task.notes.iter().for_each(|it| context.ui.reporter().note(it));
    let Locked { lock, unchecked, secrets, shop, named, stop: _stop } = locked(&settings, context).await?;
    let name = settings.target.clone().map_or_else(|| default_name(&lock), Ok)?;
    if let Some(path) = &settings.lock_file {
        let (path, lock) = (path.clone(), lock.clone());
        blocking(move || Ok(lock.write(&path)?)).await?;
    }
    if let Some(here) = Here::of(&settings.task).await? {
        here.check(&shop.around, &lock, unchecked).await?;
    }
    let destinations = destinations(&settings, &name, &shop.around).await;
    if destinations.iter().any(|it| matches!(it, Destination::Podman(_))) {
        let asked = lock.launch.container_arguments.as_deref().unwrap_or_default();
        let told =
            |it| context.ui.reporter().warning(format!("{it}; `agent run --engine podman` will not run the image"));
        arguments::refused(asked, EngineKind::Podman)?.into_iter().for_each(told);
    }
    if settings.dry_run {
        built::plan(context, &lock, &name, &destinations)?;
        return Ok(0);
    }
    let lock = Arc::new(lock);
    let made = make(&shop, &lock, &settings.labels, secrets).await?;
    named::remember(&shop.around.store, &name, &made.image)?;
    let mut delivered = Vec::new();
    for destination in &destinations {
        delivered.push(send(&shop.around, &made.image, destination).await?);
    }
    write_results(&settings, &name, &made.image).await?;
    let named = match named {
        Some(task) => Some(task.names(&reference(&name, &destinations, &made.image), &lock).await?),
        None => None,
    };
    let results =
        built::Results { lock: &lock, name: &name, built: &made, delivered: &delivered, named: named.as_deref() };
    built::report(context, &results)?;
    // Nobody collects while somebody works in the store; we are done with it.
    drop(shop);
    cache::tidy(bound, context).await;
    Ok(0)
}

/// What is built, and with what.
struct Locked {
    lock: Lock,
    /// Whether its runs do without the check of the driver.
    unchecked: bool,
    secrets: BTreeMap<String, Secret>,
    shop: Arc<pipeline::Workshop>,
    /// The task that is to name the image.
    named: Option<Naming>,
    stop: workshop::StopOnDrop,
}

/// A task that is to name an image.
struct Naming {
    client: Client,
    id: String,
    task: Task,
    draft: bool,
}

/// A task that is not to be changed.
#[derive(Debug, thiserror::Error)]
#[error("task `{id}` is published and is not changed")]
struct Published {
    id: String,
}

impl Explain for Published {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }

    fn hints(&self) -> Vec<String> {
        vec!["Clone it, and build the clone with --update-task.".to_owned()]
    }
}

impl Naming {
    fn of(asked: &workshop::Asked) -> Result<Option<Self>, Failure> {
        let (Some((client, answer)), Some(id)) = (asked.on_server(), asked.task.id.clone()) else { return Ok(None) };
        let status = State::of(&answer).status;
        if status.starts_with("publish") {
            return Err(Published { id }.into());
        }
        Ok(Some(Self { client, id, task: asked.task.clone(), draft: status == "created" }))
    }

    async fn names(self, image: &str, lock: &Lock) -> Result<String, Failure> {
        let named = writeback::image(&self.client, &self.id, &self.task.container, image, !self.draft).await;
        // What was made of a branch is what its task asks for only as long as both mean one commit.
        let written = match named {
            Ok(()) => writeback::commit(&self.client, &self.id, &self.task, lock).await,
            Err(error) => Err(error),
        };
        written.during(|| format!("the image was built, but task `{}` does not name it", self.id))?;
        Ok(image.to_owned())
    }
}

/// Has a task ask for the arguments that its image was built with, which are not its own where they stood on the command
/// line, and none where its own did not count: else the image would not be what the task asks for. Values of secrets stay
/// out of the task, as they stay out of the image.
fn asks_for(container: &mut Container, arguments: Option<String>, reporter: &dyn Reporter) -> Result<(), Failure> {
    if container.arguments == arguments {
        return Ok(());
    }
    let Some(arguments) = arguments else {
        reporter
            .warning("the task's own container arguments do not count for this image: the task loses them".to_owned());
        container.arguments = None;
        return Ok(());
    };
    let (text, secrets) = without_secrets(&arguments)?;
    if !secrets.is_empty() {
        let names = secrets.join(", ");
        reporter.warning(format!("the task names {names} without a value: its runs get it from where they run"));
    }
    container.arguments = Some(text);
    Ok(())
}

/// How others find the image: by digest where it was pushed, else by the name that an engine has.
fn reference(name: &Reference, destinations: &[Destination], image: &Image) -> String {
    let pushed = destinations.iter().find_map(|it| match it {
        Destination::Registry(name) => Some(name.at(image.manifest.digest()).familiar()),
        _ => None,
    });
    let loaded = destinations.iter().find_map(|it| match it {
        Destination::Docker(name) | Destination::Podman(name) => Some(name.familiar()),
        _ => None,
    });
    pushed.or(loaded).unwrap_or_else(|| name.familiar())
}

/// The lock, made or read, and what to build it with.
async fn locked(settings: &BuildSettings, context: &Context) -> Result<Locked, Failure> {
    let made = |mut shop: pipeline::Workshop| {
        if settings.no_cache {
            shop.around.store = shop.around.store.forgetful();
        }
        Arc::new(shop)
    };
    if let TaskSource::Lock(path) = &settings.task.source {
        let path = path.clone();
        let lock = blocking(move || Ok(Lock::read(&path)?)).await?;
        let (shop, stop) = make_workshop(&settings.task, context).await?;
        let secrets = secrets(&settings.task, None, (&shop.indexes, &context.session.environment));
        // What its runs here get besides.
        let (agent, default) = (&settings.task.agent, settings.task.base.fallback.arguments.as_deref());
        let unchecked = is_off(&variables(default, agent, &context.session.environment));
        return Ok(Locked { lock, unchecked, secrets, shop: made(shop), named: None, stop });
    }
    let asked = task(&settings.task, context).await?;
    let mut named = if settings.update_task && !settings.dry_run { Naming::of(&asked)? } else { None };
    let (shop, stop) = make_workshop(&settings.task, context).await?;
    let secrets = secrets(&settings.task, Some(&asked.task), (&shop.indexes, &context.session.environment));
    let shop = made(shop);
    let pinned = workshop::lock(Arc::clone(&shop), asked, &settings.task, context).await?;
    let workshop::Pinned { lock, arguments, unchecked } = pinned;
    if let Some(named) = &mut named {
        asks_for(&mut named.task.container, arguments, &*context.ui.reporter())?;
    }
    Ok(Locked { lock, unchecked, secrets, shop, named, stop })
}

/// Builds, and looks for secrets in what came out.
async fn make(
    shop: &Arc<pipeline::Workshop>,
    lock: &Arc<Lock>,
    labels: &BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
) -> Result<Built, Failure> {
    let (shop, lock, labels) = (Arc::clone(shop), Arc::clone(lock), labels.clone());
    blocking(move || {
        let built = pipeline::build(&shop, &lock, &labels)?;
        scan::scan(&shop.around.store, &built.image, &secrets).during(|| "the image is not delivered".to_owned())?;
        Ok(built)
    })
    .await
}

/// `task_id_<id>`, the original's; for a task without an id its name.
fn default_name(lock: &Lock) -> Result<Reference, Failure> {
    let text = match &lock.launch.task {
        Some(id) => format!("task_id_{id}"),
        None => {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            let name: String = lock.launch.name.chars().map(plain).collect();
            let name = name.split('-').filter(|it| !it.is_empty()).collect::<Vec<_>>().join("-");
            if name.is_empty() { "task".to_owned() } else { name }
        }
    };
    Ok(text.parse::<Reference>()?)
}

/// Where the image goes: as asked, else to the engine that is there, else nowhere but the store.
async fn destinations(settings: &BuildSettings, name: &Reference, around: &Around) -> Vec<Destination> {
    let own = |given: &Option<Reference>| given.clone().unwrap_or_else(|| name.clone());
    let tag = || name.tag.clone().unwrap_or_else(|| "latest".to_owned());
    let mut destinations: Vec<Destination> = Vec::new();
    for output in &settings.outputs {
        destinations.push(match output {
            // It is there before it goes anywhere.
            Output::Store => continue,
            Output::Docker { name } => Destination::Docker(own(name)),
            Output::Podman { name } => Destination::Podman(own(name)),
            Output::Registry { name } => Destination::Registry(own(name)),
            Output::Oci { path } => Destination::Layout { directory: path.clone(), tag: tag() },
            Output::OciArchive { path } => Destination::OciArchive { file: path.clone(), tag: tag() },
            Output::DockerArchive { path } => Destination::DockerArchive { file: path.clone(), name: name.clone() },
        });
    }
    if settings.outputs.is_empty() {
        if let Some(docker) = &around.docker
            && docker.ping().await.is_ok()
        {
            destinations.push(Destination::Docker(name.clone()));
        } else if tokio::task::spawn_blocking(|| Podman::default().version().is_ok()).await.unwrap_or(false) {
            destinations.push(Destination::Podman(name.clone()));
        }
    }
    destinations
}

async fn send(around: &Around, image: &Image, to: &Destination) -> Result<Delivered, Failure> {
    let id = format!("deliver {to}");
    around.reporter.started(&id, format!("to {to}"));
    let delivered = deliver(around, image, to).await.during(|| format!("cannot deliver the image to {to}"))?;
    around.reporter.finished(&id, built::moved(&delivered));
    Ok(delivered)
}

async fn write_results(settings: &BuildSettings, name: &Reference, image: &Image) -> Result<(), Failure> {
    if let Some(path) = &settings.metadata_file {
        let mut bytes = serde_json::to_vec_pretty(&built::metadata(name, image)).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        blocking(write_file(path.clone(), bytes)).await?;
    }
    if let Some(path) = &settings.iidfile {
        blocking(write_file(path.clone(), image.config.digest().to_string().into_bytes())).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::silent;

    #[test]
    fn a_task_asks_for_what_its_image_was_built_with() {
        let asks = |own: Option<&str>, built: Option<&str>| {
            let own = own.map(str::to_owned);
            let mut container = Container { image: None, arguments: own, setup_script: Some("true".to_owned()) };
            asks_for(&mut container, built.map(str::to_owned), &*silent()).unwrap();
            assert_eq!(container.setup_script.as_deref(), Some("true"));
            container.arguments
        };
        assert_eq!(asks(None, None), None);
        assert_eq!(asks(Some("-e A=1"), Some("-e A=1")).as_deref(), Some("-e A=1"));
        assert_eq!(asks(Some("-e A=1"), Some("-e B_TOKEN=hush")).as_deref(), Some("-e B_TOKEN"));
        // Another image was forced, without arguments.
        assert_eq!(asks(Some("-e A=1"), None), None);
    }
}

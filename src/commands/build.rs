//! `agent build`: a task or a lock to an image, and the image to where it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::workshop::{self, secrets, task, workshop as make_workshop, write_file};
use super::{Context, blocking, built, cache};
use crate::base::Around;
use crate::cli::build::BuildArgs;
use crate::engine::Podman;
use crate::error::{During, Failure};
use crate::image::deliver::{Delivered, Destination, deliver};
use crate::image::{Image, named, scan};
use crate::lock::Lock;
use crate::oci::Reference;
use crate::pipeline::{self, Built};
use crate::secret::Secret;
use crate::settings::{BuildSettings, Output, TaskSource, size};

/// Builds an image.
pub(super) async fn run(args: BuildArgs, context: &Context) -> Result<u8, Failure> {
    let settings = BuildSettings::merge(&args, &context.session)?;
    let bound = size::store_bound(&context.session)?;
    settings.task.notes.iter().for_each(|it| context.ui.reporter().note(it));
    let (lock, secrets, shop, _stop) = locked(&settings, context).await?;
    let name = settings.target.clone().map_or_else(|| default_name(&lock), Ok)?;
    if let Some(path) = &settings.lock_file {
        let (path, lock) = (path.clone(), lock.clone());
        blocking(move || Ok(lock.write(&path)?)).await?;
    }
    let destinations = destinations(&settings, &name, &shop.around).await;
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
    built::report(context, &built::Results { lock: &lock, name: &name, built: &made, delivered: &delivered })?;
    // Nobody collects while somebody works in the store; we are done with it.
    drop(shop);
    cache::tidy(bound, context).await;
    Ok(0)
}

type Locked = (Lock, BTreeMap<String, Secret>, Arc<pipeline::Workshop>, workshop::StopOnDrop);

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
        return Ok((lock, secrets, made(shop), stop));
    }
    let asked = task(&settings.task, context).await?;
    let (shop, stop) = make_workshop(&settings.task, context).await?;
    let secrets = secrets(&settings.task, Some(&asked.task), (&shop.indexes, &context.session.environment));
    let shop = made(shop);
    let lock = workshop::lock(Arc::clone(&shop), asked, &settings.task, context).await?;
    Ok((lock, secrets, shop, stop))
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
            Output::Docker { name } => Destination::Docker(own(name)),
            Output::Podman { name } => Destination::Podman(own(name)),
            Output::Registry { name } => Destination::Registry(own(name)),
            Output::Oci { path } => Destination::Layout { directory: path.clone(), tag: tag() },
            Output::OciArchive { path } => Destination::OciArchive { file: path.clone(), tag: tag() },
            Output::DockerArchive { path } => Destination::DockerArchive { file: path.clone(), name: name.clone() },
        });
    }
    if destinations.is_empty() {
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

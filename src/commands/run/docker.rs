//! A run in the Docker engine or in Podman, which speaks the same: the task's own container arguments, the run's
//! variables and directories, GPUs.

use std::collections::BTreeMap;

use super::{Given, gpus};
use crate::base::{Around, BaseError, Request};
use crate::cli::run::RunArgs;
use crate::commands::Context;
use crate::digest::Digest;
use crate::engine::{ContainerSpec, Docker, Libpod, LogChunk};
use crate::error::Failure;
use crate::gpu::Ask;
use crate::run::{EngineKind, docker, settings};
use crate::secret::Secret;
use crate::settings::UsageError;

/// An engine and what is known of it.
pub(super) struct Place {
    /// Its API.
    pub(super) engine: Docker,
    /// Podman's own API, where it is Podman: its images are named differently, and devices by CDI.
    pub(super) podman: Option<Libpod>,
}

/// Runs an image that the engine has.
pub(super) async fn run(
    args: &RunArgs,
    around: Around,
    place: Place,
    given: Given,
    context: &Context,
) -> Result<u8, Failure> {
    let engine = &place.engine;
    let name = name(&place, given.request).await?;
    let words = super::words(args);
    // The task's own arguments first: what was asked for here counts more.
    let around = Around { docker: Some(engine.clone()), ..around };
    let kind = if place.podman.is_some() { EngineKind::Podman } else { EngineKind::Docker };
    let request = Request::Docker(name.clone());
    let network = on_loopback(&given.env).then_some("host");
    let mut spec = super::of_task(&around, &request, (kind, args.trust_image_arguments), network, context).await?;
    spec.image = name;
    spec.command = (!words.is_empty()).then_some(words);
    spec.user = args.user.clone().or(spec.user);
    spec.read_only |= args.read_only;
    spec.binds.retain(|it| given.binds.iter().all(|given| given.target != it.target));
    if network.is_some() && spec.network.get_or_insert_with(|| "host".to_owned()) == "host" {
        context.ui.reporter().note("the server listens on this machine only: the run shares its network");
    }
    spec.env.extend(given.env.into_iter().map(|(name, value)| (name, Secret::new(value))));
    spec.binds.extend(given.binds.into_iter().map(|it| crate::engine::Bind {
        source: it.source.display().to_string(),
        target: it.target,
        read_only: !it.writable,
    }));
    let only_told = settings::skips_gpu_switch(&context.session.environment);
    match (&args.gpus, &place.podman) {
        (Some(list), None) => gpus::by_request(&mut spec, &list.parse()?, only_told),
        (Some(list), Some(_)) => gpus::by_name(list.parse()?, &mut spec, only_told, &context.ui.reporter()).await?,
        (None, _) => {}
    }
    docker::lend_host(engine, &mut spec);
    // The engine has all that runs: nothing of us is to keep the store from being collected.
    drop(around);
    let ask = args.gpus.as_deref().filter(|_| !only_told).map(str::parse).transpose()?;
    attend(&place, spec, ask, context).await
}

/// The name under which the engine has the image.
async fn name(place: &Place, request: Request) -> Result<String, Failure> {
    let name = match request {
        Request::Image(reference) => reference.familiar(),
        Request::Docker(name) => name,
        other => {
            let hint = "Deliver it there first (agent build -o type=docker), or leave out --engine.";
            return Err(UsageError::new(format!("an engine runs what it has by name, not `{other}`"), hint).into());
        }
    };
    // A short name means Docker's own registry to Podman's API, but its own images are named `localhost/…`.
    let own = (place.podman.is_some() && !name.contains('/')).then(|| format!("localhost/{name}"));
    for name in own.into_iter().chain([name.clone()]) {
        if place.engine.image(&name).await?.is_some() {
            return Ok(name);
        }
    }
    Err(BaseError::NotInEngine { endpoint: place.engine.endpoint().to_owned(), name }.into())
}

/// Runs a container to its end; nothing of it is left.
async fn attend(place: &Place, spec: ContainerSpec, ask: Option<Ask>, context: &Context) -> Result<u8, Failure> {
    let signals = docker::StopSignals::listen()?;
    let mut run = match &place.podman {
        None => match docker::start(&place.engine, spec.clone(), &run_id()).await {
            Err(error) if docker::lacks_driver(&error) && place.engine.reads_cdi().await? => {
                let Some(by_name) = gpus::instead(&place.engine, spec, ask, &context.ui.reporter()).await else {
                    return Err(error.into());
                };
                docker::start(&place.engine, by_name, &run_id()).await?
            }
            other => other?,
        },
        Some(podman) => {
            let id = podman.create(&docker::marked(spec, &run_id())).await?;
            docker::start_created(&place.engine, id).await?
        }
    };
    let hand_on = |chunk: &LogChunk| match chunk {
        LogChunk::Out(bytes) => drop(context.ui.write(bytes)),
        LogChunk::Err(bytes) => context.ui.write_error(bytes),
    };
    let attended = run.attend_signals(hand_on, signals).await;
    // Ended or not: nobody else knows of it.
    let removed = run.remove().await;
    let ended = attended?;
    removed?;
    if !ended.heard {
        context.ui.reporter().warning("the engine did not tell the end of the run's output");
    }
    if ended.out_of_memory {
        context.ui.reporter().warning("the container was ended for lack of memory");
    }
    Ok(u8::try_from(ended.code).unwrap_or(1))
}

fn on_loopback(env: &BTreeMap<String, String>) -> bool {
    let url = env.get("CLEARML_API_HOST").and_then(|it| url::Url::parse(it).ok());
    url.is_some_and(|it| match it.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    })
}

/// An id that no other run has.
fn run_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Digest::of(format!("{} {}", std::process::id(), now.as_nanos())).hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_is_seen() {
        let env = |url: &str| BTreeMap::from([("CLEARML_API_HOST".to_owned(), url.to_owned())]);
        assert!(on_loopback(&env("http://127.0.0.1:8008/")) && on_loopback(&env("http://localhost:1")));
        assert!(!on_loopback(&env("https://api.clear.ml")) && !on_loopback(&BTreeMap::new()));
    }
}

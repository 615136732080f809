//! A run in the Docker engine or in Podman, which speaks the same: the task's own container arguments, the run's
//! variables and directories, GPUs.

use std::collections::BTreeMap;

use super::Given;
use crate::base::{Around, BaseError, Request};
use crate::cli::run::RunArgs;
use crate::commands::Context;
use crate::digest::Digest;
use crate::engine::{ContainerSpec, DeviceRequest, Docker, LogChunk};
use crate::error::Failure;
use crate::run::{EngineKind, docker};
use crate::secret::Secret;
use crate::settings::UsageError;

/// An engine and what is known of it.
pub(super) struct Place {
    /// Its API.
    pub(super) engine: Docker,
    /// Whether it is Podman, which names its own images differently and knows no device requests.
    pub(super) podman: bool,
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
    let kind = if place.podman { EngineKind::Podman } else { EngineKind::Docker };
    let mut spec = super::of_task(&around, &Request::Docker(name.clone()), kind, context).await?;
    spec.image = name;
    spec.command = (!words.is_empty()).then_some(words);
    spec.user = args.user.clone().or(spec.user);
    spec.read_only |= args.read_only;
    spec.binds.retain(|it| given.binds.iter().all(|given| given.target != it.target));
    if spec.network.is_none() && on_loopback(&given.env) {
        context.ui.reporter().note("the server listens on this machine only: the run shares its network");
        spec.network = Some("host".to_owned());
    }
    spec.env.extend(given.env.into_iter().map(|(name, value)| (name, Secret::new(value))));
    spec.binds.extend(given.binds.into_iter().map(|it| crate::engine::Bind {
        source: it.source.display().to_string(),
        target: it.target,
        read_only: !it.writable,
    }));
    if let Some(list) = &args.gpus {
        spec.device_requests = gpus(list).into_iter().collect();
    }
    if place.podman && !spec.device_requests.is_empty() {
        let hint = "Add --engine docker, or --gpus none to run without.";
        return Err(UsageError::new("in Podman a run has no GPUs in this release", hint).into());
    }
    docker::lend_host(engine, &mut spec);
    attend(engine, spec, context).await
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
    let own = (place.podman && !name.contains('/')).then(|| format!("localhost/{name}"));
    for name in own.into_iter().chain([name.clone()]) {
        if place.engine.image(&name).await?.is_some() {
            return Ok(name);
        }
    }
    Err(BaseError::NotInEngine { endpoint: place.engine.endpoint().to_owned(), name }.into())
}

/// Runs a container to its end; nothing of it is left.
async fn attend(engine: &Docker, spec: ContainerSpec, context: &Context) -> Result<u8, Failure> {
    let signals = docker::StopSignals::listen()?;
    let mut run = docker::start(engine, spec, &run_id()).await?;
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

/// `all`, or indices and UUIDs; `none` and an empty list ask for nothing.
fn gpus(list: &str) -> Option<DeviceRequest> {
    let ids: Vec<String> = list.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect();
    let request = |ids| DeviceRequest { driver: String::new(), ids, capabilities: vec!["gpu".to_owned()] };
    match ids.as_slice() {
        [] => None,
        [one] if one == "none" => None,
        [one] if one == "all" => Some(request(Vec::new())),
        _ => Some(request(ids)),
    }
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
    fn gpus_as_docker_takes_them() {
        assert_eq!(gpus("none"), None);
        assert!(gpus("all").unwrap().ids.is_empty());
        assert_eq!(gpus("0, GPU-1").unwrap().ids, ["0", "GPU-1"]);
    }

    #[test]
    fn a_server_on_loopback_is_seen() {
        let env = |url: &str| BTreeMap::from([("CLEARML_API_HOST".to_owned(), url.to_owned())]);
        assert!(on_loopback(&env("http://127.0.0.1:8008/")) && on_loopback(&env("http://localhost:1")));
        assert!(!on_loopback(&env("https://api.clear.ml")) && !on_loopback(&BTreeMap::new()));
    }
}

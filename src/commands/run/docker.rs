//! A run in the Docker engine: the task's own container arguments, the run's variables and directories, GPUs.

use std::collections::BTreeMap;

use crate::base::{Around, BaseError, Request};
use crate::cli::run::RunArgs;
use crate::commands::Context;
use crate::commands::inspect::lock_of;
use crate::digest::Digest;
use crate::engine::{ContainerSpec, DeviceRequest, LogChunk};
use crate::error::Failure;
use crate::image::deliver::DeliverError;
use crate::image::read::{self, ReadError};
use crate::oci::Platform;
use crate::run::{arguments, docker};
use crate::sandbox::Bind;
use crate::secret::Secret;

/// What was made of the command line already.
pub(super) struct Given {
    pub(super) request: Request,
    pub(super) env: BTreeMap<String, String>,
    pub(super) binds: Vec<Bind>,
}

/// Runs an image that the engine has.
pub(super) async fn run(args: &RunArgs, around: &Around, given: Given, context: &Context) -> Result<u8, Failure> {
    let name = match given.request {
        Request::Image(reference) => reference.familiar(),
        Request::Docker(name) => name,
        other => return Err(DeliverError::NoEngine { name: other.to_string() }.into()),
    };
    let Some(engine) = &around.docker else { return Err(DeliverError::NoEngine { name }.into()) };
    if engine.image(&name).await?.is_none() {
        return Err(BaseError::NotInEngine { endpoint: engine.endpoint().to_owned(), name }.into());
    }
    let words = super::arguments(args);
    let mut spec = ContainerSpec {
        image: name.clone(),
        command: (!words.is_empty()).then_some(words),
        user: args.user.clone(),
        read_only: args.read_only,
        ..ContainerSpec::default()
    };
    // The task's own arguments first: what was asked for here counts more.
    match read::read(around, &Request::Docker(name), &Platform::host()).await {
        Ok(found) => {
            if let Some(text) = lock_of(&found)?.launch.container_arguments {
                arguments::apply(&mut spec, &text)?;
            }
        }
        Err(ReadError::NotOurs { .. }) => {}
        Err(error) => return Err(error.into()),
    }
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
    spec.device_requests.extend(args.gpus.as_deref().and_then(gpus));
    docker::lend_host(engine, &mut spec);
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

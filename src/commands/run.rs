//! `agent run`: an image, natively or in an engine; its exit code is ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

mod docker;
mod gpus;
mod journal;
mod natively;
mod podman;

use journal::Journal;

use super::Context;
use super::around::around;
use super::inspect::lock_of;
use crate::base::{Around, Request};
use crate::cli::run::{RunArgs, RunEngine};
use crate::config::Api;
use crate::engine::{ContainerSpec, Docker, EngineError};
use crate::error::{Explain, Failure, Kind};
use crate::image::read::{self, ReadError};
use crate::launch;
use crate::oci::Platform;
use crate::run::arguments::Gpus;
use crate::run::templates::{self, Values};
use crate::run::{EngineKind, settings};
use crate::sandbox::Bind;
use crate::settings::UsageError;

/// Runs an image to its end.
pub(super) async fn run(args: RunArgs, context: &Context) -> Result<u8, Failure> {
    let mut env = environment(&args, context)?;
    let mut binds = args.volumes.iter().map(|it| volume(it)).collect::<Result<Vec<_>, _>>()?;
    let request: Request = args.image.parse()?;
    let around = around(context, &args.insecure_registries).await?;
    // An engine elsewhere has directories of its own.
    let elsewhere = args.engine == RunEngine::Docker
        && around.docker.as_ref().is_some_and(|it| !it.endpoint().starts_with("unix://"));
    if elsewhere && args.journal.is_some() {
        let hint = "Give -e AGENT_JOURNAL=DIR with a directory of a volume there.";
        return Err(UsageError::new("--journal names a directory here, and the engine is elsewhere", hint).into());
    }
    let at_journal = |it: &Bind| it.target.trim_end_matches('/') == launch::JOURNAL;
    let lent = args.journal.is_none() && binds.iter().any(at_journal);
    let journal = if elsewhere || lent { None } else { Journal::prepare(&args, &env, context)? };
    if let Some(journal) = &journal {
        journal.lend(&mut binds, &mut env);
    }
    let ended = start(&args, around, Given { request, env, binds }, context).await;
    if let Some(journal) = journal {
        journal.done();
    }
    ended
}

async fn start(args: &RunArgs, around: Around, given: Given, context: &Context) -> Result<u8, Failure> {
    match args.engine {
        RunEngine::Native => natively::run(args, around, given, context).await,
        RunEngine::Docker => {
            let engine = Docker::connect_default();
            let engine = match engine {
                Ok(engine) => engine.ping().await.map(|()| engine),
                none => none,
            };
            let engine = engine.map_err(|source| NoDocker { image: args.image.clone(), source })?;
            docker::run(args, around, docker::Place { engine, podman: None }, given, context).await
        }
        RunEngine::Podman => {
            let podman = podman::connect(context).await?;
            let place = docker::Place { engine: podman.docker()?, podman: Some(podman) };
            docker::run(args, around, place, given, context).await
        }
    }
}

/// Nothing can run in Docker.
#[derive(Debug, thiserror::Error)]
#[error("there is no Docker to run `{image}` in")]
struct NoDocker {
    image: String,
    #[source]
    source: EngineError,
}

impl Explain for NoDocker {
    fn kind(&self) -> Kind {
        self.source.kind()
    }

    fn hints(&self) -> Vec<String> {
        let mut hints = self.source.hints();
        hints.push("Or run it without: `--engine native`, the default, needs no engine.".to_owned());
        hints
    }
}

/// What was made of the command line.
struct Given {
    request: Request,
    env: BTreeMap<String, String>,
    binds: Vec<Bind>,
}

/// What the task that an image was made of asks of its container, as far as the configuration lets it; nothing for an
/// image that is not ours.
async fn of_task(
    around: &Around,
    request: &Request,
    (engine, trusted): (EngineKind, bool),
    network: Option<&str>,
    context: &Context,
) -> Result<ContainerSpec, Failure> {
    let launch = match read::read(around, request, &Platform::host()).await {
        Ok(found) => lock_of(&found)?.launch,
        Err(ReadError::NotOurs { .. }) => return Ok(ContainerSpec::default()),
        Err(error) => return Err(error.into()),
    };
    let config = context.session.config()?;
    let values = Values {
        worker_id: context.session.environment.get("CLEARML_WORKER_ID").map(str::to_owned),
        task: serde_json::from_str(&launch.record.to_lossy()).unwrap_or_default(),
        config: templates::configuration(&config),
        ..Values::default()
    };
    let chosen = settings::of_task(&settings::Asked {
        engine,
        arguments: launch.container_arguments.as_deref().unwrap_or_default(),
        variables: &launch.env,
        agent: &config.agent()?,
        machine: &context.session.environment,
        trusted,
        values: &values,
        gpus: Gpus::Asked,
        network,
        ports: None,
        run: None,
        read: &|path| fs_err::read_to_string(path),
    })?;
    let reporter = context.ui.reporter();
    chosen.warnings.iter().for_each(|it| reporter.warning(it));
    Ok(chosen.container)
}

/// What the in-image program is told: its options first, then the command.
fn words(args: &RunArgs) -> Vec<String> {
    let mut words = Vec::new();
    for parameter in &args.parameters {
        words.extend(["--set".to_owned(), parameter.clone()]);
    }
    if let Some(task) = &args.task {
        words.extend(["--task".to_owned(), task.clone()]);
    }
    if args.force {
        words.push("--force".to_owned());
    }
    if args.offline {
        words.push("--offline".to_owned());
    }
    words.extend(args.command.iter().cloned());
    words
}

/// Variables of the run: the server and its credentials, the task's names for this machine, then what was asked for.
fn environment(args: &RunArgs, context: &Context) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    if !args.offline {
        server(&context.session.config()?.api()?, &mut env);
    }
    for name in ["CLEARML_TASK_ID", "CLEARML_WORKER_ID", "CLEARML_WORKER_NAME"] {
        if let Some(value) = context.session.environment.get(name) {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    for assignment in &args.env {
        match assignment.split_once('=') {
            Some(("", _)) => {
                return Err(UsageError::new(format!("-e `{assignment}` has no name"), "Write -e NAME=VALUE.").into());
            }
            Some((name, value)) => {
                env.insert(name.to_owned(), value.to_owned());
            }
            None => match context.session.environment.raw(assignment) {
                Some(value) => {
                    env.insert(assignment.clone(), value.to_owned());
                }
                None => context.ui.reporter().warning(format!("-e {assignment}: it is not set here either")),
            },
        }
    }
    Ok(env)
}

fn server(api: &Api, env: &mut BTreeMap<String, String>) {
    let Some(server) = &api.server else { return };
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("CLEARML_API_HOST", server.to_string());
    if let Some(url) = &api.files {
        set("CLEARML_FILES_HOST", url.to_string());
    }
    if let Some(url) = &api.web {
        set("CLEARML_WEB_HOST", url.to_string());
    }
    if let Some(credentials) = &api.credentials {
        set("CLEARML_API_ACCESS_KEY", credentials.user.clone());
        set("CLEARML_API_SECRET_KEY", credentials.password.reveal().to_owned());
    }
    if let Some(token) = &api.token {
        set("CLEARML_AUTH_TOKEN", token.reveal().to_owned());
    }
    if !api.verify_certificate {
        set("CLEARML_API_HOST_VERIFY_CERT", "0".to_owned());
    }
}

/// `FROM:TO[:ro]`.
fn volume(text: &str) -> Result<Bind, UsageError> {
    let wrong = |why: &str| {
        UsageError::new(format!("-v `{text}` {why}"), "Write -v FROM:TO or -v FROM:TO:ro with TO absolute.")
    };
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("does not say where to"));
    };
    if !target.starts_with('/') || target.split('/').any(|it| it == "..") {
        return Err(wrong("needs an absolute path inside"));
    }
    let writable = match mode {
        None | Some("rw") => true,
        Some("ro") => false,
        Some(_) => return Err(wrong("has a mode other than ro and rw")),
    };
    let source: PathBuf = crate::fs::expand_home(source);
    let source = fs_err::canonicalize(&source).map_err(|_| wrong("names nothing that is here"))?;
    Ok(Bind { source, target: target.to_owned(), writable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        assert_eq!(volume("/tmp:/data").unwrap().target, "/data");
        assert!(volume("/tmp:/data").unwrap().writable && !volume("/tmp:/data:ro").unwrap().writable);
        for wrong in ["/tmp", "/tmp:data", "/tmp:/a/../b", "/tmp:/a:x", "/tmp:/a:ro:x", "/no/such:/a"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }
}

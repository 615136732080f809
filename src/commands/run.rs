//! `agent run`: an image, natively; its exit code is ours.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

mod docker;

use super::around::around;
use super::{Context, blocking};
use crate::base::Request;
use crate::cli::run::{RunArgs, RunEngine};
use crate::config::Api;
use crate::error::Failure;
use crate::image::read;
use crate::oci::Platform;
use crate::run::native::{self, NativeSpec};
use crate::sandbox::{Bind, LayerBlob};
use crate::settings::UsageError;

/// Where a journal's directory is seen inside.
const JOURNAL: &str = "/opt/agent/journal";

/// Runs an image to its end.
pub(super) async fn run(args: RunArgs, context: &Context) -> Result<u8, Failure> {
    let env = environment(&args, context)?;
    let mut binds = args.volumes.iter().map(|it| volume(it)).collect::<Result<Vec<_>, _>>()?;
    if let Some(directory) = &args.journal {
        fs_err::create_dir_all(directory)?;
        binds.push(Bind { source: fs_err::canonicalize(directory)?, target: JOURNAL.to_owned(), writable: true });
    }
    let request: Request = args.image.parse()?;
    let around = around(context, &args.insecure_registries).await?;
    if args.engine == RunEngine::Docker {
        return docker::run(&args, &around, docker::Given { request, env, binds }, context).await;
    }
    if args.gpus.as_deref().is_some_and(|it| it != "none") {
        let hint = "Add --engine docker; natively a run has no GPUs in this release.";
        return Err(UsageError::new("--gpus needs the Docker engine", hint).into());
    }
    let image = read::fetch_whole(&around, &request, &Platform::host()).await?;
    let layers = image.pin.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.blob.digest }).collect();
    let spec = NativeSpec {
        layers,
        config: image.config,
        arguments: arguments(&args),
        env,
        user: args.user,
        binds,
        read_only: args.read_only,
        hostname: "agent".to_owned(),
    };
    let (store, reporter) = (around.store.clone(), context.ui.reporter());
    let started = blocking(move || {
        let streams = (Stdio::inherit(), Stdio::inherit(), Stdio::inherit());
        Ok(native::start(&store, &spec, streams, &*reporter)?)
    });
    let code = started.await?.attend().await?;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// What the in-image program is told: its options first, then the command.
fn arguments(args: &RunArgs) -> Vec<String> {
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
    if args.journal.is_some() {
        env.insert("AGENT_JOURNAL".to_owned(), JOURNAL.to_owned());
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

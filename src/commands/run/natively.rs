//! A run without any container engine.

use std::collections::BTreeMap;
use std::process::Stdio;

use super::{Given, words};
use crate::base::Around;
use crate::cli::run::RunArgs;
use crate::commands::{Context, Interrupted, blocking};
use crate::engine::ContainerSpec;
use crate::error::Failure;
use crate::image::read;
use crate::launch;
use crate::oci::Platform;
use crate::run::EngineKind;
use crate::run::native::{self, NativeSpec};
use crate::sandbox::{Bind, LayerBlob};
use crate::settings::UsageError;

/// Runs an image to its end.
pub(super) async fn run(args: &RunArgs, around: &Around, given: Given, context: &Context) -> Result<u8, Failure> {
    if args.gpus.as_deref().is_some_and(|it| it != "none") {
        let hint = "Add --engine docker; natively a run has no GPUs in this release.";
        return Err(UsageError::new("--gpus needs the Docker engine", hint).into());
    }
    let image = read::fetch_whole(around, &given.request, &Platform::host()).await?;
    let ours = image.config.pointer("/config/Entrypoint/0").is_some_and(|it| it == launch::BINARY);
    let mut asked = ContainerSpec::default();
    if ours {
        asked = super::of_task(around, &given.request, EngineKind::Native, context).await?;
        here(&mut asked, &given.binds, context);
    }
    // What was asked for here counts more than what the task asks for.
    let mut env: BTreeMap<_, _> = asked.env.iter().map(|(name, it)| (name.clone(), it.reveal().to_owned())).collect();
    env.extend(given.env);
    let lent = |it: crate::engine::Bind| Bind { source: it.source.into(), target: it.target, writable: !it.read_only };
    let spec = NativeSpec {
        layers: image.pin.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.blob.digest }).collect(),
        config: image.config,
        arguments: words(args),
        env,
        user: args.user.clone().or(asked.user),
        binds: asked.binds.into_iter().map(lent).chain(given.binds).collect(),
        read_only: args.read_only || asked.read_only,
        hostname: "agent".to_owned(),
    };
    let (store, reporter) = (around.store.clone(), context.ui.reporter());
    let mut signals = native::Signals::listen()?;
    let started = blocking(move || {
        let streams = (Stdio::inherit(), Stdio::inherit(), Stdio::inherit());
        Ok(native::start(&store, &spec, streams, &*reporter)?)
    });
    // Unpacking takes its time.
    let run = tokio::select! {
        run = started => run?,
        _ = signals.next() => return Err(Interrupted.into()),
    };
    let code = run.attend(signals).await?;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Leaves out what is not here, which is told, and what was asked for otherwise.
fn here(asked: &mut ContainerSpec, given: &[Bind], context: &Context) {
    let reporter = context.ui.reporter();
    asked.binds.retain(|it| {
        let here = std::path::Path::new(&it.source).exists();
        if !here {
            reporter.warning(format!("the task asks for `{}`, which is not here", it.source));
        }
        here && given.iter().all(|given| given.target != it.target)
    });
}

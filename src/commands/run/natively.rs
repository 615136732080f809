//! A run without any container engine.

use std::process::Stdio;
use std::sync::Arc;

use super::{Given, gpus, words};
use crate::base::Around;
use crate::cli::run::RunArgs;
use crate::commands::{Context, Interrupted, blocking};
use crate::engine::ContainerSpec;
use crate::error::Failure;
use crate::image::read;
use crate::launch;
use crate::oci::Platform;
use crate::run::EngineKind;
use crate::run::native;
use crate::sandbox::{Bind, LayerBlob};

/// Runs an image to its end.
pub(super) async fn run(args: &RunArgs, around: Around, given: Given, context: &Context) -> Result<u8, Failure> {
    // Before anything is fetched.
    let edits = gpus::edits(args.gpus.as_deref(), context).await?;
    let image = read::fetch_whole(&around, &given.request, &Platform::host()).await?;
    let ours = image.config.pointer("/config/Entrypoint/0").is_some_and(|it| it == launch::BINARY);
    let mut asked = ContainerSpec::default();
    if ours {
        asked =
            super::of_task(&around, &given.request, (EngineKind::Native, args.trust_image_arguments), None, context)
                .await?;
        here(&mut asked, &given.binds, context);
    }
    let (mut spec, left) = native::of_container(&asked);
    left.iter().for_each(|it| context.ui.reporter().warning(it));
    // What was asked for here counts more than what the task asks for.
    spec.layers = image.pin.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.blob.digest }).collect();
    spec.config = image.config;
    spec.arguments = words(args);
    spec.env.extend(given.env);
    spec.user = args.user.clone().or(spec.user);
    spec.binds.extend(given.binds);
    spec.read_only |= args.read_only;
    spec.name = format!("agent-run-{}", std::process::id());
    gpus::lend(edits, &mut spec);
    let (store, reporter) = (around.store.clone(), context.ui.reporter());
    // The run has a lease of its own; nothing else of us is to keep the store from being collected.
    drop(around);
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
    run.warnings().iter().for_each(|it| context.ui.reporter().warning(it));
    let code = Arc::new(run).attend(signals).await?;
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

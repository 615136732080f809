//! `agent lock`: pins a task and writes the lock.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::preflight::Here;
use super::workshop::{Pinned, lock as pin, task, workshop};
use super::{Context, blocking};
use crate::cli::lock::LockArgs;
use crate::error::Failure;
use crate::settings::TaskSettings;

/// Pins a task.
pub(super) async fn run(args: LockArgs, context: &Context) -> Result<u8, Failure> {
    let settings = TaskSettings::merge(&args.task, None, &context.session)?;
    settings.notes.iter().for_each(|it| context.ui.reporter().note(it));
    let asked = task(&settings, context).await?;
    let (shop, _stop) = workshop(&settings, context).await?;
    let shop = Arc::new(shop);
    let Pinned { lock, unchecked, .. } = pin(Arc::clone(&shop), asked, &settings, context).await?;
    if let Some(here) = Here::of(&settings).await? {
        here.check(&shop.around, &lock, unchecked).await?;
    }
    if args.lock_file == Path::new("-") {
        let documents = lock.documents();
        if !documents.texts.is_empty() {
            let count = documents.texts.len();
            context
                .ui
                .reporter()
                .warning(format!("{count} large texts are not in it; --lock-file FILE writes them beside"));
        }
        context.ui.write(documents.toml.as_bytes())?;
        return Ok(0);
    }
    let (path, digest) = (args.lock_file.clone(), lock.digest());
    blocking(move || Ok(lock.write(&path)?)).await?;
    let path = args.lock_file.display().to_string();
    if context.ui.is_json() {
        context.ui.print_json(&json!({"lock_file": path, "digest": digest}))?;
    } else if context.ui.is_quiet() {
        context.ui.print(&path)?;
    } else {
        context.ui.print(&format!("wrote {path}"))?;
        context.ui.say(&format!("next: agent build --lock {} --target NAME", crate::process::command_line(&[path])));
    }
    Ok(0)
}

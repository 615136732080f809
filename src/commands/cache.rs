//! `agent cache`: the store's sizes, its collection and its check.

use serde_json::json;

use super::{Context, blocking};
use crate::cli::cache::{CacheArgs, CacheCommand};
use crate::error::{Failure, Kind};
use crate::settings::size;
use crate::store::Store;
use crate::store::gc::{self, Collected};
use crate::ui::{Align, Table, text};

/// Does what was asked of the store.
pub(super) async fn run(args: CacheArgs, context: &Context) -> Result<u8, Failure> {
    match args.command {
        CacheCommand::Info => info(context).await,
        CacheCommand::Gc { max_size } => {
            let limit = max_size.map_or_else(|| size::store_bound(&context.session), |it| Ok(size::parse(&it)?))?;
            collect(limit, context).await
        }
        CacheCommand::Check => check(context).await,
    }
}

async fn info(context: &Context) -> Result<u8, Failure> {
    let root = Store::default_path();
    let shown = root.display().to_string();
    let usage = blocking(move || Ok(gc::usage(&Store::open(&root)?)?)).await?;
    if context.ui.is_json() {
        context.ui.print_json(&json!({"path": shown, "total": usage.total(), "usage": usage}))?;
        return Ok(0);
    }
    let mut table = Table::new([("what", Align::Left), ("size", Align::Right)]);
    for (what, bytes) in [
        ("blobs", usage.blobs),
        ("unpacked bases", usage.snapshots),
        ("repositories", usage.git),
        ("other", usage.other),
        ("total", usage.total()),
    ] {
        table.row([what.to_owned(), text::size(bytes)]);
    }
    context.ui.print(&format!("{shown}\n{}", table.render(context.ui.paint())))?;
    Ok(0)
}

/// After a build: keeps the store within its bound, now and then, if nobody else is working in it. What fails is told and
/// is no failure of the build.
pub(super) async fn tidy(limit: u64, context: &Context) {
    let root = Store::default_path();
    if limit == u64::MAX || !gc::is_due(&root) {
        return;
    }
    match collected(limit).await {
        Ok(Collected::Done { freed, removed, .. }) if removed > 0 && freed > 0 => {
            let bound = text::size(limit);
            context
                .ui
                .reporter()
                .note(format!("the store was over its bound of {bound}: {} were freed", text::size(freed)));
        }
        Ok(_) => {}
        Err(error) => context.ui.reporter().warning(format!("cannot keep the store within its bound: {error}")),
    }
}

async fn collected(limit: u64) -> Result<Collected, Failure> {
    let root = Store::default_path();
    blocking(move || {
        let remove = crate::sandbox::remover(&Store::open(&root)?);
        Ok(gc::collect(&root, limit, &remove)?)
    })
    .await
}

async fn collect(limit: u64, context: &Context) -> Result<u8, Failure> {
    let collected = collected(limit).await?;
    let (before, freed, removed) = match collected {
        Collected::Busy => {
            if context.ui.is_json() {
                context.ui.print_json(&json!({"busy": true}))?;
            } else {
                context.ui.print("other programs are working in the store; nothing was removed")?;
            }
            return Ok(Kind::Conflict.exit_code());
        }
        Collected::Done { before, freed, removed } => (before, freed, removed),
    };
    if context.ui.is_json() {
        context.ui.print_json(&json!({"busy": false, "before": before, "freed": freed, "removed": removed}))?;
    } else {
        let left = text::size(before.saturating_sub(freed));
        context.ui.print(&format!("removed {removed} things, {}; {left} left", text::size(freed)))?;
    }
    Ok(0)
}

async fn check(context: &Context) -> Result<u8, Failure> {
    let root = Store::default_path();
    let damaged = blocking(move || Ok(gc::check(&Store::open(&root)?)?)).await?;
    let names: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    if context.ui.is_json() {
        context.ui.print_json(&json!({"damaged": names}))?;
    } else if names.is_empty() {
        context.ui.print("every blob is what its name says")?;
    } else {
        context.ui.print(&format!(
            "{}\nremoved {} damaged blobs; builds make them anew",
            names.join("\n"),
            names.len()
        ))?;
    }
    Ok(u8::from(!names.is_empty()))
}

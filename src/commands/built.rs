//! What a build tells: its plan, its layers, its digests, and what to run next.

use serde_json::{Value, json};

use super::Context;
use crate::error::Failure;
use crate::image::Image;
use crate::image::deliver::{Delivered, Destination};
use crate::launch::Mode;
use crate::lock::Lock;
use crate::oci::Reference;
use crate::pipeline::Built;
use crate::ui::{Align, Style, Table, text};

/// The longest title of a layer that fits into a line, in characters.
const TITLE: usize = 48;

/// A finished build.
pub(super) struct Results<'a> {
    pub(super) lock: &'a Lock,
    pub(super) name: &'a Reference,
    pub(super) built: &'a Built,
    pub(super) delivered: &'a [Delivered],
    /// What the task names now, where it was to name the image.
    pub(super) named: Option<&'a str>,
}

/// Tells what came out.
pub(super) fn report(context: &Context, results: &Results<'_>) -> Result<(), Failure> {
    let ui = &context.ui;
    let image = &results.built.image;
    if ui.is_json() {
        ui.print_json(&as_json(results))?;
    } else if ui.is_quiet() {
        ui.print(&image.config.digest().to_string())?;
    } else {
        let mut shown = vec![table(results).render(ui.paint()), String::new()];
        let mut line = |name: &str, value: String| {
            shown.push(format!("{} {value}", ui.paint().paint(Style::Strong, &format!("{name:<10}"))));
        };
        line("image", results.name.familiar());
        line("manifest", image.manifest.digest().to_string());
        line("config", image.config.digest().to_string());
        for delivered in results.delivered {
            line("in", format!("{} ({})", delivered.destination, moved(delivered)));
        }
        if results.delivered.is_empty() {
            line("in", "the store only".to_owned());
        }
        if let Some(named) = results.named {
            line("task", format!("names {named}"));
        }
        if let Some(named) = results.named {
            line("task", format!("names {named}"));
        }
        line("took", text::seconds(results.built.seconds));
        ui.print(&shown.join("\n"))?;
        ui.say(&next(results));
    }
    Ok(())
}

/// What a delivery moved, in a few words.
pub(super) fn moved(delivered: &Delivered) -> String {
    if delivered.unchanged {
        return "was there already".to_owned();
    }
    let layers = |count: usize| if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") };
    let mounted = match delivered.mounted {
        0 => String::new(),
        count => format!(", {} mounted", layers(count)),
    };
    format!("{} moved, {}{mounted}", layers(delivered.layers), text::size(delivered.bytes))
}

fn table(results: &Results<'_>) -> Table {
    let mut table = Table::new([
        ("layer", Align::Left),
        ("what", Align::Left),
        ("size", Align::Right),
        ("", Align::Left),
        ("time", Align::Right),
    ]);
    let image = &results.built.image;
    let base = image.layers.len() - image.own_layers().count();
    let size: u64 = image.layers[..base].iter().map(|it| it.descriptor.size).sum();
    let name = results.lock.base.name.clone().unwrap_or_else(|| "a local image".to_owned());
    table.row(["base".to_owned(), name, text::size(size), "as it is".to_owned(), String::new()]);
    for layer in &results.built.layers {
        let how = if layer.cached { "cached" } else { "built" };
        let took = if layer.cached { String::new() } else { text::seconds(layer.seconds) };
        table.row([
            layer.kind.as_str().to_owned(),
            text::short(&layer.title, TITLE),
            text::size(layer.layer.descriptor.size),
            how.to_owned(),
            took,
        ]);
    }
    table
}

fn next(results: &Results<'_>) -> String {
    let name = results.name.familiar();
    let command = if results.lock.launch.mode == Mode::Environment { " python" } else { "" };
    let missing: Vec<String> = results.lock.launch.secrets.iter().map(|it| format!("-e {it}")).collect();
    let secrets = missing.iter().map(|it| format!("{it} ")).collect::<String>();
    let engine = |it: &&Delivered| it.destination.starts_with("docker:") || it.destination.starts_with("podman:");
    let mut lines = Vec::new();
    if let Some(delivered) = results.delivered.iter().find(engine) {
        let program = if delivered.destination.starts_with("podman:") { "podman" } else { "docker" };
        lines.push(format!("next: {program} run --rm -v ~/clearml.conf:/clearml.conf:ro {secrets}{name}{command}"));
        lines.push(format!("  or: agent run {secrets}{name}{command}"));
    } else {
        lines.push(format!("next: agent run {secrets}{name}{command}"));
    }
    lines.push(format!("      agent inspect {name}"));
    lines.join("\n")
}

fn as_json(results: &Results<'_>) -> Value {
    let layers: Vec<Value> = results
        .built
        .layers
        .iter()
        .map(|it| {
            json!({
                "kind": it.kind, "title": it.title, "digest": it.layer.descriptor.digest,
                "diff_id": it.layer.diff_id, "size": it.layer.descriptor.size, "cached": it.cached,
                "seconds": it.seconds,
            })
        })
        .collect();
    let delivered: Vec<Value> = results
        .delivered
        .iter()
        .map(|it| {
            json!({
                "destination": it.destination, "unchanged": it.unchanged, "bytes": it.bytes, "layers": it.layers,
                "mounted": it.mounted,
            })
        })
        .collect();
    let image = &results.built.image;
    json!({
        "image": results.name.to_string(),
        "manifest": image.manifest.digest(),
        "config": image.config.digest(),
        "platform": image.platform.to_string(),
        "lock": results.lock.digest(),
        "layers": layers,
        "delivered": delivered,
        "task_image": results.named,
        "seconds": results.built.seconds,
    })
}

/// What buildx writes with `--metadata-file`.
pub(super) fn metadata(name: &Reference, image: &Image) -> Value {
    let mut descriptor = json!(image.manifest.descriptor);
    descriptor["platform"] = json!(image.platform);
    let config: Value = serde_json::from_slice(&image.config.bytes).unwrap_or_default();
    json!({
        "containerimage.config.digest": image.config.digest(),
        "containerimage.descriptor": descriptor,
        "containerimage.digest": image.manifest.digest(),
        "image.name": name.to_string(),
        "image.user": config.pointer("/config/User"),
    })
}

/// Tells what a build would do.
pub(super) fn plan(
    context: &Context,
    lock: &Lock,
    name: &Reference,
    destinations: &[Destination],
) -> Result<(), Failure> {
    let places: Vec<String> = destinations.iter().map(ToString::to_string).collect();
    if context.ui.is_json() {
        context.ui.print_json(&json!({"image": name.to_string(), "destinations": places, "lock": lock}))?;
        return Ok(());
    }
    let mut table = Table::new([("layer", Align::Left), ("what", Align::Left)]);
    let mut row = |kind: &str, what: String| table.row([kind.to_owned(), what]);
    row("base", lock.base.name.clone().unwrap_or_else(|| "a local image".to_owned()));
    if let Some(system) = &lock.system {
        row(
            "system",
            format!("{} packages for {}", system.packages.len(), text::short(&system.requested.join(" "), TITLE)),
        );
    }
    if lock.setup.is_some() {
        row("setup", "the task's setup script".to_owned());
    }
    row("python", format!("{} distributions for Python {}", lock.python.distributions.len(), lock.python.version));
    if lock.bytecode {
        row("bytecode", "compiled by the base's interpreter".to_owned());
    }
    if let Some(code) = &lock.code {
        let what = code.git.as_ref().map_or_else(|| "the stored script".to_owned(), |it| it.commit.clone());
        row("code", if code.diff.is_some() { format!("{what} with uncommitted changes") } else { what });
    }
    for project in &lock.python.projects {
        row("local", format!("{} at {}", project.name, if project.path.is_empty() { "." } else { &project.path }));
    }
    row("entrypoint", lock.launch.mode.as_str().to_owned());
    let to = if places.is_empty() { "the store only".to_owned() } else { places.join(", ") };
    let shown =
        format!("{}\n\nwould go to {to} as {}; nothing was built", table.render(context.ui.paint()), name.familiar());
    context.ui.print(&shown)?;
    Ok(())
}

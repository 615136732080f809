//! `agent inspect`: an image's digests, what it was built from, and its layers.

use serde_json::{Value, json};

use super::Context;
use super::around::around;
use crate::base::Request;
use crate::cli::inspect::InspectArgs;
use crate::error::Failure;
use crate::image::read::{self, Found};
use crate::lock::{DocumentError, Lock};
use crate::oci::Platform;
use crate::ui::{Align, Style, Table, text};

/// Shows an image.
pub(super) async fn run(args: InspectArgs, context: &Context) -> Result<u8, Failure> {
    let around = around(context, &args.insecure_registries).await?;
    let request: Request = args.image.parse()?;
    let found = read::read(&around, &request, &Platform::host()).await?;
    if args.lock {
        context.ui.write(found.lock().unwrap_or_default())?;
        return Ok(0);
    }
    let lock = lock_of(&found)?;
    if let Some(path) = &args.lock_file {
        lock.write(path)?;
        context.ui.say(&format!("wrote {}", path.display()));
        return Ok(0);
    }
    if context.ui.is_json() {
        context.ui.print_json(&describe(&found, &lock))?;
    } else {
        context.ui.print(&shown(&found, &lock, context))?;
    }
    Ok(0)
}

/// The lock inside an image, its large texts from beside it.
pub(super) fn lock_of(found: &Found) -> Result<Lock, DocumentError> {
    found.parsed_lock()
}

/// What each layer is: those of the base, then ours as the image's history tells.
fn titles(found: &Found, lock: &Lock) -> Vec<(String, String)> {
    let history = found.config["history"].as_array().cloned().unwrap_or_default();
    let ours: Vec<(String, String)> = history
        .iter()
        .filter_map(|it| it["created_by"].as_str()?.strip_prefix("agent build: "))
        .map(|it| it.split_once(' ').unwrap_or((it, "")))
        .map(|(kind, title)| (kind.to_owned(), title.to_owned()))
        .collect();
    let base = lock.base.layers.len();
    let title = |index: usize| match index.checked_sub(base) {
        None => ("base".to_owned(), String::new()),
        Some(own) => ours.get(own).cloned().unwrap_or_default(),
    };
    (0..found.layers.len()).map(title).collect()
}

fn describe(found: &Found, lock: &Lock) -> Value {
    let layers: Vec<Value> = found
        .layers
        .iter()
        .zip(titles(found, lock))
        .map(|((diff_id, blob), (kind, title))| json!({"kind": kind, "title": title, "diff_id": diff_id, "blob": blob}))
        .collect();
    json!({
        "origin": found.origin,
        "manifest": found.manifest,
        "config": found.config_digest,
        "platform": found.platform,
        "layers": layers,
        "lock": lock,
    })
}

fn shown(found: &Found, lock: &Lock, context: &Context) -> String {
    let paint = context.ui.paint();
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let name = paint.paint(Style::Strong, &format!("{name:<10}"));
            lines.push(format!("{name} {}", text::harmless(&value)));
        }
    };
    line("image", found.origin.clone());
    line("manifest", found.manifest.map(|it| it.to_string()).unwrap_or_default());
    line("config", found.config_digest.to_string());
    line("platform", found.platform.to_string());
    line("task", task(lock));
    line("starts", format!("{} ({})", starts(lock), lock.launch.mode.as_str()));
    line("base", base(lock));
    line("code", code(lock));
    line("python", python(lock));
    line("system", system(lock));
    line(
        "needs",
        lock.launch.secrets.iter().chain(&lock.launch.secret_parameters).cloned().collect::<Vec<_>>().join(", "),
    );
    let mut table =
        Table::new([("layer", Align::Left), ("what", Align::Left), ("size", Align::Right), ("digest", Align::Left)]);
    for ((diff_id, blob), (kind, title)) in found.layers.iter().zip(titles(found, lock)) {
        let size = blob.as_ref().map_or_else(String::new, |it| text::size(it.size));
        let digest = blob.as_ref().map_or(*diff_id, |it| it.digest);
        table.row([kind, text::short(&title, 40), size, digest.to_string()]);
    }
    format!("{}\n\n{}", lines.join("\n"), table.render(paint))
}

fn task(lock: &Lock) -> String {
    match &lock.launch.task {
        Some(id) => format!("{} ({id})", lock.launch.name),
        None => lock.launch.name.clone(),
    }
}

fn starts(lock: &Lock) -> String {
    if lock.launch.entry_point.is_empty() {
        return "any command".to_owned();
    }
    crate::process::command_line(&lock.launch.entry_point)
}

fn base(lock: &Lock) -> String {
    let name = lock.base.name.clone().unwrap_or_else(|| "a local image".to_owned());
    let digest = lock.base.manifest.unwrap_or(lock.base.config);
    format!("{name} {digest}")
}

fn code(lock: &Lock) -> String {
    let Some(code) = &lock.code else { return "none".to_owned() };
    let origin = match (&code.git, &code.script) {
        (Some(git), _) => format!("{} {}", git.url.as_deref().unwrap_or("a local repository"), git.commit),
        (None, Some(script)) => format!("the stored script {}", script.file),
        (None, None) => String::new(),
    };
    let changed = if code.diff.is_some() { " with uncommitted changes" } else { "" };
    format!("{origin}{changed}")
}

fn python(lock: &Lock) -> String {
    let python = &lock.python;
    let own = match python.base_distributions.len() {
        0 => String::new(),
        count => format!(", {count} of the base's own"),
    };
    format!("{} ({}), {} distributions{own}", python.version, python.libc, python.distributions.len())
}

fn system(lock: &Lock) -> String {
    let mut parts = Vec::new();
    if let Some(system) = &lock.system {
        parts.push(format!("{} packages for {}", system.packages.len(), system.requested.join(" ")));
    }
    if lock.setup.is_some() {
        parts.push("a setup script".to_owned());
    }
    parts.join(", ")
}

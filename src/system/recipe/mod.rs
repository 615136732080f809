//! Bases made out of nothing: a declarative file in `images/` and the host's own apt.
//!
//! The host's apt solves for an empty system with the host's sources for its own release, signatures checked with the
//! host's keys; that is [`resolve`], and it pins every package. [`build`] makes the base of what is pinned, the same
//! bytes as root and rootless: the essential packages are unpacked ([`first`]) and configured in the sandbox, the others
//! are installed by the new system's own apt. What is pinned may come from anybody's lock: nothing of it runs, and no
//! path of it is written, outside of the sandbox.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::install::{self, FILES};
use super::solve;
use super::sources::{self, Release, Source};
use super::{Package, SystemError, apt, fetch};
use crate::digest::{Digest, Hasher};
use crate::http;
use crate::oci::{Descriptor, Layer, Platform, json, media};
use crate::python::pinned::PinnedWheel;
use crate::report::Reporter;
use crate::sandbox::{Sandbox, Step, Temporary};
use crate::store::{Store, Table};

mod archive;
mod first;
mod host;
#[cfg(test)]
mod hostile;
mod text;
mod wheels;

use host::HostApt;
use text::Recipe;

/// Part of the key of a base: to be raised when what [`build`] does changes its bytes.
const VERSION: &str = "1";

/// The recipes this program carries.
const RECIPES: [(&str, &str); 2] = [
    ("debian-cuda", include_str!("../../../images/debian-cuda.toml")),
    ("debian-python", include_str!("../../../images/debian-python.toml")),
];

/// A recipe with everything in it pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Its name.
    pub name: String,
    /// Its whole text.
    pub text: String,
    /// Distribution, release and components: `debian bookworm main`.
    pub suite: String,
    /// Every package, by name order.
    pub packages: Vec<Package>,
    /// Every wheel, by name order.
    #[serde(default)]
    pub wheels: Vec<PinnedWheel>,
}

/// A base made by a recipe; all of it is in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecipeBase {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its configuration.
    pub config: Descriptor,
    /// The layer of its packages.
    pub layer: Layer,
    /// What stands on it, lowest first.
    #[serde(default)]
    pub above: Vec<Layer>,
}

impl RecipeBase {
    /// All its layers, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.layer).chain(&self.above)
    }
}

/// The names of all recipes.
#[must_use]
pub fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|it| it.0).collect()
}

/// The text of a recipe of that name.
///
/// # Errors
/// [`SystemError::NoRecipe`]
pub fn text(name: &str) -> Result<&'static str, SystemError> {
    let text = RECIPES.iter().find(|it| it.0 == name).map(|it| it.1);
    text.ok_or_else(|| SystemError::NoRecipe { name: name.to_owned() })
}

/// The packages of a recipe that has no wheels.
///
/// # Errors
/// As [`text`] and [`resolve_text`].
pub fn resolve(store: &Store, name: &str, max_age: Duration, reporter: &dyn Reporter) -> Result<Resolved, SystemError> {
    resolve_text(store, (name, text(name)?), max_age, reporter)
}

/// What a recipe asks of package indexes: requirements (PEP 508).
///
/// # Errors
/// [`SystemError::Recipe`]
pub fn requirements(resolved: &Resolved) -> Result<Vec<String>, SystemError> {
    let recipe = Recipe::parse(&resolved.name, &resolved.text)?;
    Ok(recipe.wheels.into_iter().flat_map(|it| it.requirements).collect())
}

/// What the configuration of a recipe's base will say of machines, known before it is made: architecture and variables.
///
/// # Errors
/// [`SystemError::Recipe`]
pub fn configuration(name: &str, text: &str) -> Result<serde_json::Value, SystemError> {
    let recipe = Recipe::parse(name, text)?;
    let architecture = recipe.architecture.clone().unwrap_or_else(|| Platform::host().architecture);
    Ok(serde_json::json!({ "architecture": architecture, "config": { "Env": variables(&recipe) } }))
}

/// The variables of a recipe's base as configurations have them.
fn variables(recipe: &Recipe) -> Vec<String> {
    recipe.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Pins the packages of a recipe, given by name and text, asking the archive anew when the last answer is older than
/// `max_age`. Its wheels are somebody else's business.
///
/// # Errors
/// [`SystemError::Host`] off Debian and Ubuntu, [`SystemError::Architecture`], [`SystemError::Offline`]
pub fn resolve_text(
    store: &Store,
    (name, text): (&str, &str),
    max_age: Duration,
    reporter: &dyn Reporter,
) -> Result<Resolved, SystemError> {
    let recipe = Recipe::parse(name, text)?;
    let release = Release::host();
    let host = || SystemError::Host { name: name.to_owned(), host: format!("`{} {}`", release.id, release.codename) };
    let present = Platform::host().architecture;
    if let Some(wanted) = recipe.architecture.as_ref().filter(|it| **it != present) {
        return Err(SystemError::Architecture { name: name.to_owned(), wanted: wanted.clone(), present });
    }
    let distribution = recipe.on.get(&release.id).ok_or_else(host)?;
    let sources = own_sources(&release, &distribution.components)?;
    let mut key = Hasher::new();
    key.field("recipe").field(text).field(&release.codename).field(sources::write(&sources));
    let key = key.finish();
    let now = now();
    let known = || {
        let (at, resolved) = store.record::<(u64, Resolved)>(Table::Resolutions, &key)?;
        (now.saturating_sub(at) < max_age.as_secs()).then_some(resolved)
    };
    if let Some(resolved) = known() {
        return Ok(resolved);
    }
    // Two builds at once would stand in each other's way: apt does not wait.
    let _alone = store.lock(&format!("apt-host-{}", key.hex()))?;
    if let Some(resolved) = known() {
        return Ok(resolved);
    }
    // What is pinned now is made next: that it can be made is known before anything is downloaded.
    crate::sandbox::choose(store)?;
    let host_apt = HostApt::prepare(store, &key, &sources)?;
    reporter.started("recipe", format!("resolving the recipe {name}"));
    host_apt.update(http::is_offline())?;
    let mut names = vec!["?essential".to_owned()];
    names.extend(distribution.packages.iter().chain(&recipe.packages).cloned());
    let packages = solve::solve(&names, &|argv| host_apt.run(argv))?;
    reporter.finished("recipe", format!("{} packages", packages.len()));
    let suite = format!("{} {} {}", release.id, release.codename, distribution.components.join(" "));
    let resolved = Resolved { name: name.to_owned(), text: text.to_owned(), suite, packages, wheels: Vec::new() };
    store.remember(Table::Resolutions, &key, &(now, &resolved))?;
    Ok(resolved)
}

fn own_sources(release: &Release, components: &[String]) -> Result<Vec<Source>, SystemError> {
    let mut own = apt::host_sources(release)?;
    for source in &mut own {
        source.components.retain(|it| components.contains(it));
    }
    own.retain(|it| !it.components.is_empty());
    Ok(own)
}

/// Makes the base a recipe was resolved to, or finds it.
///
/// # Errors
/// [`SystemError`]
pub fn build(store: &Store, resolved: &Resolved, reporter: &dyn Reporter) -> Result<RecipeBase, SystemError> {
    let recipe = Recipe::parse(&resolved.name, &resolved.text)?;
    let key = key(resolved);
    if let Some(base) = find(store, &key) {
        return Ok(base);
    }
    let _alone = store.lock(&format!("recipe-{}", key.hex()))?;
    if let Some(base) = find(store, &key) {
        return Ok(base);
    }
    // The way is tried before anything is fetched.
    let sandbox = Sandbox::open(store, &[], reporter)?;
    let sources = host_sources_for(&resolved.suite);
    reporter.started("recipe", format!("making the base {}", resolved.name));
    let packages = packages_key(&recipe, resolved);
    let layer =
        match store.record::<Layer>(Table::Layers, &packages).filter(|it| store.has(&it.descriptor.digest).is_some()) {
            Some(layer) => layer,
            None => {
                fetch::fetch(store, &resolved.packages, &sources, reporter)?;
                let layer = bootstrap(store, &sandbox, &recipe, resolved, reporter)?;
                store.remember(Table::Layers, &packages, &layer)?;
                layer
            }
        };
    let above = wheels::layers(store, &recipe, resolved, &layer, reporter)?;
    let base = publish(store, &recipe, &resolved.name, layer, above)?;
    store.remember(Table::Layers, &key, &base)?;
    reporter.finished("recipe", "made");
    Ok(base)
}

/// Whether the base is in the store.
#[must_use]
pub fn is_made(store: &Store, resolved: &Resolved) -> bool {
    find(store, &key(resolved)).is_some()
}

/// What stands in the record's key: everything that decides the bytes.
fn key(resolved: &Resolved) -> Digest {
    let mut key = Hasher::new();
    key.field("recipe base").field(VERSION).field(&resolved.name).field(&resolved.text);
    for package in &resolved.packages {
        key.field(&package.name).field(package.sha256.bytes());
    }
    for wheel in &resolved.wheels {
        key.field("wheel").field(&wheel.name).field(wheel.sha256.bytes());
    }
    key.finish()
}

/// The same for the layer of the packages, which recipes may share.
fn packages_key(recipe: &Recipe, resolved: &Resolved) -> Digest {
    let mut key = Hasher::new();
    key.field("recipe packages").field(VERSION);
    for patterns in [&recipe.exclude, &recipe.include] {
        key.field((patterns.len() as u64).to_le_bytes());
        for pattern in patterns {
            key.field(pattern);
        }
    }
    for package in &resolved.packages {
        key.field(&package.name).field(package.sha256.bytes());
    }
    key.finish()
}

fn find(store: &Store, key: &Digest) -> Option<RecipeBase> {
    let base: RecipeBase = store.record(Table::Layers, key)?;
    let has = |it: &Descriptor| store.has(&it.digest).is_some();
    let whole = has(&base.manifest) && has(&base.config) && base.layers().all(|it| has(&it.descriptor));
    whole.then_some(base)
}

/// Addresses where the files may be had again. A lock from a machine of another release may still be served by this
/// one's archive: releases share a pool.
fn host_sources_for(suite: &str) -> Vec<Source> {
    let mut words = suite.split(' ').map(str::to_owned);
    let release = Release { id: words.next().unwrap_or_default(), codename: words.next().unwrap_or_default() };
    apt::host_sources(&release).unwrap_or_else(|_| sources::of_host())
}

fn bootstrap(
    store: &Store,
    sandbox: &Sandbox,
    recipe: &Recipe,
    resolved: &Resolved,
    reporter: &dyn Reporter,
) -> Result<Layer, SystemError> {
    let work = store.scratch()?;
    let (files, rest) = first::unpack((store, sandbox), recipe, &resolved.packages, work.path(), reporter)?;
    // The users come first: other packages give files to them.
    let users: Vec<&String> = files.names.iter().filter(|it| it.starts_with("base-passwd_")).collect();
    for names in [users, files.names.iter().collect()] {
        let paths: Vec<String> = names.iter().map(|it| format!("{FILES}/{it}")).collect();
        let mut argv = vec!["dpkg", "--install", "--force-depends", "--force-unsafe-io"];
        argv.extend(paths.iter().map(String::as_str));
        let step = install::quiet(Step::new("dpkg --install", &argv)).bind(&files.directory, FILES, false);
        let output = sandbox.run(&step, reporter)?;
        if output.code != 0 {
            return Err(install::failed(sandbox, output.code, &output.last_words()));
        }
    }
    install::install(store, sandbox, &rest, reporter)?;
    Ok(sandbox.layer(Temporary::LeftOut)?)
}

fn publish(
    store: &Store,
    recipe: &Recipe,
    name: &str,
    layer: Layer,
    above: Vec<Layer>,
) -> Result<RecipeBase, SystemError> {
    const CREATED: &str = "1980-01-02T00:00:00Z";
    let platform = Platform::host();
    let layers = || std::iter::once(&layer).chain(&above);
    let step = serde_json::json!({ "created": CREATED, "created_by": format!("recipe {name}") });
    let mut config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": CREATED,
        "config": { "Env": variables(recipe), "Cmd": recipe.command },
        "rootfs": { "type": "layers", "diff_ids": layers().map(|it| it.diff_id).collect::<Vec<_>>() },
        "history": layers().map(|_| step.clone()).collect::<Vec<_>>(),
    });
    if !recipe.labels.is_empty() {
        config["config"]["Labels"] = serde_json::json!(recipe.labels);
    }
    let describe = |media_type: &str, (digest, size)| Descriptor { media_type: media_type.to_owned(), digest, size };
    let config = describe(media::CONFIG, store.put_bytes(&json::canonical(&config))?);
    let manifest = json::canonical(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config,
        "layers": layers().map(|it| &it.descriptor).collect::<Vec<_>>(),
    }));
    let manifest = describe(media::MANIFEST, store.put_bytes(&manifest)?);
    Ok(RecipeBase { manifest, config, layer, above })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_can_be_read() {
        for (name, text) in RECIPES {
            let recipe = Recipe::parse(name, text).unwrap();
            assert!(recipe.packages.is_sorted(), "{name}");
        }
    }
}

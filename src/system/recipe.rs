//! Bases made out of nothing: a declarative file in `images/` and the host's own apt.
//!
//! The host's apt solves for an empty system with the host's sources for its own release, signatures checked with the
//! host's keys; that is [`resolve`], and it pins every package. [`build`] makes the base of what is pinned, the same
//! bytes as root and rootless: the essential packages are unpacked by the host's dpkg and configured in the sandbox,
//! the others are installed by the new system's own apt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::install::{self, FILES};
use super::solve::{self, Answer};
use super::sources::{self, Release, Source};
use super::{Package, SystemError, apt, fetch};
use crate::digest::{Digest, Hasher};
use crate::oci::{Descriptor, Layer, Platform, json, media};
use crate::report::Reporter;
use crate::sandbox::{Sandbox, Step, Temporary};
use crate::store::{Store, Table};

/// Part of the key of a base: to be raised when what [`build`] does changes its bytes.
const VERSION: &str = "1";

/// The recipes this program carries.
const RECIPES: [(&str, &str); 1] = [("debian-python", include_str!("../../images/debian-python.toml"))];

/// Unpacks the first packages into the working directory: they bring what is needed to install packages at all.
const UNPACK: &str = include_str!("../../templates/recipe-unpack.sh");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    #[expect(dead_code, reason = "for readers of the file")]
    description: String,
    packages: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    on: BTreeMap<String, Distribution>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Distribution {
    components: Vec<String>,
    packages: Vec<String>,
}

impl Recipe {
    fn parse(name: &str, text: &str) -> Result<Self, SystemError> {
        toml::from_str(text)
            .map_err(|error| SystemError::Recipe { name: name.to_owned(), reason: error.message().to_owned() })
    }
}

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
}

/// A base made by a recipe; all of it is in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecipeBase {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its configuration.
    pub config: Descriptor,
    /// Its only layer.
    pub layer: Layer,
}

/// The names of all recipes.
#[must_use]
pub fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|it| it.0).collect()
}

/// Pins what a recipe consists of, asking the archive anew when the last answer is older than `max_age`.
///
/// # Errors
/// [`SystemError::NoRecipe`], [`SystemError::Host`] off Debian and Ubuntu
pub fn resolve(store: &Store, name: &str, max_age: Duration, reporter: &dyn Reporter) -> Result<Resolved, SystemError> {
    let text = RECIPES.iter().find(|it| it.0 == name).map(|it| it.1);
    let text = text.ok_or_else(|| SystemError::NoRecipe { name: name.to_owned() })?;
    let recipe = Recipe::parse(name, text)?;
    let release = Release::host();
    let host = || SystemError::Host { name: name.to_owned(), host: format!("`{} {}`", release.id, release.codename) };
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
    host_apt.update()?;
    let mut names = vec!["?essential".to_owned()];
    names.extend(distribution.packages.iter().chain(&recipe.packages).cloned());
    let packages = solve::solve(&names, &|argv| host_apt.run(argv))?;
    reporter.finished("recipe", format!("{} packages", packages.len()));
    let suite = format!("{} {} {}", release.id, release.codename, distribution.components.join(" "));
    let resolved = Resolved { name: name.to_owned(), text: text.to_owned(), suite, packages };
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

/// The host's apt with a state of its own, in which nothing is installed.
struct HostApt {
    configuration: String,
}

impl HostApt {
    fn prepare(store: &Store, key: &Digest, sources: &[Source]) -> Result<Self, SystemError> {
        let dir = store.directory("apt").join(format!("host-{}", key.hex()));
        let file_error = |source| SystemError::File { path: dir.clone(), source };
        for name in ["lists/partial", "cache/archives/partial", "sources.list.d"] {
            crate::fs::create_private_dir(&dir.join(name)).map_err(file_error)?;
        }
        let at = dir.display();
        let text = format!(
            "APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
             Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\nDir::State::status \"{at}/status\";\n\
             Dir::State::extended_states \"{at}/extended_states\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{at}/sources.list.d\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n"
        );
        for (name, text) in
            [("apt.conf", text.as_str()), ("status", ""), ("sources.list.d/host.sources", &sources::write(sources))]
        {
            crate::fs::write_whole(&dir.join(name), text.as_bytes(), 0o644).map_err(file_error)?;
        }
        Ok(Self { configuration: dir.join("apt.conf").to_string_lossy().into_owned() })
    }

    fn update(&self) -> Result<(), SystemError> {
        let answer = self.run(&["apt-get", "update", "-q"])?;
        if answer.success {
            return Ok(());
        }
        Err(SystemError::Apt { what: "refresh the host's package lists".to_owned(), reason: answer.stderr })
    }

    fn run(&self, argv: &[&str]) -> Result<Answer, SystemError> {
        let (program, rest) = argv.split_first().unwrap_or((&"", &[]));
        let mut command = Command::new(program);
        command.args(["-c", &self.configuration]).args(rest).env("LC_ALL", "C.UTF-8").env_remove("APT_CONFIG");
        let output = crate::process::run(&mut command, Duration::from_secs(1800))?;
        Ok(Answer {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: output.errors(),
        })
    }
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
    fetch::fetch(store, &resolved.packages, &sources, reporter)?;
    reporter.started("recipe", format!("making the base {}", resolved.name));
    let layer = bootstrap(store, &sandbox, &recipe, resolved, reporter)?;
    let base = publish(store, &recipe, &resolved.name, layer)?;
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
    key.finish()
}

fn find(store: &Store, key: &Digest) -> Option<RecipeBase> {
    let base: RecipeBase = store.record(Table::Layers, key)?;
    let whole = [&base.manifest, &base.config, &base.layer.descriptor].iter().all(|it| store.has(&it.digest).is_some());
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
    let file_error = |source| SystemError::File { path: work.path().to_owned(), source };
    install::lay_out(store, &resolved.packages, work.path())?;
    let (first, rest) = split(work.path(), &resolved.packages)?;
    let mut rules = String::new();
    for (word, patterns) in [("path-exclude", &recipe.exclude), ("path-include", &recipe.include)] {
        rules.extend(patterns.iter().map(|it| format!("{word}={it}\n")));
    }
    fs::write(work.path().join("dpkg.cfg"), &rules).map_err(file_error)?;
    let patterns: String = recipe.exclude.iter().map(|it| format!(".{it}\n")).collect();
    fs::write(work.path().join("excluded"), patterns).map_err(file_error)?;
    let here = work.path().to_string_lossy().into_owned();
    let mut argv = vec!["/bin/sh", "-c", UNPACK, "recipe", &here];
    let names: Vec<String> = first.iter().map(Package::file_name).collect();
    argv.extend(names.iter().map(String::as_str));
    let output = sandbox.run_outside(&Step::new("dpkg-deb", &argv), reporter)?;
    if output.code != 0 {
        return Err(install::failed(sandbox, output.code, &output.last_words()));
    }
    // The users come first: other packages give files to them.
    let users: Vec<&String> = names.iter().filter(|it| it.starts_with("base-passwd_")).collect();
    for names in [users, names.iter().collect()] {
        let files: Vec<String> = names.iter().map(|it| format!("{FILES}/{it}")).collect();
        let mut argv = vec!["dpkg", "--install", "--force-depends", "--force-unsafe-io"];
        argv.extend(files.iter().map(String::as_str));
        let step = install::quiet(Step::new("dpkg --install", &argv)).bind(work.path(), FILES, false);
        let output = sandbox.run(&step, reporter)?;
        if output.code != 0 {
            return Err(install::failed(sandbox, output.code, &output.last_words()));
        }
    }
    install::install(store, sandbox, &rest, reporter)?;
    Ok(sandbox.layer(Temporary::LeftOut)?)
}

/// The essential packages and apt with all they need, and the others.
fn split(dir: &Path, packages: &[Package]) -> Result<(Vec<Package>, Vec<Package>), SystemError> {
    let script = "for f in *.deb; do dpkg-deb -f \"$f\" Package Essential Pre-Depends Depends Provides && echo; done";
    let output =
        // The shell's order of names, and by it that of providers, must not be the user's.
        crate::process::run(Command::new("sh").args(["-c", script]).current_dir(dir).env("LC_ALL", "C"), Duration::from_secs(600))?;
    let text = output.text();
    let controls: Vec<Control> = text.split("\n\n").map(Control::parse).collect();
    let mut providers: BTreeMap<&str, &Control> = BTreeMap::new();
    for control in controls.iter().rev() {
        for name in &control.provides {
            providers.entry(name).or_insert(control);
        }
    }
    providers.extend(controls.iter().map(|it| (it.name.as_str(), it)));
    let mut first: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&Control> = controls.iter().filter(|it| it.essential || it.name == "apt").collect();
    while let Some(control) = open.pop() {
        if first.insert(&control.name) {
            // Of alternatives, the first that was chosen.
            let needed = control.needs.iter().filter_map(|them| them.iter().find_map(|it| providers.get(it.as_str())));
            open.extend(needed);
        }
    }
    Ok(packages.iter().cloned().partition(|it| first.contains(it.name.as_str())))
}

/// What a package says of itself.
#[derive(Debug, Default)]
struct Control {
    name: String,
    essential: bool,
    provides: Vec<String>,
    /// For each need, the alternatives.
    needs: Vec<Vec<String>>,
}

impl Control {
    fn parse(text: &str) -> Self {
        let mut control = Self::default();
        // A field may go on in lines that begin with a blank.
        for line in text.replace("\n ", " ").lines() {
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match field {
                "Package" => value.clone_into(&mut control.name),
                "Essential" => control.essential = value == "yes",
                "Provides" => control.provides.extend(value.split(',').map(bare)),
                "Depends" | "Pre-Depends" => {
                    control.needs.extend(value.split(',').map(|it| it.split('|').map(bare).collect()));
                }
                _ => {}
            }
        }
        control
    }
}

/// `libc6:any (>= 2.36)` → `libc6`.
fn bare(relation: &str) -> String {
    relation.trim().split([' ', ':', '(']).next().unwrap_or_default().to_owned()
}

fn publish(store: &Store, recipe: &Recipe, name: &str, layer: Layer) -> Result<RecipeBase, SystemError> {
    const CREATED: &str = "1980-01-02T00:00:00Z";
    let platform = Platform::host();
    let env: Vec<String> = recipe.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let config = json::canonical(&serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": CREATED,
        "config": { "Env": env, "Cmd": recipe.command },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created": CREATED, "created_by": format!("recipe {name}") }],
    }));
    let describe = |media_type: &str, (digest, size)| Descriptor { media_type: media_type.to_owned(), digest, size };
    let config = describe(media::CONFIG, store.put_bytes(&config)?);
    let manifest = json::canonical(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config,
        "layers": [layer.descriptor],
    }));
    let manifest = describe(media::MANIFEST, store.put_bytes(&manifest)?);
    Ok(RecipeBase { manifest, config, layer })
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
        assert!(Recipe::parse("x", "packages = 1").is_err());
    }

    #[test]
    fn relations_are_read_with_their_alternatives() {
        let text = "Package: dash\nEssential: yes\nPre-Depends: libc6:any (>= 2.36), awk | mawk\nDepends: debianutils,\n \
                    dpkg\nProvides: sh (= 1)";
        let control = Control::parse(text);
        assert!(control.essential && control.name == "dash" && control.provides == ["sh"]);
        let needs: Vec<Vec<&str>> = control.needs.iter().map(|it| it.iter().map(String::as_str).collect()).collect();
        assert_eq!(needs, [vec!["libc6"], vec!["awk", "mawk"], vec!["debianutils"], vec!["dpkg"]]);
    }
}

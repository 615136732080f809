//! Python distributions as layers: each large wheel alone, lowest, the rest together with the environment's own files.
//!
//! ```text
//! shared bytecode          a new small requirement moves
//! shared python  + venv    these two and nothing below
//! (the in-image binary)
//! bytecode of large wheels
//! large wheels             one layer each, by name
//! ```
//!
//! A wheel's streams are copied, not compressed again. Which layer a wheel stands in depends on its size alone, and what
//! is in a large wheel's layer on that wheel and the Python's minor version. Where two wheels own a path, the later by
//! name has it, whatever the grouping; what the earlier one gives up is part of its layer's key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread;

use serde::{Deserialize, Serialize};

use super::bytecode::{self, Compiler};
use super::{BuiltLayer, LayerKind, find_or_write, key, parallel};
use crate::digest::{Digest, Hasher};
use crate::launch::VENV;
use crate::lock::{Distribution, FORMAT, PythonPart};
use crate::oci::layer::Deflated;
use crate::oci::{LayerWriter, Meta};
use crate::python::archive::Method;
use crate::python::fetch;
use crate::python::install::{Content, File, Files, Target, install};
use crate::python::venv::{self, Item, Venv};
use crate::python::wheel::Wheel;
use crate::report::SharedReporter;
use crate::store::{Store, StoreError, Table};

mod error;

pub use error::PythonLayerError;

/// Wheels of at least this many bytes have a layer of their own, …
const LARGE: u64 = 2 << 20;
/// … unless more than this many would: then the limit is doubled.
const MOST: usize = 32;
/// Streams of files below this many bytes are not copied: their headers would outweigh them.
const COPIED: u64 = 2 << 10;

/// Which wheel stands where, and which paths wheels give up to others. Depends on the lock alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Distributions with a layer of their own, by their place in the lock.
    pub large: Vec<usize>,
    /// The others.
    pub shared: Vec<usize>,
    /// For each distribution: paths it gives up, relative to the environment's root.
    pub lost: Vec<BTreeSet<String>>,
    /// What people should know of that.
    pub warnings: Vec<String>,
}

/// The layers of an environment, each list lowest first.
#[derive(Debug)]
pub struct Environment {
    /// Of large wheels, then of their bytecode.
    pub large: Vec<BuiltLayer>,
    /// What the others share, and its bytecode.
    pub shared: Vec<BuiltLayer>,
}

/// The layers of a lock's distributions; their wheels must be in the store. Without a compiler there are
/// none with bytecode.
///
/// # Errors
/// [`PythonLayerError`]
pub fn layers(
    store: &Store,
    part: &PythonPart,
    compiler: Option<Compiler<'_>>,
    reporter: &SharedReporter,
) -> Result<Environment, PythonLayerError> {
    let plan = &plan(store, part)?;
    for warning in &plan.warnings {
        reporter.warning(warning);
    }
    let groups = plan.groups();
    // Writing waits for the disk, compiling does not.
    let (python, bytecode) = thread::scope(|scope| {
        let bytecode = compiler.map(|it| scope.spawn(move || bytecode::layers(store, part, plan, it)));
        let python = parallel(groups.len(), |index| write_group(store, part, plan, &groups[index]));
        let bytecode = bytecode.map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (python, bytecode)
    });
    let python = python?;
    let bytecode = bytecode.unwrap_or_else(|| Ok(vec![None; groups.len()]))?;
    let count = plan.large.len();
    let (mut python, mut bytecode) = (python, bytecode);
    let (shared, shared_bytecode) = (python.split_off(count), bytecode.split_off(count));
    Ok(Environment {
        large: python.into_iter().chain(bytecode.into_iter().flatten()).collect(),
        shared: shared.into_iter().chain(shared_bytecode.into_iter().flatten()).collect(),
    })
}

impl Plan {
    /// The distributions of each layer, large ones first, the shared layer last.
    #[must_use]
    pub fn groups(&self) -> Vec<Vec<usize>> {
        self.large.iter().map(|it| vec![*it]).chain([self.shared.clone()]).collect()
    }

    /// What of a distribution goes into a layer's key.
    pub(super) fn field(&self, part: &PythonPart, index: usize) -> Vec<u8> {
        let lost: Vec<&str> = self.lost[index].iter().map(String::as_str).collect();
        format!("{}\n{}", part.distributions[index].sha256, lost.join("\n")).into_bytes()
    }
}

/// Where the environment of an image lies.
#[must_use]
pub fn target(part: &PythonPart) -> Target {
    let minor: Vec<&str> = part.version.split('.').take(2).collect();
    Target { root: VENV.to_owned(), python: minor.join(".") }
}

/// Plans, or remembers the plan.
///
/// # Errors
/// [`PythonLayerError`]
pub fn plan(store: &Store, part: &PythonPart) -> Result<Plan, PythonLayerError> {
    for pair in part.distributions.windows(2) {
        if pair[0].name >= pair[1].name {
            return Err(PythonLayerError::Order(pair[1].name.clone()));
        }
    }
    if let Some(plan) = remembered_plan(store, part) {
        return Ok(plan);
    }
    let target = target(part);
    let files = parallel(part.distributions.len(), |index| {
        let wheel = open(store, &part.distributions[index])?;
        let unlisted: Vec<String> = wheel.unlisted().map(str::to_owned).collect();
        Ok::<_, PythonLayerError>((prints(&wheel, &install(&wheel, &target)?), unlisted))
    })?;
    let (files, unlisted): (Vec<Prints>, Vec<Vec<String>>) = files.into_iter().unzip();
    let (large, shared) = group(&part.distributions.iter().map(|it| it.size).collect::<Vec<_>>());
    let names: Vec<&str> = part.distributions.iter().map(|it| it.name.as_str()).collect();
    let own: Vec<String> = venv::skeleton(&environment(part)).into_keys().collect();
    let (lost, mut warnings) = share_out(&names, &files, &own);
    for (name, files) in names.iter().zip(&unlisted).filter(|it| !it.1.is_empty()) {
        let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
        warnings.push(format!("`{name}` has `{}`{more}, which its RECORD does not name", files[0]));
    }
    let plan = Plan { large, shared, lost, warnings };
    store.remember(Table::Distributions, &plan_key(part), &plan)?;
    Ok(plan)
}

/// The plan of a lock whose wheels were seen before.
pub(super) fn remembered_plan(store: &Store, part: &PythonPart) -> Option<Plan> {
    store.record(Table::Distributions, &plan_key(part))
}

fn plan_key(part: &PythonPart) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("python plan").field(FORMAT.to_le_bytes()).field(target(part).python);
    for it in &part.distributions {
        hasher.field(&it.name).field(it.sha256.bytes()).field(it.size.to_le_bytes());
    }
    hasher.finish()
}

/// A locked wheel in the store, checked.
pub(super) fn open(store: &Store, distribution: &Distribution) -> Result<Wheel, PythonLayerError> {
    let Distribution { sha256, file, .. } = distribution;
    store.has(sha256).ok_or(StoreError::Missing(*sha256))?;
    fetch::check(store, sha256, file)?;
    Ok(Wheel::open(&store.blob_path(sha256), file)?)
}

/// The places of wheels with a layer of their own, and of the others, by their sizes in bytes.
fn group(sizes: &[u64]) -> (Vec<usize>, Vec<usize>) {
    let mut limit = LARGE;
    while sizes.iter().filter(|it| **it >= limit).count() > MOST {
        limit *= 2;
    }
    (0..sizes.len()).partition(|it| sizes[*it] >= limit)
}

/// Checksum and size of every file of a wheel, to know the same file in two of them.
type Prints = BTreeMap<String, (u32, u64)>;

fn prints(wheel: &Wheel, files: &Files) -> Prints {
    let print = |file: &File| match &file.content {
        Content::Bytes(bytes) => (crc32fast::hash(bytes), bytes.len() as u64),
        Content::Entry(index) => {
            let entry = &wheel.archive().entries()[*index];
            (entry.crc32, entry.size)
        }
    };
    files.iter().map(|(path, file)| (path.clone(), print(file))).collect()
}

/// Gives every path one owner: the environment itself, else the last wheel that has it.
fn share_out(names: &[&str], files: &[Prints], own: &[String]) -> (Vec<BTreeSet<String>>, Vec<String>) {
    let mut owners: HashMap<&str, Option<usize>> = HashMap::new();
    let mut dirs: BTreeSet<&str> = BTreeSet::new();
    for path in own {
        owners.insert(path, None);
        dirs.extend(parents(path));
    }
    let mut lost = vec![BTreeSet::new(); files.len()];
    let mut clashes: BTreeMap<(usize, Option<usize>), Vec<&str>> = BTreeMap::new();
    for (index, mine) in files.iter().enumerate().rev() {
        let mut kept = Vec::new();
        for (path, print) in mine {
            let above = parents(path).find_map(|it| owners.get(it));
            match owners.get(path.as_str()).or(above) {
                Some(owner) => {
                    if owner.and_then(|it| files[it].get(path)) != Some(print) {
                        clashes.entry((index, *owner)).or_default().push(path);
                    }
                    lost[index].insert(path.clone());
                }
                None if dirs.contains(path.as_str()) => {
                    clashes.entry((index, None)).or_default().push(path);
                    lost[index].insert(path.clone());
                }
                None => kept.push(path.as_str()),
            }
        }
        for path in kept {
            owners.insert(path, Some(index));
            dirs.extend(parents(path));
        }
    }
    let warnings =
        clashes.into_iter().map(|((loser, owner), paths)| warning(names[loser], owner.map(|it| names[it]), &paths));
    (lost, warnings.collect())
}

fn warning(loser: &str, owner: Option<&str>, paths: &[&str]) -> String {
    let more = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
    match owner {
        Some(owner) => format!("`{loser}` and `{owner}` both have `{}`{more}: {owner}'s is used", paths[0]),
        None => format!("`{loser}` has `{}`{more}, which is the environment's own: it is left out", paths[0]),
    }
}

/// The directories a path lies in, innermost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/').map(|it| it.0), |it| it.rsplit_once('/').map(|it| it.0))
}

fn environment(part: &PythonPart) -> Venv {
    Venv {
        target: target(part),
        executable: part.executable.clone(),
        site_packages: part.site_packages,
        extra_paths: part.extra_paths.clone(),
    }
}

fn write_group(store: &Store, part: &PythonPart, plan: &Plan, group: &[usize]) -> Result<BuiltLayer, PythonLayerError> {
    let is_shared = *group == plan.shared;
    let target = target(part);
    let skeleton = if is_shared { venv::skeleton(&environment(part)) } else { BTreeMap::new() };
    let mut inputs: Vec<Vec<u8>> = vec![target.python.clone().into_bytes()];
    if is_shared {
        let own = [part.executable.as_str(), if part.site_packages { "1" } else { "0" }, &part.extra_paths.join(":")];
        inputs.push(own.join("\n").into_bytes());
    }
    inputs.extend(group.iter().map(|it| plan.field(part, *it)));
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let title = title(part, group, is_shared);
    find_or_write(store, (LayerKind::Python, key(LayerKind::Python, &inputs)), title, |writer| {
        let mut wheels = Vec::new();
        let mut entries: BTreeMap<String, (usize, File)> = BTreeMap::new();
        for index in group {
            let wheel = open(store, &part.distributions[*index])?;
            for (path, file) in install(&wheel, &target)? {
                if !plan.lost[*index].contains(&path) {
                    entries.insert(path, (wheels.len(), file));
                }
            }
            wheels.push(wheel);
        }
        write_tree(writer, &skeleton, &wheels, &entries)
    })
}

/// What the shared layer or a wheel's own is called.
pub(super) fn title(part: &PythonPart, group: &[usize], is_shared: bool) -> String {
    match group {
        [one] if !is_shared => format!("{} {}", part.distributions[*one].name, part.distributions[*one].version),
        [] => "environment".to_owned(),
        [_] => "environment, 1 distribution".to_owned(),
        _ => format!("environment, {} distributions", group.len()),
    }
}

/// Writes directories, then what is packed, then what is copied, each by path.
pub(super) fn write_tree(
    writer: &mut LayerWriter<'_>,
    skeleton: &BTreeMap<String, Item>,
    wheels: &[Wheel],
    entries: &BTreeMap<String, (usize, File)>,
) -> Result<(), PythonLayerError> {
    dirs(writer, skeleton.keys().chain(entries.keys()))?;
    for (path, item) in skeleton {
        let path = &in_image(path);
        match item {
            Item::File(bytes) => writer.file(path, &Meta::file(), bytes)?,
            Item::Link(to) => writer.symlink(path, &Meta::with_mode(0o777), to)?,
        }
    }
    let mut copied = Vec::new();
    for (path, (wheel, file)) in entries {
        let meta = if file.executable { Meta::executable() } else { Meta::file() };
        match &file.content {
            Content::Bytes(bytes) => writer.file(&in_image(path), &meta, bytes)?,
            Content::Entry(index) => {
                let archive = wheels[*wheel].archive();
                let entry = &archive.entries()[*index];
                if entry.method == Method::Deflate && entry.size >= COPIED {
                    copied.push((path, meta, archive, entry));
                } else if entry.method == Method::Stored {
                    writer.file_from(&in_image(path), &meta, entry.size, &mut archive.raw(entry))?;
                } else {
                    writer.file(&in_image(path), &meta, &archive.read(entry, COPIED)?)?;
                }
            }
        }
    }
    for (path, meta, archive, entry) in copied {
        let mut stream = archive.raw(entry);
        let (compressed, size, crc32) = (entry.compressed, entry.size, entry.crc32);
        writer.deflated(&in_image(path), &meta, &mut Deflated { stream: &mut stream, compressed, size, crc32 })?;
    }
    Ok(())
}

/// Writes every directory that some paths of the environment lie in.
pub(super) fn dirs<'p>(
    writer: &mut LayerWriter<'_>,
    paths: impl Iterator<Item = &'p String>,
) -> Result<(), PythonLayerError> {
    let mut dirs: BTreeSet<String> = BTreeSet::new();
    for path in paths {
        let path = in_image(path);
        for dir in parents(&path) {
            if !dirs.insert(dir.to_owned()) {
                break;
            }
        }
    }
    for dir in dirs {
        writer.dir(&dir, &Meta::dir())?;
    }
    Ok(())
}

/// A path relative to the environment's root as a layer has it.
pub(super) fn in_image(path: &str) -> String {
    format!("{}/{path}", VENV.trim_start_matches('/'))
}

/// Digest of what bytecode depends on besides the wheel: the interpreter and the place.
pub(super) fn interpreter_key(part: &PythonPart) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(part.digest.bytes()).field(&part.version).field(VENV);
    hasher.finish()
}

#[cfg(test)]
mod tests;

//! The file tree of a base, seen through its layers without unpacking them: list, stat, read.
//!
//! Whiteouts and opaque directories count as image-spec ("Layer Changesets") says. Links are followed inside the tree
//! only; `..` stops at its root. Ordinary files are read from the layer's blob, which must be in the store then; files
//! of kinds that everybody asks for (`os-release`, dpkg's status, metadata of distributions, …) are remembered.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::ops::{Bound, ControlFlow};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use serde::{Deserialize, Serialize};

use super::find::{blocking, fetch_layer};
use super::index::{self, Entry, EntryKind, Indexed, clean, join};
use super::{Around, Base, BaseError, Pin};
use crate::digest::{Digest, Hasher};
use crate::oci::tar;
use crate::store::{Store, Table};

pub use super::index::{Entry as Node, EntryKind as NodeKind};

/// Links followed on the way to one file.
const MOST_LINKS: usize = 40;
/// Largest file that is read whole, in bytes.
const LARGEST: u64 = 256 << 20;

/// The user a container of the base runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory, where the base knows it.
    pub home: Option<String>,
}

/// A base's file tree.
#[derive(Debug)]
pub struct Rootfs {
    store: Store,
    pin: Pin,
    nodes: BTreeMap<String, (u32, Entry)>,
    kept: Vec<Digest>,
}

/// Opens a base's tree. Blobs of layers never seen before are fetched and read through once.
///
/// # Errors
/// [`BaseError::Layer`] for a layer that is not what the configuration says, and those of fetching.
pub async fn open(around: &Around, base: &Base) -> Result<Rootfs, BaseError> {
    let name = base.pin.name.clone().unwrap_or_else(|| base.pin.config.to_string());
    let layers: Vec<Indexed> = stream::iter(base.pin.layers.clone())
        .map(|layer| {
            let name = name.clone();
            async move {
                let (store, wanted) = (around.store.clone(), layer.clone());
                if let Some(known) = blocking(move || index::remembered(&store, &wanted)).await? {
                    return Ok(known);
                }
                fetch_layer(around, base.pin.source.as_ref(), &layer.blob).await?;
                let store = around.store.clone();
                blocking(move || index::make(&store, &name, &layer)).await?
            }
        })
        .buffered(2)
        .try_collect()
        .await?;
    let (store, pin) = (around.store.clone(), base.pin.clone());
    blocking(move || Rootfs::merge(store, pin, layers)).await
}

/// Who the base's own user is, remembered by its layers and name.
///
/// # Errors
/// As [`open`] and [`Rootfs::owner`].
pub async fn owner(around: &Around, base: &Base) -> Result<Owner, BaseError> {
    let mut key = Hasher::new();
    key.field("owner 1").field(base.chain_id().to_string()).field(base.user());
    let key = key.finish();
    if let Some(known) = around.store.record(Table::Bases, &key) {
        return Ok(known);
    }
    let found = open(around, base).await?.owner(base.user())?;
    around.store.remember(Table::Bases, &key, &found)?;
    Ok(found)
}

impl Rootfs {
    /// Opens a base's tree from the store alone.
    ///
    /// # Errors
    /// [`BaseError::Store`] when a layer is needed that is not there.
    pub fn open_local(store: &Store, base: &Base) -> Result<Self, BaseError> {
        let name = base.pin.name.clone().unwrap_or_else(|| base.pin.config.to_string());
        let mut layers = Vec::new();
        for layer in &base.pin.layers {
            layers.push(match index::remembered(store, layer) {
                Some(known) => known,
                None => index::make(store, &name, layer)?,
            });
        }
        Ok(Self::merge(store.clone(), base.pin.clone(), layers))
    }

    fn merge(store: Store, pin: Pin, layers: Vec<Indexed>) -> Self {
        let mut nodes: BTreeMap<String, (u32, Entry)> = BTreeMap::new();
        let mut kept = Vec::new();
        for (number, layer) in (0_u32..).zip(layers) {
            for directory in &layer.index.opaque {
                remove_below(&mut nodes, directory);
            }
            for path in &layer.index.whiteouts {
                nodes.remove(path);
                remove_below(&mut nodes, path);
            }
            for entry in layer.index.entries {
                if entry.kind != EntryKind::Dir && nodes.get(&entry.path).is_some_and(|it| it.1.kind == EntryKind::Dir)
                {
                    remove_below(&mut nodes, &entry.path);
                }
                nodes.insert(entry.path.clone(), (number, entry));
            }
            kept.push(layer.kept);
        }
        Self { store, pin, nodes, kept }
    }

    /// What is at a path itself; directories on the way may be links, the last part is not followed.
    #[must_use]
    pub fn lstat(&self, path: &str) -> Option<&Node> {
        let path = clean(path.as_bytes())?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = if parent.is_empty() { String::new() } else { self.resolve(parent)? };
        self.nodes.get(&join(&parent, name)).map(|it| &it.1)
    }

    /// What is at a path, links followed.
    #[must_use]
    pub fn stat(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&self.resolve(path)?).map(|it| &it.1)
    }

    /// The path without any links (and without a slash in front), if there is something.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut pending: Vec<String> = parts(path);
        let mut real = String::new();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                real.truncate(real.rfind('/').unwrap_or(0));
                continue;
            }
            let next = join(&real, &part);
            match self.nodes.get(&next) {
                Some((_, Entry { kind: EntryKind::Symlink, target: Some(target), .. })) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        real.clear();
                    }
                    pending.extend(parts(target));
                }
                Some(_) => real = next,
                // Some layers do not list their directories.
                None if self.has_below(&next) => real = next,
                None => return None,
            }
        }
        Some(real)
    }

    /// Whether there is something at a path, links followed.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path).is_some()
    }

    /// Names in a directory, sorted; empty for one that is not there.
    #[must_use]
    pub fn list(&self, directory: &str) -> Vec<&str> {
        let Some(real) = self.resolve(directory) else { return Vec::new() };
        let prefix = if real.is_empty() { String::new() } else { format!("{real}/") };
        let mut names: Vec<&str> = Vec::new();
        for path in self.below(&real) {
            let name = path[prefix.len()..].split('/').next().unwrap_or_default();
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        names.dedup();
        names
    }

    /// Everything below a directory, sorted by path, paths from the root. The directory's own links are followed.
    pub fn walk(&self, directory: &str) -> impl Iterator<Item = &Node> {
        let real = self.resolve(directory);
        real.into_iter().flat_map(|real| {
            let paths: Vec<&String> = self.below(&real).collect();
            paths.into_iter().filter_map(|path| self.nodes.get(path).map(|it| &it.1))
        })
    }

    /// A file's content, links followed; `None` when there is no such file.
    ///
    /// # Errors
    /// [`BaseError::Store`] when the layer's blob is needed and not in the store.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, BaseError> {
        Ok(self.read_all(&[path])?.into_iter().next().flatten())
    }

    /// Contents of several files, in one pass over each layer that has any of them.
    ///
    /// # Errors
    /// As [`Rootfs::read`].
    pub fn read_all(&self, paths: &[&str]) -> Result<Vec<Option<Vec<u8>>>, BaseError> {
        let mut found: Vec<Option<Vec<u8>>> = vec![None; paths.len()];
        let mut pending: BTreeMap<u32, HashMap<String, Vec<usize>>> = BTreeMap::new();
        for (place, path) in paths.iter().enumerate() {
            let Some((number, entry)) = self.file(path) else { continue };
            if let Some(start) = entry.kept {
                found[place] = Some(self.kept(number, start, entry.size)?);
            } else if entry.size <= LARGEST {
                pending.entry(number).or_default().entry(entry.path.clone()).or_default().push(place);
            }
        }
        for (number, mut wanted) in pending {
            self.scan(number, |path, reader| {
                let Some(places) = wanted.remove(path) else { return Ok(!wanted.is_empty()) };
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                for place in places {
                    found[place] = Some(bytes.clone());
                }
                Ok(!wanted.is_empty())
            })?;
        }
        Ok(found)
    }

    /// The digest of a file, links followed; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`Rootfs::read`].
    pub fn digest(&self, path: &str) -> Result<Option<Digest>, BaseError> {
        let Some((number, entry)) = self.file(path) else { return Ok(None) };
        if let Some(start) = entry.kept {
            return Ok(Some(Digest::of(self.kept(number, start, entry.size)?)));
        }
        let mut digest = None;
        self.scan(number, |path, reader| {
            if path != entry.path {
                return Ok(true);
            }
            let mut hasher = Hasher::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match reader.read(&mut buffer)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                }
            }
            digest = Some(hasher.finish());
            Ok(false)
        })?;
        Ok(digest)
    }

    /// `KEY=value` lines of `os-release`, quotes removed.
    ///
    /// # Errors
    /// As [`Rootfs::read`].
    pub fn os_release(&self) -> Result<BTreeMap<String, String>, BaseError> {
        let found = self.read_all(&["etc/os-release", "usr/lib/os-release"])?;
        let text = found.into_iter().flatten().next().unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.trim().split_once('=')?;
            Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        };
        Ok(String::from_utf8_lossy(&text).lines().filter_map(pair).collect())
    }

    /// Who `user` is (`User` of an image configuration: name or id, with or without a group; empty is root).
    ///
    /// # Errors
    /// [`BaseError::User`] for a name the base does not know.
    pub fn owner(&self, user: &str) -> Result<Owner, BaseError> {
        let unknown = || BaseError::User { user: user.to_owned() };
        let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let name = if name.is_empty() { "0" } else { name };
        let found = self.read_all(&["etc/passwd", "etc/group"])?;
        let table = |bytes: Option<&Option<Vec<u8>>>| -> Vec<Vec<String>> {
            let text = String::from_utf8_lossy(bytes.and_then(Option::as_ref).map_or(&[][..], |it| it)).into_owned();
            text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
        };
        let (users, groups) = (table(found.first()), table(found.get(1)));
        let row = |rows: &[Vec<String>], key: &str| -> Option<Vec<String>> {
            let by = |column: usize| rows.iter().find(|it| it.get(column).is_some_and(|it| it == key)).cloned();
            by(0).or_else(|| by(2))
        };
        let number = |text: Option<&String>| text.and_then(|it| it.trim().parse::<u32>().ok());
        let known = row(&users, name);
        let uid = known.as_ref().and_then(|it| number(it.get(2))).or_else(|| name.parse().ok()).ok_or_else(unknown)?;
        let gid = match group {
            Some(group) if !group.is_empty() => {
                let known = row(&groups, group).and_then(|it| number(it.get(2)));
                known.or_else(|| group.parse().ok()).ok_or_else(unknown)?
            }
            _ => known.as_ref().and_then(|it| number(it.get(3))).unwrap_or_default(),
        };
        let home = known.and_then(|it| it.get(5).cloned()).filter(|it| it.starts_with('/'));
        Ok(Owner { uid, gid, home })
    }

    /// A regular file, symbolic and hard links followed, and the number of its layer.
    fn file(&self, path: &str) -> Option<(u32, &Entry)> {
        let (number, entry) = self.nodes.get(&self.resolve(path)?)?;
        match entry.kind {
            EntryKind::File => Some((*number, entry)),
            EntryKind::Hardlink => {
                let (other, entry) = self.nodes.get(entry.target.as_ref()?)?;
                (entry.kind == EntryKind::File && other == number).then_some((*other, entry))
            }
            _ => None,
        }
    }

    fn kept(&self, number: u32, start: u64, size: u64) -> Result<Vec<u8>, BaseError> {
        let digest = self.kept[number as usize];
        let damaged = |error: std::io::Error| self.damaged(number, &error);
        let mut file = self.store.open_blob(&digest)?;
        file.seek(SeekFrom::Start(start)).map_err(damaged)?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).map_err(damaged)?;
        Ok(bytes)
    }

    /// Reads a layer's files until `visit` has enough.
    fn scan(
        &self,
        number: u32,
        mut visit: impl FnMut(&str, &mut dyn Read) -> std::io::Result<bool>,
    ) -> Result<(), BaseError> {
        let damaged = |error: std::io::Error| self.damaged(number, &error);
        let blob = self.store.open_blob(&self.pin.layers[number as usize].blob.digest)?;
        tar::each(tar::uncompressed(blob).map_err(damaged)?, damaged, |entry| {
            let Some(path) = clean(&entry.path_bytes()) else { return Ok(ControlFlow::Continue(())) };
            let more = visit(&path, entry).map_err(damaged)?;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
    }

    fn damaged(&self, number: u32, error: &std::io::Error) -> BaseError {
        BaseError::Layer {
            name: self.pin.name.clone().unwrap_or_default(),
            blob: self.pin.layers[number as usize].blob.digest,
            detail: error.to_string(),
        }
    }

    fn below<'a>(&'a self, real: &str) -> impl Iterator<Item = &'a String> + use<'a> {
        let prefix = if real.is_empty() { String::new() } else { format!("{real}/") };
        let from = self.nodes.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        from.map(|it| it.0).take_while(move |it| it.starts_with(&prefix))
    }

    fn has_below(&self, real: &str) -> bool {
        self.below(real).next().is_some()
    }
}

/// The parts of a path, last first, ready to be popped.
fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|it| !it.is_empty() && *it != ".").rev().map(str::to_owned).collect()
}

fn remove_below(nodes: &mut BTreeMap<String, (u32, Entry)>, directory: &str) {
    let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
    let range = nodes.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
    let gone: Vec<String> = range.map(|it| it.0).take_while(|it| it.starts_with(&prefix)).cloned().collect();
    for path in gone {
        nodes.remove(&path);
    }
}

#[cfg(test)]
mod tests;

//! What is in one layer: its entries, what it takes away, and the small files that everybody asks for.
//!
//! Made in one pass over the blob, which also proves its diff_id, and remembered by that. Kept in the store:
//!
//! ```text
//! index/bases/<digest of the key>.json    { index: <digest>, kept: <digest> }
//! blobs/sha256/<index>                    LayerIndex as JSON
//! blobs/sha256/<kept>                     contents of the kept files, one after another
//! ```

use std::io::{self, Read};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::{BaseError, PinnedLayer};
use crate::digest::{Digest, Hasher};
use crate::oci::tar;
use crate::store::{Store, Table};

/// The version of [`LayerIndex`] and of what is kept.
const VERSION: &str = "1";
/// Small files up to this many bytes are kept if they are of a kind somebody asks for.
const SMALL: u64 = 1 << 20;
/// The same for a few known larger ones.
const LARGE: u64 = 32 << 20;
/// All that is kept of one layer, in bytes; what comes later is read from the blob.
const MOST_KEPT: u64 = 256 << 20;
/// Paths longer than this, or more entries than that, are no image.
const LONGEST_PATH: usize = 4096;
const MOST_ENTRIES: usize = 4_000_000;
/// All their paths and targets, in bytes.
const MOST_NAMES: usize = 1 << 30;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    #[serde(rename = "f")]
    File,
    /// A directory.
    #[serde(rename = "d")]
    Dir,
    /// A symbolic link.
    #[serde(rename = "l")]
    Symlink,
    /// Another name of a file of the same layer.
    #[serde(rename = "h")]
    Hardlink,
    /// A device, a pipe.
    #[serde(rename = "o")]
    Other,
}

/// An entry of a layer. Its path has no slash at either end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path.
    #[serde(rename = "p")]
    pub path: String,
    /// Kind.
    #[serde(rename = "k")]
    pub kind: EntryKind,
    /// Permission bits.
    #[serde(rename = "m")]
    pub mode: u32,
    /// Owner.
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// Group.
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Size of a file in bytes.
    #[serde(rename = "s", default)]
    pub size: u64,
    /// Target of a link.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Where its content begins among the kept ones.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is in a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerIndex {
    /// Entries in the order of the tar.
    pub(super) entries: Vec<Entry>,
    /// Paths that it takes away from the layers below.
    pub(super) whiteouts: Vec<String>,
    /// Directories whose content below it hides.
    pub(super) opaque: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    index: Digest,
    kept: Digest,
}

/// A layer's index, and the blob that holds its kept files.
pub(super) struct Indexed {
    pub(super) index: LayerIndex,
    pub(super) kept: Digest,
}

fn key(layer: &PinnedLayer) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("layer index").field(VERSION).field(layer.diff_id.to_string());
    hasher.finish()
}

/// The index, if it is remembered.
pub(super) fn remembered(store: &Store, layer: &PinnedLayer) -> Option<Indexed> {
    let record: Record = store.record(Table::Bases, &key(layer))?;
    store.has(&record.kept)?;
    let bytes = store.read_blob(&record.index).ok()?;
    Some(Indexed { index: serde_json::from_slice(&bytes).ok()?, kept: record.kept })
}

/// Makes the index from the blob in the store, and remembers it.
pub(super) fn make(store: &Store, name: &str, layer: &PinnedLayer) -> Result<Indexed, BaseError> {
    let damaged = |detail: String| BaseError::Layer { name: name.to_owned(), blob: layer.blob.digest, detail };
    let reader = tar::uncompressed(store.open_blob(&layer.blob.digest)?).map_err(|it| damaged(it.to_string()))?;
    let mut reader = HashingReader { inner: reader, hasher: Hasher::new() };
    let mut making = Making::default();
    tar::each(
        &mut reader,
        |it| damaged(it.to_string()),
        |entry| making.take(entry).map(ControlFlow::Continue).map_err(|it| damaged(it.to_string())),
    )?;
    let Making { index, kept, .. } = making;
    io::copy(&mut reader, &mut io::sink()).map_err(|it| damaged(it.to_string()))?;
    let found = reader.hasher.finish();
    if found != layer.diff_id {
        return Err(damaged(format!("its content is {found}, the configuration says {}", layer.diff_id)));
    }
    let bytes = serde_json::to_vec(&index).map_err(|it| damaged(it.to_string()))?;
    let record = Record { index: store.put_bytes(&bytes)?.0, kept: store.put_bytes(&kept)?.0 };
    store.remember(Table::Bases, &key(layer), &record)?;
    Ok(Indexed { index, kept: record.kept })
}

/// An index in the making.
#[derive(Default)]
struct Making {
    index: LayerIndex,
    kept: Vec<u8>,
    /// Bytes of paths and targets so far.
    names: usize,
}

impl Making {
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let raw = entry.path_bytes();
        let Some(path) = clean(&raw) else { return Ok(()) };
        let target = entry.link_name_bytes().map(|it| String::from_utf8_lossy(&it).into_owned());
        let target_length = target.as_ref().map_or(0, String::len);
        self.names += path.len() + target_length;
        if path.len().max(target_length) > LONGEST_PATH
            || self.index.entries.len() >= MOST_ENTRIES
            || self.names > MOST_NAMES
        {
            let text = format!("`{}…` is too much", path.chars().take(60).collect::<String>());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == ".wh..wh..opq" {
            self.index.opaque.push(parent.to_owned());
            return Ok(());
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            // Names that begin with a second `.wh.` are aufs' own.
            if !gone.starts_with(".wh.") {
                self.index.whiteouts.push(join(parent, gone));
            }
            return Ok(());
        }
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => EntryKind::File,
            tar::EntryType::Directory => EntryKind::Dir,
            tar::EntryType::Symlink => EntryKind::Symlink,
            tar::EntryType::Link => EntryKind::Hardlink,
            tar::EntryType::XGlobalHeader | tar::EntryType::XHeader => return Ok(()),
            _ => EntryKind::Other,
        };
        let number = |it: io::Result<u64>| u32::try_from(it.unwrap_or_default()).unwrap_or_default();
        let (uid, gid, mode) = (number(header.uid()), number(header.gid()), header.mode().unwrap_or(0o644) & 0o7777);
        let size = if kind == EntryKind::File { entry.size() } else { 0 };
        let target = match kind {
            EntryKind::Symlink => target,
            EntryKind::Hardlink => target.and_then(|it| clean(it.as_bytes())),
            _ => None,
        };
        let begins = self.kept.len() as u64;
        let start = (kind == EntryKind::File && size <= limit(&path) && begins + size <= MOST_KEPT).then_some(begins);
        if start.is_some() {
            entry.read_to_end(&mut self.kept)?;
        }
        self.index.entries.push(Entry { path, kind, mode, uid, gid, size, target, kept: start });
        Ok(())
    }
}

/// How large a file may be to be kept; nothing of other files is.
fn limit(path: &str) -> u64 {
    let name = path.rsplit('/').next().unwrap_or(path);
    let parent = path.strip_suffix(name).unwrap_or_default().trim_end_matches('/');
    let metadata = parent.ends_with(".dist-info") || parent.ends_with(".egg-info");
    match (parent, name) {
        ("var/lib/dpkg", "status") => LARGE,
        (_, "libc.so.6") => LARGE,
        (_, name) if name.starts_with("ld-musl-") => LARGE,
        ("etc" | "usr/lib", "os-release") => SMALL,
        ("etc", "passwd" | "group" | "debian_version" | "alpine-release" | "ld.so.conf" | "resolv.conf") => SMALL,
        (parent, _) if parent.starts_with("etc/ld.so.conf.d") || parent.starts_with("etc/apt") => SMALL,
        (_, "METADATA" | "PKG-INFO" | "WHEEL" | "direct_url.json") if metadata => SMALL,
        (_, "pyvenv.cfg" | "EXTERNALLY-MANAGED" | "patchlevel.h") => SMALL,
        (_, name) if name.ends_with(".egg-info") || name.ends_with(".pth") || name.ends_with(".egg-link") => SMALL,
        _ => 0,
    }
}

/// A path from the root without `.` and slashes at its ends; `None` for the root itself and for one that leads out.
pub(super) fn clean(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            other => parts.push(other),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

pub(super) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

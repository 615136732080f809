//! Images out of OCI layouts and archives (`docker save`, `oci-archive`, `docker-archive`) into the store.
//!
//! An archive is read once, front to back, from a pipe too: every file becomes a blob of the store, and which of them
//! belong together is found out at the end. A blob named by its digest is checked against it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;

use super::BaseError;
use super::find::diff_ids;
use crate::digest::{Digest, digest_reader};
use crate::fs::lexical;
use crate::oci::{Descriptor, Platform, media, tar};
use crate::registry::{Document, choose, parse_manifest};
use crate::store::{Store, StoreError};

/// Documents larger than this are not read.
const LARGEST_DOCUMENT: u64 = 16 << 20;

/// Which image of several.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its tag or name; without one there must be only one image.
    pub tag: Option<String>,
    /// Its platform.
    pub platform: Platform,
    /// Where we look, for people.
    pub origin: String,
}

/// An image whose blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its manifest's digest, where it has one.
    pub manifest: Option<Digest>,
    /// Its configuration's bytes.
    pub config: Vec<u8>,
    /// Layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// An image out of an OCI layout directory.
///
/// # Errors
/// [`BaseError`]; a blob that is not what its name says is one.
pub fn import_layout(store: &Store, directory: &Path, wanted: &Wanted) -> Result<Imported, BaseError> {
    let unreadable = |path: &Path, source| BaseError::Read { path: path.to_owned(), source };
    let index = directory.join("index.json");
    let bytes = fs::read(&index).map_err(|source| unreadable(&index, source))?;
    let fetch = |digest: &Digest| -> Result<(), BaseError> {
        if store.has(digest).is_some() {
            return Ok(());
        }
        let path = directory.join("blobs/sha256").join(digest.hex());
        let mut file = fs::File::open(&path).map_err(|source| unreadable(&path, source))?;
        let mut writer = store.writer()?;
        copy(store, &mut file, &mut writer, |source| unreadable(&path, source))?;
        writer.commit_verified(digest)?;
        Ok(())
    };
    let imported = by_index(store, &bytes, wanted, &fetch)?;
    for layer in &imported.layers {
        fetch(&layer.digest)?;
    }
    Ok(imported)
}

/// An image out of an archive of either kind, compressed or not.
///
/// # Errors
/// [`BaseError`]
pub fn import_archive(store: &Store, file: &Path, wanted: &Wanted) -> Result<Imported, BaseError> {
    let unreadable = |source| BaseError::Read { path: file.to_owned(), source };
    let opened = fs::File::open(file).map_err(unreadable)?;
    let reader = tar::uncompressed(opened).map_err(unreadable)?;
    Importer::new(store).read(reader, wanted)
}

/// Reads one archive.
pub(super) struct Importer<'a> {
    store: &'a Store,
    /// Files by path, as blobs of the store.
    files: BTreeMap<String, Descriptor>,
    /// Links by path: old archives link equal layers.
    links: BTreeMap<String, String>,
}

impl<'a> Importer<'a> {
    pub(super) const fn new(store: &'a Store) -> Self {
        Self { store, files: BTreeMap::new(), links: BTreeMap::new() }
    }

    pub(super) fn read(mut self, reader: impl Read, wanted: &Wanted) -> Result<Imported, BaseError> {
        self.take_in(reader, &wanted.origin)?;
        let missing = |path: &str| odd(wanted, format!("it has no `{path}`"));
        // What an engine without a containerd store writes beside manifest.json names the same files.
        if let Some(index) = self.files.get("index.json").cloned() {
            let bytes = self.document(&index, wanted)?;
            let here = |digest: &Digest| -> Result<(), BaseError> {
                let path = format!("blobs/sha256/{}", digest.hex());
                self.store.has(digest).map(|_| ()).ok_or_else(|| missing(&path))
            };
            match by_index(self.store, &bytes, wanted, &here) {
                Ok(imported) if imported.layers.iter().all(|it| here(&it.digest).is_ok()) => return Ok(imported),
                Err(error) if !self.files.contains_key("manifest.json") => return Err(error),
                _ => {}
            }
        }
        let manifest = self.files.get("manifest.json").cloned().ok_or_else(|| missing("manifest.json"))?;
        let bytes = self.document(&manifest, wanted)?;
        self.by_manifest(&bytes, wanted)
    }

    fn take_in(&mut self, reader: impl Read, origin: &str) -> Result<(), BaseError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
                BaseError::Document { origin: origin.to_owned(), detail: format!("it is no archive ({source})") }
            }
            _ => BaseError::Read { path: origin.into(), source },
        };
        tar::each(reader, unreadable, |entry| {
            let path = lexical(&String::from_utf8_lossy(&entry.path_bytes()));
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    let mut writer = self.store.writer()?;
                    let mut first = [0; 4];
                    let count = read_some(entry, &mut first).map_err(unreadable)?;
                    copy(self.store, &mut first[..count].chain(entry), &mut writer, unreadable)?;
                    let (digest, size) = writer.commit()?;
                    let media_type = if first.starts_with(&[0x1f, 0x8b]) {
                        media::LAYER_GZIP
                    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                        media::LAYER_ZSTD
                    } else {
                        media::LAYER
                    };
                    self.files.insert(path, Descriptor { media_type: media_type.to_owned(), digest, size });
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let from_root = entry.header().entry_type() == tar::EntryType::Link;
                    let parent = if from_root { "" } else { path.rsplit_once('/').map_or("", |it| it.0) };
                    self.links.insert(path.clone(), lexical(&format!("{parent}/{target}")));
                }
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn document(&self, file: &Descriptor, wanted: &Wanted) -> Result<Vec<u8>, BaseError> {
        document(self.store, &file.digest, file.size, wanted)
    }

    fn file(&self, path: &str) -> Option<&Descriptor> {
        let path = lexical(path);
        self.files.get(&path).or_else(|| self.files.get(self.links.get(&path)?))
    }

    /// `manifest.json`: images with paths of configuration and layers.
    fn by_manifest(&self, bytes: &[u8], wanted: &Wanted) -> Result<Imported, BaseError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Item {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let items: Vec<Item> = serde_json::from_slice(bytes).map_err(|error| odd(wanted, error.to_string()))?;
        let named = |item: &&Item, tag: &str| item.repo_tags.iter().flatten().any(|it| it == tag);
        let item = match &wanted.tag {
            Some(tag) => items.iter().find(|it| named(it, tag)).or_else(|| items.iter().find(|it| ends_with(it, tag))),
            None if items.len() == 1 => items.first(),
            None => None,
        };
        fn ends_with(item: &Item, tag: &str) -> bool {
            item.repo_tags
                .iter()
                .flatten()
                .any(|it| it.ends_with(&format!(":{tag}")) || it.ends_with(&format!("/{tag}")))
        }
        let item =
            item.ok_or_else(|| odd(wanted, format!("{} images, none of them the one asked for", items.len())))?;
        let file = |path: &str| self.file(path).ok_or_else(|| odd(wanted, format!("it has no `{path}`")));
        let config = self.document(file(&item.config)?, wanted)?;
        let layers: Vec<Descriptor> = item.layers.iter().map(|it| file(it).cloned()).collect::<Result<_, _>>()?;
        let value: Value = serde_json::from_slice(&config).map_err(|error| odd(wanted, error.to_string()))?;
        let diff_ids = diff_ids(&value).map_err(|detail| odd(wanted, detail))?;
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let found = self.diff_id(layer)?;
            if found != *diff_id {
                return Err(odd(wanted, format!("layer {diff_id} of its configuration is {found} in the archive")));
            }
        }
        Ok(Imported { manifest: None, config, layers })
    }

    fn diff_id(&self, layer: &Descriptor) -> Result<Digest, BaseError> {
        if layer.media_type == media::LAYER {
            return Ok(layer.digest);
        }
        let unreadable = |source| BaseError::Read { path: self.store.blob_path(&layer.digest), source };
        let reader = tar::uncompressed(self.store.open_blob(&layer.digest)?).map_err(unreadable)?;
        digest_reader(reader).map(|it| it.0).map_err(unreadable)
    }
}

/// `index.json`: manifests by tag and platform. `fetch` brings a blob into the store.
fn by_index(
    store: &Store,
    bytes: &[u8],
    wanted: &Wanted,
    fetch: &dyn Fn(&Digest) -> Result<(), BaseError>,
) -> Result<Imported, BaseError> {
    let mut digest = tagged(bytes, wanted)?;
    for _ in 0..3 {
        fetch(&digest)?;
        let size = store.has(&digest).ok_or(StoreError::Missing(digest))?;
        let bytes = document(store, &digest, size, wanted)?;
        match parse_manifest(&bytes).map_err(|detail| odd(wanted, detail))? {
            Document::Index(entries) => {
                let chosen = choose(&entries, &wanted.platform).map_err(|has| {
                    odd(wanted, format!("no image for {}, only for {}", wanted.platform, has.join(", ")))
                })?;
                digest = chosen.digest;
            }
            Document::Image { config, layers } => {
                fetch(&config.digest)?;
                let config = document(store, &config.digest, config.size, wanted)?;
                return Ok(Imported { manifest: Some(digest), config, layers });
            }
        }
    }
    Err(odd(wanted, "indexes within indexes".to_owned()))
}

/// The manifest of the tag (annotation `org.opencontainers.image.ref.name`), or the only one there is.
fn tagged(bytes: &[u8], wanted: &Wanted) -> Result<Digest, BaseError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: Digest,
        platform: Option<Platform>,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
    let index: Index = serde_json::from_slice(bytes).map_err(|error| odd(wanted, error.to_string()))?;
    let named = |it: &&Entry| match &wanted.tag {
        Some(tag) => NAMES.iter().any(|name| it.annotations.get(*name) == Some(tag)),
        None => true,
    };
    let candidates: Vec<&Entry> = index.manifests.iter().filter(named).collect();
    let fits = |it: &&&Entry| {
        it.platform
            .as_ref()
            .is_some_and(|it| (&it.os, &it.architecture) == (&wanted.platform.os, &wanted.platform.architecture))
    };
    let chosen = match candidates.as_slice() {
        [only] => Some(only),
        several => {
            let fitting: Vec<_> = several.iter().filter(fits).collect();
            let same = several.windows(2).all(|pair| pair[0].digest == pair[1].digest);
            match fitting.as_slice() {
                [only] => Some(*only),
                _ if same => several.first(),
                _ => None,
            }
        }
    };
    chosen.map(|it| it.digest).ok_or_else(|| match &wanted.tag {
        Some(tag) => odd(wanted, format!("no image is tagged `{tag}`")),
        None => odd(wanted, format!("it holds {} images: name a tag", index.manifests.len())),
    })
}

fn document(store: &Store, digest: &Digest, size: u64, wanted: &Wanted) -> Result<Vec<u8>, BaseError> {
    if size > LARGEST_DOCUMENT {
        return Err(odd(wanted, format!("a document of {size} bytes")));
    }
    Ok(store.read_blob(digest)?)
}

fn odd(wanted: &Wanted, detail: String) -> BaseError {
    BaseError::Document { origin: wanted.origin.clone(), detail }
}

/// Copies into the store: what cannot be read and what cannot be written are different disks' troubles.
fn copy(
    store: &Store,
    from: &mut impl Read,
    to: &mut impl io::Write,
    unreadable: impl Fn(io::Error) -> BaseError,
) -> Result<(), BaseError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to
                .write_all(&buffer[..count])
                .map_err(|source| StoreError::Io { store: store.root().to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

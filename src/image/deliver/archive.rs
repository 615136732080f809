//! Image archives: a tar of an OCI layout, with Docker's `manifest.json` beside it or without.
//!
//! The same image is the same archive, byte for byte. One with both indexes is what every Docker (classic store,
//! containerd store) and Podman loads; in a thin one the blobs of layers that the engine has are left out. In a plain one
//! our layers are uncompressed: a classic store near by takes those sooner than it inflates them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{DeliverError, Delivered, Destination, distinct_layers, ensure_all};
use crate::base::Around;
use crate::digest::Digest;
use crate::image::{Image, ImageLayer};
use crate::oci::json::canonical;
use crate::oci::layer::EPOCH;
use crate::oci::{Descriptor, Reference, media, tar};
use crate::store::Store;

/// The document that makes a directory an OCI layout.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What goes into an archive.
pub(super) struct Contents {
    /// Documents by path.
    documents: BTreeMap<String, Vec<u8>>,
    /// Layer blobs, which the store has.
    blobs: Vec<Descriptor>,
    /// Those of them that go in uncompressed, by digest.
    plain: BTreeMap<Digest, Plain>,
}

/// The uncompressed tar of a blob.
#[derive(Clone, Copy)]
struct Plain {
    digest: Digest,
    size: u64,
}

/// How an image is named in an archive.
pub(super) enum Naming<'a> {
    /// A tag in an OCI layout.
    Tag(&'a str),
    /// A name in an engine.
    Name(&'a Reference),
}

impl Contents {
    /// The image with these of its layers' blobs.
    pub(super) fn new(image: &Image, naming: &Naming<'_>, blobs: Vec<Descriptor>) -> Self {
        let mut documents = BTreeMap::from([("oci-layout".to_owned(), OCI_LAYOUT.to_vec())]);
        for document in [&image.manifest, &image.config] {
            documents.insert(blob_path(&document.digest()), document.bytes.clone());
        }
        let mut annotations = BTreeMap::new();
        match naming {
            Naming::Tag(tag) => {
                annotations.insert("org.opencontainers.image.ref.name", (*tag).to_owned());
            }
            Naming::Name(name) => {
                annotations.insert("org.opencontainers.image.ref.name", name.tag.clone().unwrap_or_default());
                annotations.insert("io.containerd.image.name", name.to_string());
                let layers: Vec<String> = image.layers.iter().map(|it| blob_path(&it.descriptor.digest)).collect();
                documents.insert("manifest.json".to_owned(), classic(image, name, &layers));
            }
        }
        documents.insert("index.json".to_owned(), canonical(&index(&[entry(image, &annotations)])));
        Self { documents, blobs, plain: BTreeMap::new() }
    }

    /// The same for a classic Docker store: layers uncompressed where their size is known.
    pub(super) fn plain(image: &Image, name: &Reference, blobs: Vec<Descriptor>) -> Self {
        let plain: BTreeMap<Digest, Plain> = image
            .layers
            .iter()
            .filter_map(|it| Some((it.descriptor.digest, Plain { digest: it.diff_id, size: it.uncompressed? })))
            .collect();
        let layer = |it: &ImageLayer| {
            blob_path(&plain.get(&it.descriptor.digest).map_or(it.descriptor.digest, |plain| plain.digest))
        };
        let layers: Vec<String> = image.layers.iter().map(layer).collect();
        let documents = BTreeMap::from([
            (blob_path(&image.config.digest()), image.config.bytes.clone()),
            ("manifest.json".to_owned(), classic(image, name, &layers)),
        ]);
        Self { documents, blobs, plain }
    }

    /// Bytes of the layers' blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|it| self.plain.get(&it.digest).map_or(it.size, |plain| plain.size)).sum()
    }

    /// Layers' blobs.
    pub(super) const fn layers(&self) -> usize {
        self.blobs.len()
    }

    /// Writes the archive: entries sorted by path.
    pub(super) fn write(&self, store: &Store, writer: impl Write) -> io::Result<()> {
        let mut builder = tar::Builder::new(writer);
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = header(directory, tar::EntryType::Directory, 0o755, 0)?;
            header.set_cksum();
            builder.append(&header, io::empty())?;
        }
        let path = |it: &Descriptor| blob_path(&self.plain.get(&it.digest).map_or(it.digest, |plain| plain.digest));
        let blobs: BTreeMap<String, &Descriptor> = self.blobs.iter().map(|it| (path(it), it)).collect();
        let mut paths: Vec<&String> = self.documents.keys().chain(blobs.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            match (self.documents.get(path), blobs.get(path)) {
                (Some(bytes), _) => {
                    let header = header(path, tar::EntryType::Regular, 0o644, bytes.len() as u64)?;
                    builder.append(&header, bytes.as_slice())?;
                }
                (None, Some(blob)) => {
                    let file = store.open_blob(&blob.digest).map_err(io::Error::other)?;
                    let plain = self.plain.get(&blob.digest);
                    let size = plain.map_or(blob.size, |it| it.size);
                    let header = header(path, tar::EntryType::Regular, 0o644, size)?;
                    if plain.is_some() {
                        append_exactly(&mut builder, &header, (tar::uncompressed(file)?, size))?;
                    } else {
                        builder.append(&header, file)?;
                    }
                }
                (None, None) => {}
            }
        }
        builder.into_inner()?.flush()
    }
}

/// Appends what must be `size` bytes long: another length would break every entry behind it.
fn append_exactly(
    builder: &mut tar::Builder<impl Write>,
    header: &tar::Header,
    (reader, size): (impl Read, u64),
) -> io::Result<()> {
    let mut counted = Counted { reader, left: size };
    builder.append(header, &mut counted)?;
    if counted.left == 0 { Ok(()) } else { Err(io::Error::other("a layer is shorter than it was when written")) }
}

/// At most `left` bytes of a reader.
struct Counted<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Docker's `manifest.json`.
fn classic(image: &Image, name: &Reference, layers: &[String]) -> Vec<u8> {
    canonical(&json!([{
        "Config": blob_path(&image.config.digest()),
        "RepoTags": [name.familiar()],
        "Layers": layers,
    }]))
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(EPOCH).unwrap_or_default());
    header.set_cksum();
    Ok(header)
}

/// Where a blob lies in a layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An image index of these entries.
pub(super) fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries})
}

/// The image's entry in an index.
pub(super) fn entry(image: &Image, annotations: &BTreeMap<&str, String>) -> Value {
    let manifest = &image.manifest.descriptor;
    json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": manifest.size,
        "platform": image.platform,
        "annotations": annotations,
    })
}

/// Writes a tar of an OCI layout that holds the image alone.
///
/// # Errors
/// [`DeliverError`]; the old file stays as it was.
pub async fn oci_archive(around: &Around, image: &Image, file: &Path, tag: &str) -> Result<Delivered, DeliverError> {
    let to = Destination::OciArchive { file: file.to_owned(), tag: tag.to_owned() };
    whole(around, image, file, (&Naming::Tag(tag), &to)).await
}

/// Writes what `docker load`, `podman load` and `docker-archive:` read.
///
/// # Errors
/// [`DeliverError`]; the old file stays as it was.
pub async fn docker_archive(
    around: &Around,
    image: &Image,
    file: &Path,
    name: &Reference,
) -> Result<Delivered, DeliverError> {
    let to = Destination::DockerArchive { file: file.to_owned(), name: name.clone() };
    whole(around, image, file, (&Naming::Name(name), &to)).await
}

async fn whole(
    around: &Around,
    image: &Image,
    file: &Path,
    (naming, to): (&Naming<'_>, &Destination),
) -> Result<Delivered, DeliverError> {
    let blobs = distinct_layers(image);
    ensure_all(around, image, &blobs).await?;
    let contents = Contents::new(image, naming, blobs);
    let (bytes, layers) = (contents.bytes(), contents.layers());
    let (store, path) = (around.store.clone(), file.to_owned());
    let written =
        tokio::task::spawn_blocking(move || crate::fs::write_named(&path, 0o644, |file| contents.write(&store, file)))
            .await;
    let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
    written.map_err(|source| DeliverError::Write { path: file.to_owned(), source })?;
    Ok(Delivered::moved(to, bytes, layers))
}

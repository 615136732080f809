//! Into an OCI layout directory (image-spec, "Image Layout"), beside the images that are there.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::fs::FlockOperation;
use serde_json::Value;

use super::archive::{OCI_LAYOUT, entry, index};
use super::{DeliverError, Delivered, Destination, distinct_layers, ensure_all};
use crate::base::Around;
use crate::digest::{Digest, HashingWriter};
use crate::fs::write_whole;
use crate::image::Image;
use crate::oci::json::canonical;
use crate::store::Store;

/// How long another writer of the same layout is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Adds the image under a tag; other images of the layout stay.
///
/// # Errors
/// [`DeliverError::Layout`] for a directory that holds something else.
pub async fn layout(around: &Around, image: &Image, directory: &Path, tag: &str) -> Result<Delivered, DeliverError> {
    let to = Destination::Layout { directory: directory.to_owned(), tag: tag.to_owned() };
    let missing: Vec<_> =
        distinct_layers(image).into_iter().filter(|it| size_of(directory, &it.digest) != Some(it.size)).collect();
    if missing.is_empty() && is_tagged(image, directory, tag) {
        return Ok(Delivered::unchanged(&to));
    }
    ensure_all(around, image, &missing).await?;
    let (bytes, layers) = (missing.iter().map(|it| it.size).sum(), missing.len());
    let (store, image, path, tag) = (around.store.clone(), image.clone(), directory.to_owned(), tag.to_owned());
    let digests: Vec<Digest> = missing.into_iter().map(|it| it.digest).collect();
    let work = tokio::task::spawn_blocking(move || write(&store, &image, &path, (&tag, &digests))).await;
    work.unwrap_or_else(|error| {
        Err(DeliverError::Write { path: directory.to_owned(), source: io::Error::other(error) })
    })?;
    Ok(Delivered::moved(&to, bytes, layers))
}

fn size_of(directory: &Path, digest: &Digest) -> Option<u64> {
    let path = directory.join(super::archive::blob_path(digest));
    std::fs::metadata(path).ok().map(|it| it.len())
}

fn is_tagged(image: &Image, directory: &Path, tag: &str) -> bool {
    let Ok(Some(index)) = read_index(directory) else { return false };
    let entries = index.get("manifests").and_then(Value::as_array);
    let same = |it: &Value| {
        is_named(it, tag) && it.get("digest").and_then(Value::as_str) == Some(&image.manifest.digest().to_string())
    };
    let documents = [&image.manifest, &image.config];
    entries.into_iter().flatten().any(same)
        && documents.iter().all(|it| size_of(directory, &it.digest()) == Some(it.descriptor.size))
}

fn is_named(entry: &Value, tag: &str) -> bool {
    let annotations = entry.get("annotations");
    annotations.and_then(|it| it.get(REF_NAME)).and_then(Value::as_str) == Some(tag)
}

fn write(
    store: &Store,
    image: &Image,
    directory: &Path,
    (tag, missing): (&str, &[Digest]),
) -> Result<(), DeliverError> {
    let unwritable = |path: &Path, source| DeliverError::Write { path: path.to_owned(), source };
    let failed = |source| unwritable(directory, source);
    let index_path = directory.join("index.json");
    let blobs = directory.join("blobs/sha256");
    make(directory, &blobs)?;
    for digest in missing {
        copy_blob(store, digest, &blobs)?;
    }
    for document in [&image.config, &image.manifest] {
        write_whole(&blobs.join(document.digest().hex()), &document.bytes, 0o644).map_err(failed)?;
    }
    // Blobs first, then the index under a lock: whoever reads meanwhile sees the old images or the new ones.
    let _alone = lock(directory).map_err(failed)?;
    let mut index = read_index(directory)?.unwrap_or_else(|| index(&[]));
    let annotations = BTreeMap::from([(REF_NAME, tag.to_owned())]);
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(|| DeliverError::Layout {
        path: directory.to_owned(),
        detail: "its index.json lists no manifests".to_owned(),
    })?;
    entries.retain(|it| !is_named(it, tag));
    entries.push(entry(image, &annotations));
    write_whole(&index_path, &canonical(&index), 0o644).map_err(|source| unwritable(&index_path, source))
}

fn read_index(directory: &Path) -> Result<Option<Value>, DeliverError> {
    let path = directory.join("index.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| DeliverError::Layout { path: directory.to_owned(), detail: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DeliverError::Write { path, source }),
    }
}

/// Makes an empty layout where there is nothing yet.
fn make(directory: &Path, blobs: &Path) -> Result<(), DeliverError> {
    let failed = |source| DeliverError::Write { path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let _alone = lock(directory).map_err(failed)?;
    let marker = directory.join("oci-layout");
    if !marker.exists() && fs::read_dir(directory).map_err(failed)?.next().is_some() {
        return Err(DeliverError::Layout { path: directory.to_owned(), detail: "it has no `oci-layout`".to_owned() });
    }
    write_whole(&marker, OCI_LAYOUT, 0o644).map_err(failed)?;
    fs::create_dir_all(blobs).map_err(failed)
}

/// Copies a blob and compares what was copied with its name, since nobody checks a layout's blobs later.
fn copy_blob(store: &Store, digest: &Digest, blobs: &Path) -> Result<(), DeliverError> {
    let path = blobs.join(digest.hex());
    let unwritable = |source| DeliverError::Write { path: path.clone(), source };
    let aside = tempfile::Builder::new().prefix(".agent-").tempfile_in(blobs).map_err(unwritable)?;
    let mut writer = HashingWriter::new(io::BufWriter::with_capacity(256 << 10, aside));
    io::copy(&mut store.open_blob(digest)?, &mut writer).map_err(unwritable)?;
    writer.flush().map_err(unwritable)?;
    let (buffered, found, _) = writer.finish();
    if found != *digest {
        return Err(crate::store::StoreError::Mismatch { expected: *digest, found }.into());
    }
    let aside = buffered.into_inner().map_err(|it| unwritable(it.into_error()))?;
    aside.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(unwritable)?;
    aside.as_file().sync_data().map_err(unwritable)?;
    aside.persist(&path).map_err(|it| unwritable(it.error))?;
    Ok(())
}

/// Locks the directory itself, so that no file of ours is left in a layout.
fn lock(directory: &Path) -> io::Result<fs::File> {
    let file = fs::File::open(directory)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

//! Layers: each part of the lock becomes a blob, or is found in the store by its key.
//!
//! A key is made of everything that goes into a layer (and of [`FORMAT`]), so a layer that is found is the layer that
//! would be written. One process writes a layer at a time; others wait and find it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::digest::{Digest, Hasher};
use crate::lock::FORMAT;
use crate::oci::{Layer, LayerError, LayerWriter};
use crate::store::{Store, StoreError, Table};

pub mod bytecode;
pub mod code;
pub mod entrypoint;
pub mod local;
pub mod python;
pub mod setup;
pub mod system;

/// Most layers written at once: each holds some tens of megabytes.
const PARALLEL: usize = 4;

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// Of the base image.
    Base,
    /// System packages.
    System,
    /// What the setup script left.
    Setup,
    /// Python distributions.
    Python,
    /// Their bytecode.
    Bytecode,
    /// The task's code.
    Code,
    /// Projects of the repository.
    Local,
    /// In-image binary, task record, lock.
    Entrypoint,
}

impl LayerKind {
    /// The word in tables, keys and history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::System => "system",
            Self::Setup => "setup",
            Self::Python => "python",
            Self::Bytecode => "bytecode",
            Self::Code => "code",
            Self::Local => "local",
            Self::Entrypoint => "entrypoint",
        }
    }
}

/// A layer of ours, in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltLayer {
    /// What it is.
    pub kind: LayerKind,
    /// What is in it, for people: `numpy 2.1.0`, `libgomp1`.
    pub title: String,
    /// Its key.
    pub key: Digest,
    /// The layer.
    pub layer: Layer,
    /// Whether it was found and not written.
    pub cached: bool,
    /// How long that took.
    pub seconds: f64,
}

/// The key of a layer: its kind, [`FORMAT`] and what goes into it.
#[must_use]
pub fn key(kind: LayerKind, inputs: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(FORMAT.to_le_bytes()).field(kind.as_str());
    for input in inputs {
        hasher.field(input);
    }
    hasher.finish()
}

/// The layer remembered under a key, if its blob is still there.
#[must_use]
pub fn find(store: &Store, key: &Digest) -> Option<Layer> {
    let layer: Layer = store.record(Table::Layers, key)?;
    (store.has(&layer.descriptor.digest)? == layer.descriptor.size).then_some(layer)
}

/// Finds a layer by its key, or writes and remembers it.
///
/// # Errors
/// Whatever `fill` gives, or the store.
pub fn find_or_write<E>(
    store: &Store,
    (kind, key): (LayerKind, Digest),
    title: impl Into<String>,
    fill: impl FnOnce(&mut LayerWriter<'static>) -> Result<(), E>,
) -> Result<BuiltLayer, E>
where
    E: From<StoreError> + From<LayerError>,
{
    find_or_make(store, (kind, key), title, || {
        let mut writer = store.layer_writer()?;
        fill(&mut writer)?;
        Ok(writer.finish()?)
    })
}

/// Finds a layer by its key, or has it made and remembers it.
///
/// # Errors
/// Whatever `make` gives, or the store.
pub fn find_or_make<E: From<StoreError>>(
    store: &Store,
    (kind, key): (LayerKind, Digest),
    title: impl Into<String>,
    make: impl FnOnce() -> Result<Layer, E>,
) -> Result<BuiltLayer, E> {
    let start = Instant::now();
    let title = title.into();
    let built = |layer, cached| BuiltLayer {
        kind,
        title: title.clone(),
        key,
        layer,
        cached,
        seconds: start.elapsed().as_secs_f64(),
    };
    if let Some(layer) = find(store, &key) {
        return Ok(built(layer, true));
    }
    let _alone = store.lock(&format!("layer-{}", key.hex()))?;
    if let Some(layer) = find(store, &key) {
        return Ok(built(layer, true));
    }
    let layer = make()?;
    store.remember(Table::Layers, &key, &layer)?;
    Ok(built(layer, false))
}

/// Does a piece of work for each number below `count`, several at once; the results in that order.
///
/// # Errors
/// The error of the lowest number that failed.
pub(crate) fn parallel<T: Send, E: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(PARALLEL).min(count);
    if threads <= 1 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return done;
            }
            done.push((number, work(number)));
        }
    };
    let mut results: Vec<(usize, Result<T, E>)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        handles.into_iter().flat_map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|it| it.0);
    results.into_iter().map(|it| it.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Meta;

    #[derive(Debug, thiserror::Error)]
    enum Error {
        #[error(transparent)]
        Store(#[from] StoreError),
        #[error(transparent)]
        Layer(#[from] LayerError),
    }

    #[test]
    fn a_layer_is_written_once_and_found_until_its_blob_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = key(LayerKind::Code, &[b"a", b"b"]);
        let write = |store: &Store| {
            let fill = |it: &mut LayerWriter<'_>| Ok::<_, Error>(it.file("x", &Meta::file(), b"1")?);
            find_or_write(store, (LayerKind::Code, key), "code", fill).unwrap()
        };
        let first = write(&store);
        assert!(!first.cached);
        let second = write(&store);
        assert!(second.cached);
        assert_eq!(first.layer, second.layer);
        assert!(!write(&store.forgetful()).cached);
        fs_err::remove_file(store.blob_path(&first.layer.descriptor.digest)).unwrap();
        assert!(!write(&store).cached);
    }

    #[test]
    fn keys_tell_kinds_and_inputs_apart() {
        assert_ne!(key(LayerKind::Code, &[b"ab"]), key(LayerKind::Code, &[b"a", b"b"]));
        assert_ne!(key(LayerKind::Code, &[b"a"]), key(LayerKind::Local, &[b"a"]));
    }
}

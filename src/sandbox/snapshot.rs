//! Unpacked layers in the store: one directory for each chain of layers, holding what its topmost layer adds.
//!
//! ```text
//! snapshots/{root,user}/<chain id>        published by rename; last use = mtime
//! └── fs                                  the layer's files, in the overlay's own notation
//! ```
//!
//! Images that share layers share them here too.

use std::path::PathBuf;
use std::time::SystemTime;

use fs_err as fs;

use super::job::{Unpack, Work};
use super::way::Way;
use super::{LayerBlob, SandboxError, child};
use crate::oci::chain_id;
use crate::report::Reporter;
use crate::store::Store;

/// The directories of a chain of layers, topmost first. What is not there yet is unpacked.
pub(super) fn ensure(
    store: &Store,
    way: &Way,
    layers: &[LayerBlob],
    reporter: &dyn Reporter,
) -> Result<Vec<PathBuf>, SandboxError> {
    let diff_ids: Vec<_> = layers.iter().map(|it| it.diff_id).collect();
    let mut lowers: Vec<PathBuf> = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate() {
        let Some(chain) = chain_id(&diff_ids[..=number]) else { continue };
        let mut dir = store.snapshot_dir(&chain, way.is_rootless());
        if matches!(way, Way::Single { .. }) {
            // Its owners are noted, not real.
            dir.set_extension("single");
        }
        if !dir.join("fs").is_dir() {
            let _alone = store.lock(&format!("snapshot-{}", chain.hex()))?;
            if !dir.join("fs").is_dir() {
                let id = format!("unpack {}", chain.short());
                reporter.started(&id, format!("unpacking layer {} of {}", number + 1, layers.len()));
                unpack(store, way, layer, &lowers, &dir)?;
                reporter.finished(&id, "unpacked");
            }
        }
        used(&dir);
        lowers.insert(0, dir.join("fs"));
    }
    Ok(lowers)
}

fn unpack(store: &Store, way: &Way, layer: &LayerBlob, lowers: &[PathBuf], dir: &PathBuf) -> Result<(), SandboxError> {
    let failed = |source| SandboxError::Start { source };
    // Refuses a blob that is not there with the store's own words.
    drop(store.open_blob(&layer.blob)?);
    let scratch = store.scratch()?;
    let into = scratch.path().join("fs");
    fs::create_dir(&into).map_err(failed)?;
    let unpack = Unpack {
        blob: store.blob_path(&layer.blob),
        diff_id: layer.diff_id,
        lowers: lowers.to_vec(),
        into: into.clone(),
    };
    if let Err(error) = child::work(way, &Work::Unpack(unpack)) {
        let _ = child::work(way, &Work::Remove(vec![into]));
        return Err(match error {
            SandboxError::Stage(trouble) if trouble.input => SandboxError::Layer { layer: layer.diff_id, trouble },
            other => other,
        });
    }
    fs::rename(scratch.keep(), dir).map_err(failed)
}

fn used(dir: &std::path::Path) {
    if let Ok(file) = fs::File::open(dir) {
        let _ = file.set_modified(SystemTime::now());
    }
}

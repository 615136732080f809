//! Names of images that were built on this machine and are in its store: what a plain name means without any engine.
//!
//! A name is remembered when its image is delivered anywhere, and stands for the latest one. Collection may take layers
//! away; a name whose blobs are gone and cannot be fetched again is found and then told to be incomplete.

use serde::{Deserialize, Serialize};

use super::Image;
use crate::base::{Pin, PinnedLayer};
use crate::digest::{Digest, Hasher};
use crate::oci::{Descriptor, Platform, Reference};
use crate::store::{Store, StoreError, Table};

#[derive(Serialize, Deserialize)]
struct Record {
    manifest: Digest,
    config: Digest,
    platform: Platform,
    layers: Vec<(Digest, Descriptor)>,
    base_source: Option<String>,
}

/// Remembers an image under a name, and puts its documents into the store.
///
/// # Errors
/// [`StoreError`]
pub fn remember(store: &Store, name: &Reference, image: &Image) -> Result<(), StoreError> {
    store.put_bytes(&image.config.bytes)?;
    store.put_bytes(&image.manifest.bytes)?;
    let record = Record {
        manifest: image.manifest.digest(),
        config: image.config.digest(),
        platform: image.platform.clone(),
        layers: image.layers.iter().map(|it| (it.diff_id, it.descriptor.clone())).collect(),
        base_source: image.base_source.clone(),
    };
    store.remember(Table::Images, &key(name), &record)
}

/// The image of that name.
#[must_use]
pub fn recall(store: &Store, name: &Reference) -> Option<Pin> {
    let record: Record = store.record(Table::Images, &key(name))?;
    Some(Pin {
        name: Some(name.familiar()),
        source: record.base_source.and_then(|it| it.parse().ok()),
        manifest: Some(record.manifest),
        config: record.config,
        platform: record.platform,
        layers: record.layers.into_iter().map(|(diff_id, blob)| PinnedLayer { diff_id, blob }).collect(),
    })
}

fn key(name: &Reference) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("image name").field(name.to_string());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Document;
    use crate::oci::media;

    #[test]
    fn a_name_is_the_latest_image_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name: Reference = "team/train".parse().unwrap();
        assert!(recall(&store, &name).is_none());
        for config in ["{}", "{\"a\":1}"] {
            let image = Image {
                manifest: Document::new(media::MANIFEST, b"{}".to_vec()),
                config: Document::new(media::CONFIG, config.into()),
                platform: Platform::host(),
                layers: Vec::new(),
                base_source: None,
            };
            remember(&store, &name, &image).unwrap();
            let pin = recall(&store, &"docker.io/team/train:latest".parse().unwrap()).unwrap();
            assert_eq!(store.read_blob(&pin.config).unwrap(), config.as_bytes());
        }
    }
}

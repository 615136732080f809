//! Names of images that were built on this machine and are in its store: what a plain name means without any engine.
//!
//! A name is remembered when its image is delivered anywhere, and stands for the latest one. Collection may take layers
//! away; a name whose blobs are gone and cannot be fetched again is found and then told to be incomplete.

use serde::{Deserialize, Serialize};

use super::{Document, Image, ImageLayer};
use crate::base::{Pin, PinnedLayer};
use crate::digest::{Digest, Hasher};
use crate::layer::LayerKind;
use crate::oci::{Descriptor, Platform, Reference, media};
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

/// Remembers an image that was found elsewhere, whole: its pin says where its blobs are.
///
/// # Errors
/// [`StoreError`]
pub fn remember_pin(store: &Store, name: &Reference, pin: &Pin) -> Result<(), StoreError> {
    let record = Record {
        manifest: pin.manifest.unwrap_or(pin.config),
        config: pin.config,
        platform: pin.platform.clone(),
        layers: pin.layers.iter().map(|it| (it.diff_id, it.blob.clone())).collect(),
        base_source: pin.source.as_ref().map(Reference::to_string),
    };
    store.remember(Table::Images, &key(name), &record)
}

/// An image that was built here, to be delivered once more; none where its documents are gone.
///
/// # Errors
/// [`StoreError`]
pub fn image(store: &Store, pin: &Pin) -> Result<Option<Image>, StoreError> {
    let Some(manifest) = pin.manifest.filter(|it| store.has(it).is_some() && store.has(&pin.config).is_some()) else {
        return Ok(None);
    };
    let layer = |it: &PinnedLayer| ImageLayer {
        // Which of them are ours is of no matter to where they go.
        kind: LayerKind::Base,
        title: String::new(),
        descriptor: it.blob.clone(),
        diff_id: it.diff_id,
        uncompressed: None,
    };
    Ok(Some(Image {
        manifest: Document::new(media::MANIFEST, store.read_blob(&manifest)?),
        config: Document::new(media::CONFIG, store.read_blob(&pin.config)?),
        platform: pin.platform.clone(),
        layers: pin.layers.iter().map(layer).collect(),
        base_source: pin.source.as_ref().map(Reference::to_string),
    }))
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
            // As good as built once more, also under another name.
            assert_eq!(super::image(&store, &pin).unwrap(), Some(image));
            let other: Reference = "agent/task-1".parse().unwrap();
            remember_pin(&store, &other, &pin).unwrap();
            assert_eq!(recall(&store, &other).unwrap(), Pin { name: Some("agent/task-1:latest".to_owned()), ..pin });
        }
    }
}

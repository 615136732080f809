//! The image: an immutable value. Places it can go to are functions over it, in modules of their own.

use crate::digest::Digest;
use crate::layer::LayerKind;
use crate::oci::{Descriptor, Platform};

mod assemble;
pub mod deliver;
pub mod named;
pub mod read;
pub mod scan;
pub mod validate;

pub use crate::layer::entrypoint::Start;
pub use assemble::{Assembly, assemble};

/// A finished image. Its own layers are in the store; those of the base may have to be fetched from `base_source`.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The manifest; its digest is the image's name in registries and OCI layouts.
    pub manifest: Document,
    /// The configuration; its digest is the image's identity in a classic Docker store.
    pub config: Document,
    /// Platform.
    pub platform: Platform,
    /// Layers, bottom first.
    pub layers: Vec<ImageLayer>,
    /// Registry reference, pinned by digest, where the base's blobs can be had; absent when they are in the store.
    pub base_source: Option<String>,
}

/// A JSON document of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// Media type, digest and size.
    pub descriptor: Descriptor,
}

impl Document {
    /// A document of these bytes.
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor =
            Descriptor { media_type: media_type.to_owned(), digest: Digest::of(&bytes), size: bytes.len() as u64 };
        Self { bytes, descriptor }
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.descriptor.digest
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// What it is.
    pub kind: LayerKind,
    /// What is in it, for people.
    pub title: String,
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar, where they are known.
    pub uncompressed: Option<u64>,
}

impl Image {
    /// Uncompressed digests, bottom first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|it| it.diff_id).collect()
    }

    /// Layers that we made.
    pub fn own_layers(&self) -> impl Iterator<Item = &ImageLayer> {
        self.layers.iter().filter(|it| it.kind != LayerKind::Base)
    }
}

//! OCI image-spec documents and the only tar and gzip writers of the program.
//!
//! [`LayerWriter`] turns entries into a layer blob and its two digests in one pass; only [`LayerWriter::finish`] can
//! make a [`Layer`]. [`reference`] parses image references, [`json`] writes canonical JSON. Image configurations are
//! kept as JSON values, field by field, so that nothing unknown of a base is lost.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

mod header;
pub mod inflate;
pub mod json;
pub mod layer;
pub mod reference;
pub mod tar;

pub use layer::{Layer, LayerError, LayerWriter, Meta};
pub use reference::Reference;

/// Media types (image-spec, "Media Types", and Docker's older ones).
pub mod media {
    /// Image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Layer, uncompressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

    /// The OCI media type that says the same as a Docker one; others stay as they are.
    #[must_use]
    pub fn to_oci(media_type: &str) -> &str {
        match media_type {
            DOCKER_MANIFEST => MANIFEST,
            DOCKER_LIST => INDEX,
            DOCKER_CONFIG => CONFIG,
            DOCKER_LAYER_GZIP => LAYER_GZIP,
            DOCKER_LAYER => LAYER,
            other => other,
        }
    }
}

/// A descriptor (image-spec, "Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content as stored.
    pub digest: Digest,
    /// Size in bytes as stored.
    pub size: u64,
}

/// A platform (image-spec, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `v8` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |it| write!(f, "/{it}"))
    }
}

/// The chain id of layers, bottom first (image-spec, "Layer ChainID"); `None` for no layers.
#[must_use]
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(*first, |chain, diff_id| Digest::of(format!("{chain} {diff_id}"))))
}

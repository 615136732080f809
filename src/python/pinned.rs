//! A wheel that is pinned: as locks and recipes name it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A wheel that is needed, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedWheel {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// File name.
    pub file: String,
    /// Digest of the wheel.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it can be had; absent for one from an index of a machine's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

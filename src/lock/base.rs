//! The base's part of the lock: what was found, written down; and back.

use super::{BaseLayer, BasePart};
use crate::base::{Around, Base, BaseError, Pin, PinnedLayer, Request};
use crate::oci::{Descriptor, Platform, Reference, media};

/// Finds a base and pins it. A tag is asked for anew.
///
/// # Errors
/// As [`crate::base::find`]; a recipe is made elsewhere.
pub async fn lock(around: &Around, request: &Request, platform: &Platform) -> Result<(BasePart, Base), BaseError> {
    let base = crate::base::find(around, request, platform).await?;
    Ok((part(&base.pin), base))
}

/// The base that a lock names.
///
/// # Errors
/// As [`crate::base::reopen`].
pub async fn open(around: &Around, part: &BasePart) -> Result<Base, BaseError> {
    crate::base::reopen(around, &pin(part)?).await
}

/// A pin, as the lock has it.
#[must_use]
pub fn part(pin: &Pin) -> BasePart {
    let layer = |it: &PinnedLayer| BaseLayer { diff_id: it.diff_id, blob: Some(it.blob.clone()) };
    BasePart {
        name: pin.name.clone(),
        source: pin.source.as_ref().map(ToString::to_string),
        manifest: pin.manifest,
        config: pin.config,
        platform: pin.platform.clone(),
        layers: pin.layers.iter().map(layer).collect(),
        recipe: None,
    }
}

/// The lock's part, as a pin.
///
/// # Errors
/// [`BaseError::Request`] for a source that is no image reference.
pub fn pin(part: &BasePart) -> Result<Pin, BaseError> {
    let source = part.source.as_deref().map(str::parse::<Reference>).transpose();
    let source = source.map_err(|error| BaseError::Request { text: error.text, reason: error.reason.to_owned() })?;
    // A layer without a blob is its own uncompressed tar.
    let blob = |it: &BaseLayer| {
        it.blob.clone().unwrap_or_else(|| Descriptor {
            media_type: media::LAYER.to_owned(),
            digest: it.diff_id,
            size: 0,
        })
    };
    Ok(Pin {
        name: part.name.clone(),
        source,
        manifest: part.manifest,
        config: part.config,
        platform: part.platform.clone(),
        layers: part.layers.iter().map(|it| PinnedLayer { diff_id: it.diff_id, blob: blob(it) }).collect(),
    })
}

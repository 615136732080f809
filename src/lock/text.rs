//! Texts a lock carries: whole in memory, beside the document where they are large.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Text;
use crate::digest::Digest;

/// Texts of this many bytes and more stand beside the document.
pub(super) const LARGE: usize = 64 << 10;

impl Text {
    /// Carries some bytes.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let sha256 = Digest::of(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { sha256, text: Some(text.to_owned()), base64: None },
            Err(_) => Self { sha256, text: None, base64: Some(STANDARD.encode(bytes)) },
        }
    }

    /// The bytes; empty for a text that was not loaded, which a parsed lock never has.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// The bytes as text, with what is not UTF-8 replaced.
    #[must_use]
    pub fn to_lossy(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Whether it stands beside the document.
    pub(super) fn is_large(&self) -> bool {
        self.text.as_ref().or(self.base64.as_ref()).is_some_and(|it| it.len() >= LARGE)
    }

    /// Whether the bytes are missing or are not those of the digest.
    pub(super) fn is_damaged(&self) -> bool {
        Digest::of(self.bytes()) != self.sha256
    }

    pub(super) const fn is_elsewhere(&self) -> bool {
        self.text.is_none() && self.base64.is_none()
    }
}

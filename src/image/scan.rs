//! Searches layers we made for the secrets of this run, as they are, in base64 and URL-encoded.
//!
//! Layers are searched uncompressed, names and all, so that nothing hides between entries. A secret in base64 has three
//! forms, one for each place it can begin at. What is too short to tell from chance is not searched for. A layer in which
//! these secrets were not found is not searched for them again: the store remembers it under a digest of both.

use std::collections::BTreeMap;
use std::io::Read;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::Image;
use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Kind};
use crate::oci::tar;
use crate::secret::Secret;
use crate::store::{Store, StoreError, Table};

/// Shorter secrets would be found everywhere.
const SHORTEST: usize = 8;
/// Bytes looked at a time.
const PIECE: usize = 1 << 20;

/// A secret was found, or the search could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The image must not leave this machine.
    #[error("{place} holds the secret `{name}`")]
    Found {
        /// Which part of the image.
        place: String,
        /// The secret's name.
        name: String,
    },
    /// A layer could not be read.
    #[error("cannot read layer {layer}")]
    Read {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for ScanError {
    fn kind(&self) -> Kind {
        match self {
            Self::Found { .. } => Kind::Denied,
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Found { .. } => vec![
                "Remove it from the repository, the diff, the configuration or the setup script, and build again."
                    .to_owned(),
            ],
            Self::Store(error) => error.hints(),
            Self::Read { .. } => Vec::new(),
        }
    }
}

/// Looks for secrets, by name, in what we made of an image.
///
/// # Errors
/// [`ScanError::Found`] at the first one.
pub fn scan(store: &Store, image: &Image, secrets: &BTreeMap<String, Secret>) -> Result<(), ScanError> {
    let Some(needles) = Needles::new(secrets) else { return Ok(()) };
    let found = |place: String, name: &str| ScanError::Found { place, name: name.to_owned() };
    for (place, document) in [("the manifest", &image.manifest), ("the configuration", &image.config)] {
        if let Some(name) = search(document.bytes.as_slice(), &needles).ok().flatten() {
            return Err(found(place.to_owned(), name));
        }
    }
    for layer in image.own_layers() {
        let digest = layer.descriptor.digest;
        let key = scanned_key(&digest, secrets);
        if store.record::<()>(Table::Layers, &key).is_some() {
            continue;
        }
        let unreadable = |source| ScanError::Read { layer: digest, source };
        let reader = tar::uncompressed(store.open_blob(&digest)?).map_err(unreadable)?;
        if let Some(name) = search(reader, &needles).map_err(unreadable)? {
            return Err(found(format!("layer {} ({})", layer.kind.as_str(), layer.title), name));
        }
        store.remember(Table::Layers, &key, &())?;
    }
    Ok(())
}

fn scanned_key(layer: &Digest, secrets: &BTreeMap<String, Secret>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("scanned 1").field(layer.to_string());
    for secret in secrets.values() {
        hasher.field(secret.reveal());
    }
    hasher.finish()
}

/// Texts to look for, and the secrets they stand for.
struct Needles {
    finder: AhoCorasick,
    names: Vec<String>,
    longest: usize,
}

impl Needles {
    /// `None` when there is nothing to look for.
    fn new(secrets: &BTreeMap<String, Secret>) -> Option<Self> {
        let (texts, names): (Vec<Vec<u8>>, Vec<String>) = needles(secrets).into_iter().unzip();
        let longest = texts.iter().map(Vec::len).max()?;
        // Fails only for more patterns than any run has secrets.
        let finder = AhoCorasick::new(&texts).ok()?;
        Some(Self { finder, names, longest })
    }
}

fn needles(secrets: &BTreeMap<String, Secret>) -> Vec<(Vec<u8>, String)> {
    let mut needles = Vec::new();
    for (name, secret) in secrets.iter().filter(|it| it.1.reveal().len() >= SHORTEST) {
        let bytes = secret.reveal().as_bytes();
        let mut texts = vec![bytes.to_vec()];
        for before in 0..3_usize {
            let mut shifted = vec![0; before];
            shifted.extend_from_slice(bytes);
            // Digits that also depend on the neighbours are left out: at the front those of `before` bytes, at the end
            // the last one if it is not full.
            let front = [0, 2, 3][before];
            let full = shifted.len() * 8 / 6;
            for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
                texts.push(encoded.as_bytes()[front..full].to_vec());
            }
        }
        let url: String = url::form_urlencoded::byte_serialize(bytes).collect();
        let percent = percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string();
        texts.extend([url.into_bytes(), percent.into_bytes()]);
        texts.sort();
        texts.dedup();
        needles.extend(texts.into_iter().map(|text| (text, name.clone())));
    }
    needles
}

fn search(mut reader: impl Read, needles: &Needles) -> std::io::Result<Option<&str>> {
    let longest = needles.longest;
    let mut window = Vec::with_capacity(PIECE + longest);
    loop {
        let kept = window.len();
        window.resize(kept + PIECE, 0);
        let mut filled = kept;
        while filled < window.len() {
            match reader.read(&mut window[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        window.truncate(filled);
        if let Some(hit) = needles.finder.find(&window) {
            return Ok(needles.names.get(hit.pattern().as_usize()).map(String::as_str));
        }
        if filled < kept + PIECE {
            return Ok(None);
        }
        window.drain(..filled - (longest - 1).min(filled));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(haystack: &[u8]) -> bool {
        let secrets =
            BTreeMap::from([("KEY".to_owned(), Secret::new("p@ss/word+1?")), ("SHORT".to_owned(), Secret::new("abc"))]);
        search(haystack, &Needles::new(&secrets).unwrap()).unwrap().is_some()
    }

    #[test]
    fn a_secret_is_found_in_every_dress() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        assert!(find(b"x p@ss/word+1? y"));
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "z", "zz", "zzz"] {
                let text = format!("{before}p@ss/word+1?{after}");
                assert!(find(STANDARD.encode(&text).as_bytes()), "{text}");
                assert!(find(URL_SAFE.encode(&text).as_bytes()), "{text}");
            }
        }
        assert!(find(b"https://u:p%40ss%2Fword%2B1%3F@host"));
        assert!(!find(b"abc p@ss/word+2?"));
    }

    #[test]
    fn a_secret_across_two_pieces_is_found() {
        for offset in [PIECE - 5, PIECE - 12, PIECE, 2 * PIECE - 3] {
            let mut haystack = vec![b'.'; offset];
            haystack.extend_from_slice(b"p@ss/word+1?");
            haystack.extend_from_slice(&[b'.'; 100]);
            assert!(find(&haystack), "{offset}");
        }
    }
}

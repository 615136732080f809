//! The only writer of layer blobs: tar inside multi-member gzip, both digests in one pass.
//!
//! What a wheel has already compressed is copied: each such file is a gzip member around the wheel's own deflate stream
//! (RFC 1951 inside RFC 1952), checked while it is inflated for the diff_id. Headers and padding between such members
//! are short and stand in stored blocks. Everything else is packed: collected and compressed in members of fixed size by
//! one encoder whose version is pinned, so that the bytes depend neither on the CPU nor on how they were fed.
//!
//! Engines refuse a layer that has a path twice, so a writer does too. Entries appear in the order they are given.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use serde::{Deserialize, Serialize};

use super::{Descriptor, header, media};
use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Kind};

mod copied;

/// The one time of every file in our layers: 1980-01-02T00:00:00Z, the first full day a zip archive can name.
pub const EPOCH: i64 = 315_619_200;

/// Bytes of tar in a packed member.
const MEMBER: usize = 4 << 20;
/// Fewer bytes than this between copied streams are stored, not compressed.
const STORED: usize = 4 << 10;
/// Copied streams above this, compressed or not, are checked piece by piece.
const WHOLE: u64 = 32 << 20;
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A finished layer: its blob is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub uncompressed: u64,
}

/// Mode, owner and time of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, setuid and sticky included (0o7777 at most).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    /// Of root, at [`EPOCH`].
    #[must_use]
    pub const fn with_mode(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: EPOCH, xattrs: BTreeMap::new() }
    }

    /// A directory: 0755, of root, at [`EPOCH`].
    #[must_use]
    pub const fn dir() -> Self {
        Self::with_mode(0o755)
    }

    /// A file: 0644, of root, at [`EPOCH`].
    #[must_use]
    pub const fn file() -> Self {
        Self::with_mode(0o644)
    }

    /// A program: 0755, of root, at [`EPOCH`].
    #[must_use]
    pub const fn executable() -> Self {
        Self::with_mode(0o755)
    }

    /// The same with another owner.
    #[must_use]
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }
}

/// What kind of device a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// FIFO; its numbers are 0.
    Fifo,
}

/// A file as a zip archive has it: a raw deflate stream (RFC 1951), with what the archive says of its content.
pub struct Deflated<'a> {
    /// The stream.
    pub stream: &'a mut dyn Read,
    /// Its length in bytes.
    pub compressed: u64,
    /// Length of the content in bytes.
    pub size: u64,
    /// CRC-32 of the content.
    pub crc32: u32,
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The content of an entry cannot be read.
    #[error("cannot read the content of `{path}`")]
    Read {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path comes twice, or is no path.
    #[error("`{path}` cannot stand in a layer: {reason}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A copied stream is not what its archive says.
    #[error("the compressed content of `{path}` is damaged: {reason}")]
    Damaged {
        /// The entry.
        path: String,
        /// What does not fit.
        reason: &'static str,
    },
}

impl Explain for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write(source) | Self::Read { source, .. } => Kind::of_io(source),
            Self::Path { .. } | Self::Damaged { .. } => Kind::Input,
        }
    }
}

/// Where a layer's blob goes: hashed and published by whoever owns the place (`store::BlobWriter`).
pub trait BlobSink: Write {
    /// Ends and publishes the blob: its digest and size in bytes.
    ///
    /// # Errors
    /// Whatever writing gives.
    fn publish(self: Box<Self>) -> io::Result<(Digest, u64)>;
}

/// Writes one layer, entry by entry.
pub struct LayerWriter<'a> {
    sink: Box<dyn BlobSink + 'a>,
    diff: Hasher,
    uncompressed: u64,
    pending: Vec<u8>,
    paths: HashSet<String>,
    compressor: Compressor,
    decompressor: Decompressor,
    content: Vec<u8>,
}

impl<'a> LayerWriter<'a> {
    /// Begins a layer.
    #[must_use]
    pub fn new(sink: Box<dyn BlobSink + 'a>) -> Self {
        Self {
            sink,
            diff: Hasher::new(),
            uncompressed: 0,
            pending: Vec::new(),
            paths: HashSet::new(),
            compressor: Compressor::new(CompressionLvl::default()),
            decompressor: Decompressor::new(),
            content: Vec::new(),
        }
    }

    /// Adds a directory. Paths are relative, with neither a leading nor a trailing slash.
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn dir(&mut self, path: &str, meta: &Meta) -> Result<(), LayerError> {
        self.head(path, meta, &header::Item::Dir)
    }

    /// Adds a file from memory.
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn file(&mut self, path: &str, meta: &Meta, bytes: &[u8]) -> Result<(), LayerError> {
        self.file_from(path, meta, bytes.len() as u64, &mut &bytes[..])
    }

    /// Adds a file of `size` bytes from a reader.
    ///
    /// # Errors
    /// [`LayerError`]; a reader that gives fewer or more bytes is one.
    pub fn file_from(&mut self, path: &str, meta: &Meta, size: u64, reader: &mut dyn Read) -> Result<(), LayerError> {
        let unreadable = |source| LayerError::Read { path: path.to_owned(), source };
        self.head(path, meta, &header::Item::File(size))?;
        let mut left = size;
        while left > 0 {
            let room = MEMBER.saturating_sub(self.pending.len()).max(1);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(room);
            let start = self.pending.len();
            self.pending.resize(start + take, 0);
            reader.read_exact(&mut self.pending[start..]).map_err(unreadable)?;
            self.count(start);
            left -= take as u64;
            self.flush_full()?;
        }
        if reader.read(&mut [0]).map_err(unreadable)? != 0 {
            return Err(unreadable(io::Error::other("it grew while it was read")));
        }
        self.pad(size);
        self.flush_full()
    }

    /// Adds a file whose compressed stream is copied as it is.
    ///
    /// # Errors
    /// [`LayerError::Damaged`] when stream, CRC or length do not fit.
    pub fn deflated(&mut self, path: &str, meta: &Meta, entry: &mut Deflated<'_>) -> Result<(), LayerError> {
        self.head(path, meta, &header::Item::File(entry.size))?;
        self.flush()?;
        let size = entry.size;
        if entry.compressed <= WHOLE && size <= WHOLE {
            self.copy_whole(path, entry)?;
        } else {
            self.copy_streamed(path, entry)?;
        }
        self.pad(size);
        Ok(())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn symlink(&mut self, path: &str, meta: &Meta, target: &str) -> Result<(), LayerError> {
        self.head(path, meta, &header::Item::Symlink(target))
    }

    /// Adds another name of a file that was added before.
    ///
    /// # Errors
    /// [`LayerError`]; a target that was not added is one.
    pub fn hardlink(&mut self, path: &str, meta: &Meta, target: &str) -> Result<(), LayerError> {
        if !self.paths.contains(target) {
            return Err(LayerError::Path {
                path: path.to_owned(),
                reason: "it links to an entry that does not stand before it",
            });
        }
        self.head(path, meta, &header::Item::Hardlink(target))
    }

    /// Adds a device node or FIFO with its major and minor numbers.
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn device(&mut self, path: &str, meta: &Meta, kind: DeviceKind, numbers: (u32, u32)) -> Result<(), LayerError> {
        self.head(path, meta, &header::Item::Device(kind, numbers))
    }

    /// Hides a path of the layers below (image-spec, "Whiteouts").
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn whiteout(&mut self, path: &str) -> Result<(), LayerError> {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh.{name}"), &Meta::with_mode(0o000), &[])
    }

    /// Hides all that the layers below have in a directory (image-spec, "Opaque Whiteout").
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn opaque(&mut self, dir: &str) -> Result<(), LayerError> {
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh..wh..opq"), &Meta::with_mode(0o000), &[])
    }

    /// Ends the archive and publishes the blob.
    ///
    /// # Errors
    /// [`LayerError`]
    pub fn finish(mut self) -> Result<Layer, LayerError> {
        let start = self.pending.len();
        self.pending.resize(start + 1024, 0);
        self.count(start);
        self.flush()?;
        let (digest, size) = self.sink.publish().map_err(LayerError::Write)?;
        let descriptor = Descriptor { media_type: media::LAYER_GZIP.to_owned(), digest, size };
        Ok(Layer { descriptor, diff_id: self.diff.finish(), uncompressed: self.uncompressed })
    }

    fn head(&mut self, path: &str, meta: &Meta, item: &header::Item<'_>) -> Result<(), LayerError> {
        let refuse = |reason| Err(LayerError::Path { path: path.to_owned(), reason });
        if path.is_empty() || path.split('/').any(|it| it.is_empty() || it == "." || it == "..") || path.contains('\0')
        {
            return refuse("a path is relative and has no empty, `.` or `..` part");
        }
        if !self.paths.insert(path.to_owned()) {
            return refuse("it comes twice");
        }
        let start = self.pending.len();
        header::write(path, meta, item, &mut self.pending);
        self.count(start);
        self.flush_full()
    }

    fn pad(&mut self, size: u64) {
        let start = self.pending.len();
        let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
        self.pending.resize(start + padding, 0);
        self.count(start);
    }

    fn count(&mut self, start: usize) {
        self.diff.update(&self.pending[start..]);
        self.uncompressed += (self.pending.len() - start) as u64;
    }

    fn flush_full(&mut self) -> Result<(), LayerError> {
        while self.pending.len() >= MEMBER {
            let rest = self.pending.split_off(MEMBER);
            self.flush()?;
            self.pending = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let member = if self.pending.len() <= STORED { stored_member(&self.pending) } else { self.packed_member()? };
        self.pending.clear();
        self.sink.write_all(&member).map_err(LayerError::Write)
    }

    fn packed_member(&mut self) -> Result<Vec<u8>, LayerError> {
        let mut member = vec![0; self.compressor.gzip_compress_bound(self.pending.len())];
        let size = self
            .compressor
            .gzip_compress(&self.pending, &mut member)
            .map_err(|error| LayerError::Write(io::Error::other(error)))?;
        member.truncate(size);
        // The encoder notes its level here; a constant keeps members of all kinds alike.
        member[8] = 0;
        Ok(member)
    }
}

impl std::fmt::Debug for LayerWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("entries", &self.paths.len())
            .field("uncompressed", &self.uncompressed)
            .finish_non_exhaustive()
    }
}

fn trailer(crc32: u32, size: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&crc32.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "RFC 1952: the length modulo 2^32")]
    bytes[4..].copy_from_slice(&(size as u32).to_le_bytes());
    bytes
}

/// A gzip member with one stored block (at most 65,535 bytes).
fn stored_member(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut member = Vec::with_capacity(bytes.len() + 23);
    member.extend_from_slice(&GZIP_HEADER);
    member.push(1);
    member.extend_from_slice(&length.to_le_bytes());
    member.extend_from_slice(&(!length).to_le_bytes());
    member.extend_from_slice(bytes);
    member.extend_from_slice(&trailer(crc32fast::hash(bytes), bytes.len() as u64));
    member
}

#[cfg(test)]
mod tests;

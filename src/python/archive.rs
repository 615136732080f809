//! Zip archives from outside, read with suspicion.
//!
//! Two programs that read one zip differently are how a harmless-looking wheel installs something else. So an archive
//! has one reading here or it is refused: the directory at its end must fill the file exactly, every local header must
//! say what the directory says, entries must follow each other without gap or overlap, and no name may leave the root,
//! come twice, or be both file and directory. Content is handed out raw (the deflate stream) or inflated and checked.
//!
//! Read: methods stored and deflate, zip64, data descriptors. Refused: encryption, links and devices, several disks,
//! bytes before or after the archive.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err as fs;

use super::zip::{self, CENTRAL, Fields, LOCAL};
use crate::error::{Explain, Kind};
use crate::oci::inflate;

/// Most bytes of directory that are read.
const MAX_DIRECTORY: u64 = 256 << 20;
/// Most bytes an archive may hold when inflated.
const MAX_CONTENT: u64 = 64 << 30;
/// Most bytes that deflate makes of one: above that a size is a lie.
const MAX_RATIO: u64 = 1032;

/// Why an archive is not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read `{archive}`")]
    Read {
        /// The file.
        archive: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no zip archive, or one that can be read in two ways.
    #[error("`{archive}` is not a sound zip archive: {reason}")]
    Unsound {
        /// The file.
        archive: String,
        /// What is wrong.
        reason: String,
    },
    /// An entry of it is refused.
    #[error("`{archive}` has an entry `{entry}` that is refused: {reason}")]
    Entry {
        /// The file.
        archive: String,
        /// The entry.
        entry: String,
        /// What is wrong.
        reason: String,
    },
}

impl Explain for ArchiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Unsound { .. } | Self::Entry { .. } => Kind::Input,
        }
    }
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// As a raw deflate stream.
    Deflate,
}

/// One file of an archive. Directories are checked and then forgotten.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path inside the archive: relative, `/` between parts, no `.` or `..`.
    pub name: String,
    /// How it is stored.
    pub method: Method,
    /// CRC-32 of the content.
    pub crc32: u32,
    /// Bytes as stored.
    pub compressed: u64,
    /// Bytes of content.
    pub size: u64,
    /// Whether anybody may execute it.
    pub executable: bool,
    data: u64,
}

/// An open archive whose directory was checked against its local headers.
#[derive(Debug)]
pub struct Archive {
    file: fs::File,
    label: String,
    entries: Vec<Entry>,
}

/// Reads a stretch of a file.
#[derive(Debug)]
pub struct Stretch<'a> {
    file: &'a fs::File,
    at: u64,
    left: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.file().read_at(&mut buffer[..take], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Archive {
    /// Opens an archive and checks its structure. `label` names it in errors.
    ///
    /// # Errors
    /// [`ArchiveError`]
    pub fn open(path: &Path, label: &str) -> Result<Self, ArchiveError> {
        let unreadable = |source| ArchiveError::Read { archive: label.to_owned(), source };
        let file = fs::File::open(path).map_err(unreadable)?;
        let mut archive = Self { file, label: label.to_owned(), entries: Vec::new() };
        let directory = archive.find_directory()?;
        archive.read_directory(directory)?;
        Ok(archive)
    }

    /// Its files, in the order of the directory.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|it| it.name == name)
    }

    /// The bytes of an entry as stored.
    #[must_use]
    pub fn raw(&self, entry: &Entry) -> Stretch<'_> {
        Stretch { file: &self.file, at: entry.data, left: entry.compressed }
    }

    /// Hands the content of an entry to `sink`, piece by piece, and checks length and CRC.
    ///
    /// # Errors
    /// [`ArchiveError`]; pieces may have been handed out before.
    pub fn content(&self, entry: &Entry, sink: &mut dyn FnMut(&[u8])) -> Result<(), ArchiveError> {
        let mut raw = self.raw(entry);
        let expected = inflate::Expected { compressed: entry.compressed, size: entry.size, crc32: entry.crc32 };
        let result = match entry.method {
            Method::Deflate => inflate::inflate(&mut raw, expected, sink),
            Method::Stored => inflate::copy(&mut raw, expected, sink),
        };
        result.map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => self.refuse(&entry.name, source.to_string()),
            _ => ArchiveError::Read { archive: self.label.clone(), source },
        })
    }

    /// The content of an entry of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ArchiveError`]
    pub fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if entry.size > limit {
            return Err(
                self.refuse(&entry.name, format!("{} bytes are more than the {limit} that are read", entry.size))
            );
        }
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
        self.content(entry, &mut |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// The first bytes of an entry, at most `count`; not checked against its CRC.
    ///
    /// # Errors
    /// [`ArchiveError`]
    pub fn start(&self, entry: &Entry, count: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let raw = self.raw(entry);
        match entry.method {
            Method::Stored => raw.take(count).read_to_end(&mut bytes),
            Method::Deflate => inflate::reader(raw).take(count).read_to_end(&mut bytes),
        }
        .map_err(|source| self.refuse(&entry.name, source.to_string()))?;
        Ok(bytes)
    }

    fn unsound(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Unsound { archive: self.label.clone(), reason: reason.into() }
    }

    fn refuse(&self, entry: &str, reason: impl Into<String>) -> ArchiveError {
        let entry = entry.chars().take(200).flat_map(char::escape_debug).collect();
        ArchiveError::Entry { archive: self.label.clone(), entry, reason: reason.into() }
    }

    fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| self.unsound("it is too large"))?];
        self.file.file().read_exact_at(&mut bytes, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.unsound("it ends too early"),
            _ => ArchiveError::Read { archive: self.label.clone(), source },
        })?;
        Ok(bytes)
    }

    fn find_directory(&self) -> Result<zip::Directory, ArchiveError> {
        let size =
            self.file.metadata().map_err(|source| ArchiveError::Read { archive: self.label.clone(), source })?.len();
        let tail_size = size.min(zip::MAX_TAIL);
        let tail = self.bytes(size - tail_size, tail_size)?;
        let end =
            zip::find_end(&tail).ok_or_else(|| self.unsound("it has no directory that ends where the file ends"))?;
        let mut directory = zip::read_end(&tail[end..]).map_err(|reason| self.unsound(reason))?;
        let mut end_at = size - tail_size + end as u64;
        if end_at >= zip::LOCATOR_SIZE {
            let locator = self.bytes(end_at - zip::LOCATOR_SIZE, zip::LOCATOR_SIZE)?;
            if let Some(at) = zip::read_locator(&locator).map_err(|reason| self.unsound(reason))? {
                let wide_size = end_at - zip::LOCATOR_SIZE;
                let wide = self.bytes(
                    at,
                    wide_size
                        .checked_sub(at)
                        .filter(|it| *it < 4096)
                        .ok_or_else(|| self.unsound("its zip64 record is out of place"))?,
                )?;
                directory = zip::read_wide_end(&wide, &directory).map_err(|reason| self.unsound(reason))?;
                end_at = at;
            }
        }
        if directory.start.checked_add(directory.size) != Some(end_at) {
            return Err(self.unsound("its directory does not end where the directory's end record begins"));
        }
        if directory.size > MAX_DIRECTORY || directory.count > directory.size / 46 {
            return Err(self.unsound("its directory has an impossible size"));
        }
        Ok(directory)
    }

    fn read_directory(&mut self, directory: zip::Directory) -> Result<(), ArchiveError> {
        let bytes = self.bytes(directory.start, directory.size)?;
        let mut names = Names::default();
        let mut spans = Vec::new();
        let mut total = 0_u64;
        let mut rest = bytes.as_slice();
        for _ in 0..directory.count {
            let (central, after) = Fields::parse(rest, CENTRAL).map_err(|reason| self.unsound(reason))?;
            rest = after;
            let name = central.name().map_err(|reason| self.refuse(&String::from_utf8_lossy(central.name), reason))?;
            let refuse = |reason: String| self.refuse(name, reason);
            zip::check_name(name).map_err(|reason| refuse(reason.to_owned()))?;
            let (data, end) = self.check_local(&central, name)?;
            spans.push((central.offset, end));
            let is_dir = name.ends_with('/');
            names.add(name).map_err(|reason| refuse(reason.to_owned()))?;
            let (method, executable) = zip::check_kind(&central, is_dir).map_err(|reason| refuse(reason.to_owned()))?;
            if central.size > central.compressed.saturating_mul(MAX_RATIO).saturating_add(64) {
                return Err(refuse(format!("{} bytes cannot come from {}", central.size, central.compressed)));
            }
            total = total.saturating_add(central.size);
            if total > MAX_CONTENT {
                return Err(self.unsound("its content is too large"));
            }
            if !is_dir {
                self.entries.push(Entry {
                    name: name.to_owned(),
                    method,
                    crc32: central.crc32,
                    compressed: central.compressed,
                    size: central.size,
                    executable,
                    data,
                });
            }
        }
        if !rest.is_empty() {
            return Err(self.unsound("its directory holds more than its entries"));
        }
        self.check_spans(spans, directory.start)
    }

    /// Compares an entry's local header with the directory: where its data is and where the entry ends.
    fn check_local(&self, central: &Fields<'_>, name: &str) -> Result<(u64, u64), ArchiveError> {
        let refuse = |reason: &str| self.refuse(name, reason);
        let fixed = self.bytes(central.offset, LOCAL.fixed as u64)?;
        let variable = zip::variable_size(&fixed, LOCAL);
        let header = self.bytes(central.offset, LOCAL.fixed as u64 + variable)?;
        let (local, _) = Fields::parse(&header, LOCAL).map_err(refuse)?;
        zip::check_agreement(central, &local).map_err(refuse)?;
        let data = central.offset + header.len() as u64;
        let mut end = data.checked_add(central.compressed).ok_or_else(|| refuse("it is too large"))?;
        if central.has_descriptor() {
            // Signature, CRC and two sizes, which are 8 bytes long in zip64; the signature is optional.
            let mut descriptor = Vec::new();
            let _ = Stretch { file: &self.file, at: end, left: 24 }.read_to_end(&mut descriptor);
            let size = zip::descriptor_size(central, &descriptor)
                .ok_or_else(|| refuse("its data descriptor does not say what the directory says"))?;
            end += size;
        }
        Ok((data, end))
    }

    fn check_spans(&self, mut spans: Vec<(u64, u64)>, directory: u64) -> Result<(), ArchiveError> {
        spans.sort_unstable();
        let mut at = 0;
        for (start, end) in spans {
            if start != at {
                return Err(self.unsound("its entries do not follow each other without gap or overlap"));
            }
            at = end;
        }
        if at != directory {
            return Err(self.unsound("its directory does not begin where its last entry ends"));
        }
        Ok(())
    }
}

/// The names seen so far, to find the same twice and files that are directories of others.
#[derive(Debug, Default)]
struct Names {
    files: HashSet<String>,
    dirs: HashSet<String>,
    listed: HashSet<String>,
}

impl Names {
    fn add(&mut self, name: &str) -> Result<(), &'static str> {
        let bare = name.trim_end_matches('/');
        let is_dir = bare.len() != name.len();
        let fresh = if is_dir { self.listed.insert(bare.to_owned()) } else { self.files.insert(bare.to_owned()) };
        if !fresh {
            return Err("its name comes twice");
        }
        let mut parent = if is_dir { Some(bare) } else { bare.rsplit_once('/').map(|it| it.0) };
        while let Some(dir) = parent {
            if self.files.contains(dir) {
                return Err("it lies in a directory that is a file");
            }
            if !self.dirs.insert(dir.to_owned()) {
                break;
            }
            parent = dir.rsplit_once('/').map(|it| it.0);
        }
        if !is_dir && self.dirs.contains(bare) {
            return Err("it is a file and a directory");
        }
        Ok(())
    }
}

//! Blobs: hashed while written, verified where they enter, published by rename.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fs_err as fs;
use tempfile::NamedTempFile;

use super::{Store, StoreError};
use crate::digest::{Digest, HashingWriter};
use crate::oci::layer::BlobSink;

/// A blob in the making. Dropped without a commit it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    writer: HashingWriter<BufWriter<NamedTempFile>>,
    store: Store,
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl BlobWriter {
    /// Publishes it: its digest and size in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let store = self.store.clone();
        self.end(None).map_err(|it| store.failed(it)).and_then(|it| it)
    }

    /// Publishes it if it is what was asked for.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], [`StoreError::Io`]
    pub fn commit_verified(self, expected: &Digest) -> Result<u64, StoreError> {
        let store = self.store.clone();
        let ended = self.end(Some(*expected)).map_err(|it| store.failed(it))?;
        ended.map(|(_, size)| size)
    }

    fn end(self, expected: Option<Digest>) -> io::Result<Result<(Digest, u64), StoreError>> {
        let (buffered, digest, size) = self.writer.finish();
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(expected) = expected
            && expected != digest
        {
            return Ok(Err(StoreError::Mismatch { expected, found: digest }));
        }
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o400))?;
        file.as_file().sync_data()?;
        file.persist(self.store.blob_path(&digest)).map_err(|it| it.error)?;
        Ok(Ok((digest, size)))
    }
}

impl BlobSink for BlobWriter {
    fn publish(self: Box<Self>) -> io::Result<(Digest, u64)> {
        self.commit().map_err(|error| match error {
            StoreError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    }
}

impl Store {
    /// Where a blob lies or would lie.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// The size in bytes of a blob that is here; marks it as used.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> Option<u64> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
        crate::fs::touch(&path);
        Some(size)
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`]
    pub fn open_blob(&self, digest: &Digest) -> Result<fs::File, StoreError> {
        let path = self.blob_path(digest);
        fs::File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => self.failed(error),
        })
    }

    /// The bytes of a small blob, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Mismatch`], [`StoreError::Io`]
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => self.failed(error),
        })?;
        let found = Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(StoreError::Mismatch { expected: *digest, found }) }
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let tmp = self.root.join("tmp");
        let file = NamedTempFile::new_in(&tmp).map_err(|it| self.failed_at(&it, &tmp))?;
        Ok(BlobWriter { writer: HashingWriter::new(BufWriter::with_capacity(256 << 10, file)), store: self.clone() })
    }

    /// Stores bytes from memory: their digest and size.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::of(bytes);
        if let Some(size) = self.has(&digest) {
            return Ok((digest, size));
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|it| self.failed(it))?;
        writer.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_it_should_be_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"evil").unwrap();
        let error = writer.commit_verified(&Digest::of("good")).unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }));
        drop(store.writer().unwrap());
        assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
        let (digest, _) = store.put_bytes(b"good").unwrap();
        assert_eq!(store.read_blob(&digest).unwrap(), b"good");
    }
}

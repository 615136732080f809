//! The store: everything that is kept between builds, under the user's cache directory.
//!
//! ```text
//! <store>
//! ├── version                      "2"; another number is a clear error, and 1, which had no leases, becomes it
//! ├── lease                        flock: shared while a process works here, exclusive while it is collected
//! ├── leases/<name>                flock: held by a run that goes on, and names what it stands on ([`Lease`])
//! ├── oci-layout                   the store is an OCI image layout of blobs (image-spec, "Image Layout")
//! ├── blobs/sha256/<hex>           whole, synced, read-only; last use = mtime
//! ├── index/<table>/<hex>.json     records: what a key stands for; a record may name blobs that are gone
//! ├── snapshots/{root,user}/<hex>  unpacked chains of layers, by chain id; complete once they have their name
//! ├── git/ wheels/ programs/ apt/  what the modules of these names keep
//! ├── locks/<name>                 flock: one builder of a thing at a time
//! ├── collected                    mtime: when a build last looked whether all this is within its bound
//! └── tmp/                         what is being written; whatever lies here unleased when nobody works is rubbish
//! ```
//!
//! Everything is written in `tmp`, synced and renamed into place, so a kill at any instant leaves nothing half done.
//! Many processes may work at once: two that write one blob write the same bytes, and the last rename wins.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::fs::{FileLock, Sharing, create_private_dir, named, write_whole};
use crate::oci::LayerWriter;

mod blobs;
pub mod gc;
mod leases;

pub use blobs::BlobWriter;
pub use leases::Lease;

/// The version of the layout this program reads and writes.
const VERSION: &str = "2";
/// The version before: the same without leases. Programs that know only that one would collect what runs stand on.
const BEFORE: &str = "1";

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("the store at `{store}` failed")]
    Io {
        /// The store.
        store: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another program's layout.
    #[error("the store at `{store}` has format `{found}`, this program knows `{VERSION}`")]
    Version {
        /// The store.
        store: PathBuf,
        /// What its version file says.
        found: String,
    },
    /// Bytes that are not what their digest says.
    #[error("content with digest {expected} was expected, {found} came")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A blob that should be there is not.
    #[error("the store has no blob {0}")]
    Missing(Digest),
    /// Somebody else works on the same thing for too long.
    #[error("`{name}` is being worked on by another process")]
    Busy {
        /// The lock's name.
        name: String,
    },
}

impl Explain for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } => Kind::of_io(source),
            Self::Version { .. } => Kind::Config,
            Self::Mismatch { .. } => Kind::Input,
            Self::Missing(_) => Kind::System,
            Self::Busy { .. } => Kind::Conflict,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Io { source, .. } if Kind::of_io(source) == Kind::Space => vec![
                "Make room on that disk, run `agent cache gc`, or name a directory on another disk in AGENT_CACHE_DIR."
                    .to_owned(),
            ],
            Self::Io { .. } => vec!["Name a directory you can write to in AGENT_CACHE_DIR.".to_owned()],
            Self::Version { .. } => {
                vec!["Remove that directory (it is a cache), or name another in AGENT_CACHE_DIR.".to_owned()]
            }
            Self::Missing(_) => vec!["Run the command again: what is missing is made anew.".to_owned()],
            Self::Mismatch { .. } => {
                vec!["The source changed or was damaged on the way; try again, or lock anew.".to_owned()]
            }
            Self::Busy { .. } => vec!["Wait for the other process, or end it.".to_owned()],
        }
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Layer key → layer.
    Layers,
    /// Lock digest → manifest.
    Images,
    /// Request → resolution.
    Resolutions,
    /// Config digest → where a base was found and what is in it.
    Bases,
    /// What is known of a distribution's file.
    Distributions,
    /// Bytecode of a wheel by an interpreter.
    Bytecode,
    /// Programs fetched for our own use.
    Programs,
    /// What is known of an unpacked chain.
    Snapshots,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Layers,
        Self::Images,
        Self::Resolutions,
        Self::Bases,
        Self::Distributions,
        Self::Bytecode,
        Self::Programs,
        Self::Snapshots,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Images => "images",
            Self::Resolutions => "resolutions",
            Self::Bases => "bases",
            Self::Distributions => "distributions",
            Self::Bytecode => "bytecode",
            Self::Programs => "programs",
            Self::Snapshots => "snapshots",
        }
    }
}

/// An open store. Cloning is cheap; the lease ends with the last clone.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<PathBuf>,
    /// Absent where a [`Lease`] keeps all that is still needed.
    _lease: Option<Arc<FileLock>>,
    forgetful: bool,
}

impl Store {
    /// Where the store lies unless told otherwise: `AGENT_CACHE_DIR`, else `XDG_CACHE_HOME/agent`, else `~/.cache/agent`.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        variable("AGENT_CACHE_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").map(|it| it.join("agent")))
            .unwrap_or_else(|| crate::fs::expand_home("~/.cache/agent"))
    }

    /// Opens a store, creating it where there is none. Waits while it is collected. Where nobody else works in it,
    /// unfinished work that a kill or a power cut left is removed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { store: root.to_owned(), source };
        create_private_dir(root).map_err(failed)?;
        let root = &fs::canonicalize(root).map_err(failed)?;
        gc::sweep(root);
        let lease =
            FileLock::acquire(&root.join("lease"), Sharing::Shared, Duration::from_secs(600)).map_err(failed)?;
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(found) if found.trim() == VERSION => {}
            Ok(found) if found.trim() == BEFORE => {
                create_private_dir(&root.join("leases")).map_err(failed)?;
                write_whole(&version, VERSION.as_bytes(), 0o600).map_err(failed)?;
            }
            Ok(found) => return Err(StoreError::Version { store: root.clone(), found: found.trim().to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for dir in [
                    "blobs/sha256",
                    "snapshots/root",
                    "snapshots/user",
                    "git",
                    "wheels",
                    "programs",
                    "apt",
                    "locks",
                    "leases",
                    "tmp",
                ] {
                    create_private_dir(&root.join(dir)).map_err(failed)?;
                }
                for table in Table::ALL {
                    create_private_dir(&root.join("index").join(table.name())).map_err(failed)?;
                }
                write_whole(&root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o600).map_err(failed)?;
                write_whole(&version, VERSION.as_bytes(), 0o600).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { root: Arc::new(root.clone()), _lease: Some(Arc::new(lease)), forgetful: false })
    }

    /// The same store, without memory of layers and images: what is asked for is made anew, and remembered.
    #[must_use]
    pub fn forgetful(&self) -> Self {
        Self { forgetful: true, ..self.clone() }
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory one module keeps its things in: `git`, `wheels`, `programs`.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A directory for work in progress on the store's file system; removed when dropped.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn scratch(&self) -> Result<tempfile::TempDir, StoreError> {
        tempfile::Builder::new().prefix("work-").tempdir_in(self.root.join("tmp")).map_err(|it| self.failed(it))
    }

    /// Lets one process at a time do something: waits for the others, an hour at most.
    ///
    /// # Errors
    /// [`StoreError::Busy`]
    pub fn lock(&self, name: &str) -> Result<FileLock, StoreError> {
        let path = self.root.join("locks").join(name.replace('/', "_"));
        FileLock::acquire(&path, Sharing::Exclusive, Duration::from_secs(3600)).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                StoreError::Busy { name: name.to_owned() }
            } else {
                self.failed(error)
            }
        })
    }

    /// What is remembered under a key. A record that cannot be read counts as none.
    #[must_use]
    pub fn record<T: DeserializeOwned>(&self, table: Table, key: &Digest) -> Option<T> {
        if self.forgetful && matches!(table, Table::Layers | Table::Images) {
            return None;
        }
        let path = self.record_path(table, key);
        let bytes = fs::read(&path).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether nothing at all is remembered in a table.
    #[must_use]
    pub fn is_empty(&self, table: Table) -> bool {
        fs::read_dir(self.root.join("index").join(table.name())).is_ok_and(|mut it| it.next().is_none())
    }

    /// Remembers something under a key.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn remember<T: Serialize>(&self, table: Table, key: &Digest, value: &T) -> Result<(), StoreError> {
        let bytes = crate::oci::json::canonical(value);
        let path = self.record_path(table, key);
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp")).map_err(|it| self.failed(it))?;
        // Not synced: a record lost or cut by a crash is a miss, never a lie, since it is JSON or nothing.
        file.write_all(&bytes).map_err(|it| self.failed(it))?;
        file.persist(path).map_err(|it| self.failed(it.error))?;
        Ok(())
    }

    /// Begins a layer whose blob goes into the store.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn layer_writer(&self) -> Result<LayerWriter<'static>, StoreError> {
        Ok(LayerWriter::new(Box::new(self.writer()?)))
    }

    /// Where the unpacked chain of layers lies or will lie. Work on it under [`Self::lock`], in [`Self::scratch`] of
    /// its parent, and publish by rename.
    #[must_use]
    pub fn snapshot_dir(&self, chain_id: &Digest, rootless: bool) -> PathBuf {
        self.root.join("snapshots").join(if rootless { "user" } else { "root" }).join(chain_id.hex())
    }

    fn record_path(&self, table: Table, key: &Digest) -> PathBuf {
        self.root.join("index").join(table.name()).join(format!("{}.json", key.hex()))
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Io { store: self.root.as_ref().clone(), source }
    }

    fn failed_at(&self, error: &io::Error, path: &Path) -> StoreError {
        self.failed(named(error, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn records_come_back_and_a_forgetful_store_has_none_of_layers() {
        let (_dir, store) = store();
        let key = Digest::of("key");
        assert_eq!(store.record::<u32>(Table::Layers, &key), None);
        store.remember(Table::Layers, &key, &7_u32).unwrap();
        store.remember(Table::Programs, &key, &8_u32).unwrap();
        assert_eq!(store.record::<u32>(Table::Layers, &key), Some(7));
        assert_eq!(store.forgetful().record::<u32>(Table::Layers, &key), None);
        assert_eq!(store.forgetful().record::<u32>(Table::Programs, &key), Some(8));
    }

    #[test]
    fn a_store_of_another_format_is_refused() {
        let (_dir, store) = store();
        fs::write(store.root().join("version"), "999").unwrap();
        let error = Store::open(store.root()).unwrap_err();
        assert!(matches!(error, StoreError::Version { ref found, .. } if found == "999"), "{error}");
    }

    #[test]
    fn a_store_without_leases_gets_them() {
        let (_dir, store) = store();
        fs::write(store.root().join("version"), "1").unwrap();
        fs::remove_dir(store.root().join("leases")).unwrap();
        let again = Store::open(store.root()).unwrap();
        assert_eq!(fs::read_to_string(again.root().join("version")).unwrap(), VERSION);
        drop(again.lease([]).unwrap());
    }

    #[test]
    fn a_layer_ends_in_the_store() {
        let (_dir, store) = store();
        let mut writer = store.layer_writer().unwrap();
        writer.file("x", &crate::oci::Meta::file(), b"one").unwrap();
        let layer = writer.finish().unwrap();
        assert_eq!(store.has(&layer.descriptor.digest), Some(layer.descriptor.size));
        let mut archive = crate::oci::tar::open(store.open_blob(&layer.descriptor.digest).unwrap()).unwrap();
        assert_eq!(archive.entries().unwrap().count(), 1);
    }
}

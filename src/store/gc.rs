//! Collection: bounded by bytes, oldest last use first, only while nobody works in the store. What a run that goes on
//! stands on is leased ([`super::Lease`]) and stays.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::leases::leased;
use super::{Store, StoreError};
use crate::digest::{Digest, digest_reader};
use crate::fs::{FileLock, Sharing, write_whole};

/// Sizes in bytes of what the store keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Blobs: layers, manifests, configurations, wheels.
    pub blobs: u64,
    /// Unpacked bases.
    pub snapshots: u64,
    /// Repositories.
    pub git: u64,
    /// All the rest.
    pub other: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.blobs + self.snapshots + self.git + self.other
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Collected {
    /// Others are working in the store; nothing was done.
    Busy,
    /// It was done.
    Done {
        /// Bytes before.
        before: u64,
        /// Bytes freed.
        freed: u64,
        /// Things removed.
        removed: usize,
    },
}

/// Sizes of what a store keeps.
///
/// # Errors
/// [`StoreError::Io`]
pub fn usage(store: &Store) -> Result<Usage, StoreError> {
    let size = |name: &str| tree_size(&store.root().join(name)).map_err(|it| store.failed(it));
    let (blobs, snapshots, git) = (size("blobs")?, size("snapshots")?, size("git")?);
    let all = tree_size(store.root()).map_err(|it| store.failed(it))?;
    Ok(Usage { blobs, snapshots, git, other: all.saturating_sub(blobs + snapshots + git) })
}

/// Removes a tree that this process may not remove by itself: unpacked layers may belong to other ids than ours.
pub type Remover<'a> = dyn Fn(&Path) -> io::Result<()> + 'a;

/// Removes what was not used for longest until at most `limit` bytes are left, and all unfinished work. What we may
/// not remove is left to `other`.
///
/// # Errors
/// [`StoreError`]; what was removed until then stays removed.
pub fn collect(root: &Path, limit: u64, other: &Remover<'_>) -> Result<Collected, StoreError> {
    // The store is opened (and its version checked) first, and let go: the exclusive lease proves that nobody else is in.
    drop(Store::open(root)?);
    let failed = |source| StoreError::Io { store: root.to_owned(), source };
    let Some(_lease) = FileLock::try_acquire(&root.join("lease"), Sharing::Exclusive).map_err(failed)? else {
        return Ok(Collected::Busy);
    };
    let root = &fs::canonicalize(root).map_err(failed)?;
    let leased = leased(root).map_err(failed)?;
    let before = tree_size(root).map_err(failed)?;
    let mut removed = 0;
    for entry in fs::read_dir(root.join("tmp")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !leased.contains(&path) {
            remove(&path, other).map_err(failed)?;
            removed += 1;
        }
    }
    // Nobody holds or awaits any of them: who does has the store open.
    for entry in fs::read_dir(root.join("locks")).map_err(failed)? {
        fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    let mut things = things(root).map_err(failed)?;
    things.retain(|it| !leased.contains(&it.path));
    things.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    let mut left = tree_size(root).map_err(failed)?;
    for thing in things {
        if left <= limit {
            break;
        }
        remove(&thing.path, other).map_err(failed)?;
        left = left.saturating_sub(thing.size);
        removed += 1;
    }
    Ok(Collected::Done { before, freed: before.saturating_sub(left), removed })
}

/// How often builds look whether the store is within its bound: looking costs a walk through all of it.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Whether it is time to look at the store's size again; if so, it is noted that somebody does.
#[must_use]
pub fn is_due(root: &Path) -> bool {
    let stamp = root.join("collected");
    let age = fs::metadata(&stamp).and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
    age.is_none_or(|it| it >= INTERVAL) && write_whole(&stamp, b"", 0o600).is_ok()
}

/// Removes unfinished work, if nobody is working in the store. What cannot be removed (files of subordinate ids) stays
/// for the next collection, which tells.
pub(super) fn sweep(root: &Path) {
    if !root.join("tmp").exists() {
        return;
    }
    let entries = |name: &str| std::fs::read_dir(root.join(name)).into_iter().flatten().flatten();
    let Ok(Some(_lease)) = FileLock::try_acquire(&root.join("lease"), Sharing::Exclusive) else { return };
    let Ok(leased) = leased(root) else { return };
    // What git has under way lies beside what it has, under names like no other.
    let of_git = entries("git/mirrors").chain(entries("git/lfs"));
    let of_git = of_git.filter(|it| it.file_name().as_encoded_bytes().starts_with(b".new-"));
    for path in entries("tmp").chain(of_git).map(|it| it.path()).filter(|it| !leased.contains(it)) {
        let _ = remove(&path, &|_| Ok(()));
    }
}

/// Reads every blob and compares it with its name: the damaged ones, which are removed.
///
/// # Errors
/// [`StoreError::Io`]
pub fn check(store: &Store) -> Result<Vec<Digest>, StoreError> {
    let failed = |it| store.failed(it);
    let mut damaged = Vec::new();
    for entry in fs::read_dir(store.root().join("blobs/sha256")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (found, _) = digest_reader(fs::File::open(&path).map_err(failed)?).map_err(failed)?;
        if found.hex() != name {
            fs::remove_file(&path).map_err(failed)?;
            damaged.extend(Digest::from_hex(&name));
        }
    }
    Ok(damaged)
}

struct Thing {
    path: PathBuf,
    used: SystemTime,
    size: u64,
}

/// What can be removed one by one: blobs, snapshots, records, repositories, unpacked wheels, programs.
fn things(root: &Path) -> io::Result<Vec<Thing>> {
    let mut dirs: Vec<PathBuf> =
        ["blobs/sha256", "snapshots/root", "snapshots/user", "git/mirrors", "git/lfs", "wheels", "programs", "apt"]
            .iter()
            .map(|it| root.join(it))
            .collect();
    for table in fs::read_dir(root.join("index"))? {
        dirs.push(table?.path());
    }
    let mut things = Vec::new();
    for dir in dirs {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let used = entry.metadata()?.modified()?;
            things.push(Thing { size: tree_size(&entry.path())?, path: entry.path(), used });
        }
    }
    Ok(things)
}

fn tree_size(path: &Path) -> io::Result<u64> {
    size_below(path, &mut HashSet::new())
}

/// Bytes on disk; a file with several names in the tree counts once. What another process removes meanwhile counts as
/// gone, and another id's own directory as empty.
fn size_below(path: &Path, counted: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let absent = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if absent(&error) => return Ok(0),
        other => other?,
    };
    if metadata.nlink() > 1 && !metadata.is_dir() && !counted.insert((metadata.dev(), metadata.ino())) {
        return Ok(0);
    }
    let mut size = metadata.blocks() * 512;
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            Err(error) if absent(&error) => return Ok(size),
            other => other?,
        };
        for entry in entries {
            size += size_below(&entry?.path(), counted)?;
        }
    }
    Ok(size)
}

fn remove(path: &Path, other: &Remover<'_>) -> io::Result<()> {
    let removed = if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => other(path),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_swept_when_nobody_works() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let left = store.scratch().unwrap().keep();
        fs::write(left.join("half"), "done").unwrap();
        fs::create_dir_all(dir.path().join("git/lfs")).unwrap();
        let object = dir.path().join("git/lfs/.new-1");
        fs::write(&object, "half").unwrap();
        let kept = dir.path().join("git/lfs/0");
        fs::write(&kept, "whole").unwrap();
        let other = Store::open(dir.path()).unwrap();
        assert!(left.exists() && object.exists());
        drop((store, other));
        drop(Store::open(dir.path()).unwrap());
        assert!(!left.exists() && !object.exists() && kept.exists());
    }

    #[test]
    fn the_oldest_go_first_and_nothing_goes_while_somebody_works() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let old = store.put_bytes(&[1; 200_000]).unwrap().0;
        let new = store.put_bytes(&[2; 200_000]).unwrap().0;
        fs::File::open(store.blob_path(&old)).unwrap().file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let limit = usage(&store).unwrap().total() - 100_000;
        assert_eq!(collect(dir.path(), limit, &|_| Ok(())).unwrap(), Collected::Busy);
        drop(store);
        assert!(matches!(collect(dir.path(), limit, &|_| Ok(())).unwrap(), Collected::Done { removed: 1, .. }));
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.has(&old), store.has(&new)), (None, Some(200_000)));
    }

    #[test]
    fn what_is_leased_stays_until_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (used, other) = (store.put_bytes(&[1; 200_000]).unwrap().0, store.put_bytes(&[2; 200_000]).unwrap().0);
        let scratch = store.scratch().unwrap().keep();
        let lease = store.lease([store.blob_path(&used), scratch.clone()]).unwrap();
        // A run goes on, and nobody works in the store.
        let run = store.let_go();
        drop(store);
        // Opening sweeps as well.
        drop(Store::open(dir.path()).unwrap());
        assert!(matches!(collect(dir.path(), 0, &|_| Ok(())).unwrap(), Collected::Done { removed: 1, .. }));
        assert!(run.has(&used).is_some() && run.has(&other).is_none() && scratch.exists());
        // Killed: its file stays, and locks nothing.
        let path = fs::read_dir(dir.path().join("leases")).unwrap().next().unwrap().unwrap().path();
        let said = fs::read(&path).unwrap();
        drop(lease);
        fs::write(&path, said).unwrap();
        assert!(matches!(collect(dir.path(), 0, &|_| Ok(())).unwrap(), Collected::Done { .. }));
        assert!(run.has(&used).is_none() && !scratch.exists() && !path.exists());
    }

    #[test]
    fn sizes_are_looked_at_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_due(dir.path()) && !is_due(dir.path()));
        let stamp = fs::File::open(dir.path().join("collected")).unwrap();
        stamp.file().set_modified(SystemTime::now() - INTERVAL).unwrap();
        assert!(is_due(dir.path()) && !is_due(dir.path()));
        assert!(!is_due(&dir.path().join("absent")));
    }

    #[test]
    fn a_file_with_two_names_counts_once_and_locks_are_collected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_bytes(&[1; 400_000]).unwrap().0;
        let one = usage(&store).unwrap().total();
        fs::hard_link(store.blob_path(&digest), store.directory("wheels").join("again")).unwrap();
        assert!(usage(&store).unwrap().total() < one + 200_000);
        drop(store.lock("layer-x").unwrap());
        drop(store);
        assert!(matches!(collect(dir.path(), u64::MAX, &|_| Ok(())).unwrap(), Collected::Done { removed: 0, .. }));
        assert_eq!(fs::read_dir(dir.path().join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn repositories_go_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mirror = |name: &str| {
            let path = store.directory("git").join("mirrors").join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("pack"), [1; 200_000]).unwrap();
            path
        };
        let (old, new) = (mirror("old.git"), mirror("new.git"));
        fs::File::open(&old).unwrap().file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::File::open(new.parent().unwrap()).unwrap().file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let limit = usage(&store).unwrap().total() - 100_000;
        drop(store);
        assert!(matches!(collect(dir.path(), limit, &|_| Ok(())).unwrap(), Collected::Done { removed: 1, .. }));
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_damaged_blob_is_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_bytes(b"good").unwrap().0;
        fs::remove_file(store.blob_path(&digest)).unwrap();
        fs::write(store.blob_path(&digest), b"evil").unwrap();
        assert_eq!(check(&store).unwrap(), [digest]);
        assert_eq!(store.has(&digest), None);
    }
}

//! The files a checkout has: contents converted by attributes, LFS pointers replaced by what they point to.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;

use super::lfs::{Pointer, Wanted};
use super::repositories::Repositories;
use super::tree::{Content, Mode, Tree};
use super::{GitError, PatchError, patch};
use crate::digest::{Digest, Hasher};

/// The files, by path; only files, no directories. Cheap to clone.
#[derive(Clone, Default)]
pub struct Checkout {
    entries: BTreeMap<String, CheckedOut>,
    tree: Arc<Tree>,
}

impl std::fmt::Debug for Checkout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(path, it)| (path, (it.mode, it.digest)))).finish()
    }
}

/// A file of a checkout.
#[derive(Debug, Clone)]
pub struct CheckedOut {
    /// What it is.
    pub mode: Mode,
    /// Its size in bytes.
    pub size: u64,
    /// Its content's digest.
    pub digest: Digest,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Bytes(Arc<[u8]>),
    /// As git stores it.
    Git(Content),
    /// An LFS object.
    File(PathBuf),
}

impl CheckedOut {
    fn new(mode: Mode, bytes: Vec<u8>) -> Self {
        Self { mode, size: bytes.len() as u64, digest: Digest::of(&bytes), source: Source::Bytes(bytes.into()) }
    }
}

impl Repositories {
    /// The files a checkout of a tree has. LFS objects that are not there are fetched.
    ///
    /// # Errors
    /// [`GitError::Lfs`], [`GitError::Unreadable`], [`GitError::Cache`].
    pub fn checkout(&self, tree: Tree) -> Result<Checkout, GitError> {
        let mut entries = BTreeMap::new();
        let mut pointers: Vec<Wanted> = Vec::new();
        for (path, entry) in tree.entries() {
            let bytes = tree.bytes(entry)?;
            let Some((root, inner)) = tree.root_of(path).filter(|_| entry.mode != Mode::Symlink) else {
                entries.insert(path.to_owned(), plain(entry.mode, &entry.content, &bytes));
                continue;
            };
            let rules = root.attributes.rules(inner);
            if rules.lfs
                && let Some(pointer) = Pointer::parse(&bytes)
            {
                let source = Source::File(self.lfs_dir().join(pointer.oid.hex()));
                let file = CheckedOut { mode: entry.mode, size: pointer.size, digest: pointer.oid, source };
                entries.insert(path.to_owned(), file);
                pointers.push(Wanted { path: path.to_owned(), prefix: root.prefix.clone(), pointer });
            } else if rules.is_plain() {
                entries.insert(path.to_owned(), plain(entry.mode, &entry.content, &bytes));
            } else {
                entries.insert(path.to_owned(), CheckedOut::new(entry.mode, rules.to_worktree(bytes)));
            }
        }
        self.fetch_lfs(&tree, pointers)?;
        Ok(Checkout { entries, tree: Arc::new(tree) })
    }
}

/// A content that stays as git stores it, and is read again when it is needed.
fn plain(mode: Mode, content: &Content, bytes: &[u8]) -> CheckedOut {
    let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
    CheckedOut { mode, size, digest, source: Source::Git(content.clone()) }
}

impl Checkout {
    /// The file at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&CheckedOut> {
        self.entries.get(path)
    }

    /// All files, by path bytewise.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &CheckedOut)> {
        self.entries.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Whether a path is a directory with something in it; the root always is.
    #[must_use]
    pub fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.below(path).next().is_some()
    }

    /// The files below a directory, with paths relative to it; all files for the root.
    pub fn below(&self, directory: &str) -> impl Iterator<Item = (&str, &CheckedOut)> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{}/", directory.trim_end_matches('/')) };
        let length = prefix.len();
        self.entries
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(move |(path, file)| (&path[length..], file))
    }

    /// Digest of paths, modes and contents.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest_below("")
    }

    /// Digest of what is below a directory, whatever the directory's own name.
    #[must_use]
    pub fn digest_below(&self, directory: &str) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field("tree 1");
        for (path, file) in self.below(directory) {
            let mode = match file.mode {
                Mode::File => "f",
                Mode::Executable => "x",
                Mode::Symlink => "l",
            };
            hasher.field(path).field(mode).field(file.digest.bytes());
        }
        hasher.finish()
    }

    /// A file's content.
    ///
    /// # Errors
    /// [`GitError::Unreadable`], [`GitError::Cache`].
    pub fn bytes(&self, file: &CheckedOut) -> Result<Vec<u8>, GitError> {
        match &file.source {
            Source::Bytes(bytes) => Ok(bytes.to_vec()),
            Source::Git(content) => self.tree.content(content),
            Source::File(path) => fs::read(path).map_err(GitError::cache(path)),
        }
    }

    /// A reader of a file's content; large ones are not held in memory.
    ///
    /// # Errors
    /// [`GitError::Unreadable`], [`GitError::Cache`].
    pub fn reader(&self, file: &CheckedOut) -> Result<Box<dyn Read>, GitError> {
        match &file.source {
            Source::File(path) => Ok(Box::new(fs::File::open(path).map_err(GitError::cache(path))?)),
            _ => Ok(Box::new(Cursor::new(self.bytes(file)?))),
        }
    }

    /// The text of a file, if there is one at the path and it is UTF-8.
    ///
    /// # Errors
    /// [`GitError::Unreadable`], [`GitError::Cache`].
    pub fn text(&self, path: &str) -> Result<Option<String>, GitError> {
        let file = self.get(path).filter(|it| it.mode != Mode::Symlink);
        file.map(|it| self.bytes(it)).transpose().map(|it| it.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Puts a file in, in place of one that is there.
    ///
    /// # Errors
    /// [`PatchError::Path`] and [`PatchError::Obstructed`].
    pub fn insert(&mut self, path: &str, mode: Mode, bytes: Vec<u8>) -> Result<(), GitError> {
        if !patch::is_inside(path) {
            return Err(PatchError::Path { path: path.to_owned() }.into());
        }
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(|it| self.entries.contains_key(*it));
        if let Some(other) = above.or_else(|| self.is_dir(path).then_some(path)) {
            return Err(PatchError::Obstructed { path: path.to_owned(), other: other.to_owned() }.into());
        }
        self.entries.insert(path.to_owned(), CheckedOut::new(mode, bytes));
        Ok(())
    }

    /// Writes what is below a directory of the checkout into a directory of this machine, which should be empty.
    /// Symbolic links are written last, so that no file is written through one.
    ///
    /// # Errors
    /// [`GitError::Cache`] names the file; [`GitError::Unreadable`].
    pub fn write_to(&self, directory: &str, target: &Path) -> Result<(), GitError> {
        let (links, files): (Vec<_>, Vec<_>) = self.below(directory).partition(|(_, file)| file.mode == Mode::Symlink);
        for (path, file) in files.into_iter().chain(links) {
            let path = target.join(path);
            let failed = || GitError::cache(&path);
            fs::create_dir_all(crate::fs::parent_of(&path)).map_err(failed())?;
            if file.mode == Mode::Symlink {
                use std::os::unix::ffi::OsStringExt as _;
                let link = std::ffi::OsString::from_vec(self.bytes(file)?);
                fs_err::os::unix::fs::symlink(PathBuf::from(link), &path).map_err(failed())?;
                continue;
            }
            let mut written = fs::File::create(&path).map_err(failed())?;
            std::io::copy(&mut self.reader(file)?, &mut written).map_err(failed())?;
            let mode = if file.mode == Mode::Executable { 0o755 } else { 0o644 };
            written.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed())?;
        }
        Ok(())
    }
}

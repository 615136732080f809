//! The files of a commit as git stores them, submodules included, with the recorded changes applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use gix::bstr::ByteSlice;
use gix::objs::tree::EntryKind;

use super::address::Address;
use super::attributes::Attributes;
use super::patch::apply::apply;
use super::patch::{Patch, PatchError};
use super::repositories::{Commit, Repositories};
use super::submodule::{SubmoduleCommit, Submodules};
use super::{GitError, reason};

/// No checkout has more files than this; a repository made to explode does.
const MOST_FILES: usize = 2_000_000;
/// Submodules within submodules, at most.
const DEEPEST: usize = 16;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A file (0644).
    File,
    /// A program (0755).
    Executable,
    /// A symbolic link; its content is where it points.
    Symlink,
}

/// A file of a tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub mode: Mode,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Arc<[u8]>),
    /// A blob of one of the tree's repositories.
    Blob {
        root: usize,
        id: gix::ObjectId,
    },
}

/// The repository whose files stand below `prefix`.
#[derive(Clone)]
pub(super) struct Root {
    /// Empty, or with a slash at its end.
    pub(super) prefix: String,
    pub(super) commit: Commit,
    pub(super) attributes: Arc<Attributes>,
}

/// The files, by path from the outermost repository's root; only files, no directories.
#[derive(Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    pub(super) roots: Vec<Root>,
    submodules: Vec<SubmoduleCommit>,
    notes: Vec<String>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Repositories {
    /// The files of a commit and of its submodules, which are fetched. Where `patch` gives a submodule another commit,
    /// that one counts; the patch itself is not applied.
    ///
    /// # Errors
    /// [`GitError::Submodule`], [`GitError::Forbidden`] for paths that no checkout may have, [`GitError::Unreadable`].
    pub fn tree(&self, commit: &Commit, patch: Option<&Patch>) -> Result<Tree, GitError> {
        let mut tree = Tree::default();
        let moved: BTreeMap<String, String> =
            patch.map(Patch::submodule_commits).unwrap_or_default().into_iter().collect();
        self.add(&mut tree, commit, "", &moved)?;
        tree.submodules.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn add(
        &self,
        tree: &mut Tree,
        commit: &Commit,
        prefix: &str,
        moved: &BTreeMap<String, String>,
    ) -> Result<(), GitError> {
        let files = Files::read(commit, tree.entries.len())?;
        let repository = commit.repository.to_thread_local();
        let bytes = |id: gix::ObjectId, path: &str| -> Result<Vec<u8>, GitError> {
            let object =
                repository.find_object(id).map_err(GitError::unreadable(&commit.address, format!("`{path}`")))?;
            Ok(object.detach().data)
        };
        let mut attributes = Vec::new();
        for (path, _, id) in files.blobs.iter().filter(|it| it.1 != Mode::Symlink) {
            if path == ".gitattributes" || path.ends_with("/.gitattributes") {
                attributes.push((path.clone(), bytes(*id, path)?));
            }
        }
        let modules = match files.blobs.iter().find(|it| it.0 == ".gitmodules" && it.1 != Mode::Symlink) {
            Some((path, _, id)) if !files.gitlinks.is_empty() => Some(bytes(*id, path)?),
            _ => None,
        };
        let root = tree.roots.len();
        let attributes = Arc::new(Attributes::of(attributes));
        tree.roots.push(Root { prefix: prefix.to_owned(), commit: commit.clone(), attributes });
        for (path, mode, id) in files.blobs {
            tree.entries.insert(format!("{prefix}{path}"), Entry { mode, content: Content::Blob { root, id } });
        }
        let submodules = Submodules::parse(modules.as_deref().unwrap_or_default(), commit)?;
        for (path, id) in files.gitlinks {
            let full = format!("{prefix}{path}");
            if prefix.matches('/').count() > DEEPEST * 8 || tree.roots.len() > 1000 {
                return Err(forbidden(commit, &full, "a submodule nested too deep"));
            }
            let id = moved.get(&full).cloned().unwrap_or_else(|| id.to_string());
            let in_submodule = |source| GitError::Submodule { path: full.clone(), source: Box::new(source) };
            match submodules.fetch(self, &path, &id).map_err(in_submodule)? {
                Some(inner) => {
                    tree.submodules.push(SubmoduleCommit {
                        path: full.clone(),
                        url: inner.address.to_string(),
                        commit: inner.id.clone(),
                    });
                    self.add(tree, &inner, &format!("{full}/"), moved)?;
                }
                None => tree.notes.push(format!("`{full}` is a submodule without an address, and stays empty")),
            }
        }
        Ok(())
    }
}

/// A commit's own files.
struct Files {
    blobs: Vec<(String, Mode, gix::ObjectId)>,
    gitlinks: Vec<(String, gix::ObjectId)>,
}

impl Files {
    fn read(commit: &Commit, before: usize) -> Result<Self, GitError> {
        let repository = commit.repository.to_thread_local();
        let unreadable = |id: &dyn std::fmt::Display| GitError::unreadable(&commit.address, format!("tree `{id}`"));
        let mut files = Self { blobs: Vec::new(), gitlinks: Vec::new() };
        let top = gix::ObjectId::from_hex(commit.tree.as_bytes()).map_err(unreadable(&commit.tree))?;
        let mut left = vec![(String::new(), top)];
        while let Some((directory, id)) = left.pop() {
            let tree = repository.find_object(id).map_err(unreadable(&id))?;
            let tree = tree.try_into_tree().map_err(unreadable(&id))?;
            for entry in tree.iter() {
                let entry = entry.map_err(unreadable(&id))?;
                let name = entry.filename().to_str_lossy();
                let path = format!("{directory}{name}");
                if entry.filename().to_str().is_err() {
                    return Err(forbidden(commit, &path, "whose name is not UTF-8"));
                }
                if name.contains('/') || !super::patch::is_inside(&name) {
                    return Err(forbidden(commit, &path, "which is no path of a checkout"));
                }
                let id = entry.object_id();
                match entry.mode().kind() {
                    EntryKind::Tree => left.push((format!("{path}/"), id)),
                    EntryKind::Commit => files.gitlinks.push((path, id)),
                    EntryKind::Blob => files.blobs.push((path, Mode::File, id)),
                    EntryKind::BlobExecutable => files.blobs.push((path, Mode::Executable, id)),
                    EntryKind::Link => files.blobs.push((path, Mode::Symlink, id)),
                }
                if before + files.blobs.len() + left.len() > MOST_FILES {
                    return Err(forbidden(commit, &directory, "more files than any checkout has"));
                }
            }
        }
        files.gitlinks.sort();
        Ok(files)
    }
}

fn forbidden(commit: &Commit, path: &str, reason: &'static str) -> GitError {
    GitError::Forbidden { address: commit.address.to_string(), path: path.to_owned(), reason }
}

impl Tree {
    /// The file at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// All files, by path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The submodules that are part of it, by path.
    #[must_use]
    pub fn submodules(&self) -> &[SubmoduleCommit] {
        &self.submodules
    }

    /// Things worth telling people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A file's content as git stores it.
    ///
    /// # Errors
    /// [`GitError::Unreadable`].
    pub fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, GitError> {
        self.content(&entry.content)
    }

    pub(super) fn content(&self, content: &Content) -> Result<Vec<u8>, GitError> {
        match content {
            Content::Bytes(bytes) => Ok(bytes.to_vec()),
            Content::Blob { root, id } => {
                let commit = &self.roots[*root].commit;
                let object = commit.repository.to_thread_local().find_object(*id).map(|it| it.detach().data);
                object.map_err(|error| GitError::Unreadable {
                    address: commit.address.to_string(),
                    what: format!("object `{id}`"),
                    reason: reason(&error),
                })
            }
        }
    }

    /// Puts a file in, in place of one that is there.
    ///
    /// # Errors
    /// [`PatchError::Path`] and [`PatchError::Obstructed`].
    pub fn insert(&mut self, path: &str, mode: Mode, bytes: Vec<u8>) -> Result<(), GitError> {
        self.put(path, Entry { mode, content: Content::Bytes(bytes.into()) })
    }

    /// Applies uncommitted changes: all of them or none.
    ///
    /// # Errors
    /// [`GitError::Patch`].
    pub fn apply(&mut self, patch: &Patch) -> Result<(), GitError> {
        let changes = apply(self, patch)?;
        let mut after = self.clone();
        for path in &changes.removed {
            after.entries.remove(path);
        }
        for (path, entry) in changes.put {
            after.put(&path, entry)?;
        }
        after.notes.extend(patch.notes.iter().cloned());
        *self = after;
        Ok(())
    }

    fn put(&mut self, path: &str, entry: Entry) -> Result<(), GitError> {
        if !super::patch::is_inside(path) {
            return Err(PatchError::Path { path: path.to_owned() }.into());
        }
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(|it| self.entries.contains_key(*it));
        let below = format!("{path}/");
        let below = self.entries.range(below.clone()..).next().filter(|(it, _)| it.starts_with(&below));
        if let Some(other) = above.map(str::to_owned).or_else(|| below.map(|it| it.0.clone())) {
            return Err(PatchError::Obstructed { path: path.to_owned(), other }.into());
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// The repository a path belongs to, and the path within it.
    pub(super) fn root_of<'a>(&self, path: &'a str) -> Option<(&Root, &'a str)> {
        let root = self.roots.iter().filter(|it| path.starts_with(&it.prefix)).max_by_key(|it| it.prefix.len())?;
        Some((root, &path[root.prefix.len()..]))
    }

    /// The address of the outermost repository.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.roots.first().map(|it| &it.commit.address)
    }
}

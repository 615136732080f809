//! The code layer: the task's files below [`launch::CODE`], owned by the image's user, without `.git`.
//!
//! Its key is the digest of the finished tree and the owner, so neither the commit nor how the files came about matters.

use std::collections::BTreeMap;

use crate::error::{Explain, Kind};
use crate::git::{CheckedOut, Checkout, GitError, Mode};
use crate::launch;
use crate::layer::{BuiltLayer, LayerKind, find_or_write, key};
use crate::lock::CodePart;
use crate::lock::code::CodeError;
use crate::oci::{LayerError, LayerWriter, Meta};
use crate::store::{Store, StoreError};

/// Why the layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CodeLayerError {
    /// The code cannot be had.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A symbolic link that leads to what is no text.
    #[error("the symbolic link `{path}` of the task's code leads to what is not UTF-8")]
    Link {
        /// The link.
        path: String,
    },
    /// The layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<GitError> for CodeLayerError {
    fn from(error: GitError) -> Self {
        Self::Code(error.into())
    }
}

impl Explain for CodeLayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Code(error) => error.kind(),
            Self::Link { .. } => Kind::Input,
            Self::Layer(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Code(error) => error.hints(),
            Self::Layer(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Link { .. } => Vec::new(),
        }
    }
}

/// The user whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Finds the code layer or writes it; `checkout` is asked for the files only if it must be written.
///
/// # Errors
/// [`CodeLayerError`]
pub fn code(
    store: &Store,
    part: &CodePart,
    owner: Owner,
    checkout: impl FnOnce() -> Result<Checkout, CodeError>,
) -> Result<BuiltLayer, CodeLayerError> {
    let key = key(LayerKind::Code, &[part.tree.bytes(), &owner.uid.to_le_bytes(), &owner.gid.to_le_bytes()]);
    find_or_write(store, (LayerKind::Code, key), title(part), |writer| write(writer, &checkout()?, owner))
}

/// What people read: the commit, or the stored script's name.
fn title(part: &CodePart) -> String {
    match (&part.git, &part.script) {
        (Some(git), _) => {
            let name = git.url.as_deref().and_then(|it| it.trim_end_matches('/').rsplit(['/', ':']).next());
            let name = name.map_or("code", |it| it.strip_suffix(".git").unwrap_or(it));
            let changed = if part.diff.is_some() { " with changes" } else { "" };
            format!("{name} {}{changed}", git.commit.get(..12).unwrap_or(&git.commit))
        }
        (None, Some(script)) => script.file.clone(),
        (None, None) => "code".to_owned(),
    }
}

fn write(writer: &mut LayerWriter<'_>, checkout: &Checkout, owner: Owner) -> Result<(), CodeLayerError> {
    let root = launch::CODE.trim_start_matches('/');
    writer.dir(launch::ROOT.trim_start_matches('/'), &Meta::dir())?;
    writer.dir(root, &Meta::dir().owned_by(owner.uid, owner.gid))?;
    // Directories and files together, so that all paths are in bytewise order.
    let mut entries: BTreeMap<&str, Option<&CheckedOut>> = BTreeMap::new();
    for (path, file) in checkout.entries() {
        entries.extend(path.match_indices('/').map(|(at, _)| (&path[..at], None)));
        entries.insert(path, Some(file));
    }
    for (path, file) in entries {
        let full = format!("{root}/{path}");
        let own = |meta: Meta| meta.owned_by(owner.uid, owner.gid);
        match file {
            None => writer.dir(&full, &own(Meta::dir()))?,
            Some(file) if file.mode == Mode::Symlink => {
                let target = String::from_utf8(checkout.bytes(file)?);
                let target = target.map_err(|_| CodeLayerError::Link { path: path.to_owned() })?;
                writer.symlink(&full, &own(Meta::with_mode(0o777)), &target)?;
            }
            Some(file) => {
                let meta = if file.mode == Mode::Executable { Meta::executable() } else { Meta::file() };
                writer.file_from(&full, &own(meta), file.size, &mut checkout.reader(file)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{StoredScript, Text};

    fn build(store: &Store, checkout: &Checkout, owner: Owner) -> BuiltLayer {
        let script = StoredScript { file: "a.py".into(), text: Text::of("x") };
        let part = CodePart { git: None, diff: None, script: Some(script), tree: checkout.digest() };
        code(store, &part, owner, || Ok(checkout.clone())).unwrap()
    }

    #[test]
    fn equal_trees_are_equal_layers_and_owners_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut checkout = Checkout::default();
        checkout.insert("a-b", Mode::File, b"1".to_vec()).unwrap();
        checkout.insert("a/c.py", Mode::Executable, b"2".to_vec()).unwrap();
        checkout.insert("a/l", Mode::Symlink, b"../a-b".to_vec()).unwrap();
        let root = Owner { uid: 0, gid: 0 };
        let first = build(&store, &checkout, root);
        assert!(build(&store, &checkout, root).cached);
        assert_eq!(build(&store.forgetful(), &checkout, root).layer, first.layer);
        assert_ne!(build(&store, &checkout, Owner { uid: 1000, gid: 1000 }).layer, first.layer);
    }
}

//! Submodules: which repository and commit a gitlink of a tree stands for.

use gix::bstr::{BString, ByteSlice};

use super::GitError;
use super::address::Address;
use super::repositories::{Commit, Repositories, Wanted};

/// A submodule at its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmoduleCommit {
    /// Path from the outermost repository's root.
    pub path: String,
    /// Address without userinfo.
    pub url: String,
    /// Commit id.
    pub commit: String,
}

/// What a commit's `.gitmodules` says.
pub(super) struct Submodules<'a> {
    file: gix::submodule::File,
    commit: &'a Commit,
}

impl<'a> Submodules<'a> {
    /// Reads `.gitmodules`; nothing of it names programs to run, and this machine's configuration has no say in it.
    pub(super) fn parse(bytes: &[u8], commit: &'a Commit) -> Result<Self, GitError> {
        let no_overrides = gix::config::File::default();
        let file = gix::submodule::File::from_bytes(bytes, None, &no_overrides);
        Ok(Self { file: file.map_err(GitError::unreadable(&commit.address, "`.gitmodules`"))?, commit })
    }

    /// Fetches the commit of the submodule at a path; `None` for one without an address, or that is not to be updated.
    pub(super) fn fetch(&self, repositories: &Repositories, path: &str, id: &str) -> Result<Option<Commit>, GitError> {
        let Some(name) = self.file.name_by_path(path.into()).map(ToOwned::to_owned) else { return Ok(None) };
        if matches!(self.file.update(name.as_bstr()), Ok(Some(gix::submodule::config::Update::None))) {
            return Ok(None);
        }
        let Some(url) = self.value(&name, "url") else { return Ok(None) };
        let wanted = Wanted::Commit(id.to_owned());
        let address = self.base().submodule(&url);
        // A directory of this machine has its submodules' objects already, even those never pushed.
        if let Some(directory) =
            self.commit.local.as_ref().map(|it| it.join("modules").join(name.to_str_lossy().as_ref()))
            && super::patch::is_inside(&name.to_str_lossy())
            && directory.is_dir()
        {
            let local = Address::parse(&directory.to_string_lossy())?;
            if let Ok(commit) = repositories.fetch(&local, &wanted) {
                return Ok(Some(Commit { address: address.unwrap_or(local), ..commit }));
            }
        }
        let address = address?;
        match repositories.fetch(&address, &wanted) {
            Ok(commit) => Ok(Some(commit)),
            // Kept from a directory of this machine, perhaps never pushed.
            Err(error) => match repositories.find(id)? {
                Some(commit) => Ok(Some(Commit { address, ..commit })),
                None => Err(error),
            },
        }
    }

    fn value(&self, name: &BString, key: &str) -> Option<String> {
        let value = self.file.config().string_by("submodule", Some(name.as_bstr()), key)?;
        Some(value.to_str_lossy().into_owned()).filter(|it| !it.is_empty())
    }

    /// What relative addresses are relative to: where the repository came from, or its own origin.
    fn base(&self) -> Address {
        let origin = self.commit.local.as_ref().and_then(|path| {
            let repository = gix::open(path).ok()?;
            let url = repository.config_snapshot().string("remote.origin.url")?;
            Address::parse(&url.to_str_lossy()).ok()
        });
        origin.unwrap_or_else(|| self.commit.address.clone())
    }
}

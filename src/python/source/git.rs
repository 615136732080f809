//! Repositories as requirements name them.

use crate::git::Address;
use crate::secret::Secret;

/// A repository as a requirement names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// Its address, as git takes it.
    pub address: Secret,
    /// Commit, tag or branch.
    pub revision: Option<String>,
    /// Directory of the project in it; empty for the root.
    pub directory: String,
}

impl Git {
    /// Takes `git+<address>[@revision][#subdirectory=…]` apart.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("git+").or_else(|| text.starts_with("git@").then_some(text))?;
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let directory = fragment.split('&').find_map(|it| it.strip_prefix("subdirectory=")).unwrap_or_default();
        // An `@` behind the host's path names a revision; one in front of it a user.
        let path = address.find("://").map_or(0, |it| it + 3);
        let path = match address.strip_prefix("file:") {
            Some(_) => "file:".len(),
            None => address[path..].find('/').map_or(address.len(), |it| it + path),
        };
        let at = address[path..].rfind('@').map(|it| it + path);
        let (address, revision) = at.map_or((address, None), |at| (&address[..at], Some(address[at + 1..].to_owned())));
        let inside = directory.split('/').all(|it| it != "..") && !directory.starts_with('/');
        inside.then(|| Self {
            address: Secret::new(address),
            revision,
            directory: directory.trim_matches('/').to_owned(),
        })
    }

    /// Whether it lies on this machine: its address is none that another one could use.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let address = self.address.reveal();
        address.starts_with("file:") || Address::parse(address).is_ok_and(|it| it.local_path().is_some())
    }

    /// The version that its revision names, if it names one; the sources have no history to tell it.
    pub(super) fn version(&self) -> String {
        let revision = self.revision.as_deref().unwrap_or_default();
        let bare = revision.rsplit('/').next().unwrap_or_default().trim_start_matches(['v', 'V']);
        let version = bare.contains('.').then(|| bare.parse::<pep440_rs::Version>().ok()).flatten();
        version.map_or_else(|| "0.0.0".to_owned(), |it| it.to_string())
    }
}

//! Git: repositories mirrored, commits read, uncommitted changes applied, and the files a checkout of them has.
//!
//! ```text
//! address ──Repositories::fetch──▶ Commit ──tree──▶ Tree ──apply(Patch)──▶ Tree ──checkout──▶ Checkout
//! ```
//!
//! A [`Tree`] holds contents as git stores them, submodules included; a [`Checkout`] holds them as `git checkout` and
//! git-lfs leave them on Linux with no configuration: end-of-line, `ident` and encoding attributes followed, LFS
//! pointers replaced. What this machine's git configuration says about content never counts; what it says about
//! reaching servers (credential helpers, `insteadOf`, proxies, ssh) does.
//!
//! ```text
//! <cache>/
//! ├── mirrors/<name>-<16 hex>.git        a bare repository per address (digest of the address without userinfo)
//! ├── mirrors/<name>-<16 hex>.lock       held alone while fetching; readers need no lock
//! └── lfs/<sha256>                       LFS objects, verified
//! ```
//! A mirror's `refs/agent/commits/<id>` says that a commit is there with all it needs; it is written last, so a
//! fetch that is killed leaves nothing that counts. Mirrors are shallow. Programs we start: ssh and credential helpers.

use std::path::PathBuf;

use crate::error::{Explain, Kind};
use crate::secret::mask_userinfo;

mod address;
mod attributes;
mod checkout;
mod connect;
mod credential;
mod lfs;
pub mod patch;
mod repositories;
mod submodule;
#[cfg(test)]
mod tests;
pub mod tree;

pub use address::{Address, SshRules};
pub use checkout::{CheckedOut, Checkout};
pub use credential::{Access, HostCredentials, Scheme};
pub use patch::{Patch, PatchError};
pub use repositories::{Commit, Repositories, Wanted};
pub use submodule::SubmoduleCommit;
pub use tree::{Mode, Tree};

/// Why something of git failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// An address that is none.
    #[error("`{address}` is no git address")]
    Address {
        /// The address, without userinfo.
        address: String,
    },
    /// The server does not answer, or not as a git server.
    #[error("cannot reach the git repository `{address}`: {reason}")]
    Unreachable {
        /// The address, without userinfo.
        address: String,
        /// What the transport says, without userinfo.
        reason: String,
    },
    /// Nothing may be fetched.
    #[error("nothing is fetched here, and {what} of the git repository `{address}` is not in the store")]
    Offline {
        /// The address, without userinfo.
        address: String,
        /// "branch `x`", "commit `…`".
        what: String,
    },
    /// The server wants other credentials.
    #[error("the git server refuses access to `{address}`: {reason}")]
    Denied {
        /// The address, without userinfo.
        address: String,
        /// What the transport says, without userinfo.
        reason: String,
    },
    /// The repository does not have what is wanted.
    #[error("the git repository `{address}` has no {what}")]
    NoSuch {
        /// The address, without userinfo.
        address: String,
        /// "branch `x`", "commit `…`".
        what: String,
    },
    /// What was received cannot be read.
    #[error("cannot read {what} of the git repository `{address}`: {reason}")]
    Unreadable {
        /// The address, without userinfo.
        address: String,
        /// Which object.
        what: String,
        /// What the reader says.
        reason: String,
    },
    /// A path or an object that no checkout may have.
    #[error("the git repository `{address}` holds `{path}`, {reason}")]
    Forbidden {
        /// The address, without userinfo.
        address: String,
        /// The path.
        path: String,
        /// Why it may not be.
        reason: &'static str,
    },
    /// A submodule that cannot be had.
    #[error("cannot get the submodule `{path}`")]
    Submodule {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// An LFS object that cannot be had.
    #[error("cannot get `{path}` from git LFS at `{address}`: {reason}")]
    Lfs {
        /// The file.
        path: String,
        /// The address, without userinfo.
        address: String,
        /// Why.
        reason: String,
    },
    /// The recorded diff.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The cache.
    #[error("cannot use the git cache `{}`", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl GitError {
    pub(crate) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Cache { path, source }
    }

    pub(crate) fn unreadable<E: std::error::Error>(
        address: &Address,
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Unreadable { address: address.to_string(), what, reason: reason(&error) }
    }
}

impl Explain for GitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Address { .. } | Self::Forbidden { .. } => Kind::Input,
            Self::Unreachable { .. } | Self::Lfs { .. } => Kind::Unreachable,
            Self::Denied { .. } => Kind::Denied,
            Self::NoSuch { .. } | Self::Offline { .. } => Kind::NotFound,
            Self::Unreadable { .. } => Kind::System,
            Self::Submodule { source, .. } => source.kind(),
            Self::Patch(error) => error.kind(),
            Self::Cache { source, .. } => Kind::of_io(source),
        }
    }

    fn hints(&self) -> Vec<String> {
        let text = match self {
            Self::Denied { .. } => {
                "Set agent.git_user and agent.git_pass in clearml.conf, a git credential helper, or an ssh key for this host."
            }
            Self::Offline { .. } => crate::http::OFFLINE_HINT,
            Self::NoSuch { what, .. } if what.starts_with("commit") => "Push the commit, or record the task anew.",
            Self::Unreachable { reason, .. } if reason.contains("ost key verification") => {
                "Connect once with ssh to accept the host's key, or add it to ~/.ssh/known_hosts."
            }
            Self::Submodule { source, .. } => return source.hints(),
            Self::Patch(error) => return error.hints(),
            _ => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

/// An error and its causes in one line, without userinfo.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    mask_userinfo(&text.replace('\n', " "))
}

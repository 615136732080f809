//! System packages: Debian's, by the base's own apt.
//!
//! [`apt`] solves in a sandbox with the base's sources and keys and pins every package by hash; [`fetch`] gets the files
//! on the host; [`install`] installs them without network. [`recipe`] makes a base out of nothing the same way. Names of
//! mirrors never leave this module: a package is known by suite, component and its path in the archive.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::http::HttpError;
use crate::process::RunError;
use crate::python::fetch::FetchError;
use crate::sandbox::SandboxError;
use crate::store::StoreError;

pub mod apt;
pub mod fetch;
pub mod install;
pub mod recipe;
mod solve;
pub mod sources;

/// A Debian package file, pinned; as a lock has it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub arch: String,
    /// File name in the archive, relative to its root: `pool/main/libg/libgomp1_12.2.0-14_amd64.deb`.
    pub file: String,
    /// Digest of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub size: u64,
    /// Where the sources have it: suite and component (`bookworm/main`), never a machine's own mirror address.
    pub origin: String,
}

impl Package {
    /// The name its file has on disk: what apt itself would call it.
    #[must_use]
    pub fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.name, self.arch)
    }
}

/// Why system packages cannot be had or installed.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The base has no apt.
    #[error("the base has no apt, so system packages cannot be installed on it")]
    NoApt,
    /// Neither the base nor the host has sources for it.
    #[error("there are no apt sources for `{release}`: the base has none, and the host's are for something else")]
    NoSources {
        /// The base's release: `debian bookworm`.
        release: String,
    },
    /// Nothing may be fetched.
    #[error("{what} would have to be fetched, and nothing is fetched here")]
    Offline {
        /// What is missing.
        what: String,
    },
    /// No such packages.
    #[error("unknown system packages: `{names}`")]
    Unknown {
        /// Their names.
        names: String,
    },
    /// They cannot be had together.
    #[error("system packages `{packages}` cannot be installed together on this base:\n{reason}")]
    Unsatisfiable {
        /// What was asked for.
        packages: String,
        /// apt's words.
        reason: String,
    },
    /// apt did not do something else.
    #[error("apt cannot {what}:\n{reason}")]
    Apt {
        /// What.
        what: String,
        /// Its words.
        reason: String,
    },
    /// A package file cannot be had any more.
    #[error("package file `{file}` ({origin}) cannot be had")]
    Missing {
        /// The file.
        file: String,
        /// Suite and component.
        origin: String,
        /// What the last place said.
        #[source]
        source: Option<HttpError>,
    },
    /// The packages did not install.
    #[error("installing system packages failed with exit code {code}:\n{words}")]
    Install {
        /// dpkg's or apt's exit code.
        code: i32,
        /// Their last words.
        words: String,
        /// Whether only one user id exists in the sandbox.
        single: bool,
    },
    /// A package that no archive can have.
    #[error("`{name}` is not the name of a package file")]
    Name {
        /// The name.
        name: String,
    },
    /// No such recipe.
    #[error("there is no recipe `{name}`")]
    NoRecipe {
        /// Its name.
        name: String,
    },
    /// A recipe that cannot be read.
    #[error("the recipe `{name}` cannot be read: {reason}")]
    Recipe {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// This machine cannot make it.
    #[error("the recipe `{name}` is made with the apt of a machine of its distribution; this one is {host}")]
    Host {
        /// The recipe.
        name: String,
        /// What the host is.
        host: String,
    },
    /// This machine is of another architecture.
    #[error("the recipe `{name}` is for `{wanted}`, this machine is `{present}`")]
    Architecture {
        /// The recipe.
        name: String,
        /// What it is for.
        wanted: String,
        /// What the host is.
        present: String,
    },
    /// A recipe's wheel.
    #[error(transparent)]
    Wheel(#[from] FetchError),
    /// A file of ours.
    #[error("cannot prepare `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program of the host.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Fetching.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<crate::oci::LayerError> for SystemError {
    fn from(error: crate::oci::LayerError) -> Self {
        Self::Sandbox(error.into())
    }
}

impl Explain for SystemError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoApt | Self::Unsatisfiable { .. } | Self::Host { .. } | Self::Architecture { .. } => {
                Kind::Unsatisfiable
            }
            Self::Wheel(error) => error.kind(),
            Self::NoSources { .. } => Kind::Config,
            Self::Offline { .. } | Self::Unknown { .. } | Self::Missing { .. } | Self::NoRecipe { .. } => {
                Kind::NotFound
            }
            Self::Apt { .. } => Kind::Unreachable,
            Self::Install { single: true, .. } => Kind::Sandbox,
            Self::Install { .. } => Kind::System,
            Self::Name { .. } => Kind::Input,
            Self::Recipe { .. } => Kind::Config,
            Self::File { source, .. } => Kind::of_io(source),
            Self::Run(error) => error.kind(),
            Self::Http(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Offline { .. } => vec![crate::http::OFFLINE_HINT.to_owned()],
            Self::NoApt => vec!["Take a base of Debian's family, or one that has what is needed already.".to_owned()],
            Self::NoSources { .. } => {
                vec!["Take a base with apt sources, or build on a machine of the base's own release.".to_owned()]
            }
            Self::Unknown { .. } => {
                vec![
                    "Check the spelling, and whether the base's sources have it: `apt-cache policy NAME` in it."
                        .to_owned(),
                ]
            }
            Self::Missing { .. } => vec![
                "Archives drop old versions: lock anew (without `--locked`), or add a source that still has the file."
                    .to_owned(),
            ],
            Self::Install { single: true, .. } => vec![
                "These packages give files to other users, which takes subordinate ids: install `uidmap` and give your \
                 user a range in /etc/subuid and /etc/subgid, or build as root."
                    .to_owned(),
            ],
            Self::NoRecipe { .. } => vec![format!("Known recipes: {}.", recipe::names().join(", "))],
            Self::Host { .. } | Self::Architecture { .. } => {
                vec!["Take a base from a registry instead: `--docker python:3.11-slim`.".to_owned()]
            }
            Self::Wheel(error) => error.hints(),
            Self::Sandbox(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Http(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

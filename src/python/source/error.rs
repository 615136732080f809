//! Why sources cannot be had.

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::python::fetch::FetchError;
use crate::python::resolve::ResolveError;
use crate::python::uv::UvError;

/// Why sources cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The sdist cannot be found.
    #[error("there is neither a wheel nor an sdist for `{what}`")]
    None {
        /// What was asked.
        what: String,
    },
    /// The sdist cannot be looked for.
    #[error("cannot look for the sources of `{what}`")]
    Resolve {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// An address that nobody can fetch from.
    #[error("`{what}` is not an address that sources can be fetched from")]
    Address {
        /// The address, without credentials.
        what: String,
    },
    /// Sources that nobody asked for.
    #[error("the sources of `{what}` that were found, `{file}`, have digest {found}, which is none that is asked for")]
    Digest {
        /// What was asked.
        what: String,
        /// The file.
        file: String,
        /// Its digest.
        found: Digest,
    },
    /// There is no uv.
    #[error(transparent)]
    Uv(#[from] UvError),
    /// It cannot be fetched.
    #[error("cannot fetch the sources of `{what}`")]
    Fetch {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: FetchError,
    },
}

impl Explain for SourceError {
    fn kind(&self) -> Kind {
        match self {
            Self::None { .. } => Kind::Unsatisfiable,
            Self::Resolve { source, .. } => source.kind(),
            Self::Address { .. } | Self::Digest { .. } => Kind::Input,
            Self::Uv(error) => error.kind(),
            Self::Fetch { source, .. } => source.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::None { .. } => Vec::new(),
            Self::Resolve { source, .. } => source.hints(),
            Self::Digest { .. } => {
                vec![
                    "If the release was made anew, put its digest into the requirement (--hash) or lock file."
                        .to_owned(),
                ]
            }
            Self::Address { .. } => {
                vec!["Name a git repository (git+https://…, git+ssh://…) or an archive (https://…).".to_owned()]
            }
            Self::Uv(error) => error.hints(),
            Self::Fetch { source, .. } => source.hints(),
        }
    }
}

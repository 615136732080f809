//! Why a build can fail.

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::python::fetch::FetchError;
use crate::python::wheel::WheelError;
use crate::store::StoreError;

/// Why a build gave no wheel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The build itself failed.
    #[error("the build of `{what}` failed\n{words}")]
    Failed {
        /// What was built.
        what: String,
        /// The last lines it wrote.
        words: String,
    },
    /// The wheel is another than the one that is pinned.
    #[error(
        "`{what}` was built again, and the build did not give the wheel that is locked: {expected} is locked, {found} came"
    )]
    Differs {
        /// What was built.
        what: String,
        /// The digest in the lock.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
    /// A wheel is refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// A wheel cannot be kept.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file between here and the sandbox.
    #[error("cannot handle the files of a build")]
    Files(#[source] std::io::Error),
}

impl Explain for BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Failed { .. } => Kind::Unsatisfiable,
            Self::Differs { .. } => Kind::Input,
            Self::Wheel(error) => error.kind(),
            Self::Fetch(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Files(error) => Kind::of_io(error),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Failed { .. } => vec![
                "Builds run without network on the base image and the task's system packages: compilers and headers can be had with --apt (say build-essential python3-dev).".to_owned(),
                "Ask for a version that has a wheel, if there is one.".to_owned(),
            ],
            Self::Differs { .. } => vec![
                "Its build leaves something to chance: lock anew here, or build in the store that has the wheel.".to_owned(),
            ],
            Self::Wheel(error) => error.hints(),
            Self::Fetch(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Files(_) => Vec::new(),
        }
    }
}

//! Why a layer of distributions cannot be made.

use crate::error::{Explain, Kind};
use crate::oci::LayerError;
use crate::python::archive::ArchiveError;
use crate::python::fetch::FetchError;
use crate::python::wheel::WheelError;
use crate::store::StoreError;

/// Why a layer of distributions cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PythonLayerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A wheel is refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// A wheel is refused or not there.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Bytecode cannot be made.
    #[error("cannot make bytecode: {reason}")]
    Bytecode {
        /// Why.
        reason: String,
        /// What sort of failure it is.
        kind: Kind,
        /// What to do about it.
        hints: Vec<String>,
    },
    /// The distributions of a lock are in no order, or one comes twice.
    #[error("the lock's distributions are not in the order of their names at `{0}`")]
    Order(String),
}

impl From<ArchiveError> for PythonLayerError {
    fn from(error: ArchiveError) -> Self {
        Self::Wheel(error.into())
    }
}

impl Explain for PythonLayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Layer(error) => error.kind(),
            Self::Wheel(error) => error.kind(),
            Self::Fetch(error) => error.kind(),
            Self::Bytecode { kind, .. } => *kind,
            Self::Order(_) => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Store(error) => error.hints(),
            Self::Wheel(error) => error.hints(),
            Self::Fetch(error) => error.hints(),
            Self::Bytecode { hints, .. } => hints.clone(),
            Self::Layer(_) | Self::Order(_) => Vec::new(),
        }
    }
}

//! What may be wrong with a run in a container.

use crate::engine::EngineError;
use crate::error::{Explain, Kind};
use crate::run::lends::LendError;

/// Why a run cannot be started in an engine.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// The image is not where it was built to.
    #[error("{engine} at `{endpoint}` has no image `{name}`")]
    NoImage {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
        /// The name.
        name: String,
    },
    /// The name means another image by now.
    #[error("{engine} at `{endpoint}` has another image under the name `{name}`: {found}")]
    OtherImage {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
        /// The name.
        name: String,
        /// What is there.
        found: String,
    },
    /// A run's directory cannot be lent to an engine on another machine.
    #[error("{engine} at `{endpoint}` may be on another machine: the directory of a run cannot be lent to it")]
    Elsewhere {
        /// The engine, for people.
        engine: &'static str,
        /// Its address.
        endpoint: String,
    },
    /// The run's directory cannot be used.
    #[error("cannot make the console spool of the run in `{path}`")]
    Spool {
        /// The run's directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The agent is in a container, and its runs' directories are not shared with the engine's machine.
    #[error(
        "`{path}`, the run's directory, is not in what CLEARML_AGENT_K8S_HOST_MOUNT shares with the engine's machine"
    )]
    NotShared {
        /// The run's directory.
        path: std::path::PathBuf,
    },
    /// `CLEARML_AGENT_K8S_HOST_MOUNT` says nothing.
    #[error(transparent)]
    HostMount(#[from] LendError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Explain for ContainersError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoImage { .. } => Kind::NotFound,
            Self::OtherImage { .. } => Kind::Conflict,
            Self::Elsewhere { .. } | Self::NotShared { .. } => Kind::Config,
            Self::HostMount(error) => error.kind(),
            Self::Spool { source, .. } => Kind::of_io(source),
            Self::Engine(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoImage { .. } | Self::OtherImage { .. } => {
                vec!["Build it again: somebody removed or replaced it after its build.".to_owned()]
            }
            Self::Elsewhere { .. } => vec!["Run this program on the engine's machine, over its socket.".to_owned()],
            Self::NotShared { .. } => {
                vec!["Let AGENT_STATE_DIR name a directory below the one that is shared.".to_owned()]
            }
            Self::HostMount(error) => error.hints(),
            Self::Spool { .. } => Vec::new(),
            Self::Engine(error) => error.hints(),
        }
    }
}

//! What can go wrong in a sandbox, and what to do about it.

use std::io;
use std::time::Duration;

use super::job::Trouble;
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::oci::LayerError;
use crate::store::StoreError;

/// A way that is not open, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For people: `as root`.
    pub way: &'static str,
    /// What was tried and what the system said.
    pub reason: String,
}

/// What went wrong inside.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StageError {
    what: String,
    error: String,
    errno: Option<i32>,
    pub(super) input: bool,
}

impl From<Trouble> for StageError {
    fn from(trouble: Trouble) -> Self {
        Self { what: trouble.what, error: trouble.error, errno: trouble.errno, input: trouble.input }
    }
}

/// Why something could not be done in a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no way to have one on this machine.
    #[error("nothing can be run on a base image here ({})", reasons(refused))]
    NoWay {
        /// All ways.
        refused: Vec<Refused>,
    },
    /// Its process could not be started or spoken to.
    #[error("cannot start the sandbox")]
    Start {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not do its work.
    #[error("the sandbox cannot {}", .0.what)]
    Stage(#[source] StageError),
    /// A layer cannot be unpacked as it is.
    #[error("layer {layer} is not usable: cannot {}", trouble.what)]
    Layer {
        /// Its diff_id.
        layer: Digest,
        /// What is wrong with it.
        #[source]
        trouble: StageError,
    },
    /// A step took too long and was ended.
    #[error("`{title}` did not end within {} s", limit.as_secs())]
    Late {
        /// The step.
        title: String,
        /// The time it was given.
        limit: Duration,
    },
    /// What changed cannot be a layer.
    #[error(transparent)]
    Write(#[from] LayerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SandboxError {
    /// Whether the program of a step, or something it needs to start, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let none = rustix::io::Errno::NOENT.raw_os_error();
        matches!(self, Self::Stage(trouble) if trouble.errno == Some(none) && trouble.what.starts_with("start "))
    }
}

fn reasons(refused: &[Refused]) -> String {
    refused.iter().map(|it| format!("{}: {}", it.way, it.reason)).collect::<Vec<_>>().join("; ")
}

impl Explain for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoWay { .. } => Kind::Sandbox,
            Self::Start { source } => Kind::of_io(source),
            Self::Stage(trouble) if trouble.input => Kind::Input,
            Self::Stage(trouble) => {
                trouble.errno.map_or(Kind::System, |it| match Kind::of_io(&io::Error::from_raw_os_error(it)) {
                    Kind::NotFound => Kind::System,
                    kind => kind,
                })
            }
            Self::Layer { .. } => Kind::Input,
            Self::Late { .. } => Kind::System,
            Self::Write(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoWay { .. } => vec![
                "Run as root, or let unprivileged users make user namespaces and give yours subordinate ids: \
                 install `uidmap`, then `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`."
                    .to_owned(),
                "Ubuntu keeps such users from it: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` lets them."
                    .to_owned(),
                "In a container, start it with `--privileged`, or build where the layers are in the cache already."
                    .to_owned(),
                "Overlays need a disk's own file system under the store: inside a container, name a volume in \
                 AGENT_CACHE_DIR."
                    .to_owned(),
                "Wheels alone need no sandbox: lock with `--no-bytecode`, without `--apt`, and with \
                 `agent.docker_install_opencv_libs: false` in clearml.conf."
                    .to_owned(),
            ],
            Self::Write(error) => error.hints(),
            Self::Store(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

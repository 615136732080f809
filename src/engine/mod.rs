//! Container engines: places to deliver images to, to take bases from and to run on. Never needed to build.
//!
//! [`Docker`] speaks the Engine API of whatever [`Endpoint`] says (socket, TCP, TLS; `DOCKER_HOST` and contexts as the
//! `docker` program reads them). Requests carry no API version, so that a daemon answers in its own newest one.
//! [`Podman`] is its program, plus the same API for containers on a service started for the purpose; [`Libpod`] is its
//! own API, which alone knows CDI in every version.
//! Secrets (environment values) go through the API, never through another program's arguments.
//! This module does not know our images; it moves archives and asks questions.

pub mod container;
pub mod docker;
pub mod endpoint;
pub mod libpod;
pub mod parts;
pub mod podman;
pub mod spec;

pub use container::{ContainerState, LogChunk, Output};
pub use docker::{Docker, EngineImage};
pub use endpoint::Endpoint;
pub use libpod::Libpod;
pub use parts::{Attachment, Health, Limits};
pub use podman::{Podman, Service};
pub use spec::{Bind, ContainerSpec, DeviceRequest};

use crate::error::{Explain, Kind};

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers at its address.
    #[error("no container engine answers at `{endpoint}`")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with a refusal.
    #[error("the engine at `{endpoint}` refused to {action}: {message}")]
    Refused {
        /// Its address.
        endpoint: String,
        /// What was asked of it.
        action: String,
        /// HTTP status, 0 where it said so in the middle of an answer.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It began to do it, and told of no progress for too long.
    #[error("the engine at `{endpoint}` made no progress for {} s: {action}", silence.as_secs())]
    Stalled {
        /// Its address.
        endpoint: String,
        /// What was asked of it.
        action: String,
        /// How long it said nothing.
        silence: std::time::Duration,
    },
    /// What was sent to it could not be read on our side.
    #[error("cannot {action}")]
    Transfer {
        /// What was being done.
        action: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its answer makes no sense.
    #[error("the engine at `{endpoint}` answered `{what}` with something unexpected: {detail}")]
    Answer {
        /// Its address.
        endpoint: String,
        /// The question.
        what: String,
        /// What is wrong.
        detail: String,
    },
    /// An address of an engine that we cannot use.
    #[error("`{endpoint}` is not the address of a container engine: {reason}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A Docker context that cannot be read.
    #[error("cannot read the docker context `{name}`: {reason}")]
    Context {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A program of the engine could not be run.
    #[error(transparent)]
    Program(#[from] crate::process::RunError),
    /// A program of the engine failed.
    #[error("`{command}` failed: {message}")]
    Failed {
        /// Program and verb.
        command: String,
        /// What it printed.
        message: String,
    },
}

impl EngineError {
    /// Whether the engine is away, or on its way down or up: what was asked may be asked again later.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Answer { .. } => true,
            Self::Refused { status, .. } => *status == 0 || *status >= 500,
            _ => false,
        }
    }

    /// Whether it was not heard at all: what was asked may or may not have been done.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl Explain for EngineError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { source, .. } => {
                if denied(source.as_ref()) {
                    Kind::Denied
                } else {
                    Kind::Unreachable
                }
            }
            Self::Refused { status: 401 | 403, .. } => Kind::Denied,
            Self::Refused { status: 404, .. } => Kind::NotFound,
            Self::Refused { status: 409, .. } => Kind::Conflict,
            Self::Refused { message, .. } if message.contains("no space left on device") => Kind::Space,
            // It answers: whoever it gets things from does not, and it has waited for that long enough.
            Self::Stalled { .. } | Self::Refused { .. } | Self::Answer { .. } | Self::Failed { .. } => Kind::System,
            Self::Transfer { source, .. } => Kind::of_io(source),
            Self::Endpoint { .. } | Self::Context { .. } => Kind::Config,
            Self::Program(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreachable { source, .. } if denied(source.as_ref()) => {
                vec!["Add your user to the `docker` group, or point DOCKER_HOST at an engine you may use.".to_owned()]
            }
            Self::Unreachable { .. } => {
                vec!["Start the engine, or name another with DOCKER_HOST or a docker context.".to_owned()]
            }
            Self::Refused { message, .. } if message.contains("could not select device driver") => {
                vec!["The engine has no GPUs to give: its machine needs NVIDIA's container toolkit.".to_owned()]
            }
            Self::Endpoint { endpoint, .. } if endpoint.starts_with("ssh://") => {
                vec!["Forward its socket: `ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST`.".to_owned()]
            }
            Self::Program(crate::process::RunError::Start { program, source })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                vec![format!("Install `{program}`, or choose another engine or destination.")]
            }
            _ => Vec::new(),
        }
    }
}

fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|it| it.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

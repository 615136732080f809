//! Why queues cannot be served.

use crate::clearml::ApiError;
use crate::error::{Explain, Kind};

/// How short a queue's name may be: the server's own rule.
const SHORTEST: usize = 3;

/// Why queues cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// There is no queue of this name or id.
    #[error("there is no queue `{name}` on `{server}`")]
    Unknown {
        /// As it was named.
        name: String,
        /// The server's address.
        server: String,
        /// Names like it.
        near: Vec<String>,
        /// Whether it was given as an id, which cannot be made.
        id: bool,
    },
    /// A name that several queues have.
    #[error("{} queues are called `{name}` in one spelling or another: {}", .ids.len(), .ids.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// No queue was named and the server has no default one.
    #[error("no queue is named and `{0}` has no default queue")]
    NoDefault(String),
    /// The server makes no queue of this name.
    #[error("the queue `{name}` is not made: {error}")]
    NotMade {
        /// The name.
        name: String,
        /// The server's words.
        error: ApiError,
    },
    /// The server does not say.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Explain for QueueError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } | Self::NoDefault(_) => Kind::NotFound,
            Self::Ambiguous { .. } => Kind::Input,
            Self::Api(error) | Self::NotMade { error, .. } => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown { name, near, .. } if name.contains('=') && near.is_empty() => {
                vec!["`NAME=NUMBER` says how many GPUs a queue's tasks have: it belongs to --dynamic-gpus.".to_owned()]
            }
            Self::Unknown { near, id, .. } => {
                let mut hints = Vec::new();
                if !near.is_empty() {
                    hints.push(format!("Queues with names like it: {}.", near.join(", ")));
                }
                if !id {
                    hints.push("--create-queue makes queues that are missing.".to_owned());
                }
                hints
            }
            Self::Ambiguous { .. } => vec!["Name the queue by its id.".to_owned()],
            Self::NoDefault(_) => {
                vec!["Name queues with --queue; --create-queue makes those that are missing.".to_owned()]
            }
            Self::NotMade { name, error } => {
                let short = name.trim().chars().count() < SHORTEST;
                let hint = format!("A queue's name has {SHORTEST} characters or more.");
                short.then_some(hint).into_iter().chain(error.hints()).collect()
            }
            Self::Api(error) => error.hints(),
        }
    }
}

//! What keeps an image from running.

use std::io;

use crate::clearml::ApiError;
use crate::config::ConfigError;
use crate::error::{Explain, Kind};

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The image lacks one of our files, or it cannot be read.
    #[error("cannot read `{path}` of this image")]
    Image {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of our files is of another version.
    #[error("`{path}` of this image is not what this program reads: {why}")]
    Document {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The program cannot be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else runs the task.
    #[error("the task `{task}` is {status}{}", .worker.as_ref().map(|it| format!(" at worker `{it}`")).unwrap_or_default())]
    Busy {
        /// Its id.
        task: String,
        /// Its status.
        status: String,
        /// Who runs it.
        worker: Option<String>,
    },
    /// Credentials are there, a task is not.
    #[error("this image was not built from a task of a server")]
    NoTask,
    /// `--offline` was not given, and the half of what a server needs is.
    #[error("there are credentials, but no server")]
    NoServer,
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server, or the way to it.
    #[error(transparent)]
    Server(#[from] ApiError),
    /// The offline answers cannot be served.
    #[error("cannot answer the SDK on loopback")]
    Loopback(#[source] io::Error),
    /// Asked to end before the program began.
    #[error("interrupted before the program was started")]
    Interrupted,
    /// This very run has begun before: what it does is not done twice.
    #[error("this run was started before, and no run is started twice")]
    Again,
    /// The server did not answer while there was time.
    #[error("the server did not answer in time")]
    Late,
    /// The asynchronous runtime does not start.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl GuestError {
    /// The exit code: a shell's for a program that cannot be started.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            // What an engine gives to an end that it did not see: how the first start ended is left where the executor looks.
            Self::Again => 255,
            other => other.kind().exit_code(),
        }
    }
}

impl Explain for GuestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) => Kind::Usage,
            Self::Image { source, .. }
            | Self::Start { source, .. }
            | Self::Loopback(source)
            | Self::Runtime(source) => Kind::of_io(source),
            Self::Document { .. } | Self::NoTask => Kind::Input,
            Self::Busy { .. } | Self::Again => Kind::Conflict,
            Self::NoServer => Kind::Config,
            Self::Interrupted => Kind::Interrupted,
            Self::Late => Kind::Unreachable,
            Self::Config(error) => error.kind(),
            Self::Server(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Usage(_) => "`docker run IMAGE --help` says how to use this image.",
            Self::Busy { .. } => {
                "Stop it first, give --force to run it all the same, or build the image with --entry-point clone_task."
            }
            Self::NoTask => "Give --task ID to run as a task of the server, or --offline to run without one.",
            Self::NoServer => {
                "Set CLEARML_API_HOST, or mount a clearml.conf; without credentials the task runs offline."
            }
            Self::Server(ApiError::UnknownTask { .. }) => {
                "Give --task ID for a task of this server, or --offline to run without one."
            }
            Self::Config(error) => return error.hints(),
            Self::Server(error) => {
                let mut hints = error.hints();
                hints.push("Give --offline to run without a server.".to_owned());
                return hints;
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

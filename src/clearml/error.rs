//! What a ClearML server, or the way to it, gets wrong.

use crate::error::{Explain, Kind};
use crate::http::HttpError;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer came.
    #[error("cannot reach the ClearML server `{server}`")]
    Unreachable {
        /// The API server's address.
        server: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// The server does not take our credentials.
    #[error("the ClearML server `{server}` refuses the credentials: {message}")]
    Credentials {
        /// The API server's address.
        server: String,
        /// The server's words.
        message: String,
    },
    /// The server answered with an error of its own.
    #[error("the ClearML server answers `{endpoint}` with {code}/{subcode}: {message}")]
    Refused {
        /// `service.action`.
        endpoint: String,
        /// The result code, an HTTP status.
        code: u16,
        /// Which error it is.
        subcode: i64,
        /// The server's words.
        message: String,
    },
    /// What answers is no ClearML API server.
    #[error("`{server}` does not answer `{endpoint}` as a ClearML API server does: {what}")]
    Foreign {
        /// The API server's address.
        server: String,
        /// `service.action`.
        endpoint: String,
        /// What came instead.
        what: String,
    },
    /// There is no such task.
    #[error("there is no task `{task}` on `{server}`")]
    UnknownTask {
        /// The API server's address.
        server: String,
        /// The id or name.
        task: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// A name that several tasks have.
    #[error("{} tasks are called `{name}`: {}", .ids.len(), .ids.join(", "))]
    AmbiguousTask {
        /// The name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// A task has no such artifact.
    #[error("the task has no artifact `{0}`")]
    NoArtifact(String),
    /// An artifact is kept where we cannot read.
    #[error("the artifact `{key}` is kept at `{uri}`, which cannot be read from here")]
    ArtifactElsewhere {
        /// The artifact's name.
        key: String,
        /// Where it is.
        uri: String,
    },
    /// An artifact could not be fetched.
    #[error("cannot fetch the artifact `{key}`")]
    Artifact {
        /// The artifact's name.
        key: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// The client could not be made.
    #[error(transparent)]
    Setup(HttpError),
}

impl ApiError {
    /// Whether the server said this code and subcode.
    #[must_use]
    pub fn is(&self, wanted: (u16, i64)) -> bool {
        matches!(self, Self::Refused { code, subcode, .. } if (*code, *subcode) == wanted)
    }

    /// Whether the same call may succeed later: the server did not answer, or is overloaded.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Foreign { .. } => true,
            Self::Refused { code, .. } => *code >= 500 || *code == 429,
            _ => false,
        }
    }
}

impl Explain for ApiError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::Foreign { .. } => Kind::Unreachable,
            Self::Credentials { .. } => Kind::Denied,
            Self::Refused { code: 401 | 403, .. } => Kind::Denied,
            Self::Refused { code: 500.., .. } => Kind::Unreachable,
            Self::Refused { subcode: 110 | 121, .. } => Kind::Conflict,
            Self::Refused { .. } | Self::AmbiguousTask { .. } | Self::ArtifactElsewhere { .. } => Kind::Input,
            Self::UnknownTask { .. } | Self::NoArtifact(_) => Kind::NotFound,
            Self::Artifact { source, .. } | Self::Setup(source) => source.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreachable { server, source } => {
                let mut hints = source.hints();
                hints.push(format!(
                    "The address `{server}` comes from api.api_server in clearml.conf, or from CLEARML_API_HOST."
                ));
                hints
            }
            Self::Credentials { .. } => vec![
                "Create new credentials in the web application (Settings, Workspace) and put them into \
                 api.credentials of clearml.conf, or into CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY."
                    .to_owned(),
            ],
            Self::Foreign { .. } => vec![
                "Check that api.api_server names the API server (usually port 8008 or a host `api.…`), not the web server \
                 (8080, `app.…`) or the file server (8081, `files.…`)."
                    .to_owned(),
            ],
            Self::UnknownTask { near, .. } if near.is_empty() => {
                vec!["Check the id, and that the credentials are of the workspace that has the task.".to_owned()]
            }
            Self::UnknownTask { near, .. } => vec![format!("Tasks with names like it: {}.", near.join(", "))],
            Self::AmbiguousTask { .. } => vec!["Name the task by its id.".to_owned()],
            Self::Artifact { source, .. } | Self::Setup(source) => source.hints(),
            Self::Refused { .. } | Self::NoArtifact(_) | Self::ArtifactElsewhere { .. } => Vec::new(),
        }
    }
}

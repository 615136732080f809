//! The conversation with a ClearML API server: wire names and quirks end here.
//!
//! [`Client`] logs in, adds the version to the path, unpacks the envelope and keeps the token fresh. [`tasks`],
//! [`callback`], [`events`] and [`artifacts`] are the calls this program makes, each a function over the client. Nothing here prints,
//! decides what a run does, or reads the environment.

use url::Url;

use crate::secret::{Credentials, Secret};

pub mod artifacts;
pub mod callback;
mod client;
mod error;
pub mod events;
pub mod status;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod token;

pub use client::Client;
pub use error::ApiError;

/// Where a server is and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The API server (`api.api_server`).
    pub api: Url,
    /// The web server, for links that people open.
    pub web: Option<Url>,
    /// The file server (`api.files_server`).
    pub files: Option<Url>,
    /// Who we are.
    pub login: Login,
    /// Whether the server's certificate is checked (`api.verify_certificate`).
    pub verify: bool,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Access key and secret key.
    Keys(Credentials),
    /// A token made by somebody else (`CLEARML_AUTH_TOKEN`).
    Token(Secret),
}

//! What the user wants: flags, environment and configuration merged once into typed values, a file per verb.
//!
//! Precedence, high to low: flag, environment variable, configuration file, default. Nothing here does anything; a
//! contradiction or a text that means nothing is a [`UsageError`].

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Environment};
use crate::error::{Explain, Kind};

pub mod build;
pub mod destination;
pub mod size;
pub mod task;

pub use build::BuildSettings;
pub use destination::Output;
pub use task::{BaseChoice, ImageChoice, TaskSettings, TaskSource};

/// Where settings come from besides the flags of a verb.
#[derive(Debug, Clone)]
pub struct Session {
    /// The process environment.
    pub environment: Environment,
    /// The configuration file that was named.
    pub config_file: Option<PathBuf>,
}

impl Session {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::load(self.config_file.as_deref(), &self.environment)
    }
}

/// A command line that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
    hint: Option<String>,
}

impl UsageError {
    /// What is wrong, as a fragment, and what to do about it.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl Explain for UsageError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hints(&self) -> Vec<String> {
        self.hint.iter().cloned().collect()
    }
}

//! What is wrong with a spool.

use std::io;
use std::path::PathBuf;

use super::FORMAT;

/// What is wrong with a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it.
    #[error("the console spool `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It is of another program version, or no spool.
    #[error("`{}` is no console spool of format {FORMAT}", .0.display())]
    Format(PathBuf),
    /// Reading or writing failed.
    #[error("cannot use the console spool `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl crate::error::Explain for SpoolError {
    fn kind(&self) -> crate::error::Kind {
        match self {
            Self::InUse(_) => crate::error::Kind::Conflict,
            Self::Format(_) => crate::error::Kind::Input,
            Self::Io { source, .. } => crate::error::Kind::of_io(source),
        }
    }
}

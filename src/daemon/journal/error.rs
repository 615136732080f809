//! What may be wrong with the journal.

use std::io;
use std::path::{Path, PathBuf};

use super::FORMAT;
use crate::error::{Explain, Kind};
use crate::run::RunId;

/// What is wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("cannot use the journal of runs at `{}`", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record of another version of this program.
    #[error("`{}` is of format {found}, and this program knows format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// No record at all.
    #[error("`{}` is no record of a run", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another process attends it.
    #[error("the run {run} is attended by another process")]
    Attended {
        /// Its id.
        run: RunId,
    },
}

impl Explain for JournalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } => Kind::of_io(source),
            Self::Format { .. } | Self::Record { .. } => Kind::Input,
            Self::Attended { .. } => Kind::Conflict,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Format { path, .. } | Self::Record { path, .. } => vec![format!(
                "Let the program's version that wrote it finish the run, or remove `{}` when it is over.",
                path.parent().unwrap_or(path).display()
            )],
            Self::Io { .. } => vec!["AGENT_STATE_DIR names another directory for it.".to_owned()],
            Self::Attended { .. } => Vec::new(),
        }
    }
}

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> JournalError + use<'_> {
    |source| JournalError::Io { path: path.to_owned(), source }
}

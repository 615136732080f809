//! What can be wrong with requirements.

use crate::error::{Explain, Kind};
use crate::python::lockfile::LockfileError;

/// Why requirements cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RequirementsError {
    /// A line that is nothing.
    #[error("`{line}` in {place} is neither a requirement nor a directory of the repository")]
    Line {
        /// The line, without credentials.
        line: String,
        /// Where it stands.
        place: String,
    },
    /// A file that is not there.
    #[error("`{file}`, which {place} includes, is not in the repository")]
    File {
        /// The file.
        file: String,
        /// Where it is named.
        place: String,
    },
    /// Files that include each other.
    #[error("{0} includes itself")]
    Circle(String),
    /// A variable without a value.
    #[error("`${{{name}}}` in {place} has no value")]
    Variable {
        /// Its name.
        name: String,
        /// Where it stands.
        place: String,
    },
    /// A digest that is not compared.
    #[error("`--hash={hash}` in {place} is not one of sha256")]
    Hash {
        /// The digest.
        hash: String,
        /// Where it stands.
        place: String,
    },
    /// A lock file that cannot be followed.
    #[error("cannot follow {place}")]
    Lockfile {
        /// Where it lies.
        place: String,
        /// Why.
        #[source]
        source: LockfileError,
    },
    /// A lock file that names what is not in the repository.
    #[error("{place} names `{path}`, which is not in the repository")]
    Outside {
        /// Where it lies.
        place: String,
        /// What it names.
        path: String,
    },
}

impl Explain for RequirementsError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Line { .. } => {
                vec![
                    "Correct the task's requirements, or set agent.package_manager.force_repo_requirements_txt."
                        .to_owned(),
                ]
            }
            Self::Variable { name, .. } => vec![format!(
                "Name it in the task's container arguments (-e {name}=…) or in agent.extra_docker_arguments."
            )],
            Self::Hash { .. } => vec!["Write the digest as --hash=sha256:… (pip hash prints it).".to_owned()],
            Self::Lockfile { source, .. } => source.hints(),
            Self::Outside { .. } => vec!["Commit it, or record it with the uncommitted changes.".to_owned()],
            Self::File { .. } | Self::Circle(_) => Vec::new(),
        }
    }
}

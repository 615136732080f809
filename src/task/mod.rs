//! What was asked: a recorded ML task, as the stages below read it.
//!
//! Two pure parsers make a [`Task`]: [`clearml`] from what a server answers, [`file`] from a file. Wire names end here:
//! the rest of the program says `commit`, not `version_num`. After the lock is made nobody reads a task any more.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Explain, Kind};

pub mod clearml;
pub mod file;

mod record;

/// The configuration object in which a run leaves the lock. No dot: databases of servers give dots in names a meaning.
pub const LOCK: &str = "agent-lock";

/// A recorded task. Texts are as recorded; nothing is checked beyond their shape.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Task {
    /// The server's id; absent for a task from a file without one.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// What its code is.
    pub script: Script,
    /// The container it asks for.
    pub container: Container,
    /// Hyperparameters: section, then name.
    pub parameters: BTreeMap<String, BTreeMap<String, Parameter>>,
    /// Configuration objects by name: the recorded object, whole.
    pub configuration: BTreeMap<String, Value>,
    /// The lock that a run left with the task (configuration object [`LOCK`]). Not part of the record.
    pub lock: Option<String>,
    /// What defines the task as a server would answer it (`tasks.get_by_id`): without status, times, last worker, and
    /// without the values of secrets. Becomes `task.json` in the image and feeds the offline answers.
    pub record: Value,
}

/// The code of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Git address, as recorded (it may hold credentials until the lock removes them). Absent: a stored script.
    pub repository: Option<String>,
    /// Commit id (`version_num`).
    pub commit: Option<String>,
    /// Branch.
    pub branch: Option<String>,
    /// Tag.
    pub tag: Option<String>,
    /// What is started, with its arguments: `train.py --x 1`, `-m package.module`, a notebook.
    pub entry_point: String,
    /// Directory it starts in, relative to the repository's root; empty or `.` for the root.
    pub working_dir: String,
    /// The uncommitted changes; for a stored script, the script itself.
    pub diff: String,
    /// Python requirements.
    pub requirements: Requirements,
    /// The recorded interpreter (`binary`), `python3.11` or a path.
    pub interpreter: Option<String>,
}

/// The Python requirements of a task: recorded as lists or texts per tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// `pip`: requirement lines. `None` means nothing was recorded, and the repository's own file counts.
    pub pip: Option<String>,
    /// `org_pip`: the user's text, kept when a run pinned `pip`.
    pub org_pip: Option<String>,
    /// `conda`: recorded, not used.
    pub conda: Option<String>,
}

/// The container a task asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Image reference.
    pub image: Option<String>,
    /// `docker run` arguments, one text.
    pub arguments: Option<String>,
    /// Shell script to run before anything else.
    pub setup_script: Option<String>,
}

/// One hyperparameter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameter {
    /// Its value, always text on the wire.
    pub value: String,
    /// Its recorded type (`int`, `float`, …), if any.
    pub kind: Option<String>,
}

/// Why a document is no task.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file cannot be read.
    #[error("cannot read the task file `{path}`")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not JSON.
    #[error("`{origin}` is not JSON")]
    Json {
        /// Where the text comes from.
        origin: String,
        /// Why, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// The document has no task in it, or several.
    #[error("`{origin}` holds {found} instead of one task")]
    NotOne {
        /// Where the document comes from.
        origin: String,
        /// What it holds.
        found: String,
    },
    /// A field is of the wrong sort.
    #[error("field `{field}` of the task is {found} instead of {expected}")]
    Field {
        /// Dotted path of the field.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
}

impl Explain for TaskError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Json { .. } | Self::NotOne { .. } | Self::Field { .. } => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Json { .. } | Self::NotOne { .. } => vec![
                "A task file is what `tasks.get_by_id` of a ClearML server answers, or its `task` object: \
                 {\"name\": …, \"script\": {\"repository\": …, \"entry_point\": …}}."
                    .to_owned(),
            ],
            Self::Read { .. } | Self::Field { .. } => Vec::new(),
        }
    }
}

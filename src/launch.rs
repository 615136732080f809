//! What the entrypoint layer tells PID 1: which program to start, where and how (`/opt/agent/launch.json`).
//!
//! ```text
//! /opt/agent
//! ├── bin/agent          the in-image binary, the image's Entrypoint
//! ├── launch.json        this module's document
//! ├── task.json          the task record, offline answers are made from it
//! ├── agent.lock         the lock the image was built from
//! ├── texts/<sha256>     the task's large texts, named by the lock
//! ├── venv               the Python environment
//! ├── code               the task's code, writable by the image's user
//! └── spool              console lines on their way to the server, writable by everyone
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where everything of ours lies in an image.
pub const ROOT: &str = "/opt/agent";
/// The in-image binary.
pub const BINARY: &str = "/opt/agent/bin/agent";
/// The [`Launch`] document.
pub const LAUNCH: &str = "/opt/agent/launch.json";
/// The task record: the JSON object `tasks.get_by_id` would answer, reduced to what defines the task.
pub const TASK: &str = "/opt/agent/task.json";
/// The lock.
pub const LOCK: &str = "/opt/agent/agent.lock";
/// The lock's large texts.
pub const TEXTS: &str = "/opt/agent/texts";
/// The Python environment.
pub const VENV: &str = "/opt/agent/venv";
/// The task's code.
pub const CODE: &str = "/opt/agent/code";
/// The console spool of a run whose executor mounts none.
pub const SPOOL: &str = "/opt/agent/spool";
/// Where a directory may be mounted that keeps what the SDK writes without a server. No image has it.
pub const JOURNAL: &str = "/opt/agent/journal";

/// The version of [`Launch`] this program writes and reads.
pub const VERSION: u32 = 1;

/// What an image does when it is started without a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Runs the recorded task itself.
    ReuseTask,
    /// Clones the recorded task on the server and runs the clone.
    CloneTask,
    /// Runs any command with the environment active.
    Environment,
}

impl Mode {
    /// The word on the command line and in the lock.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReuseTask => "reuse_task",
            Self::CloneTask => "clone_task",
            Self::Environment => "environment",
        }
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// [`VERSION`].
    pub version: u32,
    /// What to do without a command.
    pub mode: Mode,
    /// The recorded task's id, where it came from a server.
    pub task: Option<String>,
    /// The recorded task's name, for people.
    pub name: String,
    /// Program and arguments, the program absolute: `/opt/agent/venv/bin/python -u train.py`.
    pub program: Vec<String>,
    /// Absolute working directory.
    pub directory: String,
    /// Environment variables the task asks for (after the image's own).
    pub env: BTreeMap<String, String>,
    /// Environment variables the task needs whose values are secrets and must come at run time.
    pub secrets: Vec<String>,
    /// Hyperparameters (`Section/name`) whose values are secrets and must come at run time (`--set`).
    pub secret_parameters: Vec<String>,
}

/// A text with `$NAME` and `${NAME}` replaced, as Python's `os.path.expandvars` does: what is not set stays as it is.
#[must_use]
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        expanded.push_str(before);
        let (name, length) = name_after(&after[1..]);
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.push_str(&value),
            None => expanded.push_str(&after[..=length]),
        }
        rest = &after[1 + length..];
    }
    expanded.push_str(rest);
    expanded
}

/// Whether a text has variables to [`expand`].
#[must_use]
pub fn has_variables(text: &str) -> bool {
    let mut after = text.match_indices('$').map(|(at, _)| name_after(&text[at + 1..]).0);
    after.any(|it| !it.is_empty())
}

/// The name that follows a `$`, and how long it is as it is written.
fn name_after(text: &str) -> (&str, usize) {
    if let Some((name, _)) = text.strip_prefix('{').and_then(|it| it.split_once('}')) {
        return (name, name.len() + 2);
    }
    let end = text.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(text.len());
    (&text[..end], end)
}

/// The in-image binary this program carries.
#[cfg(feature = "host")]
#[must_use]
pub const fn guest_binary() -> &'static [u8] {
    include_bytes!(env!("AGENT_GUEST_BINARY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_where_they_are_set() {
        let set = |name: &str| [("A", "1"), ("B_2", "two"), ("EMPTY", "")].iter().find(|it| it.0 == name);
        let expanded = |text: &str| expand(text, |name| set(name).map(|it| it.1.to_owned()));
        for (text, expected) in [
            ("train.py", "train.py"),
            ("$A/x ${B_2}y$A", "1/x twoy1"),
            ("$NONE ${NONE} $", "$NONE ${NONE} $"),
            ("$$A 5$ ${A", "$1 5$ ${A"),
            ("[$EMPTY] ${} ä$Aä", "[] ${} ä1ä"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
        assert!(has_variables("a/$B") && has_variables("${x y}") && has_variables("$$A"));
        assert!(!has_variables("a$") && !has_variables("$/x") && !has_variables("${}"));
    }
}

//! Errors: cause, kind and hint, kept apart.
//!
//! Every module has an error enum of its own that implements [`Explain`]: the message says what is wrong, the
//! [`Kind`] decides the exit code and [`Explain::hints`] says what to do about it. Commands collect them in a
//! [`Failure`]; one renderer (`ui/error.rs`) shows it. Nothing here prints.

use std::error::Error;
use std::fmt;

/// What sort of thing went wrong; decides the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// A file, a task or a document is wrong, or does not fit another.
    Input,
    /// Something named does not exist: a task, an image, a file.
    NotFound,
    /// A server, a registry or an engine does not answer.
    Unreachable,
    /// Something on this machine failed that should not: reading, writing, starting a program.
    System,
    /// No room left on a disk.
    Space,
    /// Somebody else was first, or holds what is needed.
    Conflict,
    /// Credentials are missing, wrong or not enough.
    Denied,
    /// A configuration file or variable is wrong.
    Config,
    /// Requirements, packages or platforms cannot be had together.
    Unsatisfiable,
    /// What must run on a base image cannot run on this machine.
    Sandbox,
    /// Stopped by a signal.
    Interrupted,
    /// A defect of this program.
    Internal,
}

impl Kind {
    /// The program's exit code (after `sysexits.h` where it has a word for it).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Input => 65,
            Self::NotFound => 66,
            Self::Unreachable => 69,
            Self::Internal => 70,
            Self::Space => 73,
            Self::System => 74,
            Self::Conflict => 75,
            Self::Denied => 77,
            Self::Config => 78,
            Self::Unsatisfiable => 80,
            Self::Sandbox => 81,
            Self::Interrupted => 130,
        }
    }

    /// The kind that a program of ours ended with this exit code for.
    #[must_use]
    pub fn of_exit_code(code: u8) -> Option<Self> {
        let all = [
            Self::Usage,
            Self::Input,
            Self::NotFound,
            Self::Unreachable,
            Self::Internal,
            Self::Space,
            Self::System,
            Self::Conflict,
            Self::Denied,
            Self::Config,
            Self::Unsatisfiable,
            Self::Sandbox,
            Self::Interrupted,
        ];
        all.into_iter().find(|it| it.exit_code() == code)
    }

    /// The kind of an input/output error: a full disk and an interruption are told apart from the rest.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Space,
            std::io::ErrorKind::NotFound => Self::NotFound,
            std::io::ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::System,
        }
    }
}

/// An error that knows its kind and what to do about it.
pub trait Explain: Error {
    /// What sort of thing went wrong.
    fn kind(&self) -> Kind;

    /// What to do about it, each a sentence of its own.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Explain for std::io::Error {
    fn kind(&self) -> Kind {
        Kind::of_io(self)
    }
}

/// What to do about a full disk, where nobody knows better.
const FULL: &str = "Make room on that disk. `agent cache gc` makes the store smaller; AGENT_CACHE_DIR puts it on another \
                    disk, TMPDIR temporary files.";

/// Any explained error on its way to the user, with the steps it happened in.
pub struct Failure {
    steps: Vec<String>,
    cause: Box<dyn Explain + Send + Sync>,
}

impl Failure {
    /// Says in which step it happened, outermost last: "cannot build layer `code`".
    #[must_use]
    pub fn during(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.cause.kind()
    }

    /// What to do about it.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let hints = self.cause.hints();
        if hints.is_empty() && self.kind() == Kind::Space {
            return vec![FULL.to_owned()];
        }
        hints
    }

    /// The message and its causes, outermost first; a cause that only repeats what encloses it is left out.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.iter().rev().cloned().collect();
        lines.push(self.cause.to_string());
        let mut source = self.cause.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !lines.last().is_some_and(|it| it.contains(&text)) {
                lines.push(text);
            }
            source = error.source();
        }
        lines
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain().join(": "))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<E: Explain + Send + Sync + 'static> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self { steps: Vec::new(), cause: Box::new(cause) }
    }
}

/// Adds the step in which an error happened.
pub trait During<T> {
    /// Turns the error into a [`Failure`] that names the step.
    ///
    /// # Errors
    /// The error itself, with the step added.
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(step()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read `{path}`")]
    struct Unreadable {
        path: &'static str,
        #[source]
        source: std::io::Error,
    }

    impl Explain for Unreadable {
        fn kind(&self) -> Kind {
            Kind::of_io(&self.source)
        }
    }

    #[test]
    fn a_failure_tells_steps_then_causes() {
        let error = Unreadable { path: "lock.toml", source: std::io::Error::other("bad sector") };
        let failure = Failure::from(error).during("cannot build layer `code`");
        assert_eq!(failure.to_string(), "cannot build layer `code`: cannot read `lock.toml`: bad sector");
        assert_eq!(failure.kind().exit_code(), 74);
    }

    #[test]
    fn a_full_disk_always_comes_with_a_remedy() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let hints = Failure::from(Unreadable { path: "layer", source: full }).hints();
        assert!(hints.iter().any(|it| it.contains("agent cache gc")), "{hints:?}");
        let other = std::io::Error::other("bad sector");
        assert!(Failure::from(Unreadable { path: "layer", source: other }).hints().is_empty());
    }

    #[test]
    fn a_full_disk_has_a_kind_of_its_own() {
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Kind::of_io(&error), Kind::Space);
    }
}

//! What long work tells while it goes on. The work says events, a reporter decides how they look.

use std::sync::Arc;

/// Something that happened during a build or a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A piece of work began. `id` is unique while it lasts ("layer code"), `title` is for people.
    Started {
        /// Names the piece of work until it ends.
        id: String,
        /// What people read.
        title: String,
    },
    /// It went on.
    Progress {
        /// The piece of work.
        id: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// It ended well.
    Finished {
        /// The piece of work.
        id: String,
        /// What came out, for people.
        outcome: String,
    },
    /// Worth knowing.
    Note(String),
    /// Worth acting on.
    Warning(String),
    /// A line that a program we started wrote.
    Line {
        /// The program, for people.
        source: String,
        /// The line, without its end.
        text: String,
    },
}

/// Where events go.
pub trait Reporter: Send + Sync {
    /// Takes one event. Must not block for long and must not fail.
    fn report(&self, event: Event);
}

/// A reporter shared by all parts of a build.
pub type SharedReporter = Arc<dyn Reporter>;

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _: Event) {}
}

/// A reporter that hears nothing.
#[must_use]
pub fn silent() -> SharedReporter {
    Arc::new(Silent)
}

impl dyn Reporter + '_ {
    /// Reports the start of a piece of work.
    pub fn started(&self, id: impl Into<String>, title: impl Into<String>) {
        self.report(Event::Started { id: id.into(), title: title.into() });
    }

    /// Reports how far it is, in bytes.
    pub fn progress(&self, id: impl Into<String>, done: u64, total: Option<u64>) {
        self.report(Event::Progress { id: id.into(), done, total });
    }

    /// Reports its good end.
    pub fn finished(&self, id: impl Into<String>, outcome: impl Into<String>) {
        self.report(Event::Finished { id: id.into(), outcome: outcome.into() });
    }

    /// Reports something worth knowing.
    pub fn note(&self, text: impl Into<String>) {
        self.report(Event::Note(text.into()));
    }

    /// Reports something worth acting on.
    pub fn warning(&self, text: impl Into<String>) {
        self.report(Event::Warning(text.into()));
    }
}

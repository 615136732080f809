//! A task's status and the changes a server allows: one table for our server and for our clients.
//!
//! The table is what a real server enforces without `force`; `force` skips it. Whoever applies a change writes it as a
//! compare-and-swap on the status it was checked against. This module knows nothing of requests or storage.

use std::fmt;
use std::str::FromStr;

/// The status of a task, as ClearML names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// A draft: everything in it may be edited.
    Created,
    /// Waiting in a queue.
    Queued,
    /// Running.
    InProgress,
    /// Ended on request.
    Stopped,
    /// Ended by itself, well.
    Completed,
    /// Ended by itself, badly.
    Failed,
    /// Ended and put away (older clients).
    Closed,
    /// On its way to be read-only.
    Publishing,
    /// Read-only.
    Published,
}

use Status::{Closed, Completed, Created, Failed, InProgress, Published, Publishing, Queued, Stopped};

/// From each status, those that follow without `force`. Staying in a status is a change too ([`Status::may_become`]).
pub const TRANSITIONS: &[(Status, &[Status])] = &[
    (Created, &[Queued, InProgress]),
    (Queued, &[Created, InProgress, Stopped]),
    (InProgress, &[Stopped, Failed, Created, Completed]),
    (Stopped, &[Closed, Created, Failed, Queued, InProgress, Published, Publishing, Completed]),
    (Completed, &[Published, InProgress, Created]),
    (Failed, &[Created, Stopped, Published, Queued]),
    (Closed, &[Created, Failed, Published, Publishing, Stopped]),
    (Publishing, &[Published]),
    (Published, &[]),
];

impl Status {
    /// Every status.
    pub const ALL: [Self; 9] = [Created, Queued, InProgress, Stopped, Completed, Failed, Closed, Publishing, Published];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Created => "created",
            Queued => "queued",
            InProgress => "in_progress",
            Stopped => "stopped",
            Completed => "completed",
            Failed => "failed",
            Closed => "closed",
            Publishing => "publishing",
            Published => "published",
        }
    }

    /// Whether a server lets a task go from this status to `next` without `force`. Staying is always allowed, except
    /// that what is published cannot be published again.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        if self == next {
            return self != Published;
        }
        TRANSITIONS.iter().any(|(from, to)| *from == self && to.contains(&next))
    }

    /// Whether the task has ended, one way or another.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Stopped | Completed | Failed | Closed | Publishing | Published)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the status of a task")]
pub struct UnknownStatus(pub String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_row_and_reads_back() {
        for status in Status::ALL {
            assert_eq!(TRANSITIONS.iter().filter(|(from, _)| *from == status).count(), 1);
            assert_eq!(status.as_str().parse::<Status>().unwrap(), status);
        }
        assert!("running".parse::<Status>().is_err());
    }

    #[test]
    fn a_late_completed_is_legal_after_an_abort_but_not_after_a_failure() {
        assert!(Stopped.may_become(Completed));
        assert!(!Failed.may_become(Completed));
        assert!(!Failed.may_become(InProgress));
        assert!(InProgress.may_become(InProgress));
        assert!(!Published.may_become(Published));
    }
}

//! What the server has of a spool, as the spool itself has it written down.

use std::path::Path;
use std::time::SystemTime;

use fs_err as fs;

use super::read_small;

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// A batch that was on its way when its process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) to: Place,
    /// Time and text digest of its last event, by which the server is asked for it.
    pub(super) timestamp: i64,
    pub(super) digest: String,
    /// When it was about to be sent.
    pub(super) since: SystemTime,
}

/// What was written down; `None` where nothing was.
pub(super) fn read_sent(directory: &Path) -> Option<(Place, Option<Flight>, i64)> {
    let text = String::from_utf8(read_small(&directory.join("sent")).ok()?).ok()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |index: usize| words.get(index)?.parse().ok();
    let place = |index: usize| Some(Place { segment: number(index)?, offset: number(index + 1)? });
    // It is written anew whenever something is about to be sent.
    let since = || fs::metadata(directory.join("sent")).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let flight = || {
        let (timestamp, digest) = (words.get(4)?.parse().ok()?, (*words.get(5)?).to_owned());
        Some(Flight { to: place(2)?, timestamp, digest, since: since() })
    };
    // One that does not say it is of an earlier version.
    let last = [2, 6].into_iter().find(|it| words.len() == it + 1).and_then(|it| words[it].parse().ok());
    Some((place(0)?, flight(), last.unwrap_or(i64::MIN)))
}

//! Where on this machine a run without a server keeps what the SDK writes.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use jiff::Timestamp;

use crate::cli::run::RunArgs;
use crate::commands::Context;
use crate::error::Failure;
use crate::launch;
use crate::sandbox::Bind;

/// What a run's journal is called outside, for what the in-image program says of it.
const SHOWN: &str = "AGENT_JOURNAL_SHOWN";

/// A directory that is lent to a run.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    /// Whether it was made for this run alone.
    ours: bool,
}

impl Journal {
    /// The directory that was asked for; else, for a task that no server hears of, a new one.
    pub(super) fn prepare(
        args: &RunArgs,
        env: &BTreeMap<String, String>,
        context: &Context,
    ) -> Result<Option<Self>, Failure> {
        if let Some(directory) = &args.journal {
            fs::create_dir_all(directory)?;
            return Ok(Some(Self { directory: fs::canonicalize(directory)?, ours: false }));
        }
        let set = |name: &str| env.contains_key(name);
        // Options of the in-image program may stand after the image too.
        let is_command = args.command.first().is_some_and(|it| !it.starts_with('-'));
        let server = !args.offline && (set("CLEARML_API_ACCESS_KEY") || set("CLEARML_AUTH_TOKEN"));
        if server || set("AGENT_JOURNAL") || is_command {
            return Ok(None);
        }
        let data = context.session.environment.get("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.unwrap_or_else(|| crate::fs::expand_home("~/.local/share"));
        Ok(Some(Self { directory: make(&data.join("agent/offline"), Timestamp::now())?, ours: true }))
    }

    /// Lends it to the run.
    pub(super) fn lend(&self, binds: &mut Vec<Bind>, env: &mut BTreeMap<String, String>) {
        let target = launch::JOURNAL.to_owned();
        binds.push(Bind { source: self.directory.clone(), target, writable: true });
        env.insert(SHOWN.to_owned(), self.directory.display().to_string());
    }

    /// Nothing is left of a journal that nobody wrote.
    pub(super) fn done(&self) {
        if self.ours {
            // One that is not empty stays.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// A new directory below `parent`, named after the time. Others cannot get at it; whoever the image's user is, can.
fn make(parent: &Path, now: Timestamp) -> Result<PathBuf, Failure> {
    fs::create_dir_all(crate::fs::parent_of(parent))?;
    if let Err(error) = std::fs::DirBuilder::new().mode(0o700).create(parent)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(std::io::Error::new(error.kind(), format!("cannot make `{}`: {error}", parent.display())).into());
    }
    let name = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    for attempt in 1..u32::MAX {
        let directory = parent.join(if attempt == 1 { name.clone() } else { format!("{name}-{attempt}") });
        match fs::create_dir(&directory) {
            Ok(()) => {
                fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
                return Ok(fs::canonicalize(directory)?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_directory_of_its_own_in_a_place_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("share/agent/offline");
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (first, second) = (make(&parent, now).unwrap(), make(&parent, now).unwrap());
        assert!(first.ends_with("20260102T030405Z") && second.ends_with("20260102T030405Z-2"), "{}", second.display());
        assert_eq!((mode(&parent), mode(&first)), (0o700, 0o777));
        for (ours, stays) in [(false, true), (true, false)] {
            Journal { directory: first.clone(), ours }.done();
            assert_eq!(first.exists(), stays);
        }
        fs::write(second.join("task.json"), "{}").unwrap();
        Journal { directory: second.clone(), ours: true }.done();
        assert!(second.exists());
    }
}

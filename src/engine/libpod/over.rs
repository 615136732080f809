//! Containers that are over while Podman calls them running: whoever watched over them (`conmon`) was killed with them, so
//! that nobody told it.

use super::{Inspected, Libpod, state};
use crate::engine::{ContainerState, EngineError};

/// Who watches over a container. Where it has another name Podman is asked in vain, which harms nothing.
const CONMON: &str = "conmon";

impl Libpod {
    /// A container's state as Podman tells it, looked at again where it may not know better.
    pub(super) async fn true_state(&self, found: Inspected) -> Result<Option<ContainerState>, EngineError> {
        let (conmon, paused) = (found.state.conmon_pid, found.state.paused);
        let told = state(found);
        // From within a container its process may not be to be seen: then it is asked in vain.
        let watched = conmon == 0 || (lives(conmon) && is_called(conmon, CONMON));
        if !told.running || paused || !self.is_local() || watched || !self.is_over(&told.id).await? {
            return Ok(Some(told));
        }
        // It may have ended, as it should, between two questions.
        let again = self.inspected(&told.id).await?.map(state);
        Ok(again.map(|it| ContainerState { running: false, ..it }))
    }

    /// Has Podman look for the container's program. The signal means nothing to one that has not asked for it.
    async fn is_over(&self, id: &str) -> Result<bool, EngineError> {
        let path = format!("containers/{id}/kill?signal=URG");
        match self.call(reqwest::Method::POST, &path, None, "look for the container's program").await {
            Ok(_) => Ok(false),
            Err(EngineError::Refused { status: 404 | 409, .. }) => Ok(true),
            Err(EngineError::Refused { message, .. }) if message.contains("state improper") => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether a process has this name: the number of one that is gone may be another's by now.
fn is_called(pid: i64, name: &str) -> bool {
    fs_err::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim_end() == name)
}

/// Whether a process is there, and not merely waits for somebody to hear of its end.
fn lives(pid: i64) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_waited_for_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i64::from(child.id());
        let began = std::time::Instant::now();
        while lives(pid) && began.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!lives(pid) && lives(i64::from(std::process::id())));
        child.wait().unwrap();
        assert!(!lives(pid));
    }

    #[test]
    fn a_process_that_was_given_the_number_of_another_is_told_from_it() {
        let mut shell = std::process::Command::new("/bin/sh");
        let mut child = shell.args(["-c", "read line"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (pid, began) = (i64::from(child.id()), std::time::Instant::now());
        while !is_called(pid, "sh") && began.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(lives(pid) && is_called(pid, "sh") && !is_called(pid, CONMON));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_called(pid, "sh"));
    }
}

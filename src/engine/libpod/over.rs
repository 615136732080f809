//! Containers that are over while Podman calls them running: whoever watched over them (`conmon`) was killed with them, so
//! that nobody told it.

use std::path::PathBuf;

use super::{Inspected, Libpod, state};
use crate::engine::{ContainerState, EngineError};

impl Libpod {
    /// A container's state as Podman tells it, looked at again where it may not know better.
    pub(super) async fn true_state(&self, found: Inspected) -> Result<Option<ContainerState>, EngineError> {
        let (conmon, paused) = (found.state.conmon_pid, found.state.paused);
        let told = state(found);
        // From within a container its process may not be to be seen: then it is asked in vain.
        let watched = conmon == 0 || PathBuf::from(format!("/proc/{conmon}")).exists();
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

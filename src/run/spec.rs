//! What is run, whichever engine runs it, and how it ended. Pure data: no engine is asked here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::engine::ContainerSpec;
use crate::gpu::GpuSet;
use crate::oci::Reference;

/// Names a run before it starts, on every machine: 32 lower-case hexadecimal digits. Journalled first, then carried as a
/// label, so that a run is found again by whoever was killed after starting it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// One that no other run has.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn new() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 16];
        let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if length < bytes.len() {
            return Err(std::io::Error::other("the kernel gave too little randomness"));
        }
        Ok(Self(bytes.iter().map(|it| format!("{it:02x}")).collect()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl TryFrom<String> for RunId {
    type Error = NotARunId;

    fn try_from(text: String) -> Result<Self, NotARunId> {
        let digits = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
        if text.len() == 32 && text.bytes().all(digits) { Ok(Self(text)) } else { Err(NotARunId(text)) }
    }
}

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        text.to_owned().try_into()
    }
}

/// A text that names no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no run id: 32 hexadecimal digits")]
pub struct NotARunId(String);

/// An image that was built and is where its engine takes images from, or in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunImage {
    /// The name it was built under (`agent build --target`); with a digest, what a registry knows it by.
    pub name: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its configuration: its identity in a classic Docker store.
    pub config: Digest,
}

impl RunImage {
    /// Where a registry has it, where its name says so.
    #[must_use]
    pub fn in_registry(&self) -> Option<Reference> {
        self.name.parse().ok().filter(|it: &Reference| it.digest.is_some())
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Chosen and journalled before the start.
    pub id: RunId,
    /// The image.
    pub image: RunImage,
    /// Settings of the container: variables, directories, limits. `image`, `labels` and `device_requests` are the
    /// engine's to fill; `command` holds what the in-image program is told.
    pub container: ContainerSpec,
    /// The GPUs it sees, and no others.
    pub gpus: GpuSet,
    /// Whether an engine is asked for none of them, and `NVIDIA_VISIBLE_DEVICES` alone says which a run sees: where a
    /// runtime gives them by that.
    pub only_told_gpus: bool,
    /// The run's own directory on this machine, mode 0700: console spool, files lent to it, the exit record of a native
    /// run.
    pub directory: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The in-image program ended.
    Exited {
        /// Its exit code; 128 + signal for one that a signal ended.
        code: i32,
        /// Whether the kernel killed something of it for memory.
        out_of_memory: bool,
    },
    /// It is gone and nobody knows how it ended: the host was restarted, somebody removed the container.
    Lost {
        /// What is known, a fragment for people.
        reason: String,
    },
}

/// What an engine knows of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Found {
    /// Nothing: it was never started here, or is removed.
    Absent,
    /// It goes on.
    Running,
    /// It ended and has not been removed.
    Ended(Outcome),
}

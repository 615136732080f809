//! What is run in a sandbox, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::job::{Bind, Limit};
use crate::digest::Digest;

/// A layer to stand on: its blob is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerBlob {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the stored blob.
    pub blob: Digest,
}

/// Where a step's changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Changes {
    /// Into the sandbox: later steps see them, and the layer has them.
    #[default]
    Kept,
    /// Nowhere. Many such steps may run at once.
    Dropped,
}

/// One program run in a sandbox.
#[derive(Debug, Clone)]
pub struct Step {
    /// For people: `apt-get install`.
    pub title: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment besides `PATH`, `HOME` and `LC_ALL`.
    pub env: BTreeMap<String, String>,
    /// Working directory inside.
    pub directory: String,
    /// Whether it sees the host's network.
    pub network: bool,
    /// What of the host it sees.
    pub binds: Vec<Bind>,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// Where its changes go.
    pub changes: Changes,
    /// Whether `/tmp` is its own and forgotten.
    pub private_tmp: bool,
    /// How long it may take.
    pub limit: Duration,
}

impl Step {
    /// A step without network and input that may take an hour.
    #[must_use]
    pub fn new(title: impl Into<String>, argv: &[&str]) -> Self {
        Self {
            title: title.into(),
            argv: argv.iter().map(|&it| it.to_owned()).collect(),
            env: BTreeMap::new(),
            directory: "/".to_owned(),
            network: false,
            binds: Vec::new(),
            stdin: Vec::new(),
            changes: Changes::Kept,
            private_tmp: true,
            limit: Duration::from_secs(3600),
        }
    }

    /// The same with one more directory or file of the host.
    #[must_use]
    pub fn bind(mut self, source: &Path, target: &str, writable: bool) -> Self {
        self.binds.push(Bind { source: source.to_owned(), target: target.to_owned(), writable });
        self
    }

    /// The same with one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

/// How a step ended and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, or 128 and the number of the signal that ended it.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last lines of what it printed, for messages: standard error, else standard output.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|it| !it.is_empty()).collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        let errors = words(&self.stderr);
        if errors.is_empty() { words(&self.stdout) } else { errors }
    }
}

/// Whether files in temporary directories enter a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporary {
    /// They do.
    Kept,
    /// They do not.
    LeftOut,
}

/// A program that is the first process of a sandbox: an image's entry point.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment; may hold secrets, and never stands in an argument.
    pub env: BTreeMap<String, String>,
    /// Working directory inside.
    pub directory: String,
    /// Owner of the process; root when absent, and always root (who is the user outside) where only one id exists.
    pub user: Option<(u32, u32)>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// What of the host is seen.
    pub binds: Vec<Bind>,
    /// Whether the host's network is seen, with its names, proxies and certificates.
    pub network: bool,
    /// Whether proxies and certificates of the host are kept from it.
    pub alone: bool,
    /// Empty directories in memory: path and mount options (`size=64m,mode=1777`).
    pub tmpfs: Vec<(String, String)>,
    /// Symbolic links to make: path and what it says. One that stands there is replaced, anything else stays.
    pub links: Vec<(String, String)>,
    /// Room of /dev/shm in bytes.
    pub shm: Option<u64>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Directories of the control groups that all of it runs in.
    pub control_groups: Vec<PathBuf>,
    /// Whether the root cannot be written to.
    pub read_only: bool,
    /// Host name inside.
    pub hostname: String,
}

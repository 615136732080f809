//! Which way a sandbox can be had on this machine: tried out before anything is downloaded, not guessed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use fs_err as fs;

use super::child::{self, Outside};
use super::ids::{self, Subordinate};
use super::job::{Overlay, Run, Work};
use super::{Refused, SandboxError};
use crate::report::Silent;
use crate::store::Store;

/// A way to have a sandbox.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// As root.
    Root,
    /// In a user namespace with subordinate ids.
    Mapped(Subordinate),
    /// In a user namespace with one id. Packages that give files to other users cannot be installed.
    Single {
        /// The user outside.
        uid: u32,
        /// The group outside.
        gid: u32,
    },
}

impl Way {
    /// For people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Root => "as root",
            Self::Mapped(_) => "rootless, with subordinate ids",
            Self::Single { .. } => "rootless, with one id",
        }
    }

    /// Whether unpacked files belong to others than on disk they should.
    #[must_use]
    pub const fn is_rootless(&self) -> bool {
        !matches!(self, Self::Root)
    }
}

static FOUND: Mutex<Option<HashMap<PathBuf, Way>>> = Mutex::new(None);

/// The best way open on this machine, for work in this store. Remembered while the program runs.
///
/// # Errors
/// [`SandboxError::NoWay`] says which ways fail and why.
pub fn choose(store: &Store) -> Result<Way, SandboxError> {
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let found = found.get_or_insert_with(HashMap::new);
    if let Some(way) = found.get(store.root()) {
        return Ok(*way);
    }
    let way = find(store)?;
    found.insert(store.root().to_owned(), way);
    Ok(way)
}

fn find(store: &Store) -> Result<Way, SandboxError> {
    let mut refused = Vec::new();
    let mut consider = |name: &'static str, way: Result<Way, String>| {
        let tried = way.and_then(|way| probe(store, &way).map(|()| way).map_err(|error| explain(&error)));
        tried.map_err(|reason| refused.push(Refused { way: name, reason })).ok()
    };
    if rustix::process::geteuid().is_root() {
        if let Some(way) = consider("as root", Ok(Way::Root)) {
            return Ok(way);
        }
    } else {
        let mapped = ids::subordinate().map(Way::Mapped);
        if let Some(way) = consider("rootless, with subordinate ids", mapped) {
            return Ok(way);
        }
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if let Some(way) = consider("rootless, with one id", Ok(Way::Single { uid, gid })) {
        return Ok(way);
    }
    if !rustix::process::geteuid().is_root() {
        refused.insert(0, Refused { way: "as root", reason: format!("this is user {uid}") });
    }
    Err(SandboxError::NoWay { refused })
}

/// Makes a sandbox with nothing in it and lets it go again.
fn probe(store: &Store, way: &Way) -> Result<(), SandboxError> {
    let scratch = store.scratch()?;
    let path = |name: &str| scratch.path().join(name);
    for dir in ["upper", "work"] {
        fs::create_dir(path(dir)).map_err(|source| SandboxError::Start { source })?;
    }
    let overlay = Overlay { lowers: Vec::new(), upper: path("upper"), work: path("work"), read_only: false };
    let run = Run { root: Some(overlay), ..Run::default() };
    let limit = Duration::from_secs(60);
    let outside = Outside { network: false, stdin: &[], limit, title: "probe", reporter: &Silent };
    let tried = child::run(way, run, &outside);
    // The overlay's work directory may belong to somebody else.
    let removed = child::work(way, &Work::Remove(vec![path("upper"), path("work")]));
    let (output, _) = tried?;
    removed?;
    if output.code == 0 {
        return Ok(());
    }
    Err(SandboxError::Start { source: std::io::Error::other(format!("the probe ended with {}", output.code)) })
}

fn explain(error: &SandboxError) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

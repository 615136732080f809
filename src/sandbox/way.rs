//! Which way a sandbox can be had on this machine: tried out before anything is downloaded, not guessed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use fs_err as fs;

use super::child::{self, Outside};
use super::ids::{self, Subordinate};
use super::job::{Ids, Overlay, Run, Work};
use super::{Refused, SandboxError};
use crate::report::Silent;
use crate::store::Store;

/// A way to have a sandbox.
#[derive(Debug, Clone)]
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
    /// As root in a container of this machine's Docker engine.
    Docker {
        /// The store's directory, which the container sees.
        store: PathBuf,
    },
}

/// Names of ways, as `AGENT_SANDBOX` takes them.
const NAMES: [&str; 4] = ["root", "mapped", "single", "docker"];

impl Way {
    /// For people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Root => "as root",
            Self::Mapped(_) => "rootless, with subordinate ids",
            Self::Single { .. } => "rootless, with one id",
            Self::Docker { .. } => "through a Docker container",
        }
    }

    /// Whether unpacked files belong to others than on disk they should.
    #[must_use]
    pub const fn is_rootless(&self) -> bool {
        matches!(self, Self::Mapped(_) | Self::Single { .. })
    }

    /// How ids look from inside.
    pub(super) const fn ids(&self) -> Ids {
        match self {
            Self::Root | Self::Docker { .. } => Ids::Host,
            Self::Mapped(_) => Ids::Mapped,
            Self::Single { uid, gid } => Ids::Single { uid: *uid, gid: *gid },
        }
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
        return Ok(way.clone());
    }
    let way = find(store)?;
    found.insert(store.root().to_owned(), way.clone());
    Ok(way)
}

fn find(store: &Store) -> Result<Way, SandboxError> {
    let only = std::env::var("AGENT_SANDBOX").ok().filter(|it| !it.is_empty());
    if let Some(only) = only.as_deref().filter(|it| !NAMES.contains(it)) {
        let reason = format!("`{only}` is none of {}", NAMES.join(", "));
        return Err(SandboxError::NoWay { refused: vec![Refused { way: "AGENT_SANDBOX", reason }] });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let root = if uid == 0 { Ok(Way::Root) } else { Err(format!("this is user {uid}")) };
    let mut refused = Vec::new();
    for name in NAMES {
        let way = match name {
            "root" => root.clone(),
            // Who is root and may not make namespaces may not map ids either.
            "mapped" if uid == 0 && only.is_none() => continue,
            "mapped" => ids::subordinate().map(Way::Mapped),
            "single" => Ok(Way::Single { uid, gid }),
            _ => Ok(Way::Docker { store: store.root().to_owned() }),
        };
        if only.as_deref().is_some_and(|it| it != name) {
            continue;
        }
        let tried = way.and_then(|way| probe(store, &way).map(|()| way).map_err(|error| explain(&error)));
        match tried {
            Ok(way) => return Ok(way),
            Err(reason) => refused.push(Refused { way: for_people(name), reason }),
        }
    }
    Err(SandboxError::NoWay { refused })
}

fn for_people(name: &str) -> &'static str {
    match name {
        "root" => "as root",
        "mapped" => "rootless, with subordinate ids",
        "single" => "rootless, with one id",
        _ => "through a Docker container",
    }
}

/// Makes a sandbox with nothing in it and lets it go again.
fn probe(store: &Store, way: &Way) -> Result<(), SandboxError> {
    let scratch = store.scratch()?;
    let path = |name: &str| scratch.path().join(name);
    for dir in ["upper", "work"] {
        fs::create_dir(path(dir)).map_err(|source| SandboxError::Start { source })?;
    }
    let overlay = Overlay { lowers: Vec::new(), upper: path("upper"), work: path("work"), read_only: false };
    let run = Run { root: overlay, ..Run::default() };
    let limit = Duration::from_secs(60);
    let outside = Outside { network: false, limit, title: "probe", reporter: &Silent };
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

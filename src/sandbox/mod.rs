//! Where what must run on a base image runs: namespaces over an overlay of its unpacked layers.
//!
//! A [`Sandbox`] has the layers below, unpacked once ([`snapshot`]), and a place where changes go; [`Sandbox::run`] runs
//! a step in it, [`Sandbox::layer`] makes a layer of what the steps changed. It works as root and rootless ([`Way`]),
//! and gives the same layer. A step sees no network unless it asks for it; what the host then lends it ([`lend`]) leaves
//! no trace.
//!
//! Nothing forks here: a process with threads must not. The program starts itself again and [`dispatch`], called first
//! in `main`, makes that process a stage of the sandbox ([`stage`]), which hears over a socket what to do ([`job`]).
//!
//! Files of a sandbox that is not root's belong to other ids than ours; they are read and removed by stages too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::oci::layer::DeviceKind;
use crate::oci::{Layer, LayerError, LayerWriter, Meta};
use crate::report::Reporter;
use crate::store::{Store, StoreError};

#[expect(unsafe_code, reason = "a descriptor is handed to a process between fork and exec")]
mod child;
mod ids;
mod job;
pub mod lend;
mod mounts;
mod scrub;
mod snapshot;
#[expect(unsafe_code, reason = "namespaces are entered and users changed between fork and exec")]
mod stage;
mod unpack;
mod upper;
mod way;

pub use child::Process;
pub use ids::{Range, Subordinate};
pub use job::Bind;
pub use stage::dispatch;
pub use way::{Way, choose};

use job::{Entry, Node, Overlay, Run, Trouble, Walk, Work};

/// The search path of a step that sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A way that is not open, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For people: `as root`.
    pub way: &'static str,
    /// What was tried and what the system said.
    pub reason: String,
}

/// What went wrong inside.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StageError {
    what: String,
    error: String,
    errno: Option<i32>,
    input: bool,
}

impl From<Trouble> for StageError {
    fn from(trouble: Trouble) -> Self {
        Self { what: trouble.what, error: trouble.error, errno: trouble.errno, input: trouble.input }
    }
}

/// Why something could not be done in a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no way to have one on this machine.
    #[error("nothing can be run on a base image here ({})", reasons(refused))]
    NoWay {
        /// All ways.
        refused: Vec<Refused>,
    },
    /// Its process could not be started or spoken to.
    #[error("cannot start the sandbox")]
    Start {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not do its work.
    #[error("the sandbox cannot {}", .0.what)]
    Stage(#[source] StageError),
    /// A layer cannot be unpacked as it is.
    #[error("layer {layer} is not usable: cannot {}", trouble.what)]
    Layer {
        /// Its diff_id.
        layer: Digest,
        /// What is wrong with it.
        #[source]
        trouble: StageError,
    },
    /// A step took too long and was ended.
    #[error("`{title}` did not end within {} s", limit.as_secs())]
    Late {
        /// The step.
        title: String,
        /// The time it was given.
        limit: Duration,
    },
    /// What changed cannot be a layer.
    #[error(transparent)]
    Write(#[from] LayerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SandboxError {
    /// Whether the program of a step, or something it needs to start, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let none = rustix::io::Errno::NOENT.raw_os_error();
        matches!(self, Self::Stage(trouble) if trouble.errno == Some(none) && trouble.what.starts_with("start "))
    }
}

fn reasons(refused: &[Refused]) -> String {
    refused.iter().map(|it| format!("{}: {}", it.way, it.reason)).collect::<Vec<_>>().join("; ")
}

impl Explain for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoWay { .. } => Kind::Sandbox,
            Self::Start { source } => Kind::of_io(source),
            Self::Stage(trouble) if trouble.input => Kind::Input,
            Self::Stage(trouble) => {
                trouble.errno.map_or(Kind::System, |it| match Kind::of_io(&io::Error::from_raw_os_error(it)) {
                    Kind::NotFound => Kind::System,
                    kind => kind,
                })
            }
            Self::Layer { .. } => Kind::Input,
            Self::Late { .. } => Kind::System,
            Self::Write(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoWay { .. } => vec![
                "Run as root, or let unprivileged users make user namespaces and give yours subordinate ids: \
                 install `uidmap`, then `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`."
                    .to_owned(),
                "In a container, start it with `--privileged`, or build where the layers are in the cache already."
                    .to_owned(),
                "Wheels alone need no sandbox: lock with `--no-bytecode` and without system packages.".to_owned(),
            ],
            Self::Write(error) => error.hints(),
            Self::Store(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// A layer to stand on: its blob is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A base with room for changes on top. Removed when dropped.
pub struct Sandbox {
    store: Store,
    way: Way,
    lowers: Vec<PathBuf>,
    scratch: Option<tempfile::TempDir>,
    made: Mutex<BTreeSet<String>>,
    /// Held while a step changes what is kept: an overlay's upper directory has one user at a time.
    changing: Mutex<()>,
    runs: AtomicU32,
    began: i64,
}

impl Sandbox {
    /// A sandbox on layers, bottom first; none for an empty root. Unpacks those that are not yet.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn open(store: &Store, layers: &[LayerBlob], reporter: &dyn Reporter) -> Result<Self, SandboxError> {
        let way = choose(store)?;
        let lowers = snapshot::ensure(store, &way, layers, reporter)?;
        let scratch = store.scratch()?;
        fs::create_dir(scratch.path().join("upper")).map_err(|source| SandboxError::Start { source })?;
        // File systems stamp with a clock that may lag behind this one a little.
        let began = now() - 1;
        Ok(Self {
            store: store.clone(),
            way,
            lowers,
            scratch: Some(scratch),
            made: Mutex::default(),
            changing: Mutex::default(),
            runs: AtomicU32::new(0),
            began,
        })
    }

    /// The way it is had.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
    }

    /// A file of the layers, as the topmost that has it says; links are not followed.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.trim_start_matches('/');
        let found = self.lowers.iter().map(|it| it.join(path)).find(|it| it.symlink_metadata().is_ok())?;
        fs::symlink_metadata(&found).ok().filter(std::fs::Metadata::is_file)?;
        fs::read(found).ok()
    }

    /// Runs a step to its end. A program that fails is no error here.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn run(&self, step: &Step, reporter: &dyn Reporter) -> Result<Output, SandboxError> {
        let _alone = (step.changes == Changes::Kept)
            .then(|| self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let (work, upper) = self.places(step.changes)?;
        let overlay =
            Overlay { lowers: self.lowers.clone(), upper: upper.clone(), work: work.clone(), read_only: false };
        let mut run = Run {
            root: Some(overlay),
            argv: step.argv.clone(),
            env: step.env.clone(),
            directory: step.directory.clone(),
            tmpfs: vec![("/run".to_owned(), 0o755)],
            hostname: "sandbox".to_owned(),
            ..Run::default()
        };
        if step.private_tmp {
            run.tmpfs.push(("/tmp".to_owned(), 0o1777));
        }
        for (name, value) in [("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")] {
            run.env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        if step.network {
            lend::lend(&mut run.binds, &mut run.env);
        }
        run.binds.extend(step.binds.iter().cloned());
        let outside = child::Outside {
            network: step.network,
            stdin: &step.stdin,
            limit: step.limit,
            title: &step.title,
            reporter,
        };
        let ran = child::run(&self.way, run, &outside);
        let mut rubbish = vec![work];
        if step.changes == Changes::Dropped {
            rubbish.push(upper);
        }
        let removed = child::work(&self.way, &Work::Remove(rubbish));
        let (output, made) = ran?;
        removed?;
        if step.changes == Changes::Kept {
            self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(made);
        }
        Ok(output)
    }

    /// Runs a program of the host, as root of the sandbox, with the place of changes as its working directory: to fill
    /// an empty root from outside.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn run_outside(&self, step: &Step, reporter: &dyn Reporter) -> Result<Output, SandboxError> {
        let upper = self.scratch().join("upper");
        let mut env = step.env.clone();
        env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
        let directory = upper.to_string_lossy().into_owned();
        let run = Run { argv: step.argv.clone(), env, directory, ..Run::default() };
        let outside = child::Outside {
            network: step.network,
            stdin: &step.stdin,
            limit: step.limit,
            title: &step.title,
            reporter,
        };
        Ok(child::run(&self.way, run, &outside)?.0)
    }

    /// Starts a program as the first process of the sandbox, with streams of its own, and goes on. Its changes are
    /// kept in the sandbox while it lives.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn start(&self, guest: &Guest, streams: (Stdio, Stdio, Stdio)) -> Result<Process, SandboxError> {
        let (work, upper) = self.places(Changes::Kept)?;
        let overlay = Overlay { lowers: self.lowers.clone(), upper, work, read_only: guest.read_only };
        let mut binds = Vec::new();
        let mut env = guest.env.clone();
        if guest.network {
            lend::lend(&mut binds, &mut env);
        }
        binds.extend(guest.binds.iter().cloned());
        let run = Run {
            root: Some(overlay),
            argv: guest.argv.clone(),
            env,
            directory: guest.directory.clone(),
            user: guest.user,
            groups: guest.groups.clone(),
            binds,
            tmpfs: vec![("/run".to_owned(), 0o755)],
            sys: true,
            hostname: guest.hostname.clone(),
            first: true,
        };
        Process::start(&self.way, run, guest.network, streams)
    }

    /// The layer of everything the steps changed. `temporary` directories are left out of layers of packages; a
    /// script's own files there stay.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn layer(&self, temporary: Temporary) -> Result<Layer, SandboxError> {
        let view = self.new_dir("view")?;
        let made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned().collect();
        let rules = scrub::Rules { made, temporary: temporary == Temporary::LeftOut, during: (self.began, now() + 1) };
        let upper = self.scratch().join("upper");
        let walk = Walk { upper, lowers: self.lowers.clone(), view: view.clone(), rules };
        let mut writer = self.store.layer_writer()?;
        child::walk(&self.way, walk, &mut |entry, content| Ok(write(&mut writer, &entry, content)?))?;
        child::work(&self.way, &Work::Remove(vec![view]))?;
        Ok(writer.finish()?)
    }

    fn scratch(&self) -> &Path {
        // Taken away only by `drop`.
        self.scratch.as_ref().map_or_else(|| Path::new(""), tempfile::TempDir::path)
    }

    fn new_dir(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch().join(format!("{name}-{number}"));
        fs::create_dir(&path).map_err(|source| SandboxError::Start { source })?;
        Ok(path)
    }

    fn places(&self, changes: Changes) -> Result<(PathBuf, PathBuf), SandboxError> {
        let work = self.new_dir("work")?;
        let upper = match changes {
            Changes::Kept => self.scratch().join("upper"),
            Changes::Dropped => self.new_dir("upper")?,
        };
        Ok((work, upper))
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
    /// Whether the root cannot be written to.
    pub read_only: bool,
    /// Host name inside.
    pub hostname: String,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Some(scratch) = self.scratch.take() else { return };
        let rubbish: Vec<PathBuf> =
            fs::read_dir(scratch.path()).into_iter().flatten().flatten().map(|it| it.path()).collect();
        if !rubbish.is_empty() {
            let _ = child::work(&self.way, &Work::Remove(rubbish));
        }
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("way", &self.way).field("lowers", &self.lowers).finish_non_exhaustive()
    }
}

fn write(writer: &mut LayerWriter<'_>, entry: &Entry, content: &mut dyn io::Read) -> Result<(), LayerError> {
    let meta =
        Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: entry.xattrs.clone() };
    let path = &entry.path;
    match &entry.node {
        Node::Dir { opaque } => {
            writer.dir(path, &meta)?;
            if *opaque { writer.opaque(path) } else { Ok(()) }
        }
        Node::File { size } => writer.file_from(path, &meta, *size, content),
        Node::Link { target } => writer.hardlink(path, &meta, target),
        Node::Symlink { target } => writer.symlink(path, &meta, target),
        Node::Char { major, minor } => writer.device(path, &meta, DeviceKind::Char, (*major, *minor)),
        Node::Block { major, minor } => writer.device(path, &meta, DeviceKind::Block, (*major, *minor)),
        Node::Fifo => writer.device(path, &meta, DeviceKind::Fifo, (0, 0)),
        Node::Whiteout => writer.whiteout(path),
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX))
}

/// Removes a tree that may hold files of other ids: an unpacked chain that is collected.
///
/// # Errors
/// [`SandboxError`]
pub fn remove(store: &Store, path: &Path) -> Result<(), SandboxError> {
    child::work(&choose(store)?, &Work::Remove(vec![path.to_owned()]))
}

#[cfg(test)]
mod tests;

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

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err as fs;

use crate::oci::layer::DeviceKind;
use crate::oci::{Layer, LayerError, LayerWriter, Meta};
use crate::report::Reporter;
use crate::store::Store;

#[expect(unsafe_code, reason = "a descriptor is handed to a process between fork and exec")]
mod child;
mod docker;
mod error;
mod fill;
mod ids;
mod job;
pub mod lend;
mod mountinfo;
mod mounts;
mod process;
#[expect(unsafe_code, reason = "rustix does not have the system call")]
mod read_only;
mod scrub;
mod snapshot;
#[expect(unsafe_code, reason = "namespaces are entered and users changed between fork and exec")]
mod stage;
mod step;
mod unpack;
mod upper;
mod way;

pub use error::{Refused, SandboxError, StageError};
pub use ids::{Range, Subordinate};
pub use job::{Bind, Limit};
pub use process::Process;
pub use stage::{close_inherited, dispatch};
pub use step::{Changes, Guest, LayerBlob, Output, Step, Temporary};
pub use way::{Way, choose};

use job::{Entry, Fill, Node, Overlay, Run, Walk, Work};

/// The search path of a step that sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
        let upper = scratch.path().join("upper");
        // The root that everybody inside sees, whatever the umask here.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::create_dir(&upper)
            .and_then(|()| fs::set_permissions(&upper, mode))
            .map_err(|source| SandboxError::Start { source })?;
        let began = stamp(&upper)?;
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

    /// What of the store it stands on, besides blobs: unpacked layers, and where its changes go.
    pub fn stands_on(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let unpacked = self.lowers.iter().filter_map(|it| it.parent());
        unpacked.chain(self.scratch.as_ref().map(tempfile::TempDir::path)).map(Path::to_owned)
    }

    /// Lets the store go, where a lease keeps all that this stands on.
    pub fn let_go(&mut self) {
        self.store = self.store.let_go();
    }

    /// The way it is had.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
    }

    /// A file of the layers, as the topmost that has it says; a link at the path's end is not followed.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.trim_start_matches('/');
        let topmost = self.lowers.iter().find(|it| unpack::found(it, path, unpack::IN_ROOT).is_some())?;
        let (mut file, _) = unpack::regular_file(topmost, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok().map(|_| bytes)
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
            root: overlay,
            argv: step.argv.clone(),
            env: step.env.clone(),
            directory: step.directory.clone(),
            tmpfs: vec![("/run".to_owned(), "mode=755".to_owned())],
            hostname: "sandbox".to_owned(),
            input: self.input(&work, &step.stdin)?,
            ..Run::default()
        };
        if step.private_tmp {
            run.tmpfs.push(("/tmp".to_owned(), "mode=1777".to_owned()));
        }
        for (name, value) in [("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")] {
            run.env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        if step.network {
            lend::names(&mut run.binds);
            lend::lend(&mut run.binds, &mut run.env);
        }
        run.binds.extend(step.binds.iter().cloned());
        let outside = child::Outside { network: step.network, limit: step.limit, title: &step.title, reporter };
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

    /// Unpacks archives of packages into the place of changes, one over the other: an empty root is filled so. Paths and
    /// links in them are resolved inside it, and nothing is written elsewhere. A link to a directory stays where an
    /// archive has a directory of that name. Paths that match one of the `excluded` patterns (`*` and `?` stand for
    /// slashes too) are left out.
    ///
    /// # Errors
    /// [`SandboxError`]; names the archive.
    pub fn fill(&self, archives: &[PathBuf], excluded: &[String]) -> Result<(), SandboxError> {
        let _alone = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let into = self.scratch().join("upper");
        child::work(&self.way, &Work::Fill(Fill { archives: archives.to_vec(), excluded: excluded.to_vec(), into }))
    }

    /// Starts a program as the first process of the sandbox, with streams of its own, and goes on once it runs. Its
    /// changes are kept in the sandbox while it lives.
    ///
    /// # Errors
    /// [`SandboxError`]; also when the program itself cannot be started.
    pub fn start(&self, guest: &Guest, streams: (Stdio, Stdio, Stdio)) -> Result<Process, SandboxError> {
        let (work, upper) = self.places(Changes::Kept)?;
        let overlay = Overlay { lowers: self.lowers.clone(), upper, work, read_only: guest.read_only };
        let mut binds = Vec::new();
        let mut env = guest.env.clone();
        if guest.network {
            lend::names(&mut binds);
        }
        if guest.network && !guest.alone {
            lend::lend(&mut binds, &mut env);
        }
        binds.extend(guest.binds.iter().cloned());
        let run = Run {
            root: overlay,
            argv: guest.argv.clone(),
            env,
            directory: guest.directory.clone(),
            user: guest.user,
            groups: guest.groups.clone(),
            binds,
            tmpfs: guest.tmpfs.clone(),
            links: guest.links.clone(),
            shm: guest.shm,
            limits: guest.limits.clone(),
            sys: true,
            hostname: guest.hostname.clone(),
            input: None,
            first: true,
        };
        let around = process::Around { network: guest.network, control_groups: guest.control_groups.clone() };
        Process::start(&self.way, run, around, streams)
    }

    /// The layer of everything the steps changed. `temporary` directories are left out of layers of packages; a
    /// script's own files there stay.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub fn layer(&self, temporary: Temporary) -> Result<Layer, SandboxError> {
        let view = self.new_dir("view")?;
        let made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned().collect();
        let during = (self.began, stamp(&view)? + 1);
        let rules = scrub::Rules { made, temporary: temporary == Temporary::LeftOut, during };
        let upper = self.scratch().join("upper");
        let walk = Walk { upper, lowers: self.lowers.clone(), view: view.clone(), rules };
        let mut writer = self.store.layer_writer()?;
        child::walk(&self.way, walk, &mut |entry, content| Ok(write(&mut writer, &entry, content)?))?;
        child::work(&self.way, &Work::Remove(vec![view]))?;
        Ok(writer.finish()?)
    }

    /// Puts a step's input where its stage finds it, whatever that runs in.
    fn input(&self, work: &Path, bytes: &[u8]) -> Result<Option<PathBuf>, SandboxError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let path = work.with_extension("input");
        fs::write(&path, bytes).map_err(|source| SandboxError::Start { source })?;
        Ok(Some(path))
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

/// When a directory was made, by the clock that its file system stamps files with: what a step writes is told from what
/// packages bring by that clock, whatever this process's own says.
fn stamp(made: &Path) -> Result<i64, SandboxError> {
    let metadata = fs::metadata(made).map_err(|source| SandboxError::Start { source })?;
    Ok(metadata.mtime())
}

/// Unpacks layers that are not yet, bottom first, so that a run on them starts at once.
///
/// # Errors
/// [`SandboxError`]
pub fn unpack(store: &Store, layers: &[LayerBlob], reporter: &dyn Reporter) -> Result<(), SandboxError> {
    snapshot::ensure(store, &choose(store)?, layers, reporter).map(|_| ())
}

/// Whether programs can be started here and go on by themselves.
///
/// # Errors
/// [`SandboxError::NoWay`]
pub fn runs_here(store: &Store) -> Result<(), SandboxError> {
    process::allowed(&choose(store)?)
}

/// What removes trees that may hold files of other ids: unpacked layers that are collected. The way is chosen now,
/// while the store can be worked in.
pub fn remover(store: &Store) -> impl Fn(&Path) -> io::Result<()> + use<> {
    let way = choose(store);
    move |path| {
        let removed = way
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|way| child::work(way, &Work::Remove(vec![path.to_owned()])).map_err(|error| error.to_string()));
        removed.map_err(io::Error::other)
    }
}

/// Has every container that holds a sandbox removed: the process is about to end. Those in namespaces are programs of
/// ours, which [`crate::process::end_all`] ends.
pub fn end_all() {
    docker::end_all();
}

#[cfg(test)]
mod tests;

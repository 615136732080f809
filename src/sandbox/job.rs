//! What the two sides of a sandbox say to each other: frames (a length, then JSON) over a socket.
//!
//! The program starts itself again as `STAGE`; this process and that one speak in [`Head`], [`Work`] and [`Reply`].
//! File contents follow their [`Reply::Entry`] as plain bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// First argument of this program when it is a stage of a sandbox.
pub(super) const STAGE: &str = "__sandbox";

/// Longest frame taken, in bytes.
const LIMIT: u32 = 64 << 20;

/// How user and group ids look from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ids {
    /// As on the host: we are root.
    Host,
    /// A user namespace with subordinate ids; the parent maps them.
    Mapped,
    /// A user namespace in which only this one user and group exist, as root.
    Single {
        /// The user outside.
        uid: u32,
        /// The group outside.
        gid: u32,
    },
}

/// The first frame: which namespaces to enter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) ids: Ids,
    /// Whether a process tree of its own (mounts, process ids, host name, IPC) is wanted: for [`Work::Run`].
    pub(super) isolate: bool,
    /// Whether the host's network is kept.
    pub(super) network: bool,
}

/// The second frame: what to do there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Work {
    /// Unpack a layer blob into an empty directory.
    Unpack(Unpack),
    /// Unpack archives of packages, one over the other, into a directory.
    Fill(Fill),
    /// Tell the entries of an overlay's upper directory.
    Walk(Walk),
    /// Remove trees that the user outside may not remove.
    Remove(Vec<PathBuf>),
    /// Run a program.
    Run(Box<Run>),
}

/// See [`Work::Unpack`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Unpack {
    /// The layer's blob.
    pub(super) blob: PathBuf,
    /// Its uncompressed tar's digest.
    pub(super) diff_id: crate::digest::Digest,
    /// Unpacked layers below, topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// An empty directory.
    pub(super) into: PathBuf,
}

/// See [`Work::Fill`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fill {
    /// The archives, in order; none of the directories they lie in is anybody else's.
    pub(super) archives: Vec<PathBuf>,
    /// Patterns of absolute paths that are left out.
    pub(super) excluded: Vec<String>,
    /// The directory.
    pub(super) into: PathBuf,
}

/// See [`Work::Walk`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Walk {
    /// The overlay's upper directory.
    pub(super) upper: PathBuf,
    /// Unpacked layers below, topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// An empty directory to mount them on.
    pub(super) view: PathBuf,
    /// What is left out.
    pub(super) rules: super::scrub::Rules,
}

/// See [`Work::Run`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Run {
    /// The file system.
    pub(super) root: Overlay,
    /// Program and arguments; nothing is started when empty.
    pub(super) argv: Vec<String>,
    /// The whole environment.
    pub(super) env: BTreeMap<String, String>,
    /// Working directory inside.
    pub(super) directory: String,
    /// Owner of the process inside.
    pub(super) user: Option<(u32, u32)>,
    /// Further groups of it.
    pub(super) groups: Vec<u32>,
    /// The file that is its standard input; the stage's own when absent.
    pub(super) input: Option<PathBuf>,
    /// What is mounted, in order.
    pub(super) binds: Vec<Bind>,
    /// Empty directories in memory: path and options.
    pub(super) tmpfs: Vec<(String, String)>,
    /// Symbolic links to make: path and what it says.
    pub(super) links: Vec<(String, String)>,
    /// Room of /dev/shm in bytes; the kernel's default when absent.
    pub(super) shm: Option<u64>,
    /// Resource limits of the program.
    pub(super) limits: Vec<Limit>,
    /// Whether the host's /sys is seen.
    pub(super) sys: bool,
    /// Host name inside.
    pub(super) hostname: String,
    /// Whether the program itself is the first process; else one of ours is, and reaps.
    pub(super) first: bool,
}

/// An overlay of unpacked layers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Overlay {
    /// Unpacked layers, topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// Where changes go.
    pub(super) upper: PathBuf,
    /// An empty directory on the same file system; holds the overlay's own and the mount point.
    pub(super) work: PathBuf,
    /// Whether it can only be read.
    pub(super) read_only: bool,
}

/// A resource limit (getrlimit(2)); none where a number is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// As in `RLIMIT_NOFILE`, without the beginning and in lower case.
    pub name: String,
    /// What the program gets.
    pub soft: Option<u64>,
    /// What it may raise it to.
    pub hard: Option<u64>,
}

/// Something of the host that is seen inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside; made (and later forgotten) where it does not exist.
    pub target: String,
    /// Whether it can be written to.
    pub writable: bool,
}

/// What a stage answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The user namespace is there; ids may be mapped now.
    Unshared,
    /// The first process inside, as the parent sees it.
    Started { pid: i32 },
    /// The program itself has taken its place, where it is to be the first process; or that one has ended.
    Begun,
    /// Mount points that did not exist.
    Made(Vec<String>),
    /// An entry of an upper directory; a file's content follows.
    Entry(Entry),
    /// It is done.
    Done,
    /// The program ended.
    Exited { code: i32 },
    /// It could not be done.
    Failed(Trouble),
}

/// What went wrong on the other side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trouble {
    /// What was tried.
    pub(super) what: String,
    /// What the system said.
    pub(super) error: String,
    /// Its number, where it came from the system.
    pub(super) errno: Option<i32>,
    /// Whether the fault is in what was given to us (a layer that is not what it says).
    pub(super) input: bool,
}

impl Trouble {
    pub(super) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        Self { what: what.into(), error: error.to_string(), errno: error.raw_os_error(), input: false }
    }

    pub(super) fn input(what: impl Into<String>, error: impl Into<String>) -> Self {
        Self { what: what.into(), error: error.into(), errno: None, input: true }
    }
}

/// Says what was being done when the system said no.
pub(super) trait Doing<T> {
    /// Names it.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Trouble>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::io(what(), &error))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Trouble> {
        self.map_err(|errno| Trouble::io(what(), &errno.into()))
    }
}

/// An entry of an upper directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) node: Node,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Node {
    Dir { opaque: bool },
    File { size: u64 },
    Link { target: String },
    Symlink { target: String },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
    Whiteout,
}

/// Writes one frame.
pub(super) fn send(mut to: impl Write, frame: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(frame)?;
    let length = u32::try_from(bytes.len()).ok().filter(|it| *it <= LIMIT);
    let length = length.ok_or_else(|| io::Error::other("a message to the sandbox is too long"))?;
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    to.write_all(&framed)
}

/// Reads one frame; `None` at the end.
pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length);
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the sandbox is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let mut bytes = Vec::new();
        send(&mut bytes, &Reply::Started { pid: 7 }).unwrap();
        send(&mut bytes, &Reply::Done).unwrap();
        let mut reader = &bytes[..];
        assert!(matches!(receive(&mut reader).unwrap(), Some(Reply::Started { pid: 7 })));
        assert!(matches!(receive(&mut reader).unwrap(), Some(Reply::Done)));
        assert!(receive::<Reply>(&mut reader).unwrap().is_none());
        assert!(receive::<Reply>(&bytes[..2]).is_err());
    }
}

//! A layer blob unpacked into a directory of its own, as the overlay file system wants its lower layers.
//!
//! Whiteouts become character devices 0:0, opaque directories carry the overlay's attribute. Paths are resolved inside
//! the directory, whatever links a hostile layer has in it; `..` and absolute link targets cannot lead out. The
//! uncompressed bytes are hashed on the way and must be what the image says they are.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::job::{Doing, Ids, Trouble, Unpack};
use crate::digest::HashingWriter;
use crate::oci::tar::{self, Entry, EntryType};

/// Where the owner of a file stands when only one id exists: `uid:gid`.
pub(super) const OWNER: &str = "user.agent.owner";

/// Unpacks a layer.
pub(super) fn unpack(work: &Unpack, ids: Ids) -> Result<(), Trouble> {
    let blob = fs::File::open(&work.blob).doing(|| "open the layer".to_owned())?;
    let reader = tar::uncompressed(blob).doing(|| "read the layer".to_owned())?;
    let mut hashing = Hashing { inner: reader, hash: HashingWriter::new(io::sink()) };
    let mut target = Target::open(&work.into, &work.lowers, ids)?;
    tar::each(&mut hashing, |error| unreadable(&error), |entry| target.add(entry).map(ControlFlow::Continue))?;
    io::copy(&mut hashing, &mut io::sink()).map_err(|error| unreadable(&error))?;
    let (_, digest, _) = hashing.hash.finish();
    if digest != work.diff_id {
        return Err(Trouble::input("check the layer", format!("its content is {digest}, not {}", work.diff_id)));
    }
    target.finish()?;
    let into = fs::File::open(&work.into).doing(|| "write the layer to disk".to_owned())?;
    rustix::fs::syncfs(&into).doing(|| "write the layer to disk".to_owned())
}

fn unreadable(error: &io::Error) -> Trouble {
    Trouble { input: error.raw_os_error().is_none(), ..Trouble::io("read the layer", error) }
}

struct Hashing<R> {
    inner: R,
    hash: HashingWriter<io::Sink>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hash, &buffer[..count])?;
        Ok(count)
    }
}

/// The directory in the making.
pub(super) struct Target<'a> {
    root: OwnedFd,
    into: &'a Path,
    /// Unpacked layers below, topmost first.
    lowers: &'a [PathBuf],
    ids: Ids,
    /// The directory of the last entry.
    parent: Option<(String, OwnedFd)>,
    /// Directories get their times last: what is put into them changes it.
    times: Vec<(String, i64)>,
}

impl<'a> Target<'a> {
    pub(super) fn open(into: &'a Path, lowers: &'a [PathBuf], ids: Ids) -> Result<Self, Trouble> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(into, flags, Mode::empty()).doing(|| format!("open `{}`", into.display()))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).doing(|| "open the root directory".to_owned())?;
        Ok(Self { root, into, lowers, ids, parent: None, times: Vec::new() })
    }

    /// An entry of a layer.
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), Trouble> {
        let path = clean(&entry.path_bytes())?;
        let what = || format!("unpack `{path}`");
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if entry.header().entry_type() == EntryType::XGlobalHeader || !name.starts_with(".wh.") {
            return self.put(entry, &path);
        }
        self.enter(dir)?;
        let parent = self.current()?;
        if name == ".wh..wh..opq" {
            let attribute = if self.ids == Ids::Host { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
            let place = self.by_path(dir);
            return rustix::fs::setxattr(&place, attribute, b"y", XattrFlags::empty()).doing(what);
        }
        if name.starts_with(".wh..wh.") {
            return Ok(());
        }
        let hidden = name.strip_prefix(".wh.").unwrap_or_default();
        if matches!(hidden, "" | "." | "..") {
            return Err(Trouble::input(what(), "it hides nothing that can be named"));
        }
        clear(&parent, hidden, false).doing(what)?;
        rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0).doing(what)
    }

    /// An entry that is what it says, under a cleaned path.
    pub(super) fn put(&mut self, entry: &mut Entry<'_, impl Read>, path: &str) -> Result<(), Trouble> {
        let what = || format!("unpack `{path}`");
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        if path.is_empty() {
            // The root directory itself: its mode and owner are the image's.
            return self.describe(entry, ".", FileType::Directory);
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.enter(dir)?;
        let parent = self.current()?;
        let file_type = match kind {
            EntryType::Directory => FileType::Directory,
            EntryType::Symlink => FileType::Symlink,
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            EntryType::Fifo => FileType::Fifo,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link => {
                FileType::RegularFile
            }
            other => return Err(Trouble::input(what(), format!("an entry of type {other:?} is unknown"))),
        };
        clear(&parent, name, file_type == FileType::Directory).doing(what)?;
        match file_type {
            FileType::Directory => match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).doing(what),
            },
            FileType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(&*target, &parent, name).doing(what)?;
            }
            FileType::RegularFile if kind == EntryType::Link => return self.link(entry, path),
            FileType::RegularFile => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).doing(what)?;
                let copied = io::copy(entry, &mut std::fs::File::from(file)).doing(what)?;
                if copied != entry.size() {
                    return Err(Trouble::input(what(), "its content is cut off"));
                }
            }
            // Nodes of devices cannot be made by who is not root, and /dev is the step's own anyway.
            FileType::CharacterDevice | FileType::BlockDevice if self.ids != Ids::Host => return Ok(()),
            node => {
                let number = |it: io::Result<Option<u32>>| it.ok().flatten().unwrap_or(0);
                let (major, minor) = (number(entry.header().device_major()), number(entry.header().device_minor()));
                if node == FileType::CharacterDevice && (major, minor) == (0, 0) {
                    return Err(Trouble::input(what(), "a device 0:0 would hide what is below"));
                }
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(&parent, name, node, Mode::from_raw_mode(0o600), device).doing(what)?;
            }
        }
        self.describe(entry, path, file_type)
    }

    /// Whether a link to a directory has this path.
    pub(super) fn links_to_directory(&self, path: &str) -> bool {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let is_link = self.resolve(dir).and_then(|it| rustix::fs::statat(it, name, AtFlags::SYMLINK_NOFOLLOW));
        is_link.is_ok_and(|it| FileType::from_raw_mode(it.st_mode).is_symlink()) && self.resolve(path).is_ok()
    }

    /// Makes another name of a file of this layer; of a file of a layer below it takes a copy.
    fn link(&mut self, entry: &mut Entry<'_, impl Read>, path: &str) -> Result<(), Trouble> {
        let what = || format!("unpack `{path}`");
        let target = clean(&entry.link_name_bytes().unwrap_or_default())?;
        let (dir, name) = target.rsplit_once('/').unwrap_or(("", &target));
        let (own_dir, own) = path.rsplit_once('/').unwrap_or(("", path));
        let here = self.resolve(own_dir).doing(what)?;
        let linked = self.resolve(dir).and_then(|from| rustix::fs::linkat(&from, name, &here, own, AtFlags::empty()));
        match linked {
            Err(Errno::NOENT) => {}
            other => return other.doing(what),
        }
        let below = self.lowers.iter().find_map(|it| regular_file(it, &target));
        let Some((mut source, metadata)) = below else {
            return Err(Trouble::input(what(), format!("it is another name of `{target}`, which does not exist")));
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&here, own, flags, Mode::from_raw_mode(0o600)).doing(what)?;
        io::copy(&mut source, &mut std::fs::File::from(file)).doing(what)?;
        let owner = (metadata.uid(), metadata.gid());
        self.own(&here, own, owner, FileType::RegularFile).doing(what)?;
        rustix::fs::chmodat(&here, own, Mode::from_raw_mode(metadata.mode() & 0o7777), AtFlags::empty()).doing(what)?;
        set_time(&here, own, metadata.mtime()).doing(what)
    }

    /// Sets owner, attributes, mode and time as the entry says.
    fn describe(&mut self, entry: &mut Entry<'_, impl Read>, path: &str, kind: FileType) -> Result<(), Trouble> {
        let what = || format!("unpack `{path}`");
        let bad = |error: io::Error| Trouble::input(what(), error.to_string());
        let id = |it: io::Result<u64>| it.map_err(bad).and_then(|it| u32::try_from(it).map_err(|_| id_range(path)));
        let owner = (id(entry.header().uid())?, id(entry.header().gid())?);
        let mode = entry.header().mode().map_err(bad)? & 0o7777;
        let mtime = i64::try_from(entry.header().mtime().map_err(bad)?).unwrap_or(0);
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.resolve(dir).doing(what)?;
        self.own(&parent, name, owner, kind).doing(what)?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty()).doing(what)?;
        }
        for (attribute, value) in attributes(entry).map_err(bad)? {
            let place = self.by_path(path);
            match rustix::fs::lsetxattr(&place, attribute.as_str(), &value, XattrFlags::empty()) {
                // Some attributes are root's alone to set, and some file systems have none.
                Ok(()) | Err(Errno::PERM | Errno::NOTSUP) => {}
                Err(errno) => return Err(errno).doing(|| format!("set `{attribute}` of `{path}`")),
            }
        }
        if kind == FileType::Directory {
            self.times.push((path.to_owned(), mtime));
            return Ok(());
        }
        set_time(&parent, name, mtime).doing(what)
    }

    fn own(&self, dir: &OwnedFd, name: &str, owner: (u32, u32), kind: FileType) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        if !matches!(self.ids, Ids::Single { .. }) {
            return rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
        // Noted beside the file instead, so that layers made on top name the right owner. Links cannot carry it.
        if owner != (0, 0) && matches!(kind, FileType::RegularFile | FileType::Directory) {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let text = format!("{}:{}", owner.0, owner.1);
            return rustix::fs::fsetxattr(&file, OWNER, text.as_bytes(), XattrFlags::empty());
        }
        Ok(())
    }

    fn resolve(&self, dir: &str) -> rustix::io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, if dir.is_empty() { "." } else { dir }, flags, Mode::empty(), how)
    }

    /// Makes a directory the current one, with what is missing above it.
    fn enter(&mut self, dir: &str) -> Result<(), Trouble> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == dir) {
            return Ok(());
        }
        let what = || format!("make `{dir}`");
        let found = match self.resolve(dir) {
            Err(Errno::NOENT) if !dir.is_empty() => {
                let (above, name) = dir.rsplit_once('/').unwrap_or(("", dir));
                self.enter(above)?;
                self.imply(name, dir)?;
                self.resolve(dir).doing(what)?
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Trouble::input(what(), "something that is no directory has its name"));
            }
            other => other.doing(what)?,
        };
        self.parent = Some((dir.to_owned(), found));
        Ok(())
    }

    /// A directory that the layer does not mention is what it is below.
    fn imply(&mut self, name: &str, dir: &str) -> Result<(), Trouble> {
        let what = || format!("make `{dir}`");
        let parent = self.current()?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).doing(what)?;
        let below = self.lowers.iter().find_map(|it| found(it, dir, IN_ROOT)).map(|it| it.1).filter(Metadata::is_dir);
        if let Some(metadata) = below {
            self.own(&parent, name, (metadata.uid(), metadata.gid()), FileType::Directory).doing(what)?;
            let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()).doing(what)?;
            self.times.push((dir.to_owned(), metadata.mtime()));
        }
        Ok(())
    }

    fn current(&self) -> Result<OwnedFd, Trouble> {
        let Some((_, parent)) = &self.parent else {
            return Err(Trouble::input("unpack the layer", "an entry has no directory"));
        };
        rustix::io::fcntl_dupfd_cloexec(parent, 3).doing(|| "open a directory".to_owned())
    }

    /// For calls that take paths only. Their last part is never followed, and what stands before it is a real
    /// directory of ours: the entry was made there just now.
    fn by_path(&self, path: &str) -> PathBuf {
        match &self.parent {
            Some((dir, parent)) if path != "." => {
                use std::os::fd::AsRawFd;
                let name = path.strip_prefix(dir.as_str()).unwrap_or(path).trim_start_matches('/');
                PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)
            }
            _ => self.into.to_owned(),
        }
    }

    /// Sets the times of directories.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        for (path, mtime) in self.times.iter().rev() {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            // A later entry may have replaced it.
            if let Ok(parent) = self.resolve(dir) {
                match set_time(&parent, name, *mtime) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno).doing(|| format!("set the time of `{path}`")),
                }
            }
        }
        Ok(())
    }
}

/// Links resolved inside the layer, as a step sees them.
pub(super) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What lies at a path of an unpacked layer; a link at its end is not followed, and none on the way leads out of it:
/// on the host it would.
pub(super) fn found(layer: &Path, path: &str, how: ResolveFlags) -> Option<(File, Metadata)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(layer, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let place = rustix::fs::openat2(&root, path, flags | OFlags::NOFOLLOW, Mode::empty(), how).ok()?;
    let place = File::from(place);
    let metadata = place.metadata().ok()?;
    Some((place, metadata))
}

/// A regular file of an unpacked layer, opened; links on the way are resolved inside it.
pub(super) fn regular_file(layer: &Path, path: &str) -> Option<(fs::File, Metadata)> {
    use std::os::fd::AsRawFd;
    let (place, metadata) = found(layer, path, IN_ROOT).filter(|it| it.1.is_file())?;
    Some((fs::File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?, metadata))
}

fn id_range(path: &str) -> Trouble {
    Trouble::input(format!("unpack `{path}`"), "its owner is out of range")
}

/// Removes what has a name, unless it is a directory and one is wanted.
fn clear(parent: &OwnedFd, name: &str, keep_directory: bool) -> rustix::io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
            if keep_directory {
                Ok(())
            } else {
                remove_tree(parent, name)
            }
        }
        Ok(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
    }
}

fn remove_tree(parent: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    fs::remove_dir_all(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn set_time(dir: &OwnedFd, name: &str, mtime: i64) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// The extended attributes of an entry, without those by which the overlay itself is steered.
fn attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let Some(name) = record.key().ok().and_then(|it| it.strip_prefix("SCHILY.xattr.")) else { continue };
        if !name.starts_with("trusted.") && !name.starts_with("user.overlay.") && name != OWNER {
            found.push((name.to_owned(), record.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

/// A path of an archive without `./`, slashes at its ends, and anything that leads up.
pub(super) fn clean(bytes: &[u8]) -> Result<String, Trouble> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        Trouble::input(format!("unpack `{shown}`"), "its name is not UTF-8")
    })?;
    let parts: Vec<&str> = text.split('/').filter(|it| !matches!(*it, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Trouble::input(format!("unpack `{text}`"), "it leads out of the image"));
    }
    Ok(parts.join("/"))
}

//! What a step changed: an overlay's upper directory, told entry by entry in the order of a layer.
//!
//! The same changes give the same entries whoever makes them: directories that the overlay only copied up, marks of
//! its own and mount points of ours are no changes; names of one file are found by its inode.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use fs_err as fs;
use rustix::fs::ResolveFlags;

use super::job::{Doing, Entry, Ids, Node, Trouble, Walk};
use super::{mounts, unpack};
use crate::oci::layer::EPOCH;

/// Takes one entry, with its content where it is a file.
type Tell<'a> = dyn FnMut(&Entry, Option<&mut dyn Read>) -> Result<(), Trouble> + 'a;

/// Tells all entries of an upper directory, sorted bytewise by path.
pub(super) fn walk(work: &Walk, ids: Ids, tell: &mut Tell<'_>) -> Result<(), Trouble> {
    let lower = mounts::view(&work.lowers, &work.view, ids)?;
    let mut found = Vec::new();
    collect(&work.upper, "", &mut found)?;
    found.sort_by(|one, other| one.path.as_bytes().cmp(other.path.as_bytes()));
    let kept = select(work, &found, &lower);
    let mut names: HashMap<(u64, u64), String> = HashMap::new();
    for found in found.iter().filter(|it| kept.contains(it.path.as_str())) {
        let entry = describe(work, found, &lower, &mut names)?;
        if let Node::File { .. } = entry.node {
            let mut file = fs::File::open(work.upper.join(&found.path)).doing(|| format!("open `{}`", found.path))?;
            tell(&entry, Some(&mut file))?;
        } else {
            tell(&entry, None)?;
        }
    }
    Ok(())
}

/// Something in the upper directory.
struct Found {
    path: String,
    metadata: Metadata,
}

impl Found {
    fn is_whiteout(&self) -> bool {
        self.metadata.file_type().is_char_device() && self.metadata.rdev() == 0
    }
}

fn collect(root: &Path, dir: &str, found: &mut Vec<Found>) -> Result<(), Trouble> {
    let what = || format!("read `/{dir}` of what was changed");
    for entry in fs::read_dir(root.join(dir)).doing(what)? {
        let name = entry.doing(what)?.file_name();
        let Some(name) = name.to_str() else {
            let shown = name.to_string_lossy();
            return Err(Trouble::input(format!("put `{dir}/{shown}` into a layer"), "its name is not UTF-8"));
        };
        let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        let metadata = fs::symlink_metadata(root.join(&path)).doing(what)?;
        if metadata.is_dir() {
            collect(root, &path, found)?;
        }
        // Sockets mean nothing without who made them.
        if !metadata.file_type().is_socket() {
            found.push(Found { path, metadata });
        }
    }
    Ok(())
}

/// The paths that are changes, and the directories above them.
fn select<'a>(work: &Walk, found: &'a [Found], lower: &Path) -> HashSet<&'a str> {
    let mut kept = HashSet::new();
    // Children come after their parents, so backwards what is in a directory is known before it.
    for found in found.iter().rev() {
        let path = found.path.as_str();
        let below = beneath(lower, path);
        let made = work.rules.made.iter().any(|it| it == path);
        let keep = if kept.contains(path) {
            true
        } else if found.metadata.is_dir() {
            let same = match &below {
                Some(below) if below.is_dir() => {
                    !is_opaque(&work.upper.join(path))
                        && owner(&work.upper.join(path), &found.metadata) == owner(&lower.join(path), below)
                        && below.mode() == found.metadata.mode()
                }
                _ => false,
            };
            !same && !made
        } else if work.rules.drops(path) || (made && found.metadata.len() == 0) {
            false
        } else {
            !found.is_whiteout() || below.is_some()
        };
        if keep {
            kept.insert(path);
            let mut above = path;
            while let Some((dir, _)) = above.rsplit_once('/') {
                if !kept.insert(dir) {
                    break;
                }
                above = dir;
            }
        }
    }
    kept
}

fn describe(
    work: &Walk,
    found: &Found,
    lower: &Path,
    names: &mut HashMap<(u64, u64), String>,
) -> Result<Entry, Trouble> {
    let path = &found.path;
    let (full, metadata) = (work.upper.join(path), &found.metadata);
    let kind = metadata.file_type();
    let (uid, gid) = owner(&full, metadata);
    let numbers = || (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let node = if found.is_whiteout() {
        Node::Whiteout
    } else if kind.is_dir() {
        // The overlay marks every new directory; it means something only where there is one below.
        let below = beneath(lower, path).is_some_and(|it| it.is_dir());
        Node::Dir { opaque: below && is_opaque(&full) }
    } else if kind.is_symlink() {
        let target = fs::read_link(&full).doing(|| format!("read the link `{path}`"))?;
        let Some(target) = target.to_str() else {
            return Err(Trouble::input(format!("put `{path}` into a layer"), "its target is not UTF-8"));
        };
        Node::Symlink { target: target.to_owned() }
    } else if kind.is_char_device() || kind.is_block_device() {
        let (major, minor) = numbers();
        if kind.is_char_device() { Node::Char { major, minor } } else { Node::Block { major, minor } }
    } else if kind.is_fifo() {
        Node::Fifo
    } else if metadata.nlink() > 1 {
        match names.entry((metadata.dev(), metadata.ino())) {
            std::collections::hash_map::Entry::Occupied(first) => Node::Link { target: first.get().clone() },
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(path.clone());
                Node::File { size: metadata.len() }
            }
        }
    } else {
        Node::File { size: metadata.len() }
    };
    // When things are put into a directory is an accident of the order of work.
    let mtime = if kind.is_dir() { EPOCH } else { work.rules.clamp(metadata.mtime()) };
    let mode = metadata.mode() & 0o7777;
    Ok(Entry { path: path.clone(), mode, uid, gid, mtime, xattrs: attributes(&full)?, node })
}

/// What the layers below have at a path. A link on the way is something else than the directory above it, and would lead
/// out into the host.
fn beneath(lower: &Path, path: &str) -> Option<Metadata> {
    unpack::found(lower, path, ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH).map(|it| it.1)
}

/// The owner inside: as the file says, or as it is noted beside it where only one id exists.
fn owner(path: &Path, metadata: &Metadata) -> (u32, u32) {
    let noted = read_attribute(path, unpack::OWNER).and_then(|it| {
        let text = String::from_utf8(it).ok()?;
        let (uid, gid) = text.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    });
    noted.unwrap_or((metadata.uid(), metadata.gid()))
}

fn is_opaque(path: &Path) -> bool {
    let marked = ["trusted.overlay.opaque", "user.overlay.opaque"];
    marked.iter().any(|it| read_attribute(path, it).as_deref() == Some(b"y"))
}

/// Attributes that belong to the file: capabilities and the user's own.
fn attributes(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, Trouble> {
    let mut list = vec![0; 64 << 10];
    let size = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(size) => size,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno).doing(|| format!("read the attributes of `{}`", path.display())),
    };
    let names = list[..size].split(|it| *it == 0).filter_map(|it| std::str::from_utf8(it).ok());
    let own = names.filter(|name| {
        *name == "security.capability"
            || (name.starts_with("user.") && !name.starts_with("user.overlay.") && *name != unpack::OWNER)
    });
    Ok(own.filter_map(|name| Some((name.to_owned(), read_attribute(path, name)?))).collect())
}

fn read_attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let size = match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(size) => size,
        Err(rustix::io::Errno::RANGE) => {
            value.resize(64 << 10, 0);
            rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?
        }
        Err(_) => return None,
    };
    value.truncate(size);
    Some(value)
}

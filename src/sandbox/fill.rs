//! Archives of packages unpacked one over the other, as `tar` does for dpkg: with the same care as a layer.
//!
//! What a package file holds is whoever's made it. Paths and links are resolved inside the directory, an entry's name
//! means itself (packages have no whiteouts), and a package brings directories, files and links only.

use std::ops::ControlFlow;

use rustix::io::Errno;

use super::job::{Fill, Ids, Trouble};
use super::unpack::{self, Target};
use crate::oci::tar::{self, Entry, EntryType};

/// What the system says where names in an archive do not fit each other.
const OF_NAMES: [Errno; 5] = [Errno::EXIST, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::NAMETOOLONG];

/// Unpacks archives in order.
pub(super) fn fill(work: &Fill, ids: Ids) -> Result<(), Trouble> {
    for archive in &work.archives {
        let name = archive.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        let named = |trouble: Trouble| Trouble {
            what: format!("{} of package `{name}`", trouble.what),
            input: trouble.input || trouble.errno.is_some_and(|it| OF_NAMES.iter().any(|no| no.raw_os_error() == it)),
            ..trouble
        };
        // What was put there by a program that read the package file may be no file any more.
        let found = archive.parent().and_then(|dir| unpack::regular_file(dir, name));
        let (file, _) = found.ok_or_else(|| named(Trouble::input("read the archive", "it is no file")))?;
        // Directories get their times when their package is through, as the next may have something for them.
        let mut target = Target::open(&work.into, &[], ids)?;
        let reader = std::io::BufReader::with_capacity(1 << 20, file);
        let unreadable = |error: std::io::Error| Trouble {
            input: error.raw_os_error().is_none(),
            ..Trouble::io("read the archive", &error)
        };
        tar::each(reader, unreadable, |entry| add(&mut target, entry, &work.excluded).map(ControlFlow::Continue))
            .and_then(|()| target.finish())
            .map_err(named)?;
    }
    Ok(())
}

fn add(target: &mut Target<'_>, entry: &mut Entry<'_, impl std::io::Read>, excluded: &[String]) -> Result<(), Trouble> {
    let path = unpack::clean(&entry.path_bytes())?;
    if is_excluded(&path, excluded) {
        return Ok(());
    }
    let refused = |why: &str| Err(Trouble::input(format!("unpack `{path}`"), why));
    if path.split('/').any(|it| it.starts_with(".wh.")) {
        return refused("an image cannot have a file of that name");
    }
    match entry.header().entry_type() {
        EntryType::Directory if target.links_to_directory(&path) => Ok(()),
        EntryType::Char | EntryType::Block | EntryType::Fifo => refused("a package has no business with devices"),
        _ => target.put(entry, &path),
    }
}

/// Whether a pattern matches a path or a directory above it.
fn is_excluded(path: &str, patterns: &[String]) -> bool {
    let path = format!("/{path}");
    let ends = path.match_indices('/').map(|it| it.0).filter(|it| *it > 0).chain([path.len()]);
    ends.into_iter().any(|end| patterns.iter().any(|it| matches(it.as_bytes(), &path.as_bytes()[..end])))
}

/// Whether a text is what a pattern says: `*` stands for any bytes, `?` for one.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut here, mut at) = (0, 0);
    // The last star, and where what it stands for ends so far.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match (pattern.get(here), star) {
            (Some(b'*'), _) => {
                star = Some((here, at));
                here += 1;
            }
            (Some(it), _) if *it == b'?' || *it == text[at] => {
                here += 1;
                at += 1;
            }
            (_, Some((last, end))) => {
                star = Some((last, end + 1));
                here = last + 1;
                at = end + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[here..].iter().all(|it| *it == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_dpkg_reads_them() {
        let excluded = |path: &str, pattern: &str| is_excluded(path, &[pattern.to_owned()]);
        for (path, pattern) in [
            ("usr/share/doc/x/y", "/usr/share/doc/*"),
            ("usr/share/man/man1/a.1.gz", "/usr/share/man"),
            ("usr/lib/x86/libx.a", "/usr/lib/*.a"),
            ("usr/bin/ab", "/usr/bin/?b"),
            ("a/b/c/d", "*/c"),
        ] {
            assert!(excluded(path, pattern), "{path} {pattern}");
        }
        for (path, pattern) in [
            ("usr/share/doc", "/usr/share/doc/*"),
            ("usr/share/manual", "/usr/share/man"),
            ("usr/lib/libx.so", "/usr/lib/*.a"),
            ("usr/bin/b", "/usr/bin/?b"),
            ("", "/?*"),
        ] {
            assert!(!excluded(path, pattern), "{path} {pattern}");
        }
    }
}

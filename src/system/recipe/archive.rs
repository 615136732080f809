//! Small archives for [`crate::sandbox::Sandbox::fill`]: all of root, at the one time of our layers.

use std::io;

use crate::oci::layer::EPOCH;
use crate::oci::tar::{Builder, EntryType, Header};

/// An archive of directories, of links with what they say, and of files with their text, in this order.
pub(super) fn archive<'a>(
    dirs: impl IntoIterator<Item = &'a str>,
    links: impl IntoIterator<Item = (&'a str, &'a str)>,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for dir in dirs {
        archive.append_data(&mut header(EntryType::Directory, 0o755, 0), dir, io::empty())?;
    }
    for (path, target) in links {
        archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
    }
    for (path, text) in files {
        archive.append_data(&mut header(EntryType::Regular, 0o644, text.len()), path, text.as_bytes())?;
    }
    archive.into_inner()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH.unsigned_abs());
    header.set_size(size as u64);
    header
}

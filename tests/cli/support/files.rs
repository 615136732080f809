//! Files and trees.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Writes a file, and the directories above it.
pub(crate) fn write(path: &Path, text: &str) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

/// A tree as text, a line per entry: mode, owner, time, size or target, path. Says what changed where a digest only
/// says that something did.
pub(crate) fn dump(root: &Path) -> String {
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

fn walk(root: &Path, directory: &Path, lines: &mut Vec<(String, String)>) {
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let rest = if meta.is_symlink() {
            format!("-> {}", fs_err::read_link(&path).unwrap().display())
        } else if meta.is_file() {
            meta.len().to_string()
        } else {
            "/".into()
        };
        let mode = meta.permissions().mode();
        let line = format!("{mode:06o} {}:{} {} {name} {rest}", meta.uid(), meta.gid(), meta.mtime());
        lines.push((name, line));
        if meta.is_dir() {
            walk(root, &path, lines);
        }
    }
}

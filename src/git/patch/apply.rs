//! Applying a read diff to a tree.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Change, FilePatch, Hunk, Line, Patch, PatchError, binary};
use crate::git::GitError;
use crate::git::tree::{Content, Entry, Mode, Tree};

/// What becomes of a tree: files that go, then files that come.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) removed: BTreeSet<String>,
    pub(crate) put: BTreeMap<String, Entry>,
}

/// A change of a submodule's commit, if the file patch is one.
pub(super) fn submodule_commit(file: &FilePatch) -> Option<(String, String)> {
    if !is_submodule(file) {
        return None;
    }
    let Change::Hunks(hunks) = &file.change else { return None };
    hunks.iter().flat_map(|hunk| &hunk.lines).find_map(|line| match line {
        Line::Add(text) => {
            let id = std::str::from_utf8(text).ok()?.trim_end().strip_prefix("Subproject commit ")?;
            let id = id.strip_suffix("-dirty").unwrap_or(id);
            Some((file.new.clone(), id.to_owned()))
        }
        _ => None,
    })
}

fn is_submodule(file: &FilePatch) -> bool {
    file.old_mode == Some(0o160_000) || file.new_mode == Some(0o160_000)
}

/// Says what a patch makes of a tree. Submodules' commits are left out: they were followed when the tree was made.
pub(crate) fn apply(tree: &Tree, patch: &Patch) -> Result<Changes, GitError> {
    let leaving: BTreeSet<&str> = (patch.files.iter())
        .filter(|it| matches!(it.action, Action::Delete | Action::Rename))
        .map(|it| it.old.as_str())
        .collect();
    let mut changes = Changes::default();
    // What earlier parts of the diff made of a path; a diff may name one twice (a file that becomes a link).
    let mut known: BTreeMap<&str, Option<Entry>> = BTreeMap::new();
    for file in patch.files.iter().filter(|it| !is_submodule(it)) {
        let before = preimage(tree, file, &known)?;
        if matches!(file.action, Action::Create | Action::Rename | Action::Copy) {
            let there = match known.get(file.new.as_str()) {
                Some(entry) => entry.is_some(),
                None => tree.get(&file.new).is_some() && !leaving.contains(file.new.as_str()),
            };
            if there {
                return Err(PatchError::Exists { path: file.new.clone() }.into());
            }
        }
        if matches!(file.action, Action::Delete | Action::Rename) {
            changes.removed.insert(file.old.clone());
            known.insert(&file.old, None);
        }
        let after = result(tree, file, before.as_ref())?;
        if file.action == Action::Delete {
            if !matches!(&after.content, Content::Bytes(bytes) if bytes.is_empty()) {
                return Err(PatchError::Remains { path: file.old.clone() }.into());
            }
        } else {
            changes.put.insert(file.new.clone(), after.clone());
            known.insert(&file.new, Some(after));
        }
    }
    Ok(changes)
}

/// What the file is before its part of the diff. Renames and copies look at the commit, never at earlier parts.
fn preimage(tree: &Tree, file: &FilePatch, known: &BTreeMap<&str, Option<Entry>>) -> Result<Option<Entry>, PatchError> {
    if file.action == Action::Create {
        return Ok(None);
    }
    let missing = || PatchError::Missing { path: file.old.clone() };
    let earlier = known.get(file.old.as_str()).filter(|_| !matches!(file.action, Action::Rename | Action::Copy));
    let entry = match earlier {
        Some(entry) => entry.clone().ok_or_else(missing)?,
        None => tree.get(&file.old).cloned().ok_or_else(missing)?,
    };
    let is_link = entry.mode == Mode::Symlink;
    if file.old_mode.is_some_and(|mode| (mode & 0o170_000 == 0o120_000) != is_link) {
        return Err(PatchError::Type { path: file.old.clone() });
    }
    Ok(Some(entry))
}

fn result(tree: &Tree, file: &FilePatch, before: Option<&Entry>) -> Result<Entry, GitError> {
    let mode = match file.new_mode {
        Some(0o120_000) => Mode::Symlink,
        Some(mode) if mode & 0o111 != 0 => Mode::Executable,
        Some(_) => Mode::File,
        None => before.map_or(Mode::File, |it| it.mode),
    };
    let content = match (&file.change, before) {
        (Change::None, Some(entry)) if file.action != Action::Delete => entry.content.clone(),
        (Change::Unrecorded, _) => return Err(PatchError::Unrecorded { path: file.new.clone() }.into()),
        (change, before) => {
            let old = before.map_or_else(|| Ok(Vec::new()), |it| tree.bytes(it))?;
            Content::Bytes(changed(file, change, old)?.into())
        }
    };
    Ok(Entry { mode, content })
}

fn changed(file: &FilePatch, change: &Change, old: Vec<u8>) -> Result<Vec<u8>, PatchError> {
    match change {
        Change::None | Change::Unrecorded => Ok(old),
        Change::Hunks(hunks) => apply_hunks(&file.new, &old, hunks),
        Change::Literal(bytes) => {
            check_id(file, &old, Side::Old)?;
            check_id(file, bytes, Side::New)?;
            Ok(bytes.clone())
        }
        Change::Delta(delta) => {
            check_id(file, &old, Side::Old)?;
            let bytes = binary::apply_delta(&old, delta)
                .map_err(|reason| PatchError::Binary { path: file.new.clone(), reason })?;
            check_id(file, &bytes, Side::New)?;
            Ok(bytes)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

/// Binary changes name the contents they are between; both must be those.
fn check_id(file: &FilePatch, bytes: &[u8], side: Side) -> Result<(), PatchError> {
    let failed = |reason| PatchError::Binary { path: file.new.clone(), reason };
    let (old, new) = file.ids.as_ref().ok_or_else(|| failed("it does not say between which contents"))?;
    let wanted = if side == Side::Old { old } else { new };
    let absent =
        file.action == Action::Create && side == Side::Old || file.action == Action::Delete && side == Side::New;
    if absent {
        return Ok(());
    }
    let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, bytes)
        .map_err(|_| failed("its content cannot be hashed"))?;
    if wanted.len() < 7 || !id.to_string().starts_with(wanted.as_str()) {
        return Err(failed(if side == Side::Old {
            "the commit's content is another than the one it was made from"
        } else {
            "what comes out is another content than it says"
        }));
    }
    Ok(())
}

/// A line of the file in the making; lines that a hunk has put there match no later hunk.
struct Row<'a> {
    text: &'a [u8],
    patched: bool,
}

fn apply_hunks(path: &str, old: &[u8], hunks: &[Hunk]) -> Result<Vec<u8>, PatchError> {
    let mut rows: Vec<Row<'_>> =
        old.split_inclusive(|byte| *byte == b'\n').map(|text| Row { text, patched: false }).collect();
    for hunk in hunks {
        let side = |new: bool| -> Vec<&[u8]> { hunk.lines.iter().filter_map(|line| line.on(new)).collect() };
        let (before, after) = (side(false), side(true));
        let Some(at) = find(&rows, hunk, |at| matches_at(&rows, &before, at, |a, b| a == b)) else {
            let alike = find(&rows, hunk, |at| matches_at(&rows, &before, at, |a, b| without_cr(a) == without_cr(b)));
            let (path, hunk) = (path.to_owned(), hunk.header.clone());
            return Err(match alike {
                Some(_) => PatchError::LineEndings { path, hunk },
                None => PatchError::Hunk { path, hunk },
            });
        };
        rows.splice(at..at + before.len(), after.into_iter().map(|text| Row { text, patched: true }));
    }
    Ok(rows.iter().fold(Vec::with_capacity(old.len()), |mut bytes, row| {
        bytes.extend_from_slice(row.text);
        bytes
    }))
}

/// The row at which a hunk fits, nearest to where it says, forward before backward.
fn find(rows: &[Row<'_>], hunk: &Hunk, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if hunk.old_start == 0 {
        return fits(0).then_some(0);
    }
    let start = hunk.new_start.saturating_sub(1).min(rows.len());
    if fits(start) {
        return Some(start);
    }
    (1..=rows.len()).find_map(|distance| {
        let forward = (start + distance <= rows.len()).then_some(start + distance).filter(|at| fits(*at));
        forward.or_else(|| start.checked_sub(distance).filter(|at| fits(*at)))
    })
}

fn matches_at(rows: &[Row<'_>], before: &[&[u8]], at: usize, same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    rows.get(at..at + before.len())
        .is_some_and(|rows| rows.iter().zip(before).all(|(row, line)| !row.patched && same(row.text, line)))
}

fn without_cr(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.insert(path, Mode::File, text.as_bytes().to_vec()).unwrap();
        }
        tree
    }

    fn applied(files: &[(&str, &str)], diff: &str) -> Result<Vec<(String, String)>, GitError> {
        let mut tree = tree(files);
        tree.apply(&Patch::parse(diff.as_bytes())?)?;
        let text = |entry: &Entry| String::from_utf8(tree.bytes(entry).unwrap()).unwrap();
        Ok(tree.entries().map(|(path, entry)| (path.to_owned(), text(entry))).collect())
    }

    fn error(files: &[(&str, &str)], diff: &str) -> PatchError {
        match applied(files, diff) {
            Err(GitError::Patch(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    const CHANGE: &str = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n";

    #[test]
    fn a_moved_hunk_is_found() {
        let files = applied(&[("x", "zero\nnull\none\ntwo\n")], CHANGE).unwrap();
        assert_eq!(files, [("x".into(), "zero\nnull\none\nthree\n".into())]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let hunk = "@@ -1,2 +1,2 @@".to_owned();
        assert_eq!(error(&[("x", "one\n2\n")], CHANGE), PatchError::Hunk { path: "x".into(), hunk: hunk.clone() });
        assert_eq!(error(&[("x", "one\r\ntwo\r\n")], CHANGE), PatchError::LineEndings { path: "x".into(), hunk });
        assert_eq!(error(&[("y", "")], CHANGE), PatchError::Missing { path: "x".into() });
        let binary = "diff --git a/x b/x\nindex 123..456 100644\nBinary files a/x and b/x differ\n";
        assert_eq!(error(&[("x", "")], binary), PatchError::Unrecorded { path: "x".into() });
        let create = "diff --git a/x b/x\nnew file mode 100644\nindex 0000000..e69de29\n";
        assert_eq!(error(&[("x", "")], create), PatchError::Exists { path: "x".into() });
        assert_eq!(
            error(&[("x", "")], &create.replace("/x", "/x/y")),
            PatchError::Obstructed { path: "x/y".into(), other: "x".into() }
        );
        let delete = "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n";
        assert_eq!(error(&[("x", "one\ntwo\n")], delete), PatchError::Remains { path: "x".into() });
        assert_eq!(
            error(&[("x", "one\n")], &delete.replace("100644", "120000")),
            PatchError::Type { path: "x".into() }
        );
    }

    #[test]
    fn two_files_may_swap_names() {
        let swap = "diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n\
                    diff --git a/y b/x\nsimilarity index 100%\nrename from y\nrename to x\n";
        let files = applied(&[("x", "1"), ("y", "2")], swap).unwrap();
        assert_eq!(files, [("x".into(), "2".into()), ("y".into(), "1".into())]);
    }

    #[test]
    fn commits_of_submodules_are_read_from_the_diff() {
        let id = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let diff = format!(
            "diff --git a/lib b/lib\nindex 1234567..4b825dc 160000\n--- a/lib\n+++ b/lib\n@@ -1 +1 @@\n\
             -Subproject commit 0000000000000000000000000000000000000000\n+Subproject commit {id}-dirty\n"
        );
        let patch = Patch::parse(diff.as_bytes()).unwrap();
        assert_eq!(patch.submodule_commits(), [("lib".to_owned(), id.to_owned())]);
    }
}

//! Uncommitted changes as `git diff` records them, read and applied to a [`Tree`](super::Tree).
//!
//! Applies what `git apply --unidiff-zero` applies (the original agent's call), and refuses what it refuses: hunks
//! may have moved, their context must be exact. Beyond it: prefixes switched off (`diff.noprefix`), a text whose last
//! newline or last blank lines were cut off by whoever stored it, a text converted to CRLF as a whole, and commits
//! of submodules (`Subproject commit`). Nothing is written: [`apply::apply`] says what the tree becomes.

use crate::error::{Explain, Kind};

pub(crate) mod apply;
mod binary;
mod names;
mod parse;

pub(crate) use names::is_inside;

/// A recorded diff, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub(crate) files: Vec<FilePatch>,
    pub(crate) notes: Vec<String>,
}

/// What a diff does to one file. Paths are relative to the repository's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePatch {
    /// The path before; for a created file its only path.
    pub(crate) old: String,
    /// The path after; for a deleted file its only path.
    pub(crate) new: String,
    pub(crate) action: Action,
    /// Mode bits the diff names for before and after (`0o100644`), where it does.
    pub(crate) old_mode: Option<u32>,
    pub(crate) new_mode: Option<u32>,
    /// Ids of the `index` line, maybe shortened.
    pub(crate) ids: Option<(String, String)>,
    pub(crate) change: Change,
}

/// What happens to the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Modify,
    Create,
    Delete,
    Rename,
    Copy,
}

/// What happens to its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Text changes.
    Hunks(Vec<Hunk>),
    /// The whole new content.
    Literal(Vec<u8>),
    /// A delta on the old content, in the form packs use.
    Delta(Vec<u8>),
    /// Binary contents differ, but the diff does not have them.
    Unrecorded,
}

/// One hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hunk {
    /// `@@ -1,3 +1,4 @@`, for messages.
    pub(crate) header: String,
    pub(crate) old_start: usize,
    pub(crate) new_start: usize,
    pub(crate) lines: Vec<Line>,
}

/// One line of a hunk, with its newline if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Context(Vec<u8>),
    Remove(Vec<u8>),
    Add(Vec<u8>),
}

impl Line {
    /// Its text where the new side, or else the old one, has it.
    fn on(&self, new: bool) -> Option<&[u8]> {
        match self {
            Self::Context(text) => Some(text),
            Self::Remove(text) => (!new).then_some(text),
            Self::Add(text) => new.then_some(text),
        }
    }
}

/// Why a diff cannot be read or applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatchError {
    /// It is no diff, or a damaged one.
    #[error("the recorded diff is damaged at line {line}: {reason}")]
    Malformed {
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A path that leads out of the repository, or into git's own files.
    #[error("the recorded diff names `{path}`, which is no path inside the repository")]
    Path {
        /// The path.
        path: String,
    },
    /// It changes a file that is not there.
    #[error("the recorded diff changes `{path}`, which the commit does not have")]
    Missing {
        /// The file.
        path: String,
    },
    /// It creates what is there already.
    #[error("the recorded diff creates `{path}`, which the commit has already")]
    Exists {
        /// The file.
        path: String,
    },
    /// It puts a file below another file or a symbolic link, or replaces a directory by a file.
    #[error("the recorded diff puts `{path}` where `{other}` is no directory")]
    Obstructed {
        /// The file.
        path: String,
        /// What is in its way.
        other: String,
    },
    /// A hunk does not fit.
    #[error("the recorded diff does not apply to `{path}`: hunk `{hunk}` does not match")]
    Hunk {
        /// The file.
        path: String,
        /// The hunk's header.
        hunk: String,
    },
    /// A hunk would fit if line endings were the same.
    #[error(
        "the recorded diff does not apply to `{path}`: hunk `{hunk}` matches except for line endings (CRLF and LF)"
    )]
    LineEndings {
        /// The file.
        path: String,
        /// The hunk's header.
        hunk: String,
    },
    /// The diff only says that binary contents differ.
    #[error("the recorded diff says that the binary file `{path}` differs, but does not have its content")]
    Unrecorded {
        /// The file.
        path: String,
    },
    /// Binary content that does not fit or is damaged.
    #[error("the recorded diff does not apply to the binary file `{path}`: {reason}")]
    Binary {
        /// The file.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A deletion that leaves content behind.
    #[error("the recorded diff deletes `{path}`, but not all of its content")]
    Remains {
        /// The file.
        path: String,
    },
    /// A file of another type than the diff says.
    #[error("the recorded diff takes `{path}` for something else than it is (file, symbolic link or submodule)")]
    Type {
        /// The file.
        path: String,
    },
    /// A submodule changed, but the diff does not have its content.
    #[error("the recorded diff moves the submodule `{path}` to another commit, but does not have its content")]
    Submodule {
        /// The submodule's path.
        path: String,
    },
}

impl Explain for PatchError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        let text = match self {
            Self::Malformed { .. } | Self::Path { .. } => {
                "Clear the task's uncommitted changes, or record the task anew."
            }
            Self::Missing { .. } | Self::Exists { .. } | Self::Hunk { .. } | Self::Remains { .. } => {
                "The diff was made against another commit: check the task's commit, and that it was pushed."
            }
            Self::LineEndings { .. } => {
                "Commit the file with one kind of line endings, or add a .gitattributes for it."
            }
            Self::Unrecorded { .. } | Self::Submodule { .. } | Self::Binary { .. } => {
                "Commit and push the change, then record the task anew."
            }
            Self::Obstructed { .. } | Self::Type { .. } => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

impl Patch {
    /// Reads a diff. One that only tells of submodules' untracked files is an empty patch.
    ///
    /// # Errors
    /// [`PatchError::Malformed`] with the line, [`PatchError::Path`] for paths that leave the repository.
    pub fn parse(text: &[u8]) -> Result<Self, PatchError> {
        parse::parse(text)
    }

    /// Whether a text recorded as uncommitted changes is a diff, as opposed to a stored script.
    #[must_use]
    pub fn is_diff(text: &str) -> bool {
        let mut lines = text.lines().map(str::trim_start).skip_while(|line| line.is_empty());
        let Some(first) = lines.next() else { return false };
        let is = |line: &str, word: &str| line.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word));
        if is(first, "diff ") {
            return true;
        }
        is(first, "submodule ")
            && lines.all_before(|line| is(line, "diff "), |line| line.is_empty() || is(line, "submodule "))
    }

    /// Commits the diff gives to submodules, by path; they are those that are checked out.
    #[must_use]
    pub fn submodule_commits(&self) -> Vec<(String, String)> {
        self.files.iter().filter_map(apply::submodule_commit).collect()
    }

    /// Things the diff says that have no effect, for people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Whether all items before the first that is `end` (or all, if none is) are `fine`.
trait AllBefore: Iterator + Sized {
    fn all_before(self, end: impl Fn(&Self::Item) -> bool, fine: impl Fn(&Self::Item) -> bool) -> bool;
}

impl<I: Iterator> AllBefore for I {
    fn all_before(mut self, end: impl Fn(&I::Item) -> bool, fine: impl Fn(&I::Item) -> bool) -> bool {
        self.find(|item| end(item) || !fine(item)).is_none_or(|item| end(&item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::{Mode, Tree};

    #[test]
    fn diffs_and_scripts_are_told_apart() {
        assert!(Patch::is_diff("diff --git a/x b/x\n"));
        assert!(Patch::is_diff("\n  Diff --git a/x b/x\n"));
        assert!(Patch::is_diff(
            "Submodule lib contains modified content\nSubmodule lib 12..34:\ndiff --git a/l/x b/l/x\n"
        ));
        assert!(Patch::is_diff("Submodule lib contains untracked content\n"));
        assert!(!Patch::is_diff("import clearml\ndiff = 1\n"));
        assert!(!Patch::is_diff("submodule = 3\nprint()\n"));
        assert!(!Patch::is_diff("submodule of mine\nprint()\n"));
        assert!(!Patch::is_diff(""));
    }

    proptest::proptest! {
        /// A recorded change is what a server gave.
        #[test]
        fn no_diff_makes_it_panic(diff in crate::testing::mangled(&[
            "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@ f\n a\n-b\n+c\n\\ No newline at end of file\n",
            "diff --git a/x b/y\nsimilarity index 90%\nrename from x\nrename to y\nold mode 100644\nnew mode 100755\n",
            "diff --git a/n b/n\nnew file mode 120000\nindex 0..1\nGIT binary patch\nliteral 3\nKcmZQzU|;|M\n\nliteral 0\nHcmV?d00001\n\n",
            "Submodule lib 12345678...abcdef12:\ndiff --git a/lib/x b/lib/x\n--- \"a/lib/\\303\\244\"\n+++ b/lib/x\n@@ -0,0 +1 @@\n+a\n",
        ], "@-+ ,\n\\\"019/dif")) {
            if let Ok(patch) = Patch::parse(&diff) {
                let mut tree = Tree::default();
                tree.insert("x", Mode::File, b"a\nb\n".to_vec()).unwrap();
                let _ = tree.apply(&patch);
            }
        }
    }
}

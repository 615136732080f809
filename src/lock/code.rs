//! The code part of a lock: a repository at a commit with the recorded changes, or the script stored in the task.
//!
//! [`resolve`] reads the task and asks servers; [`checkout`] makes the same files again from the part alone and holds
//! them against its digest. Where the original agent edits the entry point before it runs it (a notebook converted, the
//! SDK's `Task.init` moved below `__future__` imports), the edited file is carried as the part's script, so that nothing
//! has to be edited twice the same way.

use std::path::Path;

use crate::error::{Explain, Failure, Kind};
use crate::git::{Address, Checkout, Commit, GitError, Mode, Patch, PatchError, Repositories, Tree, Wanted};
use crate::lock::{CodePart, GitPart, StoredScript, Submodule, Text};
use crate::report::Reporter;
use crate::task::Script;

mod entry;
mod imports;
mod notebook;

use entry::Entry;

/// The artifact that holds a diff too large for the task.
pub const DIFF_ARTIFACT: &str = "auxiliary_git_diff";

/// Where code comes from.
pub struct Sources<'a> {
    /// The git cache.
    pub repositories: &'a Repositories,
    /// A directory of this machine to take the repository from, whatever the task or the lock says.
    pub directory: Option<&'a Path>,
}

/// Fetches an artifact of the task by name; `None` where the task has none.
pub type Artifact<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, Failure> + 'a;

/// What resolving needs besides.
pub struct Choices<'a> {
    /// Fetches artifacts.
    pub artifact: &'a Artifact<'a>,
    /// Whether a script that does not call `Task.init` is made to (`CLEARML_AGENT_FORCE_TASK_INIT`).
    pub force_task_init: bool,
    /// Hears what is worth knowing.
    pub reporter: &'a dyn Reporter,
}

/// The code of a task, resolved.
#[derive(Debug)]
pub struct Resolved {
    /// The part; absent for a task without code.
    pub part: Option<CodePart>,
    /// The finished files.
    pub checkout: Checkout,
    /// When the commit was made, in seconds since the epoch.
    pub created: Option<i64>,
}

/// Why a task's code cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Git.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The recorded changes were too large for the task, and are nowhere else.
    #[error("the task's uncommitted changes were too large to record, and it has no artifact `{DIFF_ARTIFACT}`")]
    TooLarge,
    /// The artifact cannot be fetched.
    #[error("cannot fetch the artifact `{DIFF_ARTIFACT}`: {reason}")]
    Artifact {
        /// Why.
        reason: String,
        /// What sort of failure.
        kind: Kind,
    },
    /// A notebook that cannot be read.
    #[error("cannot convert the notebook `{path}`: {reason}")]
    Notebook {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The lock names a commit of a directory that is not there.
    #[error("commit `{commit}` came from a directory of another machine, and is not in the git cache")]
    Elsewhere {
        /// The commit.
        commit: String,
    },
    /// What the lock's sources give is not what the lock pins.
    #[error("the code of the lock is `{expected}`, but its sources give `{found}`")]
    Changed {
        /// What the lock says.
        expected: String,
        /// What came out.
        found: String,
    },
}

impl Explain for CodeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Git(error) => error.kind(),
            Self::TooLarge | Self::Elsewhere { .. } => Kind::NotFound,
            Self::Artifact { kind, .. } => *kind,
            Self::Notebook { .. } | Self::Changed { .. } => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        let text = match self {
            Self::Git(error) => return error.hints(),
            Self::TooLarge => {
                "Commit and push the changes, or clear the task's uncommitted changes to run without them."
            }
            Self::Elsewhere { .. } => "Name the directory with --repository.",
            Self::Artifact { .. } | Self::Notebook { .. } | Self::Changed { .. } => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

/// What a task records as uncommitted changes.
enum Recorded {
    Nothing,
    Diff(Vec<u8>),
    Script(String),
}

/// Resolves the code of a task: its commit, else its tag, else its branch, else the default branch, each asked anew
/// where it can move.
///
/// # Errors
/// [`CodeError`]
pub fn resolve(script: &Script, sources: &Sources<'_>, choices: &Choices<'_>) -> Result<Resolved, CodeError> {
    let recorded = recorded(&script.diff, choices)?;
    let repository = script.repository.as_deref().map(str::trim).filter(|it| !it.is_empty());
    let mut part = CodePart { git: None, diff: None, script: None, tree: Checkout::default().digest() };
    let mut checkout = Checkout::default();
    let mut created = None;
    if repository.is_some() || sources.directory.is_some() {
        let recorded_address = repository.map(Address::parse).transpose()?;
        let directory = sources.directory.map(directory_address).transpose()?;
        let address = directory.as_ref().or(recorded_address.as_ref()).ok_or_else(|| no_address(""))?;
        let commit = sources.repositories.fetch(address, &wanted(script))?;
        let diff = match &recorded {
            Recorded::Diff(bytes) => Some(bytes.as_slice()),
            _ => None,
        };
        let tree = finished_tree(sources.repositories, &commit, diff)?;
        tree.notes().iter().for_each(|note| choices.reporter.warning(note));
        created = Some(commit.time);
        part.git = Some(git_part(&commit, recorded_address.as_ref(), &tree));
        part.diff = diff.map(Text::of);
        checkout = sources.repositories.checkout(tree)?;
    } else if matches!(recorded, Recorded::Diff(_)) {
        choices.reporter.warning("the task records changes to a repository but no repository; they are left out");
    }
    part.script = entry_script(script, recorded, &checkout, choices)?;
    if let Some(script) = &part.script {
        put(&mut checkout, script)?;
    }
    part.tree = checkout.digest();
    let empty = part.git.is_none() && part.script.is_none();
    Ok(Resolved { part: (!empty).then_some(part), checkout, created })
}

/// The files of a code part, from its sources alone.
///
/// # Errors
/// [`CodeError`]; [`CodeError::Changed`] when they are not what the part pins.
pub fn checkout(part: &CodePart, sources: &Sources<'_>) -> Result<Checkout, CodeError> {
    let mut checkout = Checkout::default();
    if let Some(git) = &part.git {
        let commit = locked_commit(git, sources)?;
        if commit.tree != git.tree {
            return Err(CodeError::Changed { expected: git.tree.clone(), found: commit.tree });
        }
        let diff = part.diff.as_ref().map(Text::bytes);
        let tree = finished_tree(sources.repositories, &commit, diff.as_deref())?;
        checkout = sources.repositories.checkout(tree)?;
    }
    if let Some(script) = &part.script {
        put(&mut checkout, script)?;
    }
    let found = checkout.digest();
    if found != part.tree {
        return Err(CodeError::Changed { expected: part.tree.to_string(), found: found.to_string() });
    }
    Ok(checkout)
}

fn locked_commit(git: &GitPart, sources: &Sources<'_>) -> Result<Commit, CodeError> {
    let wanted = Wanted::Commit(git.commit.clone());
    let known = || sources.repositories.find(&git.commit);
    if let Some(directory) = sources.directory {
        return Ok(sources.repositories.fetch(&directory_address(directory)?, &wanted)?);
    }
    // A lock may come from anywhere, and has no directory of this machine for an address.
    let address = git.url.as_deref().map(Address::parse).transpose()?.filter(|it| it.local_path().is_none());
    match address {
        Some(address) => match sources.repositories.fetch(&address, &wanted) {
            Ok(commit) => Ok(commit),
            // Locked from a directory, perhaps before it was pushed.
            Err(error) => known()?.ok_or_else(|| error.into()),
        },
        None => known()?.ok_or_else(|| CodeError::Elsewhere { commit: git.commit.clone() }),
    }
}

fn directory_address(path: &Path) -> Result<Address, GitError> {
    let path = std::path::absolute(path).map_err(|_| no_address(&path.to_string_lossy()))?;
    Address::parse(&path.to_string_lossy())
}

fn no_address(text: &str) -> GitError {
    GitError::Address { address: text.to_owned() }
}

fn finished_tree(repositories: &Repositories, commit: &Commit, diff: Option<&[u8]>) -> Result<Tree, CodeError> {
    let patch = diff.map(Patch::parse).transpose().map_err(GitError::from)?;
    let mut tree = repositories.tree(commit, patch.as_ref())?;
    if let Some(patch) = &patch {
        tree.apply(patch)?;
    }
    Ok(tree)
}

/// Addresses of directories stay out of the lock.
fn git_part(commit: &Commit, recorded: Option<&Address>, tree: &Tree) -> GitPart {
    let submodules = tree.submodules().iter().map(|it| {
        let remote = Address::parse(&it.url).is_ok_and(|it| it.local_path().is_none());
        let url = if remote { it.url.clone() } else { String::new() };
        Submodule { path: it.path.clone(), url, commit: it.commit.clone() }
    });
    GitPart {
        url: recorded.filter(|it| it.local_path().is_none()).map(ToString::to_string),
        commit: commit.id.clone(),
        tree: commit.tree.clone(),
        submodules: submodules.collect(),
    }
}

/// Which commit a task asks for: its commit, else its tag, else its branch, else the default branch.
#[must_use]
pub fn wanted(script: &Script) -> Wanted {
    let filled = |text: &Option<String>| text.as_deref().map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned);
    filled(&script.commit)
        .map(Wanted::Commit)
        .or_else(|| filled(&script.tag).map(Wanted::Tag))
        .or_else(|| filled(&script.branch).map(Wanted::Branch))
        .unwrap_or(Wanted::Default)
}

/// Whether a task records only that its changes were too large, and are elsewhere.
#[must_use]
pub fn is_elsewhere(diff: &str) -> bool {
    diff.trim_start().starts_with("# WARNING! git diff too large to store")
}

/// Reads what is recorded; texts that the SDK puts in place of changes are never taken for a script.
fn recorded(text: &str, choices: &Choices<'_>) -> Result<Recorded, CodeError> {
    let first = text.trim_start();
    if is_elsewhere(text) {
        let failed = |failure: Failure| CodeError::Artifact { reason: failure.to_string(), kind: failure.kind() };
        let bytes = (choices.artifact)(DIFF_ARTIFACT).map_err(failed)?.ok_or(CodeError::TooLarge)?;
        let text = String::from_utf8_lossy(&bytes);
        return Ok(if Patch::is_diff(&text) { Recorded::Diff(bytes) } else { Recorded::Script(text.into_owned()) });
    }
    if first.starts_with("# Repository modified, but no git diff could be extracted") {
        choices.reporter.warning("the task's repository had uncommitted changes that were not recorded");
        return Ok(Recorded::Nothing);
    }
    Ok(match first {
        "" => Recorded::Nothing,
        _ if Patch::is_diff(text) => Recorded::Diff(text.as_bytes().to_vec()),
        _ => Recorded::Script(text.to_owned()),
    })
}

/// The file that stands beside or over those of the repository: a stored script, or the entry point as edited.
fn entry_script(
    script: &Script,
    recorded: Recorded,
    checkout: &Checkout,
    choices: &Choices<'_>,
) -> Result<Option<StoredScript>, CodeError> {
    let entry = Entry::of(script);
    let mut stored = None;
    if let Recorded::Script(text) = recorded {
        let file = entry.stored_file();
        if checkout.get(&file).is_some() {
            // As the original does: the repository's file is the one that runs.
            choices.reporter.warning(format!("the repository has `{file}`; the script stored in the task is left out"));
        } else {
            stored = Some((file, text));
        }
    }
    if let Some((file, text)) = stored {
        let text = edited(&file, &text, choices).unwrap_or(text);
        return Ok(Some(carried(file, &text)));
    }
    let Some(file) = entry.candidates().into_iter().find(|it| checkout.get(it).is_some()) else { return Ok(None) };
    let Some(text) = checkout.text(&file)? else { return Ok(None) };
    if file.to_ascii_lowercase().ends_with(".ipynb") {
        let converted =
            notebook::to_script(&text).map_err(|reason| CodeError::Notebook { path: file.clone(), reason })?;
        return Ok(Some(carried(format!("{}.py", &file[..file.len() - ".ipynb".len()]), &converted)));
    }
    Ok(edited(&file, &text, choices).map(|text| carried(file, &text)))
}

/// The text as the original would run it, if that is another one.
fn edited(file: &str, text: &str, choices: &Choices<'_>) -> Option<String> {
    let moved = imports::below_future(text);
    let is_python = file.to_ascii_lowercase().ends_with(".py");
    if choices.force_task_init && is_python {
        return imports::with_task_init(moved.as_deref().unwrap_or(text)).or(moved);
    }
    moved
}

fn carried(file: String, text: &str) -> StoredScript {
    StoredScript { file, text: Text::of(text) }
}

/// Puts the script in, with the mode of the file it replaces.
fn put(checkout: &mut Checkout, script: &StoredScript) -> Result<(), GitError> {
    let mode = match checkout.get(&script.file).map(|it| it.mode) {
        Some(Mode::Executable) => Mode::Executable,
        Some(Mode::Symlink) => {
            return Err(PatchError::Obstructed { path: script.file.clone(), other: script.file.clone() }.into());
        }
        Some(Mode::File) | None => Mode::File,
    };
    checkout.insert(&script.file, mode, script.text.bytes())
}

#[cfg(test)]
mod tests;

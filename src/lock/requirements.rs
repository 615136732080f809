//! What a task wants of Python, gathered from its own list or from the repository's files.
//!
//! The original agent's rules: the task's list counts when it has anything; else every `requirements.txt` from the
//! repository's root down to the script's directory. `-i`, `-f` and `--no-index` are ignored, `--extra-index-url` is not;
//! what is no requirement is a directory. Here a directory must be in the repository, and what needs a build (a git
//! address, an sdist) is set apart; a lock file of the repository counts before its lists ([`lockfile`]), digests of
//! files (`--hash`) count, and `${NAME}` is what the task's container arguments say.

use std::collections::BTreeSet;

use crate::digest::{Digest, Hasher};
use crate::python::lockfile::Place as Target;
use crate::python::name::normalise;
use crate::python::resolve::Hashes;
use crate::secret::{Secret, mask_userinfo, strip_userinfo};
use crate::task::Requirements;

mod error;
mod lines;
mod lockfile;
mod places;

pub use crate::python::project::ProjectRequest;
pub use error::RequirementsError;
pub(super) use lines::logical_lines;
pub use lockfile::Manager;

use lines::{apart, is_address, is_name, is_vcs, is_wheel, name_of, option, with_normal_spaces};
use places::{Place, beside, directories, expanded, join, project, wheel};

/// Most files that may include each other.
const MAX_DEPTH: usize = 16;

/// Where requirements are looked for.
pub struct Sources<'a> {
    /// What the task recorded.
    pub task: &'a Requirements,
    /// Directory the script starts in, relative to the repository's root.
    pub working_dir: &'a str,
    /// The script, relative to that.
    pub entry_point: &'a str,
    /// Whether the repository's files count even where the task has a list.
    pub repository_first: bool,
    /// Whether the user's list counts rather than the pinned one of a run.
    pub original: bool,
    /// The text of a file of the repository.
    pub file: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the repository has a file.
    pub has: &'a dyn Fn(&str) -> bool,
    /// Whether the repository has a directory.
    pub is_dir: &'a dyn Fn(&str) -> bool,
    /// Which program the repository's packages are managed with, where the configuration says.
    pub manager: Option<Manager>,
    /// What markers of lock files are decided for.
    pub target: Option<&'a Target>,
    /// The value of `${NAME}`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("working_dir", &self.working_dir).finish_non_exhaustive()
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    /// Requirements that wheels can fulfil, one each.
    pub requirements: Vec<String>,
    /// Constraints, one each.
    pub constraints: Vec<String>,
    /// Indexes the task names.
    pub indexes: Vec<Secret>,
    /// Directories of the repository.
    pub projects: Vec<ProjectRequest>,
    /// What must be built before it can be installed: git addresses and sdists, as asked.
    pub builds: Vec<Secret>,
    /// Wheels that lie in the repository.
    pub wheels: Vec<WheelRequest>,
    /// The digests that files of a distribution may have, by normalised name; all where it is not here.
    pub hashes: Hashes,
    /// Whether what was found is all there is to install: nothing is added for what it needs.
    pub exact: bool,
    /// What people should know.
    pub notes: Vec<String>,
    /// Whether `${NAME}` stood in it.
    pub variables: bool,
}

/// A wheel of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelRequest {
    /// Its path from the repository's root.
    pub path: String,
    /// Extras and marker, as they stand in a requirement: `[fast]`, ` ; python_version > "3"`.
    pub extras: String,
    /// The marker.
    pub marker: String,
    /// Its digest, once it is in the store.
    pub digest: Option<Digest>,
}

/// Gathers.
///
/// # Errors
/// [`RequirementsError`]
pub fn gather(sources: &Sources<'_>) -> Result<Gathered, RequirementsError> {
    let mut gathered = Gathered::default();
    let recorded = recorded(sources.task, sources.repository_first, sources.original);
    // A lock file counts before lists of the repository, unless the configuration says pip; before the task's own only
    // where the configuration names its program.
    let pip = sources.manager == Some(Manager::Pip);
    let first = sources.manager.map_or(recorded.is_none(), |it| it != Manager::Pip);
    if first && gathered.lockfile(sources)? {
        return Ok(gathered);
    }
    if let Some(text) = recorded {
        gathered.read(sources, &Place { name: "the task's requirements".to_owned(), dir: String::new() }, text, 0)?;
        return Ok(gathered);
    }
    for path in directories(sources).iter().map(|it| beside(it, "requirements.txt")) {
        if let Some(text) = (sources.file)(&path) {
            let dir = path.rsplit_once('/').map_or("", |it| it.0).to_owned();
            gathered.read(sources, &Place { name: format!("`{path}`"), dir }, &text, 0)?;
        }
    }
    if pip && gathered == Gathered::default() && gathered.lockfile(sources)? {
        return Ok(gathered);
    }
    if gathered == Gathered::default() {
        gathered.notes.push("neither the task nor its repository names Python requirements".to_owned());
    }
    Ok(gathered)
}

/// The task's own text that counts; none where the repository's files do.
pub(crate) fn recorded(task: &Requirements, repository_first: bool, original: bool) -> Option<&String> {
    let has_text = |it: &&String| !it.trim().is_empty();
    let pinned = task.pip.as_ref().filter(has_text);
    let original = task.org_pip.as_ref().filter(has_text).filter(|_| original);
    original.or(pinned).filter(|_| !repository_first)
}

/// How a line is to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Requirement,
    Constraint,
}

impl Gathered {
    /// Names what was found, in whatever order and without credentials.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field("gathered 1");
        let secrets = |list: &[Secret]| list.iter().map(|it| it.reveal().to_owned()).collect();
        let projects = self.projects.iter().map(|it| format!("{it:?}")).collect();
        let wheels = self.wheels.iter().map(|it| format!("{it:?}")).collect();
        let hashes = self.hashes.iter().map(|it| format!("{it:?}")).collect();
        let lists: [Vec<String>; 7] = [
            self.requirements.clone(),
            self.constraints.clone(),
            secrets(&self.indexes),
            secrets(&self.builds),
            projects,
            wheels,
            hashes,
        ];
        hasher.field(if self.exact { "exact" } else { "" });
        for list in lists {
            let list: BTreeSet<String> = list.iter().map(|it| strip_userinfo(it)).collect();
            hasher.field((list.len() as u64).to_le_bytes());
            for it in list {
                hasher.field(it);
            }
        }
        hasher.finish()
    }

    /// Names of the distributions that are asked for by the address of a wheel.
    pub(super) fn direct(&self) -> BTreeSet<String> {
        let name = |line: &String| match line.split_once('@').filter(|it| is_name(it.0.trim())) {
            Some((name, _)) => Some(normalise(name.split('[').next().unwrap_or(name).trim())),
            None if is_address(line) => {
                let path = line.split(['#', '?', ';', ' ']).next()?;
                Some(normalise(path.rsplit('/').next()?.split('-').next()?))
            }
            None => None,
        };
        self.requirements.iter().filter_map(name).collect()
    }

    fn read(
        &mut self,
        sources: &Sources<'_>,
        place: &Place,
        text: &str,
        depth: usize,
    ) -> Result<(), RequirementsError> {
        self.read_as(sources, place, text, (Role::Requirement, depth))
    }

    fn read_as(
        &mut self,
        sources: &Sources<'_>,
        place: &Place,
        text: &str,
        (role, depth): (Role, usize),
    ) -> Result<(), RequirementsError> {
        if depth > MAX_DEPTH {
            return Err(RequirementsError::Circle(place.name.clone()));
        }
        for line in logical_lines(text) {
            if let Some((option, value)) = option(&line) {
                self.option(sources, place, (&option, &value), (role, depth))?;
            } else {
                let line = expanded(sources, place, &line)?;
                let (line, hashes) = apart(&line, place)?;
                if !hashes.is_empty() {
                    self.hashes.entry(normalise(name_of(&line))).or_default().extend(hashes);
                }
                if role == Role::Constraint {
                    self.constraints.push(line);
                } else {
                    self.requirement(sources, place, &line)?;
                }
            }
        }
        Ok(())
    }

    fn option(
        &mut self,
        sources: &Sources<'_>,
        place: &Place,
        (option, value): (&str, &str),
        (role, depth): (Role, usize),
    ) -> Result<(), RequirementsError> {
        match option {
            "-r" | "--requirement" | "-c" | "--constraint" => {
                let role = if option.contains("-c") { Role::Constraint } else { role };
                let missing = || RequirementsError::File { file: value.to_owned(), place: place.name.clone() };
                // pip looks beside the including file, the original agent in the repository's root.
                let candidates = [join(&place.dir, value), join("", value), join(sources.working_dir, value)];
                let found = candidates.into_iter().flatten().find_map(|it| (sources.file)(&it).map(|text| (it, text)));
                let (path, text) = found.ok_or_else(missing)?;
                let dir = path.rsplit_once('/').map_or("", |it| it.0).to_owned();
                self.read_as(sources, &Place { name: format!("`{path}`"), dir }, &text, (role, depth + 1))
            }
            "-e" | "--editable" => self.editable(sources, place, &expanded(sources, place, value)?),
            "--extra-index-url" => {
                self.indexes.push(Secret::new(expanded(sources, place, value)?));
                Ok(())
            }
            _ => {
                self.notes.push(format!("`{option}` in {} is ignored", place.name));
                Ok(())
            }
        }
    }

    fn editable(&mut self, sources: &Sources<'_>, place: &Place, value: &str) -> Result<(), RequirementsError> {
        if is_vcs(value) {
            self.builds.push(Secret::new(value));
            return Ok(());
        }
        match project(sources, place, value) {
            Some(project) => {
                self.projects.push(ProjectRequest { editable: true, ..project });
                Ok(())
            }
            None => Err(unreadable(place, value)),
        }
    }

    fn requirement(&mut self, sources: &Sources<'_>, place: &Place, line: &str) -> Result<(), RequirementsError> {
        if is_vcs(line) {
            self.builds.push(Secret::new(line));
            return Ok(());
        }
        if let Some(wheel) = wheel(sources, place, line) {
            self.wheels.push(wheel);
            return Ok(());
        }
        if let Some((name, address)) = line.split_once('@').map(|(name, rest)| (name.trim(), rest.trim()))
            && is_name(name)
        {
            if is_vcs(address) || (is_address(address) && !is_wheel(address)) {
                self.builds.push(Secret::new(line));
            } else if address.starts_with("file:") {
                // A file of the machine that recorded the task: its name is all that is left of it.
                self.notes
                    .push(format!("`{name}` was installed from a file of another machine: it is taken from the index"));
                self.requirements.push(name.to_owned());
            } else {
                self.requirements.push(line.to_owned());
            }
            return Ok(());
        }
        if is_address(line) {
            if is_wheel(line) {
                self.requirements.push(line.to_owned());
            } else {
                self.builds.push(Secret::new(line));
            }
            return Ok(());
        }
        let normal = with_normal_spaces(line);
        if normal.parse::<pep508_rs::Requirement<pep508_rs::VerbatimUrl>>().is_ok() && !line.starts_with('.') {
            self.requirements.push(normal);
            return Ok(());
        }
        match project(sources, place, line) {
            Some(project) => {
                self.projects.push(project);
                Ok(())
            }
            None => Err(unreadable(place, line)),
        }
    }
}

fn unreadable(place: &Place, line: &str) -> RequirementsError {
    RequirementsError::Line { line: mask_userinfo(line), place: place.name.clone() }
}

#[cfg(test)]
mod tests;

//! What a task wants of Python, gathered from its own list or from the repository's files.
//!
//! The original agent's rules: the task's list counts when it has anything; else every `requirements.txt` from the
//! repository's root down to the script's directory. `-i`, `-f` and `--no-index` are ignored, `--extra-index-url` is not;
//! what is no requirement is a directory. Here a directory must be in the repository, and what needs a build (a git
//! address, an sdist) is set apart; a lock file of the repository counts before its lists ([`lockfile`]), digests of
//! files (`--hash`) count, and `${NAME}` is what the task's container arguments say.

use std::collections::BTreeSet;
use std::path::Path;

use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Kind};
use crate::python::lockfile::{LockfileError, Place as Target};
use crate::python::name::{WheelName, normalise};
use crate::python::resolve::Hashes;
use crate::secret::{Secret, mask_userinfo, strip_userinfo};

mod lockfile;

use crate::task::Requirements;
pub use lockfile::Manager;

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
}

pub use crate::python::project::ProjectRequest;

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

/// Why requirements cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RequirementsError {
    /// A line that is nothing.
    #[error("`{line}` in {place} is neither a requirement nor a directory of the repository")]
    Line {
        /// The line, without credentials.
        line: String,
        /// Where it stands.
        place: String,
    },
    /// A file that is not there.
    #[error("`{file}`, which {place} includes, is not in the repository")]
    File {
        /// The file.
        file: String,
        /// Where it is named.
        place: String,
    },
    /// Files that include each other.
    #[error("{0} includes itself")]
    Circle(String),
    /// A variable without a value.
    #[error("`${{{name}}}` in {place} has no value")]
    Variable {
        /// Its name.
        name: String,
        /// Where it stands.
        place: String,
    },
    /// A digest that is not compared.
    #[error("`--hash={hash}` in {place} is not one of sha256")]
    Hash {
        /// The digest.
        hash: String,
        /// Where it stands.
        place: String,
    },
    /// A lock file that cannot be followed.
    #[error("cannot follow {place}")]
    Lockfile {
        /// Where it lies.
        place: String,
        /// Why.
        #[source]
        source: LockfileError,
    },
    /// A lock file that names what is not in the repository.
    #[error("{place} names `{path}`, which is not in the repository")]
    Outside {
        /// Where it lies.
        place: String,
        /// What it names.
        path: String,
    },
}

impl Explain for RequirementsError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Line { .. } => {
                vec![
                    "Correct the task's requirements, or set agent.package_manager.force_repo_requirements_txt."
                        .to_owned(),
                ]
            }
            Self::Variable { name, .. } => vec![format!(
                "Name it in the task's container arguments (-e {name}=…) or in agent.extra_docker_arguments."
            )],
            Self::Hash { .. } => vec!["Write the digest as --hash=sha256:… (pip hash prints it).".to_owned()],
            Self::Lockfile { source, .. } => source.hints(),
            Self::Outside { .. } => vec!["Commit it, or record it with the uncommitted changes.".to_owned()],
            Self::File { .. } | Self::Circle(_) => Vec::new(),
        }
    }
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

/// The directories from the root down to the script's.
fn directories(sources: &Sources<'_>) -> Vec<String> {
    let script = Path::new(sources.working_dir).join(sources.entry_point);
    let script = script.parent().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    let mut dirs = vec![String::new()];
    for part in script.split('/').filter(|it| !it.is_empty() && *it != ".") {
        dirs.extend(dirs.last().map(|it| beside(it, part)));
    }
    dirs
}

/// A file of a directory of the repository.
fn beside(dir: &str, file: &str) -> String {
    if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") }
}

/// Where a text stands: for messages, and for what it names relative to itself.
struct Place {
    name: String,
    dir: String,
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

/// The lines of a requirements file as pip reads them: continued lines joined, comments and blanks dropped.
pub(super) fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let is_comment = line.trim_start().starts_with('#');
        if let Some(head) = line.strip_suffix('\\').filter(|_| !is_comment) {
            pending.push_str(head);
            continue;
        }
        pending.push_str(if is_comment { "" } else { line });
        let line = std::mem::take(&mut pending);
        let end = line.match_indices('#').map(|it| it.0).find(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
        let line = line[..end.unwrap_or(line.len())].trim();
        if !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
    let rest = pending.trim();
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// An option line: the option and its value.
fn option(line: &str) -> Option<(String, String)> {
    if !line.starts_with('-') {
        return None;
    }
    for short in ["-r", "-c", "-e", "-i", "-f"] {
        if let Some(value) = line.strip_prefix(short)
            && !value.starts_with('-')
        {
            return Some((short.to_owned(), value.trim().trim_start_matches('=').trim().to_owned()));
        }
    }
    let end = line.find([' ', '=', '\t']).unwrap_or(line.len());
    let value = line[end..].trim_start_matches([' ', '=', '\t']).trim();
    Some((line[..end].to_owned(), value.to_owned()))
}

/// A requirement and its digests (`--hash=sha256:…`); other options of its own do not count.
fn apart(line: &str, place: &Place) -> Result<(String, Vec<Digest>), RequirementsError> {
    let Some(at) = line.find(" --") else { return Ok((line.trim().to_owned(), Vec::new())) };
    let mut digests = Vec::new();
    let mut words = line[at..].split([' ', '\t', '=']).filter(|it| !it.is_empty());
    while let Some(word) = words.next() {
        if word != "--hash" {
            continue;
        }
        let hash = words.next().unwrap_or_default();
        let wrong = || RequirementsError::Hash { hash: hash.to_owned(), place: place.name.clone() };
        let digest = hash.strip_prefix("sha256:").and_then(|it| Digest::from_hex(it).ok());
        digests.push(digest.ok_or_else(wrong)?);
    }
    Ok((line[..at].trim().to_owned(), digests))
}

/// The name that a requirement begins with; of a wheel's path or address, the wheel's.
fn name_of(line: &str) -> &str {
    let first = line.split([' ', ';', '#', '?']).next().unwrap_or_default();
    let line = if first.ends_with(".whl") { first.rsplit('/').next().unwrap_or(first) } else { line };
    let end = if line.ends_with(".whl") {
        line.find('-')
    } else {
        line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    };
    &line[..end.unwrap_or(line.len())]
}

/// A text in which every `${NAME}` is replaced, as pip does it.
fn expanded(sources: &Sources<'_>, place: &Place, text: &str) -> Result<String, RequirementsError> {
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (head, tail) = (&rest[..at], &rest[at + 2..]);
        let name = tail.split('}').next().filter(|it| it.len() < tail.len()).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        whole.push_str(head);
        if name.is_empty() || !name.chars().all(is_name) {
            whole.push_str("${");
            rest = tail;
            continue;
        }
        let missing = || RequirementsError::Variable { name: name.to_owned(), place: place.name.clone() };
        whole.push_str(&(sources.variable)(name).ok_or_else(missing)?);
        rest = &tail[name.len() + 1..];
    }
    whole.push_str(rest);
    Ok(whole)
}

/// `numpy == 1.0` as the SDK records it, `numpy==1.0`.
fn with_normal_spaces(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_vcs(text: &str) -> bool {
    ["git+", "hg+", "svn+", "bzr+"].iter().any(|it| text.starts_with(it)) || text.starts_with("git@")
}

fn is_address(text: &str) -> bool {
    ["http://", "https://", "ftp://"].iter().any(|it| text.starts_with(it))
}

fn is_wheel(address: &str) -> bool {
    address.split(['#', '?', ';', ' ']).next().is_some_and(|it| it.ends_with(".whl"))
}

fn is_name(text: &str) -> bool {
    let name = text.split('[').next().unwrap_or_default().trim();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A wheel of the repository that a line names: `wheels/x-1.0-py3-none-any.whl`, `x[fast] @ file:wheels/…`.
fn wheel(sources: &Sources<'_>, place: &Place, line: &str) -> Option<WheelRequest> {
    let (line, marker) = line.split_once(';').map_or((line, ""), |(line, marker)| (line.trim(), marker.trim()));
    let (head, path) = match line.split_once('@') {
        Some((head, path)) if is_name(head.trim()) => (head.trim(), path.trim()),
        _ => ("", line),
    };
    let path = path.strip_prefix("file:").map_or(path, |it| it.trim_start_matches("//"));
    let (path, behind) = match path.strip_suffix(']').and_then(|it| it.rsplit_once('[')) {
        Some((path, names)) => (path, format!("[{names}]")),
        None => (path, String::new()),
    };
    if is_address(path) || WheelName::parse(path.rsplit('/').next()?).is_none() {
        return None;
    }
    let candidates = [join(&place.dir, path), join("", path), join(sources.working_dir, path)];
    let path = candidates.into_iter().flatten().find(|it| (sources.has)(it))?;
    let extras = head.find('[').map_or(behind, |at| head[at..].to_owned());
    Some(WheelRequest { path, extras, marker: marker.to_owned(), digest: None })
}

/// A directory of the repository that a line names, with its extras.
fn project(sources: &Sources<'_>, place: &Place, line: &str) -> Option<ProjectRequest> {
    let line = line.split(" ;").next()?.trim();
    let line = line.strip_prefix("file:").map_or(line, |it| it.trim_start_matches("//"));
    let line = line.split('#').next()?;
    let (path, extras) = match line.strip_suffix(']').and_then(|it| it.rsplit_once('[')) {
        Some((path, extras)) => (path, extras.split(',').map(|it| normalise(it.trim())).collect()),
        None => (line, Vec::new()),
    };
    let candidates = [join(&place.dir, path), join("", path), join(sources.working_dir, path)];
    let is_project = |dir: &String| {
        let has = |file: &str| {
            (sources.file)(&if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") }).is_some()
        };
        (dir.is_empty() || (sources.is_dir)(dir)) && (has("pyproject.toml") || has("setup.py") || has("setup.cfg"))
    };
    let path = candidates.into_iter().flatten().find(is_project)?;
    Some(ProjectRequest { path, editable: false, extras })
}

/// A relative path in the repository, `None` when it leaves it.
fn join(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.starts_with('~') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests;

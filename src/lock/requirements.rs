//! What a task wants of Python, gathered from its own list or from the repository's files.
//!
//! The original agent's rules: the task's list counts when it has anything; else every `requirements.txt` from the
//! repository's root down to the script's directory. `-i`, `-f` and `--no-index` are ignored, `--extra-index-url` is not;
//! what is no requirement is a directory. Here a directory must be in the repository, and what needs a build (a git
//! address, an sdist) is set apart.

use std::collections::BTreeSet;
use std::path::Path;

use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Kind};
use crate::python::name::normalise;
use crate::secret::{Secret, mask_userinfo, strip_userinfo};
use crate::task::Requirements;

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
    /// Whether the repository has a directory.
    pub is_dir: &'a dyn Fn(&str) -> bool,
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
    /// What people should know.
    pub notes: Vec<String>,
}

pub use crate::python::project::ProjectRequest;

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
    if let Some(text) = recorded(sources.task, sources.repository_first, sources.original) {
        gathered.read(sources, &Place { name: "the task's requirements".to_owned(), dir: String::new() }, text, 0)?;
        return Ok(gathered);
    }
    for path in repository_files(sources) {
        if let Some(text) = (sources.file)(&path) {
            let dir = path.rsplit_once('/').map_or("", |it| it.0).to_owned();
            gathered.read(sources, &Place { name: format!("`{path}`"), dir }, &text, 0)?;
        }
    }
    if gathered == Gathered::default() {
        gathered.notes.push("neither the task nor its repository names Python requirements".to_owned());
    }
    Ok(gathered)
}

/// The task's own text that counts; none where the repository's files do.
pub(super) fn recorded(task: &Requirements, repository_first: bool, original: bool) -> Option<&String> {
    let has_text = |it: &&String| !it.trim().is_empty();
    let pinned = task.pip.as_ref().filter(has_text);
    let original = task.org_pip.as_ref().filter(has_text).filter(|_| original);
    original.or(pinned).filter(|_| !repository_first)
}

/// `requirements.txt` of every directory from the root down to the script's.
fn repository_files(sources: &Sources<'_>) -> Vec<String> {
    let script = Path::new(sources.working_dir).join(sources.entry_point);
    let script = script.parent().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    let mut dir = String::new();
    let mut files = vec!["requirements.txt".to_owned()];
    for part in script.split('/').filter(|it| !it.is_empty() && *it != ".") {
        dir = if dir.is_empty() { part.to_owned() } else { format!("{dir}/{part}") };
        files.push(format!("{dir}/requirements.txt"));
    }
    files
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
        let lists: [Vec<String>; 5] = [
            self.requirements.clone(),
            self.constraints.clone(),
            secrets(&self.indexes),
            secrets(&self.builds),
            projects,
        ];
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
            } else if role == Role::Constraint {
                self.constraints.push(without_hashes(&line));
            } else {
                self.requirement(sources, place, &line)?;
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
            "-e" | "--editable" => self.editable(sources, place, value),
            "--extra-index-url" => {
                self.indexes.push(Secret::new(value));
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
        let line = without_hashes(line);
        if is_vcs(&line) {
            self.builds.push(Secret::new(line));
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
                self.requirements.push(line);
            }
            return Ok(());
        }
        if is_address(&line) {
            if is_wheel(&line) {
                self.requirements.push(line);
            } else {
                self.builds.push(Secret::new(line));
            }
            return Ok(());
        }
        let normal = with_normal_spaces(&line);
        if normal.parse::<pep508_rs::Requirement<pep508_rs::VerbatimUrl>>().is_ok() && !line.starts_with('.') {
            self.requirements.push(normal);
            return Ok(());
        }
        match project(sources, place, &line) {
            Some(project) => {
                self.projects.push(project);
                Ok(())
            }
            None => Err(unreadable(place, &line)),
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

/// A requirement without `--hash=…` and other options of its own.
fn without_hashes(line: &str) -> String {
    line.find(" --").map_or(line, |at| &line[..at]).trim().to_owned()
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(pip: Option<&str>, files: &[(&str, &str)], repository_first: bool) -> Result<Gathered, RequirementsError> {
        let files: BTreeMap<String, String> = files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let task = Requirements { pip: pip.map(str::to_owned), ..Requirements::default() };
        gather(&Sources {
            task: &task,
            working_dir: "src",
            entry_point: "train.py",
            repository_first,
            original: false,
            file: &|path| files.get(path).cloned(),
            is_dir: &|path| files.keys().any(|it| it.starts_with(&format!("{path}/"))),
        })
    }

    #[test]
    fn a_recorded_list_is_read_as_the_sdk_writes_it() {
        let text = "# Python 3.11.2 (main)\n\nnumpy == 1.26.4\npandas[performance]>=2 ; python_version >= '3.9'  # why\n\
                    # scipy == 1.0\n--extra-index-url https://u:p@h.example/whl\n-f https://x.example\n\
                    foo==1.0 --hash=sha256:00 \\\n  --hash=sha256:11\nhttps://h.example/a-1-py3-none-any.whl\n";
        let gathered = run(Some(text), &[], false).unwrap();
        assert_eq!(
            gathered.requirements,
            [
                "numpy == 1.26.4",
                "pandas[performance]>=2 ; python_version >= '3.9'",
                "foo==1.0",
                "https://h.example/a-1-py3-none-any.whl"
            ]
        );
        assert_eq!(gathered.indexes[0].reveal(), "https://u:p@h.example/whl");
        assert_eq!(gathered.notes, ["`-f` in the task's requirements is ignored"]);
    }

    #[test]
    fn without_a_list_the_repositorys_files_count_from_the_root_down() {
        let files = [
            ("requirements.txt", "-r deep/more.txt\nnumpy\n"),
            ("deep/more.txt", "-c limits.txt\nscipy\n"),
            ("deep/limits.txt", "scipy<2\n"),
            ("src/requirements.txt", "pandas\n"),
        ];
        for pip in [None, Some(" \n")] {
            let gathered = run(pip, &files, false).unwrap();
            assert_eq!(gathered.requirements, ["scipy", "numpy", "pandas"]);
            assert_eq!(gathered.constraints, ["scipy<2"]);
        }
        assert_eq!(run(Some("six"), &files, false).unwrap().requirements, ["six"]);
        assert_eq!(run(Some("six"), &files, true).unwrap().requirements.len(), 3);
        assert_eq!(run(Some("# nothing"), &files, false).unwrap().requirements.len(), 0);
    }

    #[test]
    fn directories_and_what_needs_a_build_are_set_apart() {
        let files = [("setup.py", ""), ("lib/pyproject.toml", "")];
        let text = "-e .\n./lib[fast, Slow]\n-e git+https://h.example/x.git@abc#egg=x\ny @ git+ssh://git@h.example/y\n\
                    z @ https://h.example/z-1.tar.gz\nold @ file:///home/jo/old-1.whl\n";
        let gathered = run(Some(text), &files, false).unwrap();
        assert_eq!(
            gathered.projects,
            [
                ProjectRequest { path: String::new(), editable: true, extras: vec![] },
                ProjectRequest {
                    path: "lib".to_owned(),
                    editable: false,
                    extras: vec!["fast".to_owned(), "slow".to_owned()]
                },
            ]
        );
        assert_eq!(gathered.builds.len(), 3);
        assert_eq!(gathered.requirements, ["old"]);
    }

    #[test]
    fn what_is_nothing_is_named() {
        let error = run(Some("../outside\n"), &[("setup.py", "")], false).unwrap_err();
        assert!(error.to_string().contains("`../outside` in the task's requirements"), "{error}");
        let error = run(Some("-r missing.txt\n"), &[], false).unwrap_err();
        assert!(error.to_string().contains("`missing.txt`"), "{error}");
        let error = run(Some("-r a.txt\n"), &[("a.txt", "-r a.txt\n")], false).unwrap_err();
        assert!(matches!(error, RequirementsError::Circle(_)), "{error}");
    }
}

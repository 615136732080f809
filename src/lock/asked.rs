//! What was asked for when a lock was made, as digests: by them it is seen later which parts of it still stand.
//!
//! Pure. A digest covers what the task and the command line say, not what a machine has: package indexes and credentials
//! of this machine's own are no part of it, so a lock stands on any machine. Addresses lose their userinfo first. The
//! requirements' digests are lists: those of the text as it was, and of the closure that a run writes back in its place.

use serde::{Deserialize, Serialize};

use super::requirements::{self, Gathered, Sources};
use super::{CodePart, Lock, PythonPart, SetupPart, closure, code};
use crate::base::Request;
use crate::digest::{Digest, Hasher};
use crate::git::Wanted;
use crate::oci::Platform;
use crate::secret::strip_userinfo;
use crate::task::{Requirements, Script, Task};

/// What was asked for, part by part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The base image, by name, and the platform.
    pub base: Digest,
    /// The commit, tag or branch.
    pub revision: Digest,
    /// What else decides the code: repository, changes, entry point.
    pub code: Digest,
    /// System packages.
    pub system: Digest,
    /// The recorded interpreter.
    pub interpreter: Digest,
    /// The text of requirements that counted, or that the repository's files did. Any of these.
    pub requirements: Vec<Digest>,
    /// What was read from that text and the files it names. Any of these.
    pub gathered: Vec<Digest>,
    /// Whether variables stood in it: what they stand for may be another value each time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub variables: bool,
}

/// What decides besides the task.
#[derive(Debug, Clone)]
pub struct Choices<'a> {
    /// The base image that counts.
    pub base: &'a Request,
    /// Its platform.
    pub platform: &'a Platform,
    /// System packages.
    pub packages: &'a [String],
    /// Whether the libraries for opencv are wanted.
    pub opencv: bool,
    /// The interpreter's version, whatever the task records.
    pub python: Option<&'a str>,
    /// Whether the base's own distributions stay out.
    pub isolated: bool,
    /// Whether the repository's files count even where the task has a list.
    pub repository_first: bool,
    /// Whether the user's list counts rather than the pinned one of a run.
    pub original: bool,
    /// Whether a script without `Task.init` gets one.
    pub force_task_init: bool,
    /// The changes, where the task records only that they are elsewhere.
    pub diff: Option<&'a [u8]>,
}

/// Which parts of an earlier lock stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The base image.
    pub base: bool,
    /// The code.
    pub code: bool,
    /// System packages, on the same base.
    pub system: bool,
    /// The setup script.
    pub setup: bool,
    /// The interpreter, on the same base.
    pub interpreter: bool,
    /// The text of the requirements.
    pub requirements: bool,
}

impl Standing {
    /// Whether nothing has to be resolved.
    #[must_use]
    pub const fn all(&self) -> bool {
        self.base && self.code && self.system && self.setup && self.interpreter && self.requirements
    }

    /// What does not stand, for people.
    #[must_use]
    pub fn differences(&self) -> Vec<&'static str> {
        let parts = [
            (self.base, "base image"),
            (self.code, "code"),
            (self.requirements, "requirements"),
            (self.interpreter, "Python version"),
            (self.system, "system packages"),
            (self.setup, "setup script"),
        ];
        parts.into_iter().filter(|it| !it.0).map(|it| it.1).collect()
    }
}

impl Asked {
    /// What a task asks for now. The requirements are known by their text alone.
    #[must_use]
    pub fn of(task: &Task, choices: &Choices<'_>) -> Self {
        Self {
            base: base(choices.base, choices.platform),
            revision: revision(&code::wanted(&task.script)),
            code: code(&task.script, choices),
            system: system(choices),
            interpreter: interpreter(&task.script),
            requirements: vec![text(&task.script.requirements, choices.repository_first, choices.original)],
            gathered: Vec::new(),
            variables: false,
        }
    }

    /// Which parts of an earlier lock stand. `setup` is the script that the task has now. What a command line asked for
    /// then, and nobody asks for otherwise now, stands too: the task has not changed.
    #[must_use]
    pub fn standing(&self, choices: &Choices<'_>, setup: Option<&SetupPart>, earlier: &Lock) -> Standing {
        let Some(then) = &earlier.asked else {
            return Standing { setup: earlier.setup.as_ref() == setup, ..Standing::default() };
        };
        Standing {
            base: self.base == then.base,
            code: self.code == then.code
                && (self.revision == then.revision || Some(self.revision) == pinned(earlier.code.as_ref())),
            system: self.system == then.system || has_packages(choices, earlier),
            setup: earlier.setup.as_ref() == setup,
            interpreter: self.interpreter == then.interpreter && fits(choices, &earlier.python),
            requirements: !then.variables && share(&self.requirements, &then.requirements),
        }
    }

    /// Adds what a Python part pins, as a run writes it back, and what was read for it.
    pub(crate) fn pinned_by(&mut self, part: &PythonPart, gathered: Option<&Gathered>) {
        self.gathered.extend(gathered.map(Gathered::digest));
        self.variables |= gathered.is_some_and(|it| it.variables);
        let lines = closure::closure(part);
        if !lines.is_empty() {
            let requirements = Requirements { pip: Some(lines.join("\n")), ..Requirements::default() };
            self.requirements.push(text(&requirements, false, false));
            self.gathered.extend(read_back(&requirements).map(|it| it.digest()));
        }
        self.without_duplicates();
    }

    /// Adds what an earlier lock was asked by, for requirements that stand.
    pub(crate) fn stood(&mut self, earlier: Option<&Self>) {
        if let Some(it) = earlier {
            self.requirements.extend(&it.requirements);
            self.gathered.extend(&it.gathered);
            self.variables |= it.variables;
        }
        self.without_duplicates();
    }

    fn without_duplicates(&mut self) {
        for list in [&mut self.requirements, &mut self.gathered] {
            let mut seen = Vec::new();
            list.retain(|it| {
                !seen.contains(it) && {
                    seen.push(*it);
                    true
                }
            });
        }
    }
}

/// Whether two lists have a digest in common.
pub(crate) fn share(some: &[Digest], others: &[Digest]) -> bool {
    some.iter().any(|it| others.contains(it))
}

/// How a commit that is written back is asked for.
#[must_use]
pub fn pinned(code: Option<&CodePart>) -> Option<Digest> {
    let git = code?.git.as_ref()?;
    Some(revision(&Wanted::Commit(git.commit.clone())))
}

/// The closure's lines as they will be read; the directories they name are there.
fn read_back(requirements: &Requirements) -> Option<Gathered> {
    let sources = Sources {
        task: requirements,
        working_dir: "",
        entry_point: "",
        repository_first: false,
        original: false,
        file: &|path| path.ends_with("pyproject.toml").then(String::new),
        has: &|_| true,
        is_dir: &|_| true,
        manager: None,
        target: None,
        variable: &|_| None,
    };
    requirements::gather(&sources).ok()
}

fn keyed(what: &str, fields: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("asked 1").field(what);
    for field in fields {
        hasher.field(field);
    }
    hasher.finish()
}

/// A layout's or an archive's path is this machine's own: such a base is looked at again each time.
fn base(request: &Request, platform: &Platform) -> Digest {
    let name = if is_local(request) { "local".to_owned() } else { request.to_string() };
    keyed("base", &[name.as_bytes(), platform.to_string().as_bytes()])
}

/// Whether a base is a file or directory of this machine.
#[must_use]
pub const fn is_local(request: &Request) -> bool {
    matches!(request, Request::Layout { .. } | Request::Archive { .. })
}

fn revision(wanted: &Wanted) -> Digest {
    keyed("revision", &[format!("{wanted:?}").as_bytes()])
}

fn code(script: &Script, choices: &Choices<'_>) -> Digest {
    let repository = strip_userinfo(script.repository.as_deref().unwrap_or_default().trim());
    let diff = choices.diff.unwrap_or(script.diff.as_bytes());
    let shell = script.interpreter.as_deref().and_then(super::launch::shell).unwrap_or_default();
    let init = if choices.force_task_init { "init" } else { "" };
    keyed(
        "code",
        &[
            repository.as_bytes(),
            Digest::of(diff).bytes(),
            script.entry_point.as_bytes(),
            script.working_dir.as_bytes(),
            shell.as_bytes(),
            init.as_bytes(),
        ],
    )
}

fn system(choices: &Choices<'_>) -> Digest {
    let mut fields: Vec<&[u8]> = choices.packages.iter().map(|it| it.trim().as_bytes()).collect();
    fields.push(if choices.opencv { b"opencv" } else { b"" as &[u8] });
    keyed("system", &fields)
}

/// Whether an earlier lock has all packages that are asked for, perhaps with others.
fn has_packages(choices: &Choices<'_>, earlier: &Lock) -> bool {
    let opencv = super::system::OPENCV.iter().filter(|_| choices.opencv).copied();
    let mut wanted = choices.packages.iter().map(|it| it.trim()).filter(|it| !it.is_empty()).chain(opencv);
    let has = |name| earlier.system.as_ref().is_some_and(|it| it.requested.iter().any(|it| it == name));
    wanted.all(has)
}

fn interpreter(script: &Script) -> Digest {
    let recorded = script.interpreter.as_deref().unwrap_or_default();
    keyed("interpreter", &[recorded.rsplit('/').next().unwrap_or_default().as_bytes()])
}

/// Whether an earlier interpreter is what the command line asks for, if it asks.
fn fits(choices: &Choices<'_>, earlier: &PythonPart) -> bool {
    let version = choices.python.is_none_or(|it| is_version(&earlier.version, it));
    version && !(choices.isolated && earlier.site_packages)
}

/// Whether a whole version is the one asked for: `3`, `3.11`, `3.11.4`.
pub(super) fn is_version(whole: &str, asked: &str) -> bool {
    whole == asked || whole.strip_prefix(asked).is_some_and(|it| it.starts_with('.'))
}

fn text(requirements: &Requirements, repository_first: bool, original: bool) -> Digest {
    let Some(text) = requirements::recorded(requirements, repository_first, original) else {
        return keyed("requirements", &[b"of the repository"]);
    };
    let lines = requirements::logical_lines(text);
    let lines: Vec<String> = lines.iter().map(|it| strip_userinfo(it)).collect();
    keyed("requirements", &lines.iter().map(String::as_bytes).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lock::document::tests::lock;
    use crate::lock::{Distribution, GitPart, SystemPart};
    use crate::task::clearml;

    const COMMIT: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    fn task(change: impl FnOnce(&mut serde_json::Value)) -> Task {
        let mut task = json!({
            "name": "x",
            "script": {
                "repository": "https://host/x.git", "branch": "main", "entry_point": "train.py", "diff": "diff --git a b\n",
                "binary": "/usr/bin/python3.11", "requirements": {"pip": "six\n"},
            },
            "container": {"image": "python:3.11", "setup_shell_script": "true"},
        });
        change(&mut task);
        clearml::parse(&task).unwrap()
    }

    /// What a task asks for, with choices; and what stands of a lock.
    fn with<T>(task: &Task, change: impl FnOnce(&mut Choices<'_>), work: impl FnOnce(Asked, &Choices<'_>) -> T) -> T {
        let base: Request = task.container.image.as_deref().unwrap_or("default:1").parse().unwrap();
        let packages = ["git".to_owned()];
        let mut choices = Choices {
            base: &base,
            platform: &Platform::host(),
            packages: &packages,
            opencv: false,
            python: None,
            isolated: false,
            repository_first: false,
            original: false,
            force_task_init: false,
            diff: None,
        };
        change(&mut choices);
        work(Asked::of(task, &choices), &choices)
    }

    fn asked(task: &Task) -> Asked {
        with(task, |_| {}, |asked, _| asked)
    }

    fn standing(task: &Task, lock: &Lock) -> Standing {
        with(task, |_| {}, |asked, choices| asked.standing(choices, SetupPart::of(task).as_ref(), lock))
    }

    /// A lock of the task, of whose branch `COMMIT` was the head.
    fn locked(task: &Task) -> Lock {
        let mut lock = lock();
        lock.setup = SetupPart::of(task);
        lock.code = Some(CodePart {
            git: Some(GitPart { url: None, commit: COMMIT.to_owned(), tree: String::new(), submodules: Vec::new() }),
            diff: None,
            script: None,
            tree: Digest::of("tree"),
        });
        lock.python.distributions = vec![Distribution {
            name: "six".to_owned(),
            version: "1.16.0".to_owned(),
            file: "six-1.16.0-py2.py3-none-any.whl".to_owned(),
            sha256: Digest::of("six"),
            size: 1,
            url: None,
            built_from: None,
            direct: false,
            path: None,
        }];
        let mut asked = asked(task);
        asked.pinned_by(&lock.python, None);
        lock.asked = Some(asked);
        lock
    }

    fn differences(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<&'static str> {
        let lock = locked(&task(|_| {}));
        standing(&task(edit), &lock).differences()
    }

    #[test]
    fn a_command_line_is_held_against_what_the_lock_has() {
        let (task, mut lock) = (task(|_| {}), locked(&task(|_| {})));
        lock.system = Some(SystemPart { requested: vec!["git".to_owned(), "curl".to_owned()], packages: Vec::new() });
        let differences = |change: &dyn Fn(&mut Choices<'_>)| {
            let setup = SetupPart::of(&task);
            with(&task, change, |asked, choices| asked.standing(choices, setup.as_ref(), &lock).differences())
        };
        let packages = |names: &[&str]| names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let (both, more) = (packages(&["curl", "git"]), packages(&["git", "vim"]));
        let borrowed = |list: &[String]| -> &'static [String] { Vec::leak(list.to_vec()) };
        assert_eq!(differences(&|it| it.packages = borrowed(&both)), [""; 0]);
        assert_eq!(differences(&|it| it.packages = borrowed(&more)), ["system packages"]);
        assert_eq!(differences(&|it| it.python = Some("3.11")), [""; 0]);
        assert_eq!(differences(&|it| it.python = Some("3.1")), ["Python version"]);
        assert_eq!(differences(&|it| it.isolated = true), ["Python version"]);
    }

    #[test]
    fn an_edit_is_seen_in_its_own_part_and_what_a_run_writes_back_is_none() {
        assert_eq!(differences(|_| {}), [""; 0]);
        let pinned = |it: &mut serde_json::Value| {
            it["script"]["version_num"] = json!(COMMIT);
            it["script"]["requirements"] = json!({"pip": ["six==1.16.0"], "org_pip": "six\n", "conda": ""});
        };
        assert_eq!(differences(pinned), [""; 0]);
        // How an address is written to, and white space, are nobody's edit.
        let same = |it: &mut serde_json::Value| {
            it["script"]["repository"] = json!("https://u:p@host/x.git");
            it["script"]["requirements"]["pip"] = json!("# mine\nsix  # of course\n");
        };
        assert_eq!(differences(same), [""; 0]);
        let one = |name: &'static str, value: &'static str| differences(move |it| it["script"][name] = json!(value));
        assert_eq!(one("branch", "other"), ["code"]);
        assert_eq!(one("version_num", "1111111"), ["code"]);
        assert_eq!(one("diff", ""), ["code"]);
        assert_eq!(one("entry_point", "other.py"), ["code"]);
        assert_eq!(one("binary", "python3.12"), ["Python version"]);
        assert_eq!(differences(|it| it["script"]["requirements"]["pip"] = json!("six==1.15")), ["requirements"]);
        assert_eq!(differences(|it| it["container"]["image"] = json!("python:3.12")), ["base image"]);
        assert_eq!(differences(|it| it["container"]["setup_shell_script"] = json!("false")), ["setup script"]);
    }

    #[test]
    fn of_a_lock_that_does_not_say_what_was_asked_nothing_stands() {
        let lock = Lock { asked: None, ..locked(&task(|_| {})) };
        let task = task(|_| {});
        let standing = standing(&task, &lock);
        assert_eq!(standing, Standing { setup: true, ..Standing::default() });
    }

    #[test]
    fn what_variables_stand_for_is_looked_at_each_time() {
        let task = task(|_| {});
        let mut lock = locked(&task);
        assert!(standing(&task, &lock).requirements);
        let found = Gathered { variables: true, ..Gathered::default() };
        let python = lock.python.clone();
        lock.asked.as_mut().unwrap().pinned_by(&python, Some(&found));
        assert!(!standing(&task, &lock).requirements);
        // It is remembered by whatever is made of that lock, and by its document.
        let mut again = asked(&task);
        again.stood(lock.asked.as_ref());
        assert!(again.variables && lock.documents().toml.contains("variables = true"));
    }
}

//! How the task starts: entry point, working directory, environment; secrets by name only.
//!
//! Pure: from the task and a few choices to a [`LaunchPart`]. What the original does with the recorded texts holds here
//! (`a:b` without a working directory, module and path forms, words split as Python's `shlex` does), save that paths may
//! not leave the code's root and that arguments are never normalised like paths (`s3://bucket` stays).

use std::collections::BTreeMap;

use crate::error::{Explain, Kind};
use crate::launch::{Mode, has_variables};
use crate::lock::{CodePart, LaunchPart, Text};
use crate::process;
use crate::secret::{is_secret_name, is_secret_parameter, strip_userinfo};
use crate::switches::{PolicyError, SwitchError};
use crate::task::Task;

use super::arguments;
pub use crate::switches::ArgumentPolicy;

/// The section of the hyperparameters that may become environment variables.
const ENVIRONMENT: &str = "Environment";

/// What decides a launch besides the task.
pub struct LaunchChoices<'a> {
    /// What the image does without a command.
    pub mode: Mode,
    /// The container arguments that count: the task's own, or those given in their place.
    pub arguments: Option<&'a str>,
    /// What may stand in them.
    pub policy: &'a ArgumentPolicy,
    /// Whether the section `Environment` becomes environment variables (`agent.enable_task_env`).
    pub task_environment: bool,
    /// Whether the finished code has a file at a path relative to its root; without an answer, an entry point is taken
    /// to be a path up to its first space.
    pub is_file: Option<&'a dyn Fn(&str) -> bool>,
}

/// The launch part of a lock and what was noticed on the way, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Launched {
    /// The part.
    pub part: LaunchPart,
    /// Worth acting on.
    pub warnings: Vec<String>,
}

/// Makes the launch part of a lock.
///
/// # Errors
/// [`LaunchError`]: nothing to start, or texts that cannot be understood.
pub fn lock(task: &Task, code: Option<&CodePart>, choices: &LaunchChoices<'_>) -> Result<Launched, LaunchError> {
    let entry = Entry::of(task, code, choices)?;
    let mut arguments = arguments::parse(choices.arguments.unwrap_or_default(), choices.policy)?;
    let mut secret_parameters = Vec::new();
    for (section, entries) in &task.parameters {
        let variables = choices.task_environment && section == ENVIRONMENT;
        for (name, parameter) in entries {
            let value = &parameter.value;
            if variables && (is_secret_name(name) || strip_userinfo(value) != *value) {
                arguments.secrets.push(name.clone());
            } else if variables {
                arguments.env.insert(name.clone(), value.clone());
            } else if is_secret_parameter(&format!("{section}/{name}"), value) {
                secret_parameters.push(format!("{section}/{name}"));
            }
        }
    }
    arguments.secrets.sort();
    arguments.secrets.dedup();
    let env: BTreeMap<_, _> = arguments.env.into_iter().filter(|(name, _)| !arguments.secrets.contains(name)).collect();
    let part = LaunchPart {
        mode: choices.mode,
        task: task.id.clone(),
        name: task.name.clone(),
        shell: entry.shell,
        entry_point: entry.words,
        working_dir: entry.directory,
        env,
        secrets: arguments.secrets,
        secret_parameters,
        container_arguments: arguments.rest,
        record: Text::of(crate::oci::json::canonical(&task.record)),
    };
    Ok(Launched { part, warnings: arguments.warnings })
}

/// What is started and where.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    shell: Option<String>,
    words: Vec<String>,
    directory: String,
}

impl Entry {
    fn of(task: &Task, code: Option<&CodePart>, choices: &LaunchChoices<'_>) -> Result<Self, LaunchError> {
        let script = &task.script;
        let shell = script.interpreter.as_deref().and_then(shell);
        let stored = code.and_then(|it| it.script.as_ref()).map(|it| it.file.as_str());
        let (text, directory) = match (script.working_dir.as_str(), script.entry_point.split_once(':')) {
            // `script:directory`, the original's older form. An address or a module's argument is none.
            ("", Some((file, directory))) if !file.contains(char::is_whitespace) && !directory.starts_with('/') => {
                (file.to_owned(), directory)
            }
            // `directory:file` names the stored script that a module's entry point does not.
            (directory, _) if is_module(&script.entry_point) => {
                (script.entry_point.clone(), directory.split_once(':').map_or(directory, |it| it.0))
            }
            (directory, _) => (script.entry_point.clone(), directory),
        };
        let directory = match relative("working directory", directory) {
            // The original takes no notice of the directory of a script that came without a repository.
            Err(_) if code.is_some_and(|it| it.git.is_none()) => String::new(),
            other => other?,
        };
        let words = if let Some(file) = stored {
            if is_module(&text) {
                split(&text)?
            } else {
                let path = join(&directory, &text);
                let whole = path == file || path.ends_with(".ipynb") && stem(&path) == stem(file);
                let rest = if whole { Vec::new() } else { split(&text)? };
                std::iter::once(seen_from(&directory, file)).chain(rest.into_iter().skip(1)).collect()
            }
        } else if choices.is_file.is_some_and(|it| it(&join(&directory, &text))) {
            vec![text.clone()]
        } else {
            split(&text)?
        };
        let entry = Self { shell, words, directory };
        entry.check(choices, stored.is_some())?;
        Ok(entry)
    }

    fn check(&self, choices: &LaunchChoices<'_>, stored: bool) -> Result<(), LaunchError> {
        let Some(first) = self.words.first() else {
            return if choices.mode == Mode::Environment { Ok(()) } else { Err(LaunchError::Nothing) };
        };
        if first.starts_with('-') {
            return match (first.as_str(), self.words.get(1)) {
                ("-m" | "-c", Some(_)) => Ok(()),
                _ => Err(LaunchError::Option { text: process::command_line(&self.words) }),
            };
        }
        if first.to_ascii_lowercase().ends_with(".ipynb") {
            return Err(LaunchError::Notebook { path: first.clone() });
        }
        let path = relative("entry point", &join(&self.directory, first))?;
        // Where a variable leads, only the run knows.
        let known = !stored && !has_variables(&path);
        if known && choices.is_file.is_some_and(|it| !it(&path)) {
            return Err(LaunchError::Missing { path });
        }
        Ok(())
    }
}

/// The shell that a recorded interpreter names; `None` for Python and whatever else.
fn shell(interpreter: &str) -> Option<String> {
    let name = interpreter.rsplit('/').next().unwrap_or(interpreter);
    ["bash", "sh", "zsh"].contains(&name).then(|| format!("/bin/{name}"))
}

fn split(text: &str) -> Result<Vec<String>, LaunchError> {
    process::words(text).ok_or_else(|| LaunchError::Quotes { what: "entry point", text: strip_userinfo(text) })
}

/// Whether an entry point names a module or has the program's text in it.
fn is_module(text: &str) -> bool {
    text.starts_with("-m ") || text.starts_with("-c ")
}

/// A file of the code's root as it is named from a directory below the root.
fn seen_from(directory: &str, file: &str) -> String {
    let mut file = file.split('/').peekable();
    let mut directory = directory.split('/').filter(|it| !it.is_empty()).peekable();
    while let (Some(a), Some(b)) = (file.peek(), directory.peek())
        && a == b
    {
        file.next();
        directory.next();
    }
    directory.map(|_| "..").chain(file).collect::<Vec<_>>().join("/")
}

/// A path without its extension: a notebook is carried as the script it was converted to.
fn stem(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |it| it + 1);
    path[name..].rfind('.').map_or(path, |it| &path[..name + it])
}

fn join(directory: &str, path: &str) -> String {
    if directory.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") }
}

/// A path without `.` and `..`, which may not lead out of the code's root.
fn relative(what: &'static str, path: &str) -> Result<String, LaunchError> {
    let error = || LaunchError::Outside { what, path: path.to_owned() };
    if path.starts_with('/') || path.starts_with('~') || path.contains('\0') {
        return Err(error());
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(error)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Why a task cannot be started from an image.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no entry point.
    #[error("the task has no entry point")]
    Nothing,
    /// A path leaves the code's root.
    #[error("{what} `{path}` of the task lies outside its code")]
    Outside {
        /// Which path.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// The entry point's file is not there.
    #[error("entry point `{path}` is not in the task's code")]
    Missing {
        /// The path from the code's root.
        path: String,
    },
    /// Quotes are not closed.
    #[error("the task's {what} cannot be split into words: `{text}`")]
    Quotes {
        /// Which text.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// An interpreter option that is no way to name a program.
    #[error("entry point `{text}` of the task names no program")]
    Option {
        /// The text.
        text: String,
    },
    /// A notebook.
    #[error("entry point `{path}` of the task is a notebook")]
    Notebook {
        /// The path.
        path: String,
    },
    /// Container arguments that cannot be read.
    #[error(transparent)]
    Arguments(#[from] SwitchError),
    /// A policy that cannot be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Explain for LaunchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Policy(error) => error.kind(),
            _ => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Nothing => {
                "Set the task's entry point, or build without --entry-point: the image is an environment then."
            }
            Self::Outside { .. } => "Make it relative to the repository's root, without leaving it by `..`.",
            Self::Missing { .. } => {
                "Check the task's entry point and working directory, and that its commit has the file."
            }
            Self::Option { .. } => "Give a script or `-m module`.",
            Self::Notebook { .. } => "Convert it (`jupyter nbconvert --to script`) and record the script.",
            Self::Quotes { .. } => return Vec::new(),
            Self::Arguments(error) => return error.hints(),
            Self::Policy(error) => return error.hints(),
        };
        vec![hint.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Digest;
    use crate::lock::StoredScript;
    use crate::task::clearml;

    fn entry(entry_point: &str, working_dir: &str) -> Result<(Vec<String>, String), String> {
        let task = json!({"name": "x", "script": {"entry_point": entry_point, "working_dir": working_dir}});
        let task = clearml::parse(&task).unwrap();
        let files = |path: &str| ["train.py", "src/train.py", "src/my script.py", "src/lib/a.py"].contains(&path);
        let policy = ArgumentPolicy::default();
        let choices = LaunchChoices {
            mode: Mode::ReuseTask,
            arguments: None,
            policy: &policy,
            task_environment: false,
            is_file: Some(&files),
        };
        let launched = lock(&task, None, &choices).map_err(|it| it.to_string())?;
        Ok((launched.part.entry_point, launched.part.working_dir))
    }

    #[track_caller]
    fn starts(entry_point: &str, working_dir: &str, words: &[&str], directory: &str) {
        let expected = (words.iter().map(|it| (*it).to_owned()).collect(), directory.to_owned());
        assert_eq!(entry(entry_point, working_dir), Ok(expected));
    }

    #[test]
    fn the_forms_of_an_entry_point() {
        starts("train.py", ".", &["train.py"], "");
        starts("train.py --url s3://b --x '1 2'", "src/.", &["train.py", "--url", "s3://b", "--x", "1 2"], "src");
        starts("my script.py", "src", &["my script.py"], "src");
        starts("-m pkg.mod --x 1", "", &["-m", "pkg.mod", "--x", "1"], "");
        starts("train.py:src", "", &["train.py"], "src");
        starts("../train.py", "src", &["../train.py"], "src");
        starts("a.py", "src/../src/lib/", &["a.py"], "src/lib");
        starts("$WHICH/a.py --x $Y", "src", &["$WHICH/a.py", "--x", "$Y"], "src");
        starts("train.py", "${WHERE}", &["train.py"], "${WHERE}");
    }

    #[test]
    fn what_cannot_start() {
        let message = |entry_point, working_dir| entry(entry_point, working_dir).unwrap_err();
        assert_eq!(message("", ""), "the task has no entry point");
        assert_eq!(message("train.py", "../x"), "working directory `../x` of the task lies outside its code");
        assert_eq!(message("train.py", "/home/me"), "working directory `/home/me` of the task lies outside its code");
        assert_eq!(
            message("../../etc/passwd", "src"),
            "entry point `src/../../etc/passwd` of the task lies outside its code"
        );
        assert_eq!(message("none.py", "src"), "entry point `src/none.py` is not in the task's code");
        assert_eq!(message("a.ipynb", ""), "entry point `a.ipynb` of the task is a notebook");
        assert_eq!(message("-m", ""), "entry point `-m` of the task names no program");
        assert_eq!(message("train.py 'x", ""), "the task's entry point cannot be split into words: `train.py 'x`");
    }

    #[test]
    fn a_stored_script_starts_where_it_is_put() {
        for (entry_point, working_dir, file, expected) in [
            ("-m main --x 1", "sub:main.py", "sub/main.py", (&["-m", "main", "--x", "1"][..], "sub")),
            ("train.py", "/home/me/work", "train.py", (&["train.py"], "")),
            ("train.py", "../work", "train.py", (&["train.py"], "")),
            ("train.py", "work", "work/train.py", (&["train.py"], "work")),
        ] {
            let script = json!({"entry_point": entry_point, "working_dir": working_dir});
            let task = clearml::parse(&json!({"name": "x", "script": script})).unwrap();
            let script = StoredScript { file: file.to_owned(), text: Text::of("x") };
            let code = CodePart { git: None, diff: None, script: Some(script), tree: Digest::of("") };
            let policy = ArgumentPolicy::default();
            let choices = LaunchChoices {
                mode: Mode::ReuseTask,
                arguments: None,
                policy: &policy,
                task_environment: false,
                is_file: None,
            };
            let part = lock(&task, Some(&code), &choices).unwrap().part;
            assert_eq!(
                (part.entry_point, part.working_dir.as_str()),
                (expected.0.iter().map(|it| (*it).to_owned()).collect(), expected.1)
            );
        }
    }

    #[test]
    fn a_carried_script_is_started_from_the_working_directory() {
        for (directory, file, expected) in [
            ("", "train.py", "train.py"),
            ("src", "src/train.py", "train.py"),
            ("src/a", "src/b/train.py", "../b/train.py"),
            ("src", "train.py", "../train.py"),
        ] {
            assert_eq!(seen_from(directory, file), expected);
        }
        assert_eq!(stem("a.b/c.ipynb"), stem("a.b/c.py"));
        assert_eq!(stem("a.b/c"), "a.b/c");
    }

    #[test]
    fn secrets_are_names_and_variables_values() {
        let task = clearml::parse(&json!({
            "id": "1", "name": "x", "script": {"entry_point": "run.sh 1", "binary": "/usr/bin/bash"},
            "hyperparams": {
                "Environment": {"A": {"value": "1"}, "HF_TOKEN": {"value": "s1"}, "B": {"value": "x"}},
                "Args": {"password": {"value": "s2"}, "api_key": {"value": ""}, "eos_token": {"value": "</s>"}},
            },
        }))
        .unwrap();
        let text = Text::of("echo");
        let script = StoredScript { file: "run.sh".to_owned(), text };
        let code = CodePart { git: None, diff: None, script: Some(script), tree: Digest::of("") };
        let policy = ArgumentPolicy::default();
        let choices = LaunchChoices {
            mode: Mode::CloneTask,
            arguments: Some("-e B=2 -e C=3 --ipc=host"),
            policy: &policy,
            task_environment: true,
            is_file: None,
        };
        let part = lock(&task, Some(&code), &choices).unwrap().part;
        assert_eq!(part.shell.as_deref(), Some("/bin/bash"));
        assert_eq!(part.entry_point, ["run.sh", "1"]);
        let env: Vec<_> = part.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=1", "B=x", "C=3"]);
        assert_eq!(part.secrets, ["HF_TOKEN"]);
        assert_eq!(part.secret_parameters, ["Args/password"]);
        assert_eq!(part.container_arguments.as_deref(), Some("--ipc=host"));
        assert!(!part.record.to_lossy().contains("s1") && !part.record.to_lossy().contains("s2"));
        let environment = LaunchChoices { task_environment: false, ..choices };
        let part = lock(&task, Some(&code), &environment).unwrap().part;
        assert_eq!(part.secret_parameters, ["Args/password", "Environment/HF_TOKEN"]);
        assert_eq!(part.env["B"], "2");
    }
}

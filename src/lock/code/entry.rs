//! Which file a task's entry point is, as the original agent reads it.

use crate::process::words;
use crate::task::Script;

/// The entry point and where it starts.
pub(super) struct Entry {
    /// Directory, relative to the root, without `.` and `..`; empty for the root.
    directory: String,
    text: String,
    /// File name that the working directory gives to a stored script that is run as a module.
    named: Option<String>,
    shell: bool,
}

impl Entry {
    pub(super) fn of(script: &Script) -> Self {
        let text = script.entry_point.trim();
        let directory = script.working_dir.trim();
        let (text, directory, named) = match (directory, text.split_once(':')) {
            ("", Some((file, inner))) if !file.contains(char::is_whitespace) && !inner.starts_with('/') => {
                (file, inner, None)
            }
            _ if is_module(text) => match directory.split_once(':') {
                Some((directory, name)) => (text, directory, Some(name.to_owned())),
                None => (text, directory, None),
            },
            _ => (text, directory, None),
        };
        let interpreter = script.interpreter.as_deref().unwrap_or_default();
        let shell = matches!(interpreter.rsplit('/').next(), Some("bash" | "sh" | "zsh"));
        Self { directory: inside(directory).unwrap_or_default(), text: text.to_owned(), named, shell }
    }

    /// Paths the entry point may be at, likeliest first: the whole text, else its first word.
    pub(super) fn candidates(&self) -> Vec<String> {
        if is_module(&self.text) || self.text.is_empty() {
            return Vec::new();
        }
        let first = words(&self.text).and_then(|it| it.into_iter().next());
        [Some(self.text.clone()), first].into_iter().flatten().filter_map(|it| self.at(&it)).collect()
    }

    /// Where a stored script goes.
    pub(super) fn stored_file(&self) -> String {
        let untitled = |shell: bool| if shell { "untitled.sh" } else { "untitled.py" };
        let name = if is_module(&self.text) {
            let shell = self.shell && self.text.starts_with("-c");
            self.named.clone().unwrap_or_else(|| untitled(shell).to_owned())
        } else if self.text.is_empty() {
            untitled(self.shell).to_owned()
        } else {
            let endings: &[&str] = if self.shell { &[".sh", ".bash"] } else { &[".py"] };
            let first = words(&self.text).and_then(|it| it.into_iter().next());
            let first = first.filter(|it| endings.iter().any(|ending| it.ends_with(ending)));
            first.unwrap_or_else(|| self.text.clone())
        };
        let base = || name.rsplit('/').next().filter(|it| inside(it).is_some_and(|it| !it.is_empty()));
        (self.at(&name).filter(|it| !it.is_empty()))
            .or_else(|| self.at(base()?))
            .unwrap_or_else(|| untitled(self.shell).to_owned())
    }

    fn at(&self, path: &str) -> Option<String> {
        inside(&if self.directory.is_empty() || path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.directory)
        })
    }
}

fn is_module(text: &str) -> bool {
    text.starts_with("-m ") || text.starts_with("-c ")
}

/// A relative path without `.` and `..`; `None` for one that leads out or is absolute.
fn inside(path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(entry_point: &str, working_dir: &str, interpreter: &str) -> Entry {
        Entry::of(&Script {
            entry_point: entry_point.into(),
            working_dir: working_dir.into(),
            interpreter: Some(interpreter.into()),
            ..Script::default()
        })
    }

    #[test]
    fn stored_scripts_are_named_after_the_entry_point() {
        let file = |text: &str, directory: &str, interpreter: &str| entry(text, directory, interpreter).stored_file();
        assert_eq!(file("train.py --x 1", ".", "python3.11"), "train.py");
        assert_eq!(file("", "", "python"), "untitled.py");
        assert_eq!(file("", "", "/bin/bash"), "untitled.sh");
        assert_eq!(file("run.sh a", "sub", "bash"), "sub/run.sh");
        assert_eq!(file("-m torch.distributed.run x.py", "", "python"), "untitled.py");
        assert_eq!(file("-m x", "sub:main.py", "python"), "sub/main.py");
        assert_eq!(file("my notebook", "", "python"), "my notebook");
        assert_eq!(file("/home/me/x.py -v", "", "python"), "x.py");
        assert_eq!(file("../../x.py", "", "python"), "x.py");
        assert_eq!(file("..", "", "python"), "untitled.py");
    }

    #[test]
    fn the_whole_text_may_be_a_path() {
        assert_eq!(entry("my file.py", "src/./", "python").candidates(), ["src/my file.py", "src/my"]);
        assert_eq!(entry("train.py:src", "", "python").candidates(), ["src/train.py", "src/train.py"]);
        assert!(entry("-m pkg", "src", "python").candidates().is_empty());
        assert!(entry("../x", "", "python").candidates().is_empty());
    }
}

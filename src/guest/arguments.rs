//! The command line of an image: `docker run IMAGE [OPTIONS] [COMMAND…]`.

use super::GuestError;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// The recorded task.
    Task,
    /// A command in the environment.
    Command(Vec<String>),
    /// How to use the image.
    Help,
    /// Which version this is.
    Version,
}

/// The command line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) action: Action,
    /// Another task than the recorded one.
    pub(super) task: Option<String>,
    /// Run the task although somebody else does.
    pub(super) force: bool,
    /// Run without a server, credentials or not.
    pub(super) offline: bool,
    /// Where the SDK's writes go when offline.
    pub(super) journal: Option<String>,
    /// Hyperparameters: section, name, value.
    pub(super) set: Vec<(String, String, String)>,
}

/// Options come first; what begins with anything but `-` begins a command.
pub(super) fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, GuestError> {
    let mut words = words.peekable();
    let mut arguments =
        Arguments { action: Action::Task, task: None, force: false, offline: false, journal: None, set: Vec::new() };
    while let Some(word) = words.next() {
        if word == "--" || !word.starts_with('-') {
            let first = (word != "--").then_some(word);
            let command: Vec<String> = first.into_iter().chain(words).collect();
            if !command.is_empty() {
                arguments.action = Action::Command(command);
            }
            return Ok(arguments);
        }
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            attached
                .clone()
                .or_else(|| words.next())
                .ok_or_else(|| GuestError::Usage(format!("`{name}` needs a value")))
        };
        match name.as_str() {
            "--set" => arguments.set.push(parameter(&value()?)?),
            "--task" => arguments.task = Some(value()?),
            "--journal" => arguments.journal = Some(value()?),
            _ if attached.is_some() => return Err(unknown(&name)),
            "--help" | "-h" => arguments.action = Action::Help,
            "--version" => arguments.action = Action::Version,
            "--force" => arguments.force = true,
            "--offline" => arguments.offline = true,
            _ => return Err(unknown(&name)),
        }
    }
    Ok(arguments)
}

fn unknown(name: &str) -> GuestError {
    GuestError::Usage(format!("unknown option `{name}`"))
}

fn parameter(text: &str) -> Result<(String, String, String), GuestError> {
    let invalid = || GuestError::Usage(format!("`--set {text}` is not of the form Section/name=value"));
    let (key, value) = text.split_once('=').ok_or_else(invalid)?;
    let (section, name) = key.split_once('/').ok_or_else(invalid)?;
    if section.is_empty() || name.is_empty() {
        return Err(invalid());
    }
    Ok((section.to_owned(), name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Arguments, GuestError> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_then_a_command() {
        let arguments = read("--set Args/lr=0.1 --set=model/nested/a=x=y --force --task t").unwrap();
        assert_eq!(arguments.action, Action::Task);
        let set: Vec<[&str; 3]> = arguments.set.iter().map(|(a, b, c)| [a.as_str(), b, c]).collect();
        assert_eq!(set, [["Args", "lr", "0.1"], ["model", "nested/a", "x=y"]]);
        assert!(arguments.force && arguments.task.as_deref() == Some("t"));
        let command = |text: &str| read(text).unwrap().action;
        assert_eq!(command("python -c --help"), Action::Command(vec!["python".into(), "-c".into(), "--help".into()]));
        assert_eq!(command("-- --odd"), Action::Command(vec!["--odd".into()]));
        assert_eq!((command("-h"), command(""), command("--")), (Action::Help, Action::Task, Action::Task));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("--epochs 3", "unknown option `--epochs`"),
            ("--force=yes", "unknown option `--force`"),
            ("--task", "`--task` needs a value"),
            ("--set lr=1", "`--set lr=1` is not of the form Section/name=value"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), expected);
        }
    }
}

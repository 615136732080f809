//! Which task, and what decides how it is pinned: options that `build` and `lock` share.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::git::GitArgs;
use crate::secret::strip_userinfo;
use crate::switches;

/// Which task, and what decides how it is pinned.
#[derive(Debug, Args)]
pub struct TaskArgs {
    /// The task on the server, by id or name
    #[arg(long, value_name = "TASK", help_heading = "The task")]
    pub id: Option<String>,
    /// The task from a file: what `tasks.get_by_id` answers, as JSON; no server is asked
    #[arg(long = "task", value_name = "FILE", conflicts_with = "id", help_heading = "The task")]
    pub task_file: Option<PathBuf>,
    /// A local checkout to take the task's commit from, instead of its address
    #[arg(long, value_name = "DIR", help_heading = "The task")]
    pub repository: Option<PathBuf>,
    /// What the image does when it is started: run the recorded task, or a clone of it. Without this it is an
    /// environment for any command
    #[arg(long, value_name = "WHAT", help_heading = "The image")]
    pub entry_point: Option<EntryPoint>,
    /// Base image for tasks that name none, and container arguments: "image args"; --docker=- reads them from standard
    /// input, and what is read there enters no image
    #[arg(
        long,
        value_name = "IMAGE ARGS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        help_heading = "The image"
    )]
    pub docker: Option<String>,
    /// Let --docker (or the default image) count even when the task names an image
    #[arg(long, help_heading = "The image")]
    pub force_docker: bool,
    /// Python version to use (3.11), whatever the task records
    #[arg(long, value_name = "X.Y", help_heading = "The image")]
    pub python_version: Option<String>,
    /// System packages (apt) to add
    #[arg(long, value_name = "PACKAGE", num_args = 1.., help_heading = "The image")]
    pub apt: Vec<String>,
    /// Platform of the image (linux/amd64)
    #[arg(long, value_name = "OS/ARCH", help_heading = "The image")]
    pub platform: Option<String>,
    /// The GPUs it is to run with on this machine (0,1 or all): what cannot run with them is refused before it is fetched
    #[arg(long, value_name = "LIST", help_heading = "The image")]
    pub gpus: Option<String>,
    /// It is to run on this machine without GPUs: as --gpus none
    #[arg(long, conflicts_with = "gpus", help_heading = "The image")]
    pub cpu_only: bool,
    /// Leave out compiled Python files; the image is smaller, and its first imports slower
    #[arg(long, help_heading = "The image")]
    pub no_bytecode: bool,
    /// Keep the base image's own Python packages out of the environment
    #[arg(long, help_heading = "The image")]
    pub isolated: bool,
    /// Resolve everything anew, whatever was remembered
    #[arg(long, help_heading = "Pinning")]
    pub refresh: bool,
    /// Ask nothing anew that moves: branches, tags, images and requirements are what they were last, however long ago
    #[arg(long, conflicts_with = "refresh", help_heading = "Pinning")]
    pub locked: bool,
    /// Registry to speak to over plain HTTP or with any certificate (host:port)
    #[arg(long = "insecure-registry", value_name = "HOST", help_heading = "Delivery")]
    pub insecure_registries: Vec<String>,
    /// Credentials for git.
    #[command(flatten)]
    pub git: GitArgs,

    // Spellings of the original that mean nothing for an image.
    #[arg(long, hide = true)]
    pub(crate) install_globally: bool,
    #[arg(long, hide = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    #[arg(short = 'O', hide = true, action = clap::ArgAction::Count)]
    pub(crate) optimize: u8,
}

/// What an image does when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum EntryPoint {
    /// Runs the recorded task itself.
    ReuseTask,
    /// Clones the recorded task and runs the clone.
    CloneTask,
}

/// Joins the words after `--docker` (and `--podman`, of the verbs that have it) into one value, as the original takes them: `--docker image`, `--docker image
/// "--ipc=host -e A=1"`, `--docker "image --ipc=host"` or nothing. A word with a space in it is never an option.
pub(super) fn gather_docker(arguments: Vec<OsString>) -> Vec<OsString> {
    let verb = verb(&arguments).and_then(|it| it.to_str()).unwrap_or_default();
    let options: &[&str] = match verb {
        "build" | "lock" => &["--docker"],
        "daemon" | "execute" => &["--docker", "--podman"],
        _ => return arguments,
    };
    let mut gathered = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        if !options.iter().any(|it| argument == *it) {
            gathered.push(argument);
            continue;
        }
        let mut words = Vec::new();
        while let Some(word) = rest.next_if(|it| is_value(it)) {
            words.push(word);
        }
        let mut option = argument;
        if !words.is_empty() {
            option.push("=");
            option.push(words.join(OsStr::new(" ")));
        }
        gathered.push(option);
    }
    gathered
}

/// A mistake, with what to write where a container argument stands by itself behind an image.
pub(super) fn with_tip(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};

    let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg) else { return error };
    let named = named.clone();
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(known) = switches::known::named(&named) else { return error };
    let texts: Vec<String> = words.iter().map(|it| it.to_string_lossy().into_owned()).collect();
    let engine = ["--docker", "--podman"].into_iter().find_map(|flag| {
        let word = texts.iter().find(|it| it.split('=').next() == Some(flag))?;
        Some((flag, word.split_once('=').map_or("IMAGE", |it| it.1)))
    });
    let Some((flag, image)) = engine else { return error };
    let mut asked = texts.iter().skip_while(|it| it.split('=').next() != Some(named.as_str()));
    let switch = asked.next().cloned().unwrap_or_else(|| named.clone());
    let value = asked.next().filter(|it| !known.flag && !switch.contains('=') && !it.starts_with('-'));
    let value = value.map(|it| format!(" {it}")).unwrap_or_default();
    let tip = format!("container arguments go into one quoted value: {flag} \"{image} {switch}{value}\"");
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![strip_userinfo(&tip).into()]));
    error
}

/// The first word that is neither an option nor the value of one of those that may stand before the verb.
pub(super) fn verb(arguments: &[OsString]) -> Option<&OsString> {
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--config-file" || word == "--progress" {
            words.next();
        } else if !word.to_string_lossy().starts_with('-') {
            return Some(word);
        }
    }
    None
}

fn is_value(word: &OsStr) -> bool {
    let text = word.to_string_lossy();
    !text.starts_with('-') || text.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_arguments_behind_an_image_are_told_where_they_go() {
        let said = |line: &str| crate::cli::parse(line.split(' ').map(OsString::from)).unwrap_err().to_string();
        for (line, value) in [
            ("agent daemon --docker ubuntu:22.04 --ipc=host", "--docker \"ubuntu:22.04 --ipc=host\""),
            ("agent execute --id x --podman ubuntu --ipc host", "--podman \"ubuntu --ipc host\""),
            ("agent build --docker u --privileged --id x", "--docker \"u --privileged\""),
            ("agent daemon --ipc=host --docker", "--docker \"IMAGE --ipc=host\""),
        ] {
            let said = said(line);
            assert!(said.contains(&format!("tip: container arguments go into one quoted value: {value}\n")), "{said}");
        }
        for line in ["agent daemon --ipc=host", "agent daemon --docker u --queu x"] {
            assert!(!said(line).contains("container arguments"), "{line}");
        }
        assert!(said("agent daemon --docker u --queu x").contains("tip: a similar argument exists: '--queue'"));
    }

    #[test]
    fn the_words_after_docker_are_its_value_whatever_stands_before_the_verb() {
        let gathered = |line: &str| -> Vec<String> {
            let words = gather_docker(line.split(' ').map(OsString::from).collect());
            words.iter().map(|it| it.to_string_lossy().into_owned()).collect()
        };
        for before in ["", "-d ", "--progress plain ", "--config-file build.conf "] {
            let line = format!("agent {before}build --docker img --target t");
            assert_eq!(
                gathered(&line),
                format!("agent {before}build --docker=img --target t").split(' ').collect::<Vec<_>>()
            );
        }
        assert_eq!(gathered("agent run --docker img"), ["agent", "run", "--docker", "img"]);
        assert_eq!(gathered("agent execute --podman img --id x").join(" "), "agent execute --podman=img --id x");
    }
}

//! What `agent build` is to do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::destination::{Output, reference};
use super::{Session, TaskSettings, UsageError};
use crate::cli::build::BuildArgs;
use crate::cli::task::{EntryPoint, TaskArgs};
use crate::error::Failure;
use crate::oci::Reference;
use crate::process;

/// What `agent build` is to do.
#[derive(Debug, Clone)]
pub struct BuildSettings {
    /// Which task, and how it is pinned.
    pub task: TaskSettings,
    /// The image's name; absent: `task_id_<id>`.
    pub target: Option<Reference>,
    /// Where it goes. None: into the Docker engine or Podman's store, whichever is there.
    pub outputs: Vec<Output>,
    /// Whether the task is to name the image.
    pub update_task: bool,
    /// Where the lock goes.
    pub lock_file: Option<PathBuf>,
    /// Where buildx's metadata go.
    pub metadata_file: Option<PathBuf>,
    /// Where the configuration's digest goes.
    pub iidfile: Option<PathBuf>,
    /// Labels to add.
    pub labels: BTreeMap<String, String>,
    /// Whether layers are made anew.
    pub no_cache: bool,
    /// Whether nothing is done.
    pub dry_run: bool,
}

impl BuildSettings {
    /// Merges flags, environment and configuration.
    ///
    /// # Errors
    /// [`UsageError`], [`crate::config::ConfigError`]
    pub fn merge(args: &BuildArgs, session: &Session) -> Result<Self, Failure> {
        let mut outputs = args.outputs.iter().map(|it| Output::parse(it)).collect::<Result<Vec<_>, _>>()?;
        for (asked, output) in
            [(args.push, Output::Registry { name: None }), (args.load, Output::Docker { name: None })]
        {
            if asked && !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        let target = args.target.as_deref().map(target).transpose()?;
        if target.is_none() && outputs.contains(&Output::Registry { name: None }) {
            let hint = "Name the image with --target registry.example.com/team/train:1.";
            return Err(UsageError::new("nothing says where to push the image", hint).into());
        }
        if args.lock.is_some() {
            beside_lock(&args.task)?;
        }
        if args.update_task {
            update_task(args, &outputs)?;
        }
        Ok(Self {
            task: TaskSettings::merge(&args.task, args.lock.clone(), session)?,
            target,
            outputs,
            update_task: args.update_task,
            lock_file: args.lock_file.clone(),
            metadata_file: args.metadata_file.clone(),
            iidfile: args.iidfile.clone(),
            labels: args.labels.iter().map(|it| label(it)).collect::<Result<_, _>>()?,
            no_cache: args.no_cache,
            dry_run: args.dry_run,
        })
    }
}

/// What a lock decides cannot be asked for beside it.
fn beside_lock(args: &TaskArgs) -> Result<(), UsageError> {
    let words = args.docker.as_deref().and_then(process::words).unwrap_or_default();
    let image = usize::from(words.first().is_some_and(|it| !it.starts_with('-')));
    let flags = [
        (args.entry_point.is_some(), "--entry-point"),
        (args.no_bytecode, "--no-bytecode"),
        (args.isolated, "--isolated"),
        (args.python_version.is_some(), "--python-version"),
        (!args.apt.is_empty(), "--apt"),
        (args.platform.is_some(), "--platform"),
        (args.force_docker, "--force-docker"),
        (words.len() > image, "container arguments in --docker"),
        (args.refresh, "--refresh"),
    ];
    let given: Vec<&str> = flags.iter().filter(|it| it.0).map(|it| it.1).collect();
    if given.is_empty() {
        return Ok(());
    }
    Err(UsageError::new(
        format!("{} cannot be asked for beside --lock: the lock decides", given.join(", ")),
        "Leave it out, or lock the task again with it (agent lock --id <task> …).",
    ))
}

/// What a task is to name must be an image that other machines find and that runs the task.
fn update_task(args: &BuildArgs, outputs: &[Output]) -> Result<(), UsageError> {
    if args.task.id.is_none() {
        return Err(UsageError::new("--update-task needs a task on the server", "Name it with --id."));
    }
    if args.task.entry_point != Some(EntryPoint::ReuseTask) {
        return Err(UsageError::new(
            "--update-task needs an image that runs the task",
            "Add --entry-point reuse_task; parameters come from the server when it runs.",
        ));
    }
    let named = |it: &Output| matches!(it, Output::Docker { .. } | Output::Podman { .. } | Output::Registry { .. });
    if outputs.is_empty() || outputs.iter().any(named) {
        return Ok(());
    }
    Err(UsageError::new(
        "--update-task needs an image that is found by a name, and files have none",
        "Push it: --target registry.example.com/team/train:1 --push.",
    ))
}

/// The image's name. What looks like a path asks for a virtual environment, as with the original.
fn target(text: &str) -> Result<Reference, UsageError> {
    if ["/", "./", "../", "~"].iter().any(|it| text.starts_with(it)) || text == "." || text == ".." {
        return Err(UsageError::new(
            format!("--target `{text}` asks for a virtual environment, which this release does not make"),
            "Give an image name (--target team/train:1), or -o type=oci,dest=DIR for an image in a directory.",
        ));
    }
    reference(text)
}

fn label(text: &str) -> Result<(String, String), UsageError> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(UsageError::new(format!("--label `{text}` has no name and value"), "Write --label NAME=VALUE.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn settings(args: &[&str]) -> Result<BuildSettings, Failure> {
        let words: Vec<&str> = ["--id", "x"].iter().chain(args).copied().collect();
        let args = crate::cli::build::parsed(&words).unwrap();
        BuildSettings::merge(&args, &Session { environment: Environment::default(), config_file: None })
    }

    #[test]
    fn targets_and_outputs() {
        let built =
            settings(&["--target", "h:5000/t:1", "--push", "-o", "type=oci,dest=x", "--label", "a=b=c"]).unwrap();
        assert_eq!(built.target.unwrap().to_string(), "h:5000/t:1");
        assert_eq!(built.outputs, [Output::Oci { path: "x".into() }, Output::Registry { name: None }]);
        assert_eq!(built.labels["a"], "b=c");
        for path in ["/x", "./x", "../x", "~/x", "."] {
            let error = settings(&["--target", path]).unwrap_err();
            assert!(error.to_string().contains("asks for a virtual environment"), "{error}");
            assert_eq!(error.kind().exit_code(), 2);
        }
        assert!(settings(&["--target", "Bad Name"]).unwrap_err().to_string().contains("is not an image reference"));
        assert!(settings(&["--push"]).unwrap_err().to_string().contains("where to push"));
        assert!(settings(&["--label", "x"]).is_err());
    }

    #[test]
    fn what_a_lock_decides_is_not_asked_for_beside_it() {
        let beside = |args: &[&str]| {
            let words: Vec<&str> = ["--lock", "agent.lock"].iter().chain(args).copied().collect();
            let args = crate::cli::build::parsed(&words).unwrap();
            let session = Session { environment: Environment::default(), config_file: None };
            BuildSettings::merge(&args, &session).map_err(|it| (it.to_string(), it.kind().exit_code()))
        };
        for (args, flag) in [
            (&["--no-bytecode"][..], "--no-bytecode"),
            (&["--python-version", "3.11"], "--python-version"),
            (&["--apt", "git"], "--apt"),
            (&["--entry-point", "reuse_task"], "--entry-point"),
            (&["--docker", "python:3.11 --ipc=host"], "container arguments in --docker"),
            (&["--isolated", "--platform", "linux/arm64"], "--isolated, --platform"),
        ] {
            let (message, code) = beside(args).unwrap_err();
            assert_eq!(message, format!("{flag} cannot be asked for beside --lock: the lock decides"));
            assert_eq!(code, 2);
        }
        // Where a base of this machine lies, and what touches no pin.
        beside(&["--docker", "oci:./base", "--no-cache", "--label", "a=b", "--locked"]).unwrap();
    }

    #[test]
    fn a_task_is_to_name_an_image_that_can_be_found_and_runs_it() {
        let run = ["--update-task", "--entry-point", "reuse_task"];
        let with = |more: &[&str]| settings(&run.iter().chain(more).copied().collect::<Vec<_>>());
        assert!(with(&[]).unwrap().update_task);
        assert!(with(&["--target", "h/t:1", "--push", "-o", "type=oci,dest=x"]).unwrap().update_task);
        let message = |it: Result<BuildSettings, Failure>| it.unwrap_err().to_string();
        assert!(message(with(&["-o", "type=oci,dest=x"])).contains("files have none"));
        assert!(message(settings(&["--update-task"])).contains("an image that runs the task"));
    }
}

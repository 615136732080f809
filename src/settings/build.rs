//! What `agent build` is to do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::destination::{Output, reference};
use super::{Session, TaskSettings, UsageError};
use crate::cli::build::BuildArgs;
use crate::error::Failure;
use crate::oci::Reference;

/// What `agent build` is to do.
#[derive(Debug, Clone)]
pub struct BuildSettings {
    /// Which task, and how it is pinned.
    pub task: TaskSettings,
    /// The image's name; absent: `task_id_<id>`.
    pub target: Option<Reference>,
    /// Where it goes. None: into the Docker engine or Podman's store, whichever is there.
    pub outputs: Vec<Output>,
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
        Ok(Self {
            task: TaskSettings::merge(&args.task, args.lock.clone(), session)?,
            target,
            outputs,
            lock_file: args.lock_file.clone(),
            metadata_file: args.metadata_file.clone(),
            iidfile: args.iidfile.clone(),
            labels: args.labels.iter().map(|it| label(it)).collect::<Result<_, _>>()?,
            no_cache: args.no_cache,
            dry_run: args.dry_run,
        })
    }
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
}

//! What `agent execute` is to do.

use super::{Session, UsageError, execution};
use crate::cli::execute::ExecuteArgs;
use crate::daemon::ExecuteSettings;
use crate::error::Failure;

/// Merges flags, environment and configuration.
///
/// # Errors
/// [`UsageError`], [`crate::config::ConfigError`]
pub fn merge(args: &ExecuteArgs, session: &Session) -> Result<ExecuteSettings, Failure> {
    if args.id.trim().is_empty() {
        return Err(UsageError::new("--id is empty", "Give the task's id or name.").into());
    }
    let config = session.config()?;
    let executor = config.executor()?;
    Ok(ExecuteSettings {
        execution: execution::merge(&args.execution, session, &config, &executor)?,
        task: args.id.clone(),
        clone: args.clone,
        require_queue: args.require_queue,
        monitored: !args.disable_monitoring,
        log_file: args.log_file.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::gpu::Ask;
    use crate::run::EngineKind;

    fn settings(words: &[&str]) -> Result<ExecuteSettings, String> {
        let args = crate::cli::execute::parsed(words)?;
        let session = Session { environment: Environment::default(), config_file: None };
        merge(&args, &session).map_err(|it| it.to_string())
    }

    /// The `execute` lines of the original's own documentation, placeholders filled in.
    #[test]
    fn lines_of_the_original_mean_what_they_meant() {
        let plain = settings(&["--id", "0123abcd"]).unwrap();
        assert_eq!((plain.task.as_str(), plain.clone, plain.require_queue), ("0123abcd", false, false));
        assert_eq!((plain.execution.engine, plain.monitored), (EngineKind::Native, true));
        assert!(settings(&["--id", "0123abcd", "--clone"]).unwrap().clone);
        let docker = settings(&["--id", "0123abcd", "--docker"]).unwrap().execution;
        assert_eq!((docker.engine, docker.docker.as_deref()), (EngineKind::Docker, Some("")));
        // As a container's entry point and Kubernetes' glue call it.
        let full = settings(&["--full-monitoring", "--require-queue", "--id", "0123abcd"]).unwrap();
        assert!(full.monitored && full.require_queue);
        let inner = settings(&["--disable-monitoring", "--standalone-mode", "--id", "x", "-O", "--cpu-only"]).unwrap();
        assert!(!inner.monitored && inner.execution.standalone && inner.execution.optimize == 1);
        assert_eq!(inner.execution.gpus, Ask::None);
        let podman =
            settings(&["--podman", "img:1", "--ipc=host -e A=1", "--id", "x", "--gpus", "0,1"]).unwrap().execution;
        assert_eq!((podman.engine, podman.docker.as_deref()), (EngineKind::Podman, Some("img:1 --ipc=host -e A=1")));
        assert_eq!(podman.gpus, Ask::These(vec!["0".into(), "1".into()]));
    }

    #[test]
    fn contradictions_are_told() {
        assert_eq!(settings(&["--id", " "]).unwrap_err(), "--id is empty");
        for words in [
            &["--id", "x", "--clone", "--require-queue"][..],
            &["--id", "x", "--full-monitoring", "--disable-monitoring"],
            &["--id", "x", "--native", "--docker"],
            &["--id", "x", "--cpu-only", "--gpus", "0"],
        ] {
            assert!(settings(words).unwrap_err().contains("cannot be used with"), "{words:?}");
        }
        assert!(settings(&["--id", "x", "--log-level", "loud"]).unwrap_err().contains("`loud` is no level"));
        assert!(settings(&["--id", "x", "--use-owner-token"]).unwrap_err().contains("--use-owner-token"));
        let both = settings(&["--id", "x", "--docker", "a", "--podman", "b"]).unwrap_err();
        assert_eq!(both, "--docker and --podman name different images");
        assert!(settings(&["--id", "x", "--docker", "a 'b"]).unwrap_err().contains("not closed"));
    }
}

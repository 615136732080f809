//! How tasks are executed, for `agent daemon` and `agent execute`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Session, UsageError};
use crate::cli::execution::ExecutionArgs;
use crate::config::{Config, Environment, Executor};
use crate::daemon::ExecutionSettings;
use crate::daemon::images::Bounds;
use crate::daemon::settings::Limits;
use crate::error::{During, Failure};
use crate::fs::expand_home;
use crate::gpu::Ask;
use crate::run::EngineKind;
use crate::run::choice::BaseChoice;
use crate::secret::Secret;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LOG_LEVELS: [&str; 7] = ["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"];

/// Merges flags, environment and configuration.
pub(super) fn merge(
    args: &ExecutionArgs,
    session: &Session,
    config: &Config,
    executor: &Executor,
) -> Result<ExecutionSettings, Failure> {
    if args.use_owner_token {
        return Err(UsageError::new(
            "--use-owner-token is not possible: tasks run under the agent's own credentials",
            "Leave it out; whose task it is can still be seen on the server.",
        )
        .into());
    }
    let mut agent = config.agent()?;
    let git = super::git::credentials(args.git.user.as_deref(), args.git.password.as_deref(), config, &mut agent)?;
    let build_environment = git.map_or_else(Vec::new, |it| {
        vec![("CLEARML_AGENT_GIT_USER", Secret::new(it.user)), ("CLEARML_AGENT_GIT_PASS", it.password)]
    });
    let (engine, docker) = engine(args)?;
    let flag = if engine == EngineKind::Podman { "--podman" } else { "--docker" };
    let defaults = (&agent, &session.environment);
    let base = super::task::choice(docker.as_deref(), flag, agent.ignore_task_container, defaults)?;
    Ok(ExecutionSettings {
        engine,
        docker,
        base: BaseChoice { meant: false, ..base },
        gpus: gpus(args, &session.environment)?,
        prebuilt_only: args.prebuilt_only,
        retries: args.retries,
        standalone: args.standalone_mode,
        limits: Limits {
            build: Duration::from_secs(executor.build_timeout),
            silence: Duration::from_secs(executor.no_progress_timeout),
            start: Duration::from_secs(executor.start_timeout),
            run: executor.run_timeout.map(Duration::from_secs),
            quiet: executor.run_silence_timeout.map(Duration::from_secs),
            grace: Duration::from_secs(executor.stop_grace),
            abort_callback: Duration::from_secs(executor.abort_callback),
        },
        images: Bounds { most: executor.task_images_max, unused: DAY.saturating_mul(executor.task_images_days) },
        spool_bytes: executor.console_spool << 20,
        log_level: args.log_level.as_deref().map(log_level).transpose()?,
        optimize: args.optimize,
        state: state_directory(&session.environment),
        config_file: session.config_file.as_deref().map(absolute).transpose()?,
        build_environment,
        api: config.api()?,
        agent,
        notes: notes(args, config),
    })
}

/// Where runs and daemons are recorded.
#[must_use]
pub fn state_directory(environment: &Environment) -> PathBuf {
    if let Some(named) = environment.get("AGENT_STATE_DIR") {
        return expand_home(named);
    }
    let base = environment.get("XDG_STATE_HOME").map_or_else(|| expand_home("~/.local/state"), expand_home);
    base.join("agent")
}

/// What runs images, and what was said of the base image.
fn engine(args: &ExecutionArgs) -> Result<(EngineKind, Option<String>), UsageError> {
    let (engine, value) = match (&args.docker, &args.podman) {
        (Some(docker), Some(podman)) if docker != podman => {
            return Err(UsageError::new(
                "--docker and --podman name different images",
                "Give one of them: tasks run in one engine.",
            ));
        }
        (_, Some(podman)) => (EngineKind::Podman, Some(podman)),
        (Some(docker), None) => (EngineKind::Docker, Some(docker)),
        (None, None) => (EngineKind::Native, None),
    };
    Ok((engine, value.cloned()))
}

fn gpus(args: &ExecutionArgs, environment: &Environment) -> Result<Ask, Failure> {
    if args.cpu_only {
        return Ok(Ask::None);
    }
    if let Some(text) = &args.gpus {
        return Ok(text.parse::<Ask>()?);
    }
    let variable = |name: &'static str| environment.get(name).map(|it| (name, it));
    match variable("NVIDIA_VISIBLE_DEVICES").or_else(|| variable("CUDA_VISIBLE_DEVICES")) {
        None => Ok(Ask::Unsaid),
        // As NVIDIA's container toolkit and CUDA spell it.
        Some((_, "void" | "-1")) => Ok(Ask::None),
        Some((name, text)) => {
            text.parse::<Ask>().during(|| format!("cannot tell GPUs by {name}; --gpus counts before it"))
        }
    }
}

fn log_level(text: &str) -> Result<String, UsageError> {
    let level = text.to_ascii_uppercase();
    if LOG_LEVELS.contains(&level.as_str()) {
        return Ok(level);
    }
    Err(UsageError::new(format!("--log-level `{text}` is no level"), "Write DEBUG, INFO, WARNING, ERROR or CRITICAL."))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| crate::fs::named(&error, path).into())
}

fn notes(args: &ExecutionArgs, config: &Config) -> Vec<String> {
    let flags = [
        (args.force_current_version, "--force-current-version", "what runs inside is of this program's version anyway"),
        (args.check_bootstrap, "--check-bootstrap", "nothing is installed when a container starts"),
    ];
    let mut notes: Vec<String> =
        flags.iter().filter(|it| it.0).map(|(_, flag, why)| format!("{flag} has no effect: {why}")).collect();
    let ignored: Vec<String> = config.ignored().map(|it| format!("`{}`", it.key)).collect();
    if !ignored.is_empty() {
        let text = "what there is instead stands in docs/daemon.md, \"Other than the original\"";
        notes.push(format!("keys of the configuration without effect here: {} ({text})", ignored.join(", ")));
    }
    if args.git.password.is_some() {
        notes.push(
            "--git-pass can be read by this machine's other users in the list of processes; \
             CLEARML_AGENT_GIT_PASS cannot"
                .to_owned(),
        );
    }
    notes
}

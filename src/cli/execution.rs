//! How tasks are executed: options that `daemon` and `execute` share.

use clap::Args;

use super::git::GitArgs;

/// How tasks are executed.
#[derive(Debug, Args)]
pub struct ExecutionArgs {
    /// Run tasks in Docker; base image for tasks that name none, and container arguments: "image args"
    #[arg(
        long,
        value_name = "IMAGE ARGS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        help_heading = "Where tasks run"
    )]
    pub docker: Option<String>,
    /// Run tasks in Podman; the value as with --docker
    #[arg(
        long,
        value_name = "IMAGE ARGS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        help_heading = "Where tasks run"
    )]
    pub podman: Option<String>,
    /// Run tasks by this program itself, without a container engine; what is done when nothing is said
    #[arg(long, conflicts_with_all = ["docker", "podman"], help_heading = "Where tasks run")]
    pub native: bool,
    /// GPUs that tasks may use: 0,1 or 0-3, all, none, UUIDs, 0:1 for an instance of a partitioned one
    #[arg(long, value_name = "LIST", help_heading = "Where tasks run")]
    pub gpus: Option<String>,
    /// Hide all GPUs from tasks
    #[arg(long, conflicts_with = "gpus", help_heading = "Where tasks run")]
    pub cpu_only: bool,
    /// Reach nobody but the server: what was pinned before counts, and a task that needs what the store lacks fails
    #[arg(long, help_heading = "How tasks run")]
    pub standalone_mode: bool,
    /// Refuse tasks that name no image made of them, or one that is not what they ask for now
    #[arg(long, help_heading = "How tasks run")]
    pub prebuilt_only: bool,
    /// How often a task is tried again when the machinery failed, not its program
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "How tasks run")]
    pub retries: u32,
    /// Log level of tasks' own SDK (DEBUG, INFO, WARNING, ERROR, CRITICAL)
    #[arg(long, value_name = "LEVEL", help_heading = "How tasks run")]
    pub log_level: Option<String>,
    /// Let Python optimize (-O, -OO), as PYTHONOPTIMIZE does
    #[arg(short = 'O', action = clap::ArgAction::Count, help_heading = "How tasks run")]
    pub optimize: u8,
    /// Credentials for git.
    #[command(flatten)]
    pub git: GitArgs,
    /// Nothing to choose: what runs inside is always of this program's version
    #[arg(long, hide = true)]
    pub(crate) force_current_version: bool,
    /// Refused: tasks run under the agent's own credentials
    #[arg(long, hide = true)]
    pub(crate) use_owner_token: bool,
    /// Nothing to check: nothing is installed in a container at its start
    #[arg(long, hide = true)]
    pub(crate) check_bootstrap: bool,
}

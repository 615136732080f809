//! `agent lock`.

use std::path::PathBuf;

use clap::Args;

use super::task::TaskArgs;

const EXAMPLES: &str = "\
Examples:
  agent lock --id <task>                                        writes agent.lock
  agent lock --task task.json --repository . --lock-file train.lock
  agent build --lock agent.lock --target train                  no server, nothing resolved";

/// Options of `agent lock`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LockArgs {
    /// Which task, and how it is pinned.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Where the lock goes; `-` for standard output
    #[arg(long, value_name = "FILE", default_value = "agent.lock", help_heading = "Pinning")]
    pub lock_file: PathBuf,
}

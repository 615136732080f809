//! `agent execute`.

use std::path::PathBuf;

use clap::Args;

use super::execution::ExecutionArgs;

const EXAMPLES: &str = "\
Examples:
  agent execute --id <task>                                     by this program itself
  agent execute --id <task> --docker --gpus 0                   in Docker, with a GPU
  agent execute --id <task> --clone --docker python:3.12        a clone of it
  agent execute --id <task> --require-queue                     only if it still waits in a queue

The exit code is the program's.";

/// Options of `agent execute`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExecuteArgs {
    /// The task, by id or name
    #[arg(long, value_name = "TASK", help_heading = "The task")]
    pub id: String,
    /// Run a clone of it
    #[arg(long, conflicts_with = "require_queue", help_heading = "The task")]
    pub clone: bool,
    /// Run it only if it waits in a queue, and take it out of that: for schedulers that start this program
    #[arg(long, help_heading = "The task")]
    pub require_queue: bool,
    /// How tasks are executed.
    #[command(flatten)]
    pub execution: ExecutionArgs,
    /// Write the program's output to this file, too
    #[arg(long, value_name = "FILE", help_heading = "How tasks run")]
    pub log_file: Option<PathBuf>,
    /// Report to the server and watch for aborts; what is done when nothing is said
    #[arg(long, conflicts_with = "disable_monitoring", help_heading = "How tasks run")]
    pub full_monitoring: bool,
    /// Leave the task's final status to whoever started this program
    #[arg(long, help_heading = "How tasks run")]
    pub disable_monitoring: bool,
}

#[cfg(test)]
pub(crate) fn parsed(arguments: &[&str]) -> Result<ExecuteArgs, String> {
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(name = "agent execute")]
    struct Line {
        #[command(flatten)]
        _global: super::Global,
        #[command(flatten)]
        args: ExecuteArgs,
    }
    let words = ["agent", "execute"].iter().chain(arguments).map(std::ffi::OsString::from).collect();
    let words = super::understood(words).into_iter().skip(1);
    Line::try_parse_from(words).map(|it| it.args).map_err(|it| it.to_string())
}

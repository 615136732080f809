//! `agent logs`.

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent logs <task>                                             all that is kept of its last run here
  agent logs <task> --tail 100 --follow                         the last lines, and those to come
  agent logs                                                    the runs whose console is kept

The console of runs of this machine, from this machine's disk: no server is asked. What the task printed is on standard
output, byte for byte; what the agent said of it, its build and its end, on standard error.";

/// Options of `agent logs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LogsArgs {
    /// The task's id, or the beginning of it; without it, what there is
    #[arg(value_name = "TASK")]
    pub task: Option<String>,
    /// Go on with new lines until the run has ended
    #[arg(long, short = 'f', requires = "task")]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N", requires = "task")]
    pub tail: Option<usize>,
}

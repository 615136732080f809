//! `agent gpus`.

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent gpus                             what there is, and what uses it
  agent gpus --gpus 0-3                  only these
  agent gpus --gpus all --share 1-4      which of them a task of `--queue NAME=1-4` would get now";

/// Options of `agent gpus`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GpusArgs {
    /// Only these: all, none, indices (0,2 or 0-3), MIG instances (0:1), UUIDs
    #[arg(long, value_name = "LIST")]
    pub gpus: Option<String>,
    /// Which of them a task of a queue with dynamic GPUs would get now: a number, or least-most
    #[arg(long, value_name = "N[-M]")]
    pub share: Option<String>,
}

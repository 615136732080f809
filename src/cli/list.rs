//! `agent list`.

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent list                                                    the server's workers and what they do
  agent list --json                                             all that the server knows of them";

/// Options of `agent list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// Only workers that reported within so many seconds; 0 for all
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub last_seen: u64,
}

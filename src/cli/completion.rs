//! `agent completion`.

use clap::Args;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  agent completion bash > ~/.local/share/bash-completion/completions/agent
  agent completion zsh > \"${fpath[1]}/_agent\"";

/// Options of `agent completion`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

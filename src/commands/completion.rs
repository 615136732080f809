//! `agent completion`.

use super::Context;
use crate::cli;
use crate::cli::completion::CompletionArgs;
use crate::error::Failure;

/// Prints the script.
pub(super) fn run(args: &CompletionArgs, context: &Context) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "agent", &mut script);
    context.ui.write(&script)?;
    Ok(0)
}

//! Credentials for git: options of every verb that has a task's code.

use clap::Args;

/// Credentials for git.
#[derive(Debug, Args)]
pub struct GitArgs {
    /// User name for git over HTTPS
    #[arg(long = "git-user", value_name = "USER", help_heading = "Git")]
    pub user: Option<String>,
    /// Password or token for git over HTTPS; CLEARML_AGENT_GIT_PASS is not seen by this machine's other users
    #[arg(long = "git-pass", value_name = "PASSWORD", help_heading = "Git")]
    pub password: Option<String>,
}

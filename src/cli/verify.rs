//! `agent verify`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent verify team/train:1
  agent verify oci:./image --repository .

Ends with 0 when every layer came out the same, and with 1 when one did not.";

/// Options of `agent verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// The image: a name, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// A local checkout to take the commit from
    #[arg(long, value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// Believe layers that the store already has instead of making them anew
    #[arg(long)]
    pub cached: bool,
    /// Registry to speak to over plain HTTP or with any certificate (host:port)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
}

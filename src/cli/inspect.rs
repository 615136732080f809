//! `agent inspect`.

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent inspect team/train:1
  agent inspect --lock oci:./image                              print the lock inside it
  agent inspect --lock-file agent.lock team/train:1             write it, with its large texts beside it
  agent --json inspect docker-archive:train.tar";

/// Options of `agent inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// The image: a name, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Print the lock inside it and nothing else
    #[arg(long)]
    pub lock: bool,
    /// Write the lock inside it to this file
    #[arg(long, value_name = "FILE", conflicts_with = "lock")]
    pub lock_file: Option<std::path::PathBuf>,
    /// Registry to speak to over plain HTTP or with any certificate (host:port)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
}

//! `agent server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  agent server --data ./clearml                                 on 127.0.0.1:8008
  agent server --data /srv/clearml --listen 0.0.0.0:8008
  CLEARML_CONFIG_FILE=./clearml/clearml.conf python train.py    point the SDK at it";

/// Options of `agent server`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServerArgs {
    /// Where tasks, events and files are kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8008")]
    pub listen: SocketAddr,
    /// Address and port of the file server; a free port beside the API's by default
    #[arg(long, value_name = "ADDRESS")]
    pub listen_files: Option<SocketAddr>,
    /// Host name or address that clients are to use, where it differs from the one listened on
    #[arg(long, value_name = "HOST")]
    pub public_host: Option<String>,
}

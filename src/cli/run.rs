//! `agent run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  agent run team/train:1                                        natively: no container engine needed
  agent run --set Args/lr=0.1 oci:./image
  agent run --engine docker --gpus all team/train:1
  agent run team/train:1 -- python -c 'import torch; print(torch.__version__)'";

/// Options of `agent run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The image: a name, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Program to run instead of the task, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<String>,
    /// What runs it
    #[arg(long, value_name = "WHAT", default_value = "native")]
    pub engine: RunEngine,
    /// Hyperparameter to override
    #[arg(long = "set", value_name = "SECTION/NAME=VALUE")]
    pub parameters: Vec<String>,
    /// Environment variable for the run; without a value it is taken from here
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Directory to lend to the run
    #[arg(long = "volume", short = 'v', value_name = "FROM:TO[:ro]")]
    pub volumes: Vec<String>,
    /// GPUs to give to it: all, none, or a list of indices and UUIDs
    #[arg(long, value_name = "LIST", default_value = "none")]
    pub gpus: String,
    /// Run the task even while another worker seems to run it
    #[arg(long)]
    pub force: bool,
    /// Do not speak to the server: recorded parameters, results kept in DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub offline: Option<PathBuf>,
}

/// What runs an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunEngine {
    /// This program itself.
    Native,
    /// The Docker engine.
    Docker,
    /// Podman.
    Podman,
}

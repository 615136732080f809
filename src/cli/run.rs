//! `agent run`.

use clap::{Args, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  agent run team/train:1                                        the image's task
  agent run --set Args/lr=0.1 oci:./image                       with another parameter
  agent run --gpus 0,1 team/train:1                             with the first two GPUs
  agent run --engine docker --gpus all team/train:1             in Docker, with all GPUs
  agent run --engine podman team/train:1                        in Podman
  agent run --trust-image-arguments team/train:1                with the directories that its task asks for (-v)
  agent run team/train:1 python -c 'import sys; print(sys.version)'

No container engine is needed. Server and credentials come from ~/clearml.conf and the CLEARML_* environment;
without any the task runs offline with its recorded parameters. The exit code is the program's.";

/// Options of `agent run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The image: a name, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Program to run instead of the task, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// What runs it: this program itself, the Docker engine, or Podman (at CONTAINER_HOST, else its own service)
    #[arg(long, value_name = "WHAT", default_value = "native")]
    pub engine: RunEngine,
    /// GPUs to give to it: all, none, or a list of indices (0,2 or 0-3), MIG instances (0:1) and UUIDs
    #[arg(long, value_name = "LIST")]
    pub gpus: Option<String>,
    /// Hyperparameter to change
    #[arg(long = "set", value_name = "SECTION/NAME=VALUE")]
    pub parameters: Vec<String>,
    /// Run this task of the server with the image's code and packages
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// Run the task even while another worker seems to run it
    #[arg(long)]
    pub force: bool,
    /// Do not speak to a server, whatever credentials there are
    #[arg(long)]
    pub offline: bool,
    /// Offline: directory to keep what the SDK writes in, instead of a new one in ~/.local/share/agent/offline
    #[arg(long, value_name = "DIR")]
    pub journal: Option<std::path::PathBuf>,
    /// Environment variable for the run; without a value it is taken from here
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Directory or file to lend to the run
    #[arg(long = "volume", short = 'v', value_name = "FROM:TO[:ro]")]
    pub volumes: Vec<String>,
    /// User inside, instead of the image's
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Do not let the run write to the image's root
    #[arg(long)]
    pub read_only: bool,
    /// Follow also those container arguments of the image's task that give it something of this machine (-v, --privileged,
    /// --device, …)
    #[arg(long)]
    pub trust_image_arguments: bool,
    /// Registry to speak to over plain HTTP or with any certificate (host:port)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
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

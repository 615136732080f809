//! `agent build`.

use std::path::PathBuf;

use clap::Args;

use super::task::TaskArgs;

const EXAMPLES: &str = "\
Examples:
  agent build --id <task> --target team/train:1 --entry-point reuse_task
  agent build --id <task> --docker python:3.12 --target train --entry-point clone_task
  agent build --task task.json --repository . --target train -o type=oci,dest=./image
  agent build --lock agent.lock --target registry.example.com/team/train:1 --push
  agent build --id <task> --entry-point reuse_task --target registry.example.com/team/train:1 --push --update-task
  agent build --id <task> --entry-point reuse_task --target train --gpus 0,1      refused if it cannot run here with these

Without -o and --push the image goes into the Docker engine, or Podman's store, whichever is there.";

/// Options of `agent build`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BuildArgs {
    /// Which task, and how it is pinned.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Build from this lock; no server is asked and nothing is resolved
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "task_file"], help_heading = "The task")]
    pub lock: Option<PathBuf>,
    /// Write the lock the image is built from to this file
    #[arg(long, value_name = "FILE", help_heading = "Pinning")]
    pub lock_file: Option<PathBuf>,
    /// Name of the image; task_id_<id> by default
    #[arg(long, short = 't', value_name = "IMAGE", visible_alias = "tag", help_heading = "Delivery")]
    pub target: Option<String>,
    /// Where the image goes: type=docker|podman|registry|oci|oci-archive|docker-archive|store[,dest=PATH][,name=IMAGE]
    #[arg(long = "output", short = 'o', value_name = "type=…", help_heading = "Delivery")]
    pub outputs: Vec<String>,
    /// Push the image to the registry its name says: -o type=registry
    #[arg(long, help_heading = "Delivery")]
    pub push: bool,
    /// Load the image into the Docker engine: -o type=docker
    #[arg(long, help_heading = "Delivery")]
    pub load: bool,
    /// Let the task on the server name the image, by digest where it was pushed: agents then run the task from it, and
    /// build again only what a clone changes
    #[arg(long, help_heading = "Delivery")]
    pub update_task: bool,
    /// Write what was built to this file, as JSON with buildx's keys
    #[arg(long, value_name = "FILE", help_heading = "Delivery")]
    pub metadata_file: Option<PathBuf>,
    /// Write the image's configuration digest to this file
    #[arg(long, value_name = "FILE", help_heading = "Delivery")]
    pub iidfile: Option<PathBuf>,
    /// Label to add to the image
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = "The image")]
    pub labels: Vec<String>,
    /// Make every layer anew instead of taking it from the store
    #[arg(long, help_heading = "Pinning")]
    pub no_cache: bool,
    /// Say what would be done, and do nothing
    #[arg(long, help_heading = "Pinning")]
    pub dry_run: bool,
}

#[cfg(test)]
pub(crate) fn parsed(arguments: &[&str]) -> Result<BuildArgs, String> {
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(name = "agent build")]
    struct Line {
        #[command(flatten)]
        args: BuildArgs,
    }
    let words = ["agent", "build"].iter().chain(arguments).map(std::ffi::OsString::from).collect();
    let words = super::task::gather_docker(words).into_iter().skip(1);
    Line::try_parse_from(words).map(|it| it.args).map_err(|it| it.to_string())
}

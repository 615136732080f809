//! `agent gpus`.

use clap::Args;

/// Options of `agent gpus`.
#[derive(Debug, Args)]
pub struct GpusArgs {}

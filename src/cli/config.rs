//! `agent config`.

use clap::Args;

/// Options of `agent config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {}

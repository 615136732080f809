//! `agent quickstart`.

use clap::Args;

/// Options of `agent quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArgs {}

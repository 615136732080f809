//! `agent cache`.

use clap::{Args, Subcommand};

/// Options of `agent cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show where the store is and what is in it
    Info,
    /// Remove what was not used for longest, until the store is small enough
    Gc {
        /// Size to shrink to: a number of bytes, or with K, M, G or T (powers of 1024)
        #[arg(long, value_name = "SIZE", default_value = "20G")]
        max_size: String,
    },
    /// Hash everything in the store and remove what is damaged
    Check,
}

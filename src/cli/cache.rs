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
        /// Size to shrink to: a number of bytes, or with K, M, G or T (powers of 1024); by default what
        /// `cache.max_bytes` says (50G), which builds keep to by themselves
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,
    },
    /// Hash everything in the store and remove what is damaged
    Check,
}

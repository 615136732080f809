//! `agent`: recorded ML tasks as layered, reproducible OCI images.
//!
//! ```text
//! Task ──resolve──▶ Lock ──plan──▶ LayerPlan ──write──▶ Layer ──assemble──▶ Image ──▶ deliver, run
//! ```
//!
//! Each arrow is a function from one type to the next; `pipeline` is those calls in order and is what to read first.
//! A module imports only from modules listed above it here (`tests/architecture.rs` holds that).

// Leaves: what everything stands on.
pub mod error;
pub mod digest;
pub mod secret;
pub mod fs;
pub mod process;
pub mod report;
pub mod launch;
pub mod http;
pub mod config;
pub mod clearml;
pub mod machine;
pub mod spool;

// Documents, and where they are kept.

#[cfg(feature = "host")]
pub mod git;

#[cfg(feature = "host")]
pub mod oci;

#[cfg(feature = "host")]
pub mod store;

// Places images come from and go to.

#[cfg(feature = "host")]
pub mod registry;

#[cfg(feature = "host")]
pub mod engine;

#[cfg(feature = "host")]
pub mod base;

#[cfg(feature = "host")]
pub mod sandbox;

// What was asked.

#[cfg(feature = "host")]
pub mod switches;

#[cfg(feature = "host")]
pub mod task;

// What is known about packages.

#[cfg(feature = "host")]
pub mod python;

#[cfg(feature = "host")]
pub mod system;

// What exactly.

#[cfg(feature = "host")]
pub mod lock;

// Layers.

#[cfg(feature = "host")]
pub mod layer;

// The image.

#[cfg(feature = "host")]
pub mod image;

// Running.

#[cfg(feature = "host")]
pub mod gpu;

#[cfg(feature = "host")]
pub mod run;

// Together.

#[cfg(feature = "host")]
pub mod pipeline;

#[cfg(feature = "host")]
pub mod daemon;

// Servers.

#[cfg(feature = "host")]
pub mod server;

pub mod guest;

// The surface.

#[cfg(feature = "host")]
pub mod cli;

#[cfg(feature = "host")]
pub mod settings;

#[cfg(feature = "host")]
pub mod ui;

#[cfg(feature = "host")]
pub mod commands;

#[cfg(all(test, feature = "host"))]
mod testing;

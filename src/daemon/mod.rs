//! The executor: queues served by images.

pub mod allocate;
pub mod preflight;
pub mod schedule;
pub mod settings;

pub use settings::{DaemonSettings, ExecuteSettings, ExecutionSettings};

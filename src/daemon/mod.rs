//! The executor: queues served by images.

pub mod schedule;
pub mod settings;

pub use settings::{DaemonSettings, ExecuteSettings, ExecutionSettings};

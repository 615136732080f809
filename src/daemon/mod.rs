//! The executor: queues served by images.

pub mod prebuilt;
pub mod schedule;
pub mod settings;
pub mod writeback;

pub use settings::{DaemonSettings, ExecuteSettings, ExecutionSettings};

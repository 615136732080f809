//! The executor: queues served by images.

pub mod detach;
pub mod instances;
pub mod metrics;
pub mod schedule;
pub mod settings;

pub use settings::{DaemonAsk, DaemonSettings, ExecuteSettings, ExecutionSettings};

//! The executor: queues served by images.

pub mod ahead;
pub mod allocate;
pub mod asked;
pub mod detach;
pub mod dispatcher;
pub mod instances;
pub mod metrics;
pub mod notify;
pub mod orphans;
pub mod pace;
pub mod places;
pub mod preflight;
pub mod queues;
pub mod schedule;
pub mod settings;
pub mod take;
pub mod tally;
pub mod work;
pub mod worker;

pub use settings::{DaemonAsk, DaemonSettings, ExecuteSettings, ExecutionSettings};

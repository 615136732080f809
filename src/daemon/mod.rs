//! The executor: queues served by images.
//!
//! ```text
//!  queue ─▶ Claim ─▶ unit: taken ─▶ build ─▶ prepare ─▶ start ─▶ run ─▶ drain ─▶ settle ─▶ done
//!                      │             (a process of its own)  └── Engine ──┘    spool      server
//!                      └─ journal: each phase is on disk before it begins
//! ```
//!
//! [`unit`] takes one task through its phases and tells the truth about its end; [`journal`] is what survives a kill;
//! [`settle`] decides what the server is told.

pub mod allocate;
pub mod detach;
pub mod instances;
pub mod journal;
pub mod metrics;
pub mod preflight;
pub mod prebuilt;
pub mod schedule;
pub mod settings;
pub mod settle;
pub mod unit;
pub mod writeback;

pub use journal::{Journal, Journalled, Phase};
pub use settings::{DaemonAsk, DaemonSettings, ExecuteSettings, ExecutionSettings};
pub use unit::{Ask, Claim, Executor, UnitEnd, UnitEvent};

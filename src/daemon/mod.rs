//! The executor: queues served by images.
//!
//! ```text
//!  queue ─▶ Claim ─▶ unit: taken ─▶ build ─▶ prepare ─▶ start ─▶ run ─▶ drain ─▶ settle ─▶ done
//!                      │             (a process of its own)  └── Engine ──┘    spool      server
//!                      └─ journal: each phase is on disk before it begins
//! ```
//!
//! [`unit`] takes one task through its phases and tells the truth about its end; [`journal`] is what survives a kill;
//! [`settle`] decides what the server is told. [`dispatcher`] decides who runs what and when: [`queues`] and [`take`] are how
//! it gets tasks, [`crew`] how it starts units.

pub mod ahead;
pub mod allocate;
pub mod aside;
pub mod asked;
pub mod crew;
pub mod detach;
pub mod dispatcher;
pub mod engines;
pub mod images;
pub mod instances;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod orphans;
pub mod pace;
pub mod places;
pub mod prebuilt;
pub mod preflight;
pub mod queues;
pub mod schedule;
pub mod settings;
pub mod settle;
pub mod take;
pub mod tally;
pub mod unit;
pub mod work;
pub mod worker;
pub mod writeback;

pub use journal::{Journal, Journalled, Phase};
pub use settings::{DaemonAsk, DaemonSettings, ExecuteSettings, ExecutionSettings};
pub use unit::{Ask, Claim, Executor, UnitEnd, UnitEvent};

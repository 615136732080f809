//! Running a finished image: an implementation per engine.

pub mod arguments;
pub mod docker;
pub mod engine;
pub mod lends;
mod listen;
pub mod names;
pub mod native;
pub mod policy;
pub mod ports;
pub mod rules;
pub mod settings;
pub mod spec;
pub mod templates;

pub use engine::{Engine, EngineKind};
pub use spec::{Found, Outcome, RunId, RunImage, RunSpec};

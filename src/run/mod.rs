//! Running a finished image: an implementation per engine.

pub mod arguments;
pub mod docker;
pub mod engine;
mod listen;
pub mod native;
pub mod spec;

pub use engine::{Engine, EngineKind};
pub use spec::{Found, Outcome, RunId, RunImage, RunSpec};

//! Running a finished image: an implementation per engine.

pub mod arguments;
pub mod docker;
mod listen;
pub mod native;

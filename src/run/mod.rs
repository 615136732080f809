//! Running a finished image: an implementation per engine.

pub mod arguments;
pub mod docker;
pub mod native;

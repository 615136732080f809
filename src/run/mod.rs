//! Running a finished image: an implementation per engine.

pub mod native;

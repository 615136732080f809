//! Python packages, without running Python: what a base has, what a wheel holds, what an index offers.
//!
//! ```text
//! inspect ─▶ stub ─▶ resolve (uv) ─▶ pylock ─▶ tags      which wheels, by name and digest
//! lockfile                                               what a repository has pinned already
//! source, project ─▶ build (in the sandbox) ─▶ pack      wheels of what has none
//! fetch ─▶ archive ─▶ wheel ─▶ install, venv             which files, from which bytes
//! ```
//!
//! Archives and their metadata are hostile until checked: a wheel enters the store only after every entry of it was
//! compared with its RECORD ([`wheel::Wheel::verify`]). Nothing here writes layers (`layer/python.rs` does), and code
//! of a package runs in a sandbox only.

pub mod archive;
pub mod build;
pub mod entry_points;
pub mod fetch;
pub mod indexes;
pub mod inspect;
pub mod install;
pub mod lockfile;
pub mod name;
mod pack;
mod pipconf;
pub mod pinned;
pub mod project;
pub mod pylock;
pub mod record;
pub mod resolve;
pub mod source;
mod stub;
pub mod tags;
pub mod uv;
pub mod venv;
pub mod wheel;
mod zip;

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod testing;

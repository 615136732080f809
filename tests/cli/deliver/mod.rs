//! Where images go, and how they come back: engines, layouts, archives.

mod docker;
mod files;
mod podman;

//! End to end: the real program against real engines, registries and servers.
//!
//! One binary, an area per module. What the areas share is in `support`. A test that needs Docker has `docker` in its
//! path (`AGENT_TEST_WITHOUT=docker` leaves those out by name); none is ever passed over because something is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod build;
mod compose;
mod config;
mod daemon;
mod deliver;
mod engines;
mod execute;
mod gpus;
mod guest;
mod harness;
mod list;
mod logs;
mod quickstart;
mod quirks;
mod readme;
mod recipes;
mod registry;
mod relock;
mod run;
mod sandbox;
mod server;
mod surface;
mod trust;
mod unprivileged;
mod verify;

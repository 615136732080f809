//! Registries (OCI distribution-spec): a client to pull and push with, and a small read-only server of our own.
//!
//! [`Client`] asks without a ping: what a registry wants of us it says in its first refusal. Plain http is spoken to the
//! loopback and to hosts listed as insecure, nowhere else. Everything that comes is checked against its digest before
//! anybody sees it; nothing is pushed that the registry has. Addresses in errors carry neither user nor query.
//! Credentials are those of the docker and podman programs ([`auth`]); nothing is ever written there.

pub mod auth;
mod challenge;
mod client;
mod error;
mod pull;
mod push;
pub mod serve;
mod watch;

pub use client::{Client, Settings};
pub use error::{Diagnostic, RegistryError};
pub use pull::{Document, Pulled, choose, parse_manifest};
pub use push::{Begun, Session};

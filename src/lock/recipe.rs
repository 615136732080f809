//! A recipe's wheels: chosen among what this machine's indexes have, pinned like its packages, and had again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::python::{self, Ground, Memory, PythonError, Torch};
use super::requirements::Gathered;
use super::{PinnedWheel, PythonPart, SystemPart};
use crate::digest::Digest;
use crate::error::Failure;
use crate::oci::Platform;
use crate::python::indexes::Indexes;
use crate::python::inspect::Interpreter;
use crate::report::SharedReporter;
use crate::store::Store;
use crate::system::recipe::{self, Resolved};

/// Pins what a recipe consists of: its packages by the host's apt, its wheels by uv. Blocks; not for a thread of an async
/// runtime.
///
/// # Errors
/// As [`recipe::resolve`] and [`python::resolve`].
pub fn resolve(
    store: &Store,
    (name, text): (&str, &str),
    indexes: &Indexes,
    max_age: Duration,
    reporter: &SharedReporter,
) -> Result<Resolved, Failure> {
    let mut resolved = recipe::resolve_text(store, (name, text), max_age, &**reporter)?;
    // A recipe names all it wants: nothing is added.
    let gathered = Gathered { requirements: recipe::requirements(&resolved)?, exact: true, ..Gathered::default() };
    if gathered.requirements.is_empty() {
        return Ok(resolved);
    }
    let (interpreter, libc) = floor(&resolved);
    let architecture = &Platform::host().architecture;
    let ground = Ground { interpreter: &interpreter, libc: &libc, architecture, installed: &[], isolated: true };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let memory = Memory { now, max_age: max_age.as_secs() };
    let (part, _) = python::resolve(store, (&ground, &gathered), (indexes, Torch::Plain), memory, reporter)?;
    resolved.wheels = part.distributions.into_iter().map(PinnedWheel::from).collect();
    Ok(resolved)
}

/// Has a recipe's wheels in the store, checked.
///
/// # Errors
/// As [`python::fetch_wheels`].
pub async fn fetch(
    store: &Store,
    resolved: &Resolved,
    indexes: &Indexes,
    reporter: &SharedReporter,
) -> Result<(), PythonError> {
    if resolved.wheels.is_empty() {
        return Ok(());
    }
    let (interpreter, libc) = floor(resolved);
    let part = PythonPart::of_wheels(&interpreter, &libc, &resolved.wheels);
    python::fetch_wheels(store, &part, (indexes, &Platform::host().architecture), reporter).await
}

/// The interpreter and the C library that wheels are chosen for: those of the recipe's packages.
fn floor(resolved: &Resolved) -> (Interpreter, String) {
    let part = SystemPart { requested: Vec::new(), packages: resolved.packages.clone() };
    let own = super::system::interpreter(&part);
    let interpreter = Interpreter {
        version: own.as_ref().map_or_else(|| "3.12.0".to_owned(), |it| it.version.clone()),
        executable: own.as_ref().map_or_else(String::new, |it| it.executable.clone()),
        digest: own.map_or_else(|| Digest::of(""), |it| it.digest),
        complete: true,
        paths: Vec::new(),
        extra_paths: Vec::new(),
    };
    let libc = part.packages.iter().find(|it| it.name == "libc6");
    let upstream = libc.and_then(|it| it.version.split(['-', '+', '~']).next()).unwrap_or("2.31");
    (interpreter, format!("glibc {upstream}"))
}

//! The system layer: the lock's packages, fetched by hash and installed in the sandbox without network.

use crate::digest::Digest;
use crate::error::Failure;
use crate::layer::{BuiltLayer, LayerKind, find_or_make, key};
use crate::lock::{BasePart, SystemPart};
use crate::report::Reporter;
use crate::sandbox::{LayerBlob, Sandbox, Temporary};
use crate::store::Store;
use crate::system::apt::Apt;
use crate::system::{fetch, install};

/// The key of the layer: the base's chain of layers and the set of packages.
#[must_use]
pub fn system_key(base: &BasePart, part: &SystemPart) -> Digest {
    let chain = crate::lock::system::chain(base).map_or_else(String::new, |it| it.to_string());
    let packages: Vec<String> =
        part.packages.iter().map(|it| format!("{} {} {} {}", it.name, it.version, it.arch, it.sha256)).collect();
    let mut inputs: Vec<&[u8]> = vec![chain.as_bytes()];
    inputs.extend(packages.iter().map(String::as_bytes));
    key(LayerKind::System, &inputs)
}

/// Builds or finds the layer; `None` when the base has everything already. `layers` is called only when it must be
/// built, and gives the base's layers with their blobs in the store.
///
/// # Errors
/// A [`Failure`] that names the package, or why there is no sandbox; the latter before anything is downloaded.
pub fn build(
    store: &Store,
    base: &BasePart,
    part: &SystemPart,
    layers: &mut dyn FnMut() -> Result<Vec<LayerBlob>, Failure>,
    reporter: &dyn Reporter,
) -> Result<Option<BuiltLayer>, Failure> {
    if part.packages.is_empty() {
        return Ok(None);
    }
    let make = || {
        crate::sandbox::choose(store)?;
        let sandbox = Sandbox::open(store, &layers()?, reporter)?;
        // Only where the files lie is asked of the base here; what to install is in the lock.
        let apt = Apt::open(store, &sandbox, reporter)?;
        fetch::fetch(store, &part.packages, apt.sources(), reporter)?;
        install::install(store, &sandbox, &part.packages, reporter)?;
        Ok::<_, Failure>(sandbox.layer(Temporary::LeftOut)?)
    };
    find_or_make(store, (LayerKind::System, system_key(base, part)), title(part), make).map(Some)
}

/// What was asked for, or else what is installed.
fn title(part: &SystemPart) -> String {
    let installed = |name: &&String| part.packages.iter().any(|it| it.name == **name);
    let mut names: Vec<&str> = part.requested.iter().filter(installed).map(String::as_str).collect();
    if names.is_empty() {
        names = part.packages.iter().map(|it| it.name.as_str()).collect();
    }
    let shown = names.iter().take(4).copied().collect::<Vec<_>>().join(", ");
    let more = part.packages.len().saturating_sub(names.len().min(4));
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

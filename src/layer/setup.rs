//! The setup layer: what the task's setup script leaves on disk. Run with network, so it is not hermetic, and the
//! build's report says so.
//!
//! A script whose last command fails fails the build: what it left half done would otherwise be kept for good. Variables
//! that it exports end with it.

use std::collections::BTreeMap;

use fs_err as fs;

use crate::digest::Digest;
use crate::error::{Explain, Failure, Kind};
use crate::layer::{BuiltLayer, LayerKind, find_or_make, key};
use crate::report::Reporter;
use crate::sandbox::{LayerBlob, Sandbox, SandboxError, Step, Temporary};
use crate::store::Store;

/// Where the script and apt's options are seen inside: in memory.
const PLACE: &str = "/run/agent/setup";

/// bash where there is one, as the original has it.
const START: &str = "if command -v bash >/dev/null 2>&1; then exec bash /run/agent/setup/script; else exec sh /run/agent/setup/script; fi";

/// The script ended badly. The original goes on all the same; here that would keep a half-made layer for good.
#[derive(Debug, thiserror::Error)]
#[error("the task's setup script ended with exit code {code}\n{words}")]
struct SetupFailed {
    code: i32,
    words: String,
}

impl Explain for SetupFailed {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        vec!["Mend the script; if that failure does not matter, end it with `exit 0`.".to_owned()]
    }
}

/// A script and what it runs on.
#[derive(Debug, Clone)]
pub struct SetupInput<'a> {
    /// Chain id of the layers below.
    pub below: Digest,
    /// The script's bytes.
    pub script: &'a [u8],
    /// The base's own environment.
    pub env: &'a BTreeMap<String, String>,
}

/// The key of the layer: the chain below and the script.
#[must_use]
pub fn setup_key(input: &SetupInput<'_>) -> Digest {
    let mut inputs: Vec<Vec<u8>> = vec![input.below.bytes().to_vec(), input.script.to_vec()];
    inputs.extend(input.env.iter().map(|(name, value)| format!("{name}={value}").into_bytes()));
    key(LayerKind::Setup, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Builds or finds the layer. `layers` is called only when it must be built, and gives all layers below with their
/// blobs in the store.
///
/// # Errors
/// A [`Failure`]: there is no sandbox, or the script failed or did not end.
pub fn build(
    store: &Store,
    input: &SetupInput<'_>,
    layers: &mut dyn FnMut() -> Result<Vec<LayerBlob>, Failure>,
    reporter: &dyn Reporter,
) -> Result<BuiltLayer, Failure> {
    let make = || {
        crate::sandbox::choose(store)?;
        let sandbox = Sandbox::open(store, &layers()?, reporter)?;
        let work = store.scratch()?;
        let failed = |source| SandboxError::Start { source };
        fs::write(work.path().join("script"), input.script).map_err(failed)?;
        // One user for apt's downloads too: not every sandbox has more. It may also need the host's certificates.
        let options =
            format!("APT::Sandbox::User \"root\";\nAcquire::https::CAInfo \"{}\";\n", crate::sandbox::lend::TRUST);
        let options = if crate::sandbox::lend::trust_store().is_some() {
            options
        } else {
            "APT::Sandbox::User \"root\";\n".to_owned()
        };
        fs::write(work.path().join("apt.conf"), options).map_err(failed)?;
        let mut step = Step::new("setup script", &["/bin/sh", "-c", START]).bind(work.path(), PLACE, false);
        step.env = input.env.clone();
        step = step.env("DEBIAN_FRONTEND", "noninteractive").env("APT_CONFIG", format!("{PLACE}/apt.conf"));
        step.network = !crate::http::is_offline();
        step.private_tmp = false;
        let output = sandbox.run(&step, reporter)?;
        if output.code != 0 {
            return Err(SetupFailed { code: output.code, words: output.last_words() }.into());
        }
        Ok::<_, Failure>(sandbox.layer(Temporary::Kept)?)
    };
    find_or_make(store, (LayerKind::Setup, setup_key(input)), "setup script", make)
}

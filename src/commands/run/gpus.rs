//! The GPUs of a native run, and of one in Podman: both are of this machine.

use crate::commands::{Context, blocking};
use crate::engine::{ContainerSpec, DeviceRequest};
use crate::error::Failure;
use crate::gpu::cdi::{self, ContainerEdits};
use crate::gpu::{self, Ask, GpuSet};
use crate::run::native::NativeSpec;
use crate::sandbox::Bind;
use crate::secret::Secret;

/// Gives GPUs to a container of Podman by their CDI names.
pub(super) async fn by_name(ask: Ask, spec: &mut ContainerSpec, only_told: bool) -> Result<(), Failure> {
    let set = resolved(ask).await?;
    spec.device_requests.retain(is_of_others);
    spec.env.extend(set.environment().into_iter().map(|(name, value)| (name, Secret::new(value))));
    if only_told {
        return Ok(());
    }
    // What gives devices by this variable has no part in it.
    spec.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
    if !set.is_empty() {
        let ask = DeviceRequest { driver: "cdi".to_owned(), ids: cdi::names(&set), capabilities: Vec::new() };
        spec.device_requests.push(ask);
    }
    Ok(())
}

/// Whether a request is for devices of another kind, by their CDI names.
pub(super) fn is_of_others(request: &DeviceRequest) -> bool {
    request.driver == "cdi" && !request.ids.iter().any(|it| it.contains("nvidia.com/"))
}

async fn resolved(ask: Ask) -> Result<GpuSet, Failure> {
    if ask == Ask::None {
        return Ok(GpuSet::default());
    }
    blocking(move || Ok(gpu::resolve(&ask, &gpu::discover()?)?)).await
}

/// What a run with `--gpus` takes. Not said, it has none, as with Docker.
pub(super) async fn edits(list: Option<&str>, context: &Context) -> Result<ContainerEdits, Failure> {
    let ask: Ask = list.map_or(Ok(Ask::None), str::parse)?;
    let set = resolved(ask).await?;
    let (edits, warnings) = blocking(move || Ok(cdi::edits(&set)?)).await?;
    for warning in warnings {
        context.ui.reporter().warning(warning);
    }
    Ok(edits)
}

/// Adds it to a run. What the run was given itself stays.
pub(super) fn lend(edits: ContainerEdits, spec: &mut NativeSpec) {
    // Mounts alone: what a link would lead to is there under both names.
    let edits = edits.without_links();
    let nodes = edits.device_nodes.iter().map(|it| Bind {
        source: it.host_path.clone(),
        target: it.path.clone(),
        writable: true,
    });
    let mounts = edits.mounts.iter().map(|it| Bind {
        source: it.source.clone(),
        target: it.target.clone(),
        writable: !it.read_only,
    });
    spec.binds.extend(nodes.chain(mounts));
    let own = spec.env.get("LD_LIBRARY_PATH").map(String::as_str).or_else(|| of_image(&spec.config, "LD_LIBRARY_PATH"));
    if let Some(path) = edits.library_path(own) {
        spec.env.insert("LD_LIBRARY_PATH".to_owned(), path);
    }
    for (name, value) in edits.env {
        spec.env.entry(name).or_insert(value);
    }
}

/// A variable of the image.
fn of_image<'a>(config: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let list = config["config"]["Env"].as_array()?;
    list.iter().find_map(|it| it.as_str()?.strip_prefix(name)?.strip_prefix('='))
}

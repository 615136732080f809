//! The GPUs of a run. Those of a native one, and of one in Podman, are of this machine.

use std::collections::BTreeMap;

use crate::commands::gpus::resolved;
use crate::commands::{Context, blocking};
use crate::engine::{ContainerSpec, DeviceRequest, Docker};
use crate::error::Failure;
use crate::gpu::cdi::{self, ContainerEdits};
use crate::gpu::{Ask, GpuSet};
use crate::report::SharedReporter;
use crate::run::native::NativeSpec;
use crate::sandbox::Bind;
use crate::secret::Secret;

/// Asks the engine for GPUs by the names that were given: it may be on another machine. The variable is set too, for an
/// image's own says which ones its programs think they have.
pub(super) fn by_request(spec: &mut ContainerSpec, ask: &Ask, only_told: bool) {
    let request = |ids| DeviceRequest { driver: String::new(), ids, capabilities: vec!["gpu".to_owned()] };
    let mut env = BTreeMap::new();
    spec.device_requests.retain(is_of_others);
    let mut told = |value: String| env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), value);
    match ask {
        Ask::Unsaid => {}
        Ask::None => env = GpuSet::default().environment(),
        Ask::All if only_told => drop(told("all".to_owned())),
        Ask::All => spec.device_requests.push(request(Vec::new())),
        Ask::These(ids) => {
            told(ids.join(","));
            if !only_told {
                spec.device_requests.push(request(ids.clone()));
            }
        }
    }
    for (name, value) in env {
        spec.env.entry(name).or_insert_with(|| Secret::new(value));
    }
}

/// The same by CDI names, for an engine that reads specifications and has no driver of NVIDIA's: those that this machine's
/// specifications have where the engine is here, else as they were given.
pub(super) async fn instead(
    engine: &Docker,
    mut spec: ContainerSpec,
    ask: Option<Ask>,
    reporter: &SharedReporter,
) -> Option<ContainerSpec> {
    let ids = match ask? {
        Ask::Unsaid | Ask::None => return None,
        Ask::All => cdi::named(&["all".to_owned()]),
        Ask::These(ids) => {
            let here = if engine.is_local() { resolved(Ask::These(ids.clone()), reporter).await.ok() } else { None };
            here.map_or_else(|| cdi::named(&ids), |set| cdi::names(&set))
        }
    };
    spec.device_requests.retain(is_of_others);
    // What gives devices by this variable has no part in it.
    spec.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), Secret::new("void"));
    spec.device_requests.push(DeviceRequest { driver: "cdi".to_owned(), ids, capabilities: Vec::new() });
    Some(spec)
}

/// Gives GPUs to a container of Podman by their CDI names.
pub(super) async fn by_name(
    ask: Ask,
    spec: &mut ContainerSpec,
    only_told: bool,
    reporter: &SharedReporter,
) -> Result<(), Failure> {
    let set = resolved(ask, reporter).await?;
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
fn is_of_others(request: &DeviceRequest) -> bool {
    request.driver == "cdi" && !request.ids.iter().any(|it| it.contains("nvidia.com/"))
}

/// What a run with `--gpus` takes. Not said, it has none, as with Docker.
pub(super) async fn edits(list: Option<&str>, context: &Context) -> Result<ContainerEdits, Failure> {
    let ask: Ask = list.map_or(Ok(Ask::None), str::parse)?;
    let set = resolved(ask, &context.ui.reporter()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_as_docker_takes_them() {
        let given = |list: &str| {
            let mut spec = ContainerSpec::default();
            by_request(&mut spec, &list.parse().unwrap(), false);
            let visible = spec.env.get("NVIDIA_VISIBLE_DEVICES").map(|it| it.reveal().to_owned());
            (spec.device_requests.into_iter().next().map(|it| it.ids), visible)
        };
        assert_eq!(given("none"), (None, Some("void".to_owned())));
        assert_eq!(given("all"), (Some(Vec::new()), None));
        let some = |ids: &[&str]| (Some(ids.iter().map(ToString::to_string).collect()), Some(ids.join(",")));
        assert_eq!(given("0, GPU-1"), some(&["0", "GPU-1"]));
        assert_eq!(given("0-1,2.3"), some(&["0", "1", "2:3"]));
        let of_other =
            DeviceRequest { driver: "cdi".to_owned(), ids: vec!["v.com/c=x".to_owned()], capabilities: vec![] };
        let of_vendor = DeviceRequest { ids: vec!["nvidia.com/gpu=all".to_owned()], ..of_other.clone() };
        let mut spec = ContainerSpec { device_requests: vec![of_other.clone(), of_vendor], ..ContainerSpec::default() };
        by_request(&mut spec, &"0".parse().unwrap(), true);
        assert_eq!(spec.device_requests, [of_other]);
        assert_eq!(spec.env["NVIDIA_VISIBLE_DEVICES"].reveal(), "0");
    }
}

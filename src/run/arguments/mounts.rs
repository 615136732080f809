//! Switches that put something into a container's file system.

use super::{ArgumentError, bad, value};
use crate::engine::{Bind, ContainerSpec};
use crate::launch;
use crate::switches::Switch;

/// Options of `-v` that mean nothing on Linux.
const IDLE: [&str; 4] = ["rw", "cached", "delegated", "consistent"];
/// Options of `-v` that are the engine's.
const OPTIONS: [&str; 11] =
    ["z", "Z", "U", "nocopy", "shared", "rshared", "slave", "rslave", "private", "rprivate", "O"];

/// `source:target[:options]`; a target alone is a volume without a name.
pub(super) fn volume(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let parts: Vec<&str> = value(switch).split(':').collect();
    let (source, at, options) = match parts.as_slice() {
        [at] => return target(switch, at).map(|it| spec.volumes.push(it)),
        [source, at] => (*source, *at, ""),
        [source, at, options] => (*source, *at, *options),
        _ => return Err(bad(switch, "source:/target[:options]")),
    };
    let mut read_only = false;
    let mut further = Vec::new();
    for option in options.split(',').filter(|it| !it.is_empty() && !IDLE.contains(it)) {
        match option {
            "ro" | "readonly" => read_only = true,
            option if OPTIONS.contains(&option) => further.push(option.to_owned()),
            _ => return Err(bad(switch, "its options are ro, rw, z, Z, nocopy and how mounts spread")),
        }
    }
    bind(spec, switch, Bind { source: source.to_owned(), target: target(switch, at)?, read_only }, further)
}

/// Whether `--mount` means a volume, which an engine keeps.
pub(super) fn is_volume(value: &str) -> bool {
    !value.split(',').any(|it| ["type=bind", "type=tmpfs"].contains(&it.trim()))
}

/// `type=bind,source=/a,target=/b,readonly`, and types volume and tmpfs.
pub(super) fn mount(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let (mut kind, mut source, mut at, mut read_only) = ("volume", "", "", false);
    let (mut further, mut memory) = (Vec::new(), Vec::new());
    for field in value(switch).split(',') {
        let (name, value) = field.split_once('=').map_or((field, None), |(name, value)| (name, Some(value)));
        match (name.trim(), value) {
            ("type", Some(it)) => kind = it,
            ("source" | "src", Some(it)) => source = it,
            ("target" | "destination" | "dst", Some(it)) => at = it,
            ("readonly" | "ro", it) => read_only = !matches!(it, Some("false" | "0")),
            ("bind-propagation", Some(it)) if OPTIONS.contains(&it) => further.push(it.to_owned()),
            ("volume-nocopy", it) if !matches!(it, Some("false" | "0")) => further.push("nocopy".to_owned()),
            ("tmpfs-size", Some(it)) => memory.push(format!("size={it}")),
            ("tmpfs-mode", Some(it)) => memory.push(format!("mode={it}")),
            ("consistency" | "volume-nocopy", _) => {}
            _ => {
                let known = "type, source, target, readonly, bind-propagation, volume-nocopy, tmpfs-size, tmpfs-mode";
                return Err(bad(switch, known));
            }
        }
    }
    let at = target(switch, at)?;
    match kind {
        "tmpfs" => {
            spec.tmpfs.insert(at, memory.join(","));
            Ok(())
        }
        "bind" if !source.starts_with('/') => Err(bad(switch, "a bind's source is an absolute path")),
        "volume" if source.is_empty() => {
            spec.volumes.push(at);
            Ok(())
        }
        "volume" if source.starts_with('/') => Err(bad(switch, "a directory is mounted with type=bind")),
        "bind" | "volume" => bind(spec, switch, Bind { source: source.to_owned(), target: at, read_only }, further),
        _ => Err(bad(switch, "its type is bind, volume or tmpfs")),
    }
}

/// `/path[:options]`.
pub(super) fn tmpfs(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let (path, options) = value(switch).split_once(':').unwrap_or((value(switch), ""));
    spec.tmpfs.insert(target(switch, path)?, options.to_owned());
    Ok(())
}

/// Adds it; what was mounted there before is not any more.
fn bind(spec: &mut ContainerSpec, switch: &Switch, bind: Bind, options: Vec<String>) -> Result<(), ArgumentError> {
    let name = |it: &str| {
        it.starts_with(|it: char| it.is_ascii_alphanumeric())
            && it.chars().all(|it| it.is_ascii_alphanumeric() || "_.-".contains(it))
    };
    if !bind.source.starts_with('/') && !name(&bind.source) {
        return Err(bad(switch, "its source is an absolute path or a volume's name"));
    }
    spec.binds.retain(|it| it.target != bind.target);
    spec.bind_options.remove(&bind.target);
    if !options.is_empty() {
        spec.bind_options.insert(bind.target.clone(), options);
    }
    spec.binds.push(bind);
    Ok(())
}

/// An absolute path inside that hides nothing of what the image runs from.
fn target(switch: &Switch, path: &str) -> Result<String, ArgumentError> {
    let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty() && *it != ".").collect();
    if !path.starts_with('/') || parts.is_empty() || parts.contains(&"..") {
        return Err(bad(switch, "its target is an absolute path below the root, without `..`"));
    }
    let path = format!("/{}", parts.join("/"));
    let below = |it: &str, directory: &str| it == directory || it.starts_with(&format!("{directory}/"));
    let open = [launch::JOURNAL, launch::SPOOL, launch::CODE];
    let ours = below(launch::ROOT, &path) || below(&path, launch::ROOT) && !open.iter().any(|it| below(&path, it));
    if ours {
        return Err(bad(switch, "its target would hide what the image runs from"));
    }
    Ok(path)
}

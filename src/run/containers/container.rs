//! The container of a run, as its engine is asked for it.

use std::path::Path;

use fs_err as fs;

use super::{Containers, ContainersError, GRACE};
use crate::config::Environment;
use crate::engine::{Bind, ContainerSpec};
use crate::launch;
use crate::run::docker::RUN_LABEL;
use crate::run::lends::HostMount;
use crate::run::spec::RunSpec;
use crate::secret::Secret;

/// The container of a run: what was asked for, the run's marks, its console spool.
pub(in crate::run) fn container(
    spec: &RunSpec,
    image: String,
    engine: &Containers,
) -> Result<ContainerSpec, ContainersError> {
    if !engine.is_local() {
        let endpoint = engine.endpoint().to_owned();
        return Err(ContainersError::Elsewhere { engine: engine.name(), endpoint });
    }
    let mut container = spec.container.clone();
    container.image = image;
    container.name.get_or_insert_with(|| format!("agent-{}", spec.id));
    container.labels.insert(RUN_LABEL.to_owned(), spec.id.to_string());
    container.stop_timeout.get_or_insert(GRACE);
    // The in-image program takes this one, whatever the base's took.
    container.stop_signal.get_or_insert_with(|| "SIGTERM".to_owned());
    let spool = spool(spec).map_err(|source| ContainersError::Spool { path: spec.directory.clone(), source })?;
    container.binds.extend(spool);
    // Shared with the container where labels of SELinux would keep it out: what lies in the run's own directory.
    for bind in container.binds.iter().filter(|it| Path::new(&it.source).starts_with(&spec.directory)) {
        container.bind_options.entry(bind.target.clone()).or_default().push("z".to_owned());
    }
    if let Some(host) = HostMount::of(&Environment::current())? {
        outside(&mut container, &spec.directory, &host)?;
    }
    container.env.entry("AGENT_SPOOL".to_owned()).or_insert_with(|| Secret::new(launch::SPOOL));
    Ok(container)
}

/// Names what is lent of the run's own directory as the engine's machine knows it, where that is another one's: the agent
/// runs in a container itself. Options of binds stay with their targets.
fn outside(container: &mut ContainerSpec, directory: &Path, host: &HostMount) -> Result<(), ContainersError> {
    let own = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for bind in &mut container.binds {
        let source = Path::new(&bind.source);
        if source.starts_with(directory) || source.starts_with(&own) {
            // Either name of it may be the one that is shared.
            let known = host.outside(source).or_else(|| {
                let below = source.strip_prefix(&own).or_else(|_| source.strip_prefix(directory)).ok()?;
                host.outside(&own.join(below)).or_else(|| host.outside(&directory.join(below)))
            });
            let Some(known) = known else {
                return Err(ContainersError::NotShared { path: directory.to_owned() });
            };
            bind.source = known.display().to_string();
        }
    }
    Ok(())
}

/// Makes a run's console spool so that whoever runs inside can write there and whoever attends the run can take over: the
/// run's directory lets nobody else of this machine in. Gives its bind, where the run has none of its own.
pub(in crate::run) fn spool(spec: &RunSpec) -> std::io::Result<Option<Bind>> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let directory = spec.directory.join("spool");
    let bound = spec.container.binds.iter().find(|it| it.target.trim_end_matches('/') == launch::SPOOL);
    if bound.is_some_and(|it| Path::new(&it.source) != directory) {
        return Ok(None);
    }
    fs::create_dir_all(&directory)?;
    // A run that was started before may have put anything in its place: no link is followed.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true).custom_flags(flags.bits().cast_signed());
    let lock = options.open(directory.join("lock"))?;
    // Another user inside owns what it makes; these are ours, made before.
    fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
    lock.file().set_permissions(std::fs::Permissions::from_mode(0o666))?;
    if bound.is_some() {
        return Ok(None);
    }
    let source = fs::canonicalize(&directory)?.display().to_string();
    Ok(Some(Bind { source, target: launch::SPOOL.to_owned(), read_only: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_an_agent_in_a_container_is_lent_what_the_node_knows() {
        let machine = Environment::of([("CLEARML_AGENT_K8S_HOST_MOUNT", "/on/node:/in/pod")]);
        let host = HostMount::of(&machine).unwrap().unwrap();
        let bind = |source: &str| Bind { source: source.to_owned(), target: "/t".to_owned(), read_only: true };
        let mut container = ContainerSpec {
            binds: vec![bind("/in/pod/state/runs/1/spool"), bind("/data"), bind("/on/node/cache")],
            ..ContainerSpec::default()
        };
        outside(&mut container, Path::new("/in/pod/state/runs/1"), &host).unwrap();
        let sources: Vec<&str> = container.binds.iter().map(|it| it.source.as_str()).collect();
        assert_eq!(sources, ["/on/node/state/runs/1/spool", "/data", "/on/node/cache"]);
        let mut container = ContainerSpec { binds: vec![bind("/root/state/1/spool")], ..ContainerSpec::default() };
        let error = outside(&mut container, Path::new("/root/state/1"), &host).unwrap_err();
        assert!(error.to_string().starts_with("`/root/state/1`, the run's directory, is not in what "), "{error}");
    }
}

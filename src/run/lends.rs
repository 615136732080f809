//! What a run is lent of the home of whoever runs the agent: the SDK's cache, ssh keys, git's configuration.
//!
//! Keys and credentials are copies in the run's own directory (mode 0700), owned by the container's user where we may
//! give files away, and mounted read-only: no task changes them, and they go with the directory. What the original mounts
//! for installing at start (apt, pip, virtual environments, repositories) is not lent: a run installs nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::EngineKind;
use crate::config::{Agent, Environment};
use crate::engine::Bind;
use crate::error::{Explain, Kind};

/// The largest file that is lent as a copy, in bytes, and how many there may be.
const LARGEST: u64 = 4 << 20;
const MOST: usize = 1000;
/// Where an ssh agent's socket is seen inside.
const AGENT_SOCKET: &str = "/run/agent/ssh-agent.sock";

/// The container's user, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User and group id, as this machine's files have them.
    pub owner: (u32, u32),
    /// The home inside.
    pub home: String,
}

impl Account {
    /// The account of a user as an image or `--user` names it: only root's home is known without looking into the image.
    /// Where no privileged service runs containers, their root is whoever starts them.
    #[must_use]
    pub fn of(user: &str, engine: EngineKind) -> Option<Self> {
        let owner = match engine {
            EngineKind::Docker => (0, 0),
            EngineKind::Podman | EngineKind::Native => {
                (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
            }
        };
        is_root(user).then(|| Self { owner, home: "/root".to_owned() })
    }
}

/// Writes a file that the container's user is to read, and where possible nobody else: with mode 0600 where it is that
/// user's, else readable by all, in a directory that is its owner's alone. Its user is known where it is root or a number
/// that means the same on this machine: in Docker, and in Podman where root runs it. `userns` is the user namespace that the
/// container's arguments ask for.
///
/// # Errors
/// Writing it.
pub fn write(path: &Path, bytes: &[u8], user: &str, (engine, userns): (EngineKind, Option<&str>)) -> io::Result<()> {
    crate::fs::write_whole(path, bytes, 0o600)?;
    let name = user.split(':').next().unwrap_or_default();
    let readable = match name.parse::<u32>() {
        _ if is_root(user) => true,
        Ok(number) if userns.is_none_or(|it| it == "host") && has_our_numbers(engine) => {
            let group = fs::metadata(path)?.gid();
            give(path, (number, group))?
        }
        // Only the image could say which number a name has, and only a namespace's map what a number is out here.
        _ => false,
    };
    if readable { Ok(()) } else { fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)) }
}

/// Whether a container's user is root, who may read what is its own or anybody's.
fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "" | "0" | "root")
}

/// Whether users of containers have the numbers that they have on this machine.
fn has_our_numbers(engine: EngineKind) -> bool {
    match engine {
        EngineKind::Docker => true,
        EngineKind::Podman => rustix::process::geteuid().is_root(),
        EngineKind::Native => false,
    }
}

/// Makes a file or directory a user's; whether it is. Where we are not root, only what is ours already can be.
fn give(path: &Path, (uid, gid): (u32, u32)) -> io::Result<bool> {
    let has = fs::metadata(path)?;
    if (has.uid(), has.gid()) == (uid, gid) {
        return Ok(true);
    }
    match std::os::unix::fs::chown(path, Some(uid), Some(gid)) {
        Ok(()) => Ok(true),
        // Another's, or nobody's in the user namespace that we are in.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What is lent, and to whom.
pub struct Lending<'a> {
    /// The `agent` section.
    pub agent: &'a Agent,
    /// The agent's environment.
    pub machine: &'a Environment,
    /// The container's user; absent: not known, and nothing of a home is lent.
    pub account: Option<&'a Account>,
    /// A directory of the run's own, mode 0700, for the copies.
    pub directory: &'a Path,
}

/// What was made ready.
#[derive(Debug, Default)]
pub struct Lent {
    /// Mounts, with paths of this machine (of the node where `CLEARML_AGENT_K8S_HOST_MOUNT` says so).
    pub binds: Vec<Bind>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Worth telling in the run's log.
    pub warnings: Vec<String>,
}

/// A copy that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// Reading or writing failed.
    #[error("cannot copy `{}` for the run", path.display())]
    Copy {
        /// What was copied.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `CLEARML_AGENT_K8S_HOST_MOUNT` says nothing.
    #[error("CLEARML_AGENT_K8S_HOST_MOUNT is `{text}`, not `node path:own path`")]
    HostMount {
        /// What it says.
        text: String,
    },
}

impl Explain for LendError {
    fn kind(&self) -> Kind {
        match self {
            Self::Copy { source, .. } => Kind::of_io(source),
            Self::HostMount { .. } => Kind::Config,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Copy { .. } => vec!["agent.disable_ssh_mount = true runs tasks without ~/.ssh.".to_owned()],
            Self::HostMount { .. } => vec!["Write CLEARML_AGENT_K8S_HOST_MOUNT=/on/the/node:/in/this/pod.".to_owned()],
        }
    }
}

/// `CLEARML_AGENT_K8S_HOST_MOUNT`: the agent runs in a container itself, and shares one directory with its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    node: PathBuf,
    own: PathBuf,
}

impl HostMount {
    /// What the environment says.
    ///
    /// # Errors
    /// [`LendError::HostMount`]
    pub fn of(machine: &Environment) -> Result<Option<Self>, LendError> {
        let named = machine.get("CLEARML_AGENT_K8S_HOST_MOUNT");
        let Some(text) = named.or_else(|| machine.get("CLEARML_AGENT_DOCKER_HOST_MOUNT")) else { return Ok(None) };
        match text.split_once(':') {
            Some((node, own)) if node.starts_with('/') && own.starts_with('/') => {
                Ok(Some(Self { node: node.into(), own: own.into() }))
            }
            _ => Err(LendError::HostMount { text: text.to_owned() }),
        }
    }

    /// The path by which the engine's machine knows one of ours; `None` for what it does not see.
    #[must_use]
    pub fn outside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.own)
            .ok()
            .map(|it| if it.as_os_str().is_empty() { self.node.clone() } else { self.node.join(it) })
    }
}

/// Makes ready what a run is lent.
///
/// # Errors
/// [`LendError`]
pub fn lend(lending: &Lending<'_>) -> Result<Lent, LendError> {
    let host = HostMount::of(lending.machine)?;
    let mut lent = Lent::default();
    let home = lending.machine.raw("HOME").map(PathBuf::from);
    cache(lending, home.as_deref(), &mut lent);
    match (home, lending.account) {
        (Some(home), Some(account)) => {
            ssh(lending, &home, account, &mut lent)?;
            git(lending, &home, account, &mut lent)?;
        }
        (_, None) => {
            let why = "the image's user is not root and its home is not known";
            lent.warnings.push(format!("ssh keys and git's configuration are not lent: {why}"));
        }
        (None, _) => {}
    }
    if let Some(host) = host {
        let binds = std::mem::take(&mut lent.binds);
        for bind in binds {
            match host.outside(Path::new(&bind.source)) {
                Some(path) => lent.binds.push(Bind { source: path.display().to_string(), ..bind }),
                None => {
                    let source = &bind.source;
                    lent.warnings
                        .push(format!("`{source}` is not in the directory shared with the node and is not lent"));
                }
            }
        }
    }
    Ok(lent)
}

/// The SDK keeps what it downloads for the next run.
fn cache(lending: &Lending<'_>, home: Option<&Path>, lent: &mut Lent) {
    let keys = &lending.agent.container;
    let path = match (keys.sdk_cache.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(&keys.sdk_cache),
    };
    if !path.is_absolute() {
        return;
    }
    match fs::create_dir_all(&path) {
        Ok(()) => {
            let (source, target) = (path.display().to_string(), keys.sdk_cache_inside.clone());
            lent.binds.push(Bind { source, target: target.clone(), read_only: false });
            lent.env.insert("CLEARML_CACHE_DIR".to_owned(), target);
        }
        Err(error) => lent.warnings.push(format!("the SDK's cache is not lent: {error}")),
    }
}

fn ssh(lending: &Lending<'_>, home: &Path, account: &Account, lent: &mut Lent) -> Result<(), LendError> {
    let off = lending.machine.get("CLEARML_AGENT_DISABLE_SSH_MOUNT");
    if lending.agent.container.no_ssh || off.is_some_and(|it| !["0", "false"].contains(&it)) {
        return Ok(());
    }
    let socket = lending.machine.get("SSH_AUTH_SOCK").map(PathBuf::from);
    if let Some(socket) = socket.filter(|it| fs::metadata(it).is_ok_and(|it| it.file_type().is_socket())) {
        let bind = Bind { source: socket.display().to_string(), target: AGENT_SOCKET.to_owned(), read_only: true };
        lent.binds.push(bind);
        lent.env.insert("SSH_AUTH_SOCK".to_owned(), AGENT_SOCKET.to_owned());
        return Ok(());
    }
    let source = home.join(".ssh");
    if !source.is_dir() {
        return Ok(());
    }
    let copy = lending.directory.join("ssh");
    let mut copying = Copying { owner: account.owner, given: true, count: 0, left_out: Vec::new() };
    copying.directory(&source, &copy)?;
    if !copying.given && copy.join("config").exists() {
        // ssh refuses a configuration that is another user's, and all else with it.
        fs::remove_file(copy.join("config"))
            .map_err(|error| LendError::Copy { path: source.join("config"), source: error })?;
        copying.left_out.push("~/.ssh/config, which ssh takes from its owner alone".to_owned());
    }
    lent.warnings.extend(copying.left_out.iter().map(|it| format!("not lent to the run: {it}")));
    let folder = lending.agent.container.ssh_folder.clone();
    let target = folder.strip_prefix("~/").map_or(folder.clone(), |it| format!("{}/{it}", account.home));
    lent.binds.push(Bind { source: copy.display().to_string(), target, read_only: true });
    Ok(())
}

fn git(lending: &Lending<'_>, home: &Path, account: &Account, lent: &mut Lent) -> Result<(), LendError> {
    for name in [".git-credentials", ".gitconfig"] {
        let source = home.join(name);
        if !source.is_file() {
            continue;
        }
        let copy = lending.directory.join(name.trim_start_matches('.'));
        let mut copying = Copying { owner: account.owner, given: true, count: 0, left_out: Vec::new() };
        copying.file(&source, &copy)?;
        if copying.left_out.is_empty() {
            let target = format!("{}/{name}", account.home);
            lent.binds.push(Bind { source: copy.display().to_string(), target, read_only: true });
        }
        lent.warnings.extend(copying.left_out.iter().map(|it| format!("not lent to the run: {it}")));
    }
    Ok(())
}

/// Copies for the container's user.
struct Copying {
    owner: (u32, u32),
    /// Whether all copies are that user's.
    given: bool,
    count: usize,
    left_out: Vec<String>,
}

impl Copying {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<(), LendError> {
        let wrong = |source| LendError::Copy { path: from.to_owned(), source };
        // A start that is tried again copies anew.
        if to.exists() {
            fs::remove_dir_all(to).map_err(wrong)?;
        }
        fs::create_dir(to).map_err(wrong)?;
        fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).map_err(wrong)?;
        for entry in fs::read_dir(from).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let (path, copy) = (entry.path(), to.join(entry.file_name()));
            // Links are the user's own doing, but a circle of directories is none that ends.
            let kind = entry.file_type().map_err(wrong)?;
            let target = fs::metadata(&path).is_ok_and(|it| it.is_file());
            if kind.is_dir() {
                self.directory(&path, &copy)?;
            } else if target {
                self.file(&path, &copy)?;
            }
        }
        self.give(to).map_err(wrong)
    }

    fn file(&mut self, from: &Path, to: &Path) -> Result<(), LendError> {
        let wrong = |source| LendError::Copy { path: from.to_owned(), source };
        self.count += 1;
        if fs::metadata(from).map_err(wrong)?.len() > LARGEST || self.count > MOST {
            self.left_out.push(format!("{}, which is too large", from.display()));
            return Ok(());
        }
        let bytes = fs::read(from).map_err(wrong)?;
        crate::fs::write_named(to, 0o600, |file| file.write_all(&bytes)).map_err(wrong)?;
        self.give(to).map_err(wrong)
    }

    fn give(&mut self, path: &Path) -> io::Result<()> {
        self.given &= give(path, self.owner)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The cache of mirrored repositories, and how a commit gets there.

use std::path::{Path, PathBuf};

use fs_err as fs;
use gix::bstr::ByteSlice;
use gix::remote::fetch::Shallow;

use super::address::Address;
use super::connect::{Received, receive};
use super::credential::Access;
use super::{GitError, reason};
use crate::digest::Digest;
use crate::fs::{FileLock, Sharing, create_private_dir};

/// Mirrored repositories. Safe with many processes at once.
#[derive(Debug, Clone)]
pub struct Repositories {
    root: PathBuf,
    pub(super) access: Access,
}

/// What is wanted of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A commit id, whole or shortened, or any revision `git checkout` would take for one.
    Commit(String),
    /// A tag.
    Tag(String),
    /// A branch.
    Branch(String),
    /// The default branch.
    Default,
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit(id) => write!(f, "commit `{id}`"),
            Self::Tag(name) => write!(f, "tag `{name}`"),
            Self::Branch(name) => write!(f, "branch `{name}`"),
            Self::Default => f.write_str("default branch"),
        }
    }
}

/// A commit that is in the cache with all its files.
#[derive(Clone)]
pub struct Commit {
    /// Its id.
    pub id: String,
    /// Its tree's id.
    pub tree: String,
    /// When it was committed, in seconds since the epoch.
    pub time: i64,
    /// Where it came from.
    pub address: Address,
    /// The git directory it was read from, for a directory of this machine.
    pub(super) local: Option<PathBuf>,
    pub(super) repository: gix::ThreadSafeRepository,
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.address, self.id)
    }
}

/// A bare repository of the cache.
struct Mirror {
    repository: gix::Repository,
    lock: PathBuf,
}

impl Repositories {
    /// Opens the cache in a directory, which is created if it is not there.
    ///
    /// # Errors
    /// [`GitError::Cache`].
    pub fn open(root: &Path, access: Access) -> Result<Self, GitError> {
        for name in ["mirrors", "lfs"] {
            let path = root.join(name);
            create_private_dir(&path).map_err(GitError::cache(&path))?;
        }
        Ok(Self { root: root.to_owned(), access })
    }

    /// The directory of LFS objects.
    pub(super) fn lfs_dir(&self) -> PathBuf {
        self.root.join("lfs")
    }

    /// Brings a commit into the cache. One named by its whole id is asked for only if it is not there; branches, tags
    /// and the default branch are always asked for anew.
    ///
    /// # Errors
    /// [`GitError::Unreachable`], [`GitError::Denied`], [`GitError::NoSuch`], [`GitError::Offline`],
    /// [`GitError::Cache`].
    pub fn fetch(&self, address: &Address, wanted: &Wanted) -> Result<Commit, GitError> {
        if let Some(path) = address.local_path() {
            return self.import(&path, &address.clone().absolute(), wanted);
        }
        let mirror = self.mirror(address)?;
        if let Some(commit) = cached(&mirror, address, wanted)? {
            return Ok(commit);
        }
        if self.access.offline {
            return Err(GitError::Offline { address: address.to_string(), what: wanted.to_string() });
        }
        let _lock = self.lock(&mirror)?;
        if let Some(commit) = cached(&mirror, address, wanted)? {
            return Ok(commit);
        }
        let step = format!("git {}", address.name());
        self.access.reporter.started(&step, format!("Fetching {wanted} of {address}"));
        let id = self.ask(&mirror, address, wanted)?;
        let commit = mark(&mirror, address, id)?;
        self.access.reporter.finished(&step, commit.id.clone());
        Ok(commit)
    }

    /// A commit that some mirror has, whatever its address: what a lock made from a directory of this machine names.
    ///
    /// # Errors
    /// [`GitError::Cache`] where the cache cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<Commit>, GitError> {
        let path = self.root.join("mirrors");
        let mut mirrors: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&path).map_err(GitError::cache(&path))? {
            let entry = entry.map_err(GitError::cache(&path))?.path();
            if entry.extension().is_some_and(|it| it == "git") {
                mirrors.push(entry);
            }
        }
        mirrors.sort();
        for path in mirrors {
            let Ok(repository) = open(&path) else { continue };
            let address = Address::parse(&path.to_string_lossy())?;
            let mirror = Mirror { repository, lock: path.with_extension("lock") };
            if let Some(commit) = cached(&mirror, &address, &Wanted::Commit(id.to_owned()))? {
                crate::fs::touch(&path);
                return Ok(Some(commit));
            }
        }
        Ok(None)
    }

    fn ask(&self, mirror: &Mirror, address: &Address, wanted: &Wanted) -> Result<gix::ObjectId, GitError> {
        let shallow = Shallow::DepthAtRemote(std::num::NonZeroU32::MIN);
        let one = |spec: String| {
            // What a task names is a reference and nothing more: no target, no pattern.
            if spec != "HEAD" && !is_id(&spec) && !is_reference(&spec) {
                return Ok(Received::NoSuchReference);
            }
            receive(&mirror.repository, address, &self.access, &[spec], &shallow)
        };
        let no_such = || GitError::NoSuch { address: address.to_string(), what: wanted.to_string() };
        let tip = |received| match received {
            Received::Tips(tips) => tips.first().copied().ok_or_else(no_such),
            Received::NoSuchReference => Err(no_such()),
            Received::Refused(reason) => Err(GitError::Unreachable { address: address.to_string(), reason }),
        };
        match wanted {
            Wanted::Default => tip(one("HEAD".to_owned())?),
            Wanted::Branch(name) => {
                let full = if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") };
                tip(one(full)?)
            }
            Wanted::Tag(name) => tip(one(format!("refs/tags/{}", name.strip_prefix("refs/tags/").unwrap_or(name)))?),
            Wanted::Commit(text) => {
                if let Ok(id) = gix::ObjectId::from_hex(text.as_bytes()) {
                    if let Received::Tips(_) = one(id.to_string())? {
                        return Ok(id);
                    }
                } else {
                    for name in [format!("refs/heads/{text}"), format!("refs/tags/{text}")] {
                        if let Received::Tips(tips) = one(name)?
                            && let Some(tip) = tips.first()
                        {
                            return Ok(*tip);
                        }
                    }
                }
                self.ask_for_everything(mirror, address)?;
                resolve(&mirror.repository, text).ok_or_else(no_such)
            }
        }
    }

    /// For servers that hand out only what they advertise, and for shortened ids: all branches and tags, whole.
    fn ask_for_everything(&self, mirror: &Mirror, address: &Address) -> Result<(), GitError> {
        let specs = ["+refs/heads/*:refs/agent/heads/*".to_owned(), "+refs/tags/*:refs/agent/tags/*".to_owned()];
        let is_shallow = mirror.repository.is_shallow().unwrap_or_default();
        let shallow = if is_shallow { Shallow::undo() } else { Shallow::NoChange };
        match receive(&mirror.repository, address, &self.access, &specs, &shallow)? {
            Received::Refused(reason) => Err(GitError::Unreachable { address: address.to_string(), reason }),
            Received::Tips(_) | Received::NoSuchReference => Ok(()),
        }
    }

    /// Copies a commit of a directory of this machine, so that it is there for later builds from its lock.
    fn import(&self, path: &Path, address: &Address, wanted: &Wanted) -> Result<Commit, GitError> {
        let unreachable =
            |error: &gix::Error| GitError::Unreachable { address: address.to_string(), reason: reason(error) };
        let source = match gix::open(path) {
            Ok(source) => source,
            // Gone since; a commit named by its whole id may be here all the same.
            Err(error) => return cached(&self.mirror(address)?, address, wanted)?.ok_or_else(|| unreachable(&error)),
        };
        let no_such = || GitError::NoSuch { address: address.to_string(), what: wanted.to_string() };
        let id = match wanted {
            Wanted::Default => resolve(&source, "HEAD"),
            Wanted::Commit(text) => resolve(&source, text),
            Wanted::Tag(name) => resolve(&source, &format!("refs/tags/{name}")),
            Wanted::Branch(name) => resolve(&source, &format!("refs/heads/{name}"))
                .or_else(|| resolve(&source, &format!("refs/remotes/origin/{name}"))),
        };
        let id = id.ok_or_else(no_such)?;
        let mirror = self.mirror(address)?;
        let wanted = Wanted::Commit(id.to_string());
        let local = Some(source.git_dir().to_owned());
        if let Some(commit) = cached(&mirror, address, &wanted)? {
            return Ok(Commit { local, ..commit });
        }
        let _lock = self.lock(&mirror)?;
        copy(&source, &mirror.repository, id).map_err(GitError::unreadable(address, wanted.to_string()))?;
        Ok(Commit { local, ..mark(&mirror, address, id)? })
    }

    fn mirror(&self, address: &Address) -> Result<Mirror, GitError> {
        let text = address.to_string();
        let name = format!("{}-{}", address.name(), &Digest::of(text.trim_end_matches('/')).hex()[..16]);
        let directory = self.root.join("mirrors");
        let path = directory.join(format!("{name}.git"));
        if !path.exists() {
            let made = tempfile::Builder::new().prefix(".new-").tempdir_in(&directory);
            let made = made.map_err(GitError::cache(&directory))?;
            gix::init_bare(made.path()).map_err(|error| damaged(&path, &error))?;
            match fs::rename(made.path(), &path) {
                Ok(()) => {
                    let _ = made.keep();
                }
                // Another process was first.
                Err(_) if path.exists() => {}
                Err(error) => return Err(GitError::cache(&path)(error)),
            }
        }
        let repository = open(&path).map_err(|error| damaged(&path, &error))?;
        crate::fs::touch(&path);
        Ok(Mirror { repository, lock: directory.join(format!("{name}.lock")) })
    }

    /// Adds to the configuration of an address's mirror.
    #[cfg(test)]
    pub(super) fn configure(&self, address: &Address, text: &str) {
        use std::io::Write as _;
        let mirror = self.mirror(address).unwrap();
        let path = mirror.repository.git_dir().join("config");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// What git's credential helpers say about an address.
    pub(super) fn ask_helpers(&self, url: &str, user: Option<String>) -> Option<gix::sec::identity::Account> {
        if !self.access.helpers {
            return None;
        }
        let url = gix::url::parse(url.as_bytes()).ok()?;
        let scratch = tempfile::tempdir_in(&self.root).ok()?;
        gix::init_bare(scratch.path()).ok()?;
        let repository = open(scratch.path()).ok()?;
        let (mut cascade, action, prompt) = repository.config_snapshot().credential_helpers(url).ok()?;
        let action = match action {
            gix::credentials::helper::Action::Get(mut context) => {
                context.username = context.username.or(user);
                gix::credentials::helper::Action::Get(context)
            }
            other => other,
        };
        cascade.invoke(action, prompt).ok()?.map(|it| it.identity)
    }

    fn lock(&self, mirror: &Mirror) -> Result<FileLock, GitError> {
        FileLock::acquire(&mirror.lock, Sharing::Exclusive, self.access.patience).map_err(GitError::cache(&mirror.lock))
    }
}

fn is_id(text: &str) -> bool {
    gix::ObjectId::from_hex(text.as_bytes()).is_ok()
}

fn is_reference(name: &str) -> bool {
    gix::validate::reference::name(name.as_bytes().as_bstr()).is_ok()
}

fn damaged(path: &Path, error: &gix::Error) -> GitError {
    GitError::cache(path)(std::io::Error::other(reason(error)))
}

/// Opens a repository of the cache with this user's configuration, made to ask nobody anything.
fn open(path: &Path) -> Result<gix::Repository, gix::Error> {
    let options = gix::open::Options::default()
        .open_path_as_is(true)
        .config_overrides(["gitoxide.credentials.terminalPrompt=false"]);
    let mut repository = gix::open_opts(path, options)?;
    let has_command = {
        let config = repository.config_snapshot();
        config.string("core.sshCommand").is_some()
            || config.string("gitoxide.ssh.commandWithoutShellFallback").is_some()
    };
    if !has_command {
        let mut config = repository.config_snapshot_mut();
        config.set_raw_value("core.sshCommand", "ssh -oBatchMode=yes")?;
        config.set_raw_value("ssh.variant", "ssh")?;
        config.commit()?;
    }
    // Trees and deltas of large repositories are read again and again.
    repository.object_cache_size_if_unset(8 << 20);
    Ok(repository)
}

fn cached(mirror: &Mirror, address: &Address, wanted: &Wanted) -> Result<Option<Commit>, GitError> {
    let Wanted::Commit(text) = wanted else { return Ok(None) };
    let Ok(id) = gix::ObjectId::from_hex(text.as_bytes()) else { return Ok(None) };
    match mirror.repository.try_find_reference(&reference(id)) {
        Ok(Some(_)) => Ok(Some(read(mirror, address, id)?)),
        _ => Ok(None),
    }
}

fn reference(id: gix::ObjectId) -> String {
    format!("refs/agent/commits/{id}")
}

/// Records that a commit is there with all it needs.
fn mark(mirror: &Mirror, address: &Address, id: gix::ObjectId) -> Result<Commit, GitError> {
    let commit = read(mirror, address, id)?;
    let id = gix::ObjectId::from_hex(commit.id.as_bytes()).unwrap_or(id);
    let any = gix::refs::transaction::PreviousValue::Any;
    mirror
        .repository
        .reference(reference(id), id, any, "agent")
        .map_err(|error| damaged(mirror.repository.git_dir(), &error))?;
    Ok(commit)
}

fn read(mirror: &Mirror, address: &Address, id: gix::ObjectId) -> Result<Commit, GitError> {
    let unreadable = || GitError::unreadable(address, format!("commit `{id}`"));
    let object = mirror.repository.find_object(id).map_err(unreadable())?;
    let commit = object.peel_to_commit().map_err(unreadable())?;
    let time = commit.time().map_err(unreadable())?;
    Ok(Commit {
        id: commit.id.to_string(),
        tree: commit.tree_id().map_err(unreadable())?.to_string(),
        time: time.seconds,
        address: address.clone(),
        local: None,
        repository: mirror.repository.clone().into_sync(),
    })
}

/// The commit a revision names, branches fetched by [`Repositories::ask_for_everything`] included.
fn resolve(repository: &gix::Repository, text: &str) -> Option<gix::ObjectId> {
    if text.starts_with('-') {
        return None;
    }
    let names = [text.to_owned(), format!("refs/agent/heads/{text}"), format!("refs/agent/tags/{text}")];
    names.iter().find_map(|name| {
        let object = repository.rev_parse_single(name.as_bytes().as_bstr()).ok()?.object().ok()?;
        Some(object.peel_to_commit().ok()?.id)
    })
}

/// Copies a commit, its tree and everything below.
fn copy(from: &gix::Repository, to: &gix::Repository, id: gix::ObjectId) -> Result<(), gix::Error> {
    use gix::objs::Write as _;
    let commit = from.find_object(id)?.peel_to_commit()?;
    let mut left = vec![commit.tree_id()?.detach()];
    let mut seen = std::collections::HashSet::new();
    while let Some(tree) = left.pop() {
        if !seen.insert(tree) {
            continue;
        }
        let object = from.find_object(tree)?.into_tree();
        for entry in object.iter() {
            let entry = entry?;
            let id = entry.object_id();
            if entry.mode().is_tree() {
                left.push(id);
            } else if !entry.mode().is_commit() && !to.has_object(id) {
                to.objects.write_buf(gix::objs::Kind::Blob, &from.find_object(id)?.data)?;
            }
        }
        if !to.has_object(tree) {
            to.objects.write_buf(gix::objs::Kind::Tree, &object.data)?;
        }
    }
    to.objects.write_buf(gix::objs::Kind::Commit, &commit.data)?;
    Ok(())
}

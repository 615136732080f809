//! The file system of a step: an overlay with the usual kernel file systems, what is lent, and nothing else.
//!
//! Every path inside is resolved as the step will see it (`openat2`, `RESOLVE_IN_ROOT`), so that no symbolic link of a
//! base can lead a mount of ours out of it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::job::{Bind, Doing, Ids, Overlay, Run, Trouble};
use super::read_only::{self, by_descriptor};
use crate::fs::lexical;

/// Devices every program may expect (runtime-spec, "Default Devices").
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of /proc and /sys through which root could change the host; read-only when we are root there.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
/// Parts that would show the host's memory and keys.
const HIDDEN: [&str; 6] =
    ["proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/sched_debug", "proc/scsi"];

/// Makes the file system of a run and moves into it. Gives the mount points that did not exist.
pub(super) fn enter(run: &Run, ids: Ids) -> Result<Vec<String>, Trouble> {
    private()?;
    let overlay = &run.root;
    let root = mount_overlay(overlay, ids)?;
    let mut tree = Tree::open(&root)?;
    tree.proc()?;
    tree.dev(ids, run.shm)?;
    if run.sys {
        tree.bind(&Bind { source: "/sys".into(), target: "/sys".to_owned(), writable: false })?;
    }
    for (path, options) in &run.tmpfs {
        tree.tmpfs(path, options)?;
    }
    for bind in &run.binds {
        tree.bind(bind)?;
    }
    for (path, target) in &run.links {
        tree.link(path, target).doing(|| format!("link `{path}` to `{target}`"))?;
    }
    if ids == Ids::Host {
        tree.protect()?;
    }
    if overlay.read_only {
        // Not before: mount points had to be made.
        tree.read_only(".").doing(|| "make the root read-only".to_owned())?;
    }
    rustix::process::chdir(&root).doing(|| "enter the root directory".to_owned())?;
    rustix::process::pivot_root(".", ".").doing(|| "change the root directory".to_owned())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "let the host's root go".to_owned())?;
    rustix::process::chdir("/").doing(|| "enter the root directory".to_owned())?;
    Ok(tree.made.into_iter().collect())
}

/// Keeps all mounts made from here on out of the host's view.
pub(super) fn private() -> Result<(), Trouble> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "make the mounts private".to_owned())
}

/// Mounts an overlay on `<work>/root`. Layers are named by short links, so that any number of them fits in the
/// kernel's one page of options, whatever their paths hold.
fn mount_overlay(overlay: &Overlay, ids: Ids) -> Result<PathBuf, Trouble> {
    let work = &overlay.work;
    let lowers = link_lowers(work, &overlay.lowers)?;
    let root = work.join("root");
    fs::create_dir(&root).doing(|| "make the mount point of the overlay".to_owned())?;
    link(&overlay.upper, &work.join("upper"))?;
    if ids == Ids::Host {
        // Through a container the directory was made by somebody else.
        let root = (Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT));
        rustix::fs::chown(&overlay.upper, root.0, root.1).doing(|| "own the place of changes".to_owned())?;
    }
    fs::create_dir(work.join("work")).doing(|| "make the overlay's work directory".to_owned())?;
    let mut options = format!("lowerdir={lowers},upperdir=upper,workdir=work");
    // Defaults differ between kernels; layers must not. `userxattr` implies the first two.
    options.push_str(if ids == Ids::Host { ",redirect_dir=off,metacopy=off,index=off" } else { ",userxattr" });
    rustix::process::chdir(work).doing(|| format!("enter `{}`", work.display()))?;
    // Without waiting for the disk where the kernel can (5.10): what is made here is thrown away after a crash.
    let volatile = mount_type("overlay", "root", MountFlags::empty(), &format!("{options},volatile"));
    let mounted = match volatile {
        Err(Errno::INVAL) => mount_type("overlay", "root", MountFlags::empty(), &options),
        other => other,
    };
    mounted.doing(|| format!("mount an overlay in `{}`", work.display()))?;
    Ok(root)
}

/// Mounts the layers alone, to look at. A single layer needs no mount.
pub(super) fn view(lowers: &[PathBuf], view: &Path, ids: Ids) -> Result<PathBuf, Trouble> {
    match lowers {
        [] => Ok(view.to_owned()),
        [only] => Ok(only.clone()),
        _ => {
            private()?;
            let names = link_lowers(view, lowers)?;
            fs::create_dir(view.join("root")).doing(|| "make the mount point of the layers".to_owned())?;
            rustix::process::chdir(view).doing(|| format!("enter `{}`", view.display()))?;
            let more = if ids == Ids::Host { "" } else { ",userxattr" };
            mount_type("overlay", "root", MountFlags::RDONLY, &format!("lowerdir={names}{more}"))
                .doing(|| format!("mount the layers below in `{}`", view.display()))?;
            Ok(view.join("root"))
        }
    }
}

fn link_lowers(dir: &Path, lowers: &[PathBuf]) -> Result<String, Trouble> {
    let mut names = Vec::with_capacity(lowers.len());
    for (number, lower) in lowers.iter().enumerate() {
        link(lower, &dir.join(number.to_string()))?;
        names.push(number.to_string());
    }
    if names.is_empty() {
        fs::create_dir(dir.join("none")).doing(|| "make an empty layer".to_owned())?;
        names.push("none".to_owned());
    }
    Ok(names.join(":"))
}

fn link(to: &Path, at: &Path) -> Result<(), Trouble> {
    fs_err::os::unix::fs::symlink(to, at).doing(|| format!("link `{}`", to.display()))
}

fn mount_type(kind: &str, target: &str, flags: MountFlags, options: &str) -> rustix::io::Result<()> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str())
}

/// The new root, before it is one.
struct Tree {
    root: OwnedFd,
    /// Paths made because something had to be mounted there.
    made: BTreeSet<String>,
}

impl Tree {
    fn open(root: &Path) -> Result<Self, Trouble> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(root, flags, Mode::empty()).doing(|| format!("open the root in `{}`", root.display()))?;
        Ok(Self { root, made: BTreeSet::new() })
    }

    fn find(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)
    }

    /// The place at a path, made where there is none; a link that leads nowhere is followed to where it would lead.
    fn place(&mut self, path: &str, directory: bool, links: u8) -> rustix::io::Result<OwnedFd> {
        let path = path.trim_matches('/');
        match self.find(if path.is_empty() { "." } else { path }) {
            Err(Errno::NOENT) if !path.is_empty() => {}
            other => return other,
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = self.place(parent, true, links)?;
        if let Ok(target) = rustix::fs::readlinkat(&above, name, Vec::new()) {
            let target = target.to_str().map_err(|_| Errno::INVAL)?;
            if links == 0 {
                return Err(Errno::LOOP);
            }
            let target = if target.starts_with('/') { target.to_owned() } else { format!("{parent}/{target}") };
            return self.place(&lexical(&target), directory, links - 1);
        }
        if directory {
            rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644))?);
        }
        self.made.insert(path.to_owned());
        self.find(path)
    }

    /// Options as `docker run --tmpfs` takes them: `size=64m,mode=1777`, `noexec`.
    fn tmpfs(&mut self, path: &str, options: &str) -> Result<(), Trouble> {
        let doing = || format!("mount an empty `{path}`");
        let place = self.place(path, true, 8).doing(doing)?;
        let (data, words): (Vec<&str>, Vec<&str>) =
            options.split(',').filter(|it| !it.is_empty()).partition(|it| it.contains('='));
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        for word in words {
            match word {
                "ro" => flags |= MountFlags::RDONLY,
                "noexec" => flags |= MountFlags::NOEXEC,
                "exec" => flags -= MountFlags::NOEXEC,
                "dev" => flags -= MountFlags::NODEV,
                "suid" => flags -= MountFlags::NOSUID,
                "rw" | "nosuid" | "nodev" => {}
                _ => return Err(Trouble::input(doing(), format!("`{word}` is no option"))),
            }
        }
        mount_type("tmpfs", &by_descriptor(&place), flags, &data.join(",")).doing(doing)
    }

    /// Makes a symbolic link; another link that stands there is replaced, anything else stays.
    fn link(&mut self, path: &str, target: &str) -> rustix::io::Result<()> {
        let path = path.trim_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = self.place(parent, true, 8)?;
        match rustix::fs::symlinkat(target, &above, name) {
            Err(Errno::EXIST) if rustix::fs::readlinkat(&above, name, Vec::new()).is_ok() => {
                rustix::fs::unlinkat(&above, name, rustix::fs::AtFlags::empty())?;
                rustix::fs::symlinkat(target, &above, name)
            }
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    fn proc(&mut self) -> Result<(), Trouble> {
        let place = self.place("proc", true, 8).doing(|| "make `/proc`".to_owned())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount_type("proc", &by_descriptor(&place), flags, "") {
            // In a container that hides parts of its own /proc nobody gets a new one.
            Err(Errno::PERM) => self.bind(&Bind { source: "/proc".into(), target: "/proc".to_owned(), writable: true }),
            other => other.doing(|| "mount `/proc`".to_owned()),
        }
    }

    fn dev(&mut self, ids: Ids, shm: Option<u64>) -> Result<(), Trouble> {
        self.tmpfs("dev", "mode=755")?;
        for name in DEVICES {
            let path = format!("/dev/{name}");
            if Path::new(&path).exists() {
                self.bind(&Bind { source: path.clone().into(), target: path, writable: true })?;
            }
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            let dev = self.find("dev").doing(|| "open `/dev`".to_owned())?;
            rustix::fs::symlinkat(target, &dev, name).doing(|| format!("link `/dev/{name}`"))?;
        }
        let room = shm.map(|it| format!(",size={it}")).unwrap_or_default();
        self.tmpfs("dev/shm", &format!("mode=1777{room}"))?;
        let place = self.place("dev/pts", true, 8).doing(|| "make `/dev/pts`".to_owned())?;
        // The group `tty` does not exist where only one id does.
        let group = if matches!(ids, Ids::Single { .. }) { "" } else { ",gid=5" };
        let options = format!("newinstance,ptmxmode=0666,mode=0620{group}");
        mount_type("devpts", &by_descriptor(&place), MountFlags::NOSUID | MountFlags::NOEXEC, &options)
            .doing(|| "mount `/dev/pts`".to_owned())
    }

    fn bind(&mut self, bind: &Bind) -> Result<(), Trouble> {
        let doing = || format!("lend `{}` as `{}`", bind.source.display(), bind.target);
        let directory = fs::metadata(&bind.source).doing(doing)?.is_dir();
        let place = self.place(&bind.target, directory, 8).doing(doing)?;
        rustix::mount::mount_bind_recursive(&bind.source, by_descriptor(&place)).doing(doing)?;
        if bind.writable {
            return Ok(());
        }
        let lent = self.find(bind.target.trim_start_matches('/')).doing(doing)?;
        read_only::all(&lent).doing(doing)
    }

    /// Makes the mount at a path read-only, keeping the restrictions it has: a user namespace may not lift them.
    fn read_only(&self, path: &str) -> rustix::io::Result<()> {
        let place = self.find(path.trim_start_matches('/'))?;
        let has = rustix::fs::fstatvfs(place.as_fd())?.f_flag;
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for (old, new) in [
            (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
            (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
            (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
            (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        ] {
            flags.set(new, has.contains(old));
        }
        rustix::mount::mount_remount(by_descriptor(&place), flags, "")
    }

    fn protect(&mut self) -> Result<(), Trouble> {
        for path in READ_ONLY {
            let Ok(place) = self.find(path) else { continue };
            let doing = || format!("protect `/{path}`");
            let own = by_descriptor(&place);
            rustix::mount::mount_bind(&own, &own).doing(doing)?;
            self.read_only(path).doing(doing)?;
        }
        for path in HIDDEN {
            let Ok(place) = self.find(path) else { continue };
            let own = by_descriptor(&place);
            let doing = || format!("hide `/{path}`");
            let directory = rustix::fs::fstat(place.as_fd())
                .map(|it| rustix::fs::FileType::from_raw_mode(it.st_mode).is_dir())
                .doing(doing)?;
            if directory {
                mount_type("tmpfs", &own, MountFlags::RDONLY, "").doing(doing)?;
            } else {
                rustix::mount::mount_bind("/dev/null", &own).doing(doing)?;
            }
        }
        Ok(())
    }
}

//! Makes a mount read-only and all that are mounted in it, which came with it: each has flags of its own.
//!
//! The kernel does so in one call (`mount_setattr`, 5.12), whatever lies over what. An older one has each mount remounted,
//! those that can be reached: where another lies over one, nobody inside gets there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::mountinfo;

/// Makes what is mounted at a place read-only, and all that is mounted in it.
pub(super) fn all(place: &OwnedFd) -> std::io::Result<()> {
    match at_once(place) {
        // Filters of system calls say so too, of what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => one_by_one(place),
        other => Ok(other?),
    }
}

fn at_once(place: &OwnedFd) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor is open, the path is empty and ends, and the structure has the size that is told; the kernel
    // only reads them, during the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            place.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn one_by_one(place: &OwnedFd) -> std::io::Result<()> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let tree = mount_of(place)?.map(|it| mountinfo::tree(&mounts, it)).unwrap_or_default();
    if tree.is_empty() {
        return Err(std::io::Error::other("the kernel does not tell what is mounted there"));
    }
    for mounted in tree {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reached = match rustix::fs::open(&mounted.point, flags, Mode::empty()) {
            Ok(reached) => reached,
            // Under another mount, or where root inside may not go: nobody inside gets there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno.into()),
        };
        // Another one that lies over it has flags of its own.
        if mount_of(&reached)? == Some(mounted.id) {
            // Restrictions that it has stay: a user namespace may not lift them.
            let flags = mounted.flags | MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(by_descriptor(&reached), flags, "")?;
        }
    }
    Ok(())
}

/// The id of the mount that a descriptor is in.
fn mount_of(place: &OwnedFd) -> std::io::Result<Option<u64>> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", place.as_raw_fd()))?;
    Ok(about.lines().find_map(|it| it.strip_prefix("mnt_id:")?.trim().parse().ok()))
}

/// The path of what a descriptor is of.
pub(super) fn by_descriptor(place: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", place.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use rustix::fs::StatVfsMountFlags;

    use super::*;

    /// The directory that the process inside is about.
    const INSIDE: &str = "AGENT_TEST_READ_ONLY";

    /// Mounts over mounts: one on the same point, and one with a directory of the name of what it hides. Those who come
    /// after may lift no restriction of theirs.
    const MOUNTS: &str = "\
set -e
mount -t tmpfs tmpfs \"$1\"
cd \"$1\"
mkdir -p one other lent/stacked lent/plain lent/covered/same
mount -t tmpfs -o noexec tmpfs lent/stacked
mount -t tmpfs -o nosuid,nodev tmpfs lent/stacked
mount -t tmpfs -o noexec tmpfs lent/plain
mount -t tmpfs tmpfs lent/covered/same
mount -t tmpfs tmpfs lent/covered
mkdir lent/covered/same
exec unshare --user --map-root-user --mount \"$2\" --exact \"$3\" --nocapture
";

    fn is_read_only(way: fn(&OwnedFd) -> std::io::Result<()>, lent: &Path, at: &Path) {
        rustix::mount::mount_bind_recursive(lent, at).unwrap();
        let open = |it: &Path| rustix::fs::open(it, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        way(&open(at)).unwrap();
        for inside in ["", "stacked", "plain", "covered", "covered/same"] {
            let error = fs::write(at.join(inside).join("new"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{inside}: {error}");
            fs::write(lent.join(inside).join("new"), "").unwrap();
        }
        let flags = |it: &str| rustix::fs::fstatvfs(open(&at.join(it))).unwrap().f_flag;
        let restrictions = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
        assert_eq!(flags("stacked") & restrictions, StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV);
        assert_eq!(flags("plain") & restrictions, StatVfsMountFlags::NOEXEC);
    }

    #[test]
    fn mounts_in_mounts_and_over_mounts_are_read_only_and_keep_their_restrictions() {
        if let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) {
            is_read_only(one_by_one, &dir.join("lent"), &dir.join("one"));
            is_read_only(all, &dir.join("lent"), &dir.join("other"));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let thread = std::thread::current();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNTS, "sh"]).arg(dir.path());
        command.arg(std::env::current_exe().unwrap()).arg(thread.name().unwrap()).env(INSIDE, dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

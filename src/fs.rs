//! Files that are whole or not there: written aside, synced, published by rename; and locks between processes.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};

/// A file used less than this ago is not marked as used again.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Writes a file as a whole: beside it first, synced, then renamed over it. `mode` is exact, whatever the umask.
///
/// # Errors
/// Names the path; nothing is left beside it.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    publish(path, mode, |file| file.write_all(bytes)).map_err(|error| named(&error, path))
}

/// As [`write_whole`], for a path that a user names: a link stays and what it leads to is replaced; a device, a pipe or
/// an open descriptor (`/dev/stdout`) is written to as it is, never replaced.
///
/// # Errors
/// Names the path.
pub fn write_named(path: &Path, mode: u32, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let written = match std::fs::metadata(path) {
        // The name of a descriptor leads to the file it is open on, which must stay under it.
        Ok(there) if !there.is_file() || ["/dev", "/proc"].iter().any(|it| path.starts_with(it)) => {
            std::fs::OpenOptions::new().append(true).open(path).and_then(|file| {
                let mut file = io::BufWriter::new(file);
                write(&mut file)?;
                file.flush()
            })
        }
        Ok(_) => std::fs::canonicalize(path).and_then(|path| publish(&path, mode, write)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => publish(path, mode, write),
        Err(error) => Err(error),
    };
    written.map_err(|error| named(&error, path))
}

fn publish(path: &Path, mode: u32, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let aside = tempfile::Builder::new().prefix(".agent-").tempfile_in(parent_of(path))?;
    let mut writer = io::BufWriter::with_capacity(256 << 10, aside);
    write(&mut writer)?;
    let aside = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    aside.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

/// Makes a rename last: after a power cut the file is there under its new name.
///
/// # Errors
/// Whatever syncing the directory gives; file systems that know no such thing are no error.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match fs::File::open(parent_of(path)).and_then(|it| it.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        // A directory may be written to and not read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Creates a directory and its parents; those it creates are for the owner alone (0700).
///
/// # Errors
/// Names the path.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| named(&error, path))
}

/// Marks a file or directory as used now, by its time of change. What cannot be marked is collected earlier, no more.
pub fn touch(path: &Path) {
    let now = SystemTime::now();
    let fresh = std::fs::metadata(path)
        .and_then(|it| it.modified())
        .is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age < TOUCH_EVERY));
    if !fresh {
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        };
        let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty());
    }
}

/// The directory a path is in, `.` for a bare name.
#[must_use]
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The same error with the path in its message; its kind and, for a full disk, its meaning stay.
#[must_use]
pub fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// How a [`FileLock`] is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Together with others who share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock on a file, between processes (flock(2)); let go when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    file: fs::File,
}

impl FileLock {
    /// Takes the lock, waiting at most `patience` for others.
    ///
    /// # Errors
    /// `WouldBlock` when others held it all the time; anything else names the path.
    pub fn acquire(path: &Path, sharing: Sharing, patience: Duration) -> io::Result<Self> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(lock) = Self::try_acquire(path, sharing)? {
                return Ok(lock);
            }
            if start.elapsed() >= patience {
                let text = format!("`{}` is locked by another process", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// Names the path.
    pub fn try_acquire(path: &Path, sharing: Sharing) -> io::Result<Option<Self>> {
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        // A lock is a file of its own: a link there was put by somebody who wants another file made or opened.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(path)?;
        match rustix::fs::flock(file.file(), operation) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(named(&errno.into(), path)),
        }
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &fs::File {
        &self.file
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is starting just now has a copy of the descriptor until it
        // becomes another program, and with it the lock.
        let _ = rustix::fs::flock(self.file.file(), FlockOperation::Unlock);
    }
}

/// The path with `~` in front replaced by the user's home directory.
#[must_use]
pub fn expand_home(path: &str) -> PathBuf {
    match path.strip_prefix('~') {
        Some("") => home().unwrap_or_else(|| path.into()),
        Some(rest) if rest.starts_with('/') => home().map_or_else(|| path.into(), |it| it.join(&rest[1..])),
        _ => path.into(),
    }
}

/// Opens a regular file below a directory that a program we do not trust could write to: it may have put links there, and
/// none is followed, neither on the way nor at the end.
///
/// # Errors
/// Names the path.
pub fn open_below(directory: &Path, path: &str) -> io::Result<fs::File> {
    let open = || -> io::Result<std::fs::File> {
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::open(directory, flags | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(&root, path, flags | OFlags::NONBLOCK, Mode::empty(), how)?;
        Ok(file.into())
    };
    let full = directory.join(path);
    let file = open().map_err(|error| named(&error, &full))?;
    if !file.metadata()?.is_file() {
        return Err(named(&io::Error::new(io::ErrorKind::InvalidInput, "it is no file"), &full));
    }
    Ok(fs::File::from_parts(file, full))
}

/// A path inside a root of its own, without slashes at its ends and without `.` and `..`, which never lead out.
#[must_use]
pub fn lexical(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// `HOME`; services often have none, and then `/etc/passwd` says it.
#[must_use]
pub fn home() -> Option<PathBuf> {
    let set = std::env::var_os("HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    set.or_else(|| {
        let uid = rustix::process::getuid().as_raw().to_string();
        home_of(&fs::read_to_string("/etc/passwd").ok()?, &uid)
    })
}

fn home_of(passwd: &str, uid: &str) -> Option<PathBuf> {
    let mut users = passwd.lines().map(|it| it.split(':').collect::<Vec<_>>());
    let user = users.find(|it| it.get(2) == Some(&uid))?;
    user.get(5).filter(|it| it.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_names_is_never_replaced_by_a_file_of_another_kind() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_named(&link, 0o644, |it| it.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_named(&pipe, 0o644, |it| it.write_all(b"piped")).unwrap();
        assert_eq!(reader.join().unwrap(), b"piped");
        assert!(!fs::symlink_metadata(&pipe).unwrap().is_file());
        assert!(write_named(dir.path(), 0o644, |_| Ok(())).is_err());
    }

    #[test]
    fn links_that_another_program_left_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, inside) = (dir.path().join("outside"), dir.path().join("inside"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&inside).unwrap();
        fs::write(outside.join("secret"), "host").unwrap();
        fs::write(inside.join("own"), "own").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("dir")).unwrap();
        std::os::unix::fs::symlink(outside.join("secret"), inside.join("file")).unwrap();
        let read = |path: &str| -> io::Result<String> { io::read_to_string(open_below(&inside, path)?) };
        assert_eq!(read("own").unwrap(), "own");
        for path in ["file", "dir/secret", "../outside/secret", "dir", "."] {
            assert!(read(path).is_err(), "{path}");
        }
    }

    #[test]
    fn parts_that_lead_up_are_resolved_and_never_above_the_root() {
        assert_eq!(lexical("etc/../run/./systemd/x"), "run/systemd/x");
        assert_eq!(lexical("/../../x/"), "x");
    }

    #[test]
    fn a_home_is_found_without_the_variable() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nn:x:7:7::nowhere:\n";
        assert_eq!(home_of(passwd, "1000"), Some("/home/ada".into()));
        assert_eq!((home_of(passwd, "7"), home_of(passwd, "8")), (None, None));
    }

    #[test]
    fn a_written_file_is_whole_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf");
        write_whole(&path, b"one", 0o600).unwrap();
        write_whole(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_exclusive_lock_keeps_others_out_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::try_acquire(&path, Sharing::Exclusive).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path, Sharing::Shared).unwrap().is_none());
        let late = FileLock::acquire(&path, Sharing::Shared, Duration::from_millis(5)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        // As a child has it between fork and exec.
        let copy = held.file().try_clone().unwrap();
        drop(held);
        assert!(FileLock::try_acquire(&path, Sharing::Shared).unwrap().is_some());
        drop(copy);
    }
}

//! What a run's first process prints, kept within bounds: the latest of it.

use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Bytes of one file; there are two, this and the one before.
const ROOM: u64 = 8 << 20;

/// A pipe whose content goes into a file of the run's directory.
pub(super) fn pump(directory: &Path, name: &str) -> io::Result<(PipeWriter, JoinHandle<()>)> {
    let (mut reader, writer) = io::pipe()?;
    let mut file = Bounded::create(directory.join(name), ROOM)?;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return,
                // A full disk must not stop the run: what cannot be kept is not.
                Ok(count) => drop(file.write(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })?;
    Ok((writer, thread))
}

/// Removes the files of a run that was not started.
pub(super) fn forget(directory: &Path) {
    for name in ["stdout.log", "stderr.log"] {
        let _ = fs_err::remove_file(directory.join(name));
    }
}

struct Bounded {
    path: PathBuf,
    file: std::fs::File,
    written: u64,
    room: u64,
}

impl Bounded {
    fn create(path: PathBuf, room: u64) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file, written: 0, room })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() as u64 > self.room {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            fs_err::rename(&self.path, before)?;
            self.file = open(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600).open(path).map_err(|it| crate::fs::named(&it, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_kept_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = Bounded::create(path.clone(), 10).unwrap();
        for text in ["one\n", "two\n", "three\n", "four\n"] {
            file.write(text.as_bytes()).unwrap();
        }
        let read = |name: &str| fs_err::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("log"), read("log.1")), ("four\n".to_owned(), "three\n".to_owned()));
    }
}

//! A run that goes on though its engine knows nothing of it: an engine that went down while it started the run may come
//! back so. No engine ends such a program, and it must not be told of as over.
//!
//! It is known by its spool, on which the in-image program has a lock until it ends. Which process that is the kernel says,
//! as far as this one may see it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::Unit;
use crate::daemon::instances::ProcessId;
use crate::run::Found;

/// How long a process may take to end once it was killed.
const DYING: Duration = Duration::from_secs(10);

impl Unit {
    /// Whether the program goes on and its engine knows nothing of it.
    pub(super) async fn is_forgotten(&self) -> bool {
        let (engine, run) = (&self.executor.engine, &self.record().run);
        self.is_alive() && matches!(self.answered(engine.find(run)).await, Ok(Found::Absent))
    }

    /// Ends a program that its engine has forgotten: TERM to the in-image process, KILL after a while. Why it may go on
    /// where that cannot be.
    pub(super) async fn end_forgotten(&self) -> Option<String> {
        let spool = self.entry.spool();
        let mut found = None;
        for (signal, patience) in [(Signal::TERM, self.executor.settings.limits.grace), (Signal::KILL, DYING)] {
            let signalled = holder(&spool).and_then(|it| {
                found = Some(it.pid);
                if it.pid == std::process::id() {
                    return Err("it is this process".to_owned());
                }
                it.signal(signal).map_err(|error| error.to_string())
            });
            let late = Instant::now() + patience;
            while signalled.is_ok() && self.is_alive() && Instant::now() < late {
                sleep(self.pace.pause).await;
            }
            if !self.is_alive() {
                return None;
            }
            if let Err(why) = signalled {
                return Some(survives(found, self.executor.engine.name(), &why));
            }
        }
        Some(survives(found, self.executor.engine.name(), "it does not end"))
    }
}

fn survives(process: Option<u32>, engine: &str, why: &str) -> String {
    let process = process.map(|it| format!(" as process {it} of this machine")).unwrap_or_default();
    format!("its program goes on{process}, {engine} knows nothing of it, and it cannot be ended here: {why}")
}

/// The process that has a lock on a spool.
fn holder(spool: &Path) -> Result<ProcessId, String> {
    let failed = |error: std::io::Error| error.to_string();
    // A link there would be another's file.
    let lock = fs::symlink_metadata(spool.join("lock")).map_err(failed)?;
    let locked_by = || -> Result<Option<u32>, String> {
        Ok(locked_by(&fs::read_to_string("/proc/locks").map_err(failed)?, lock.dev(), lock.ino()))
    };
    let Some(pid) = locked_by()? else { return Err("its process cannot be seen from here".to_owned()) };
    let process = ProcessId::of(pid).map_err(failed)?;
    // The number may have become another's while it was read.
    if locked_by()? == Some(pid) { Ok(process) } else { Err("its process is gone".to_owned()) }
}

/// Who has a lock of flock(2) on a file, as `/proc/locks` tells it: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF`. Those
/// who wait have an arrow in front.
fn locked_by(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, place, ..] if *place == file => pid.parse().ok().filter(|it| *it > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_says_who_has_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:131 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 8 fe:00:131 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF\n4: FLOCK  ADVISORY  READ 9 00:2a:131 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 fe:00:132 0 EOF\n";
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(locked_by(locks, device, 131), Some(4711));
        assert_eq!(locked_by(locks, rustix::fs::makedev(0, 0x2a), 131), Some(9));
        // In another pid namespace, or nobody's.
        assert_eq!((locked_by(locks, device, 132), locked_by(locks, device, 1)), (None, None));
    }
}

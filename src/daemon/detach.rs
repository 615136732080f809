//! `--detached`: the daemon as a process of its own, in a session of its own, with its output in a file.
//!
//! A program with threads cannot fork itself, so that it is started anew, with its own command line and the log's name.
//! Secrets that stood on the command line go on in the environment. Whoever started it waits until it serves or has
//! ended, and so can tell why it does not.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::instances::{Instances, Record};
use crate::error::{Explain, Failure, Kind};
use crate::fs::create_private_dir;
use crate::secret::Secret;

/// The option that says that this process is the daemon in the background.
const LOG: &str = "--background-log";
/// How long it may take to serve; the server may be slow to answer.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// How many logs are kept.
const LOGS: usize = 50;

/// How many bytes a log may have before it is begun anew; the one before stays beside it.
const ROOM: u64 = 16 << 20;
/// How often a log is looked at.
const GLANCE: Duration = Duration::from_secs(60);

/// Why there is no daemon in the background.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Its log cannot be made.
    #[error("cannot make the log of a daemon in `{}`", path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be started.
    #[error("cannot start a daemon in the background")]
    Start(#[source] io::Error),
    /// It ended before it served.
    #[error("the daemon in the background ended at once:\n{said}")]
    Ended {
        /// What it said.
        said: String,
        /// Its exit code.
        code: u8,
    },
}

impl Explain for DetachError {
    fn kind(&self) -> Kind {
        match self {
            Self::Log { source, .. } | Self::Start(source) => Kind::of_io(source),
            Self::Ended { code, .. } => {
                // As the daemon itself would have ended.
                let kinds = [Kind::Usage, Kind::Input, Kind::NotFound, Kind::Unreachable, Kind::Conflict, Kind::Denied];
                let more = [Kind::Config, Kind::Unsatisfiable, Kind::Sandbox, Kind::Space, Kind::Internal];
                kinds.into_iter().chain(more).find(|it| it.exit_code() == *code).unwrap_or(Kind::System)
            }
        }
    }
}

/// A daemon in the background.
#[derive(Debug)]
pub struct Detached {
    /// Its process.
    pub pid: u32,
    /// Where what it tells goes.
    pub log: PathBuf,
    /// What it says of itself; absent while it still waits for the server.
    pub record: Option<Record>,
}

/// Starts this program anew in the background with the same arguments, in which `--detached` has no other spelling.
///
/// # Errors
/// [`DetachError`]; [`super::instances::InstanceError`] where the daemons' records cannot be read.
pub fn detach(state: &Path, arguments: &[OsString], secrets: &[(&'static str, Secret)]) -> Result<Detached, Failure> {
    let instances = Instances::open(state)?;
    let used = instances.running()?.into_iter().filter_map(|it| it.about.log).collect();
    let log = open_log(&state.join("logs"), &used)?;
    let mut command = Command::new(std::env::current_exe().map_err(DetachError::Start)?);
    command.args(in_background(arguments, log.path())).stdin(Stdio::null());
    command.envs(secrets.iter().map(|(name, value)| (name, value.reveal())));
    let (out, err) = (log.try_clone().map_err(DetachError::Start)?, log.try_clone().map_err(DetachError::Start)?);
    command.stdout(out.into_parts().0).stderr(err.into_parts().0);
    let child = command.spawn().map_err(DetachError::Start)?;
    watch(&instances, child, log.path())
}

/// Makes this process, which was started for it, a session of its own: no terminal's signals reach it.
///
/// # Errors
/// Whatever the kernel gives.
pub fn become_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Keeps the log of this process, a daemon in the background, within bounds for as long as it is polled.
pub async fn bound_log(log: PathBuf) {
    loop {
        // What cannot be done now (a full disk) may be later; a daemon does not end for its log.
        if let Ok(Some(file)) = begun_anew(&log, ROOM) {
            let _ = rustix::stdio::dup2_stdout(file.file());
            let _ = rustix::stdio::dup2_stderr(file.file());
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Begins a log anew that has become too long or is gone: the new file. What it had is in `<log>.1`.
fn begun_anew(log: &Path, room: u64) -> io::Result<Option<fs::File>> {
    let anew = || fs::OpenOptions::new().create_new(true).append(true).mode(0o600).open(log).map(Some);
    match fs::metadata(log) {
        Ok(about) if about.len() <= room => return Ok(None),
        Ok(_) => {}
        // Somebody removed it: what is written from now on is to be read again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return anew(),
        Err(error) => return Err(error),
    }
    let mut before = log.as_os_str().to_owned();
    before.push(".1");
    fs::rename(log, before)?;
    anew()
}

fn watch(instances: &Instances, mut child: Child, log: &Path) -> Result<Detached, Failure> {
    let (start, pid) = (Instant::now(), child.id());
    let detached = |record| Detached { pid, log: log.to_owned(), record };
    loop {
        if let Some(record) = instances.running()?.into_iter().find(|it| it.process.pid == pid) {
            return Ok(detached(Some(record)));
        }
        if let Some(status) = child.try_wait().map_err(DetachError::Start)? {
            let said = fs::read_to_string(log).unwrap_or_default();
            let code = u8::try_from(crate::process::exit_code(status)).unwrap_or(1);
            let _ = fs::remove_file(log);
            return Err(DetachError::Ended { said: said.trim_end().to_owned(), code }.into());
        }
        if start.elapsed() > PATIENCE {
            return Ok(detached(None));
        }
        std::thread::sleep(LOOK);
    }
}

/// The arguments without what has been done, and without secrets.
fn in_background(arguments: &[OsString], log: &Path) -> Vec<OsString> {
    let mut words = arguments.iter().skip(1);
    let mut kept: Vec<OsString> = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match text.split('=').next().unwrap_or_default() {
            "--detached" => {}
            "--git-pass" => {
                if !text.contains('=') {
                    words.next();
                }
            }
            _ => kept.push(word.clone()),
        }
    }
    kept.extend([OsStr::new(LOG).to_owned(), log.as_os_str().to_owned()]);
    kept
}

fn open_log(directory: &Path, used: &BTreeSet<PathBuf>) -> Result<fs::File, DetachError> {
    let failed = |source| DetachError::Log { path: directory.to_owned(), source };
    create_private_dir(directory).map_err(failed)?;
    prune(directory, used).map_err(failed)?;
    let moment = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let path = directory.join(format!("daemon-{moment}-{}.log", std::process::id()));
    fs::OpenOptions::new().create_new(true).append(true).mode(0o600).open(path).map_err(failed)
}

/// Removes the oldest logs, by name, which begins with their time; none that a daemon writes to.
fn prune(directory: &Path, used: &BTreeSet<PathBuf>) -> io::Result<()> {
    let mut logs: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|it| it.map(|it| it.path())).collect::<io::Result<_>>()?;
    logs.sort();
    let extra = (logs.len() + 1).saturating_sub(LOGS);
    logs.iter().filter(|it| !used.contains(*it)).take(extra).try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_and_what_has_been_done_leave_the_command_line() {
        let words = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        let line =
            "agent -d daemon --detached -O --queue a b --git-pass pw --gpus 0 --git-pass=pw --detached --git-user ada";
        let kept = in_background(&words(line), Path::new("/s/l"));
        assert_eq!(kept, words("-d daemon -O --queue a b --gpus 0 --git-user ada --background-log /s/l"));
    }

    #[test]
    fn logs_are_private_and_few() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..60 {
            fs::write(dir.path().join(format!("daemon-2026{number:02}-1.log")), "").unwrap();
        }
        let used = dir.path().join("daemon-202601-1.log");
        let log = open_log(dir.path(), &BTreeSet::from([used.clone()])).unwrap();
        assert_eq!(fs::metadata(log.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), LOGS);
        assert!(!dir.path().join("daemon-202600-1.log").exists() && !dir.path().join("daemon-202602-1.log").exists());
        assert!(used.exists(), "a daemon writes to it");
    }

    #[test]
    fn a_long_log_is_begun_anew_and_the_one_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("daemon.log");
        for text in ["one", "two", "three"] {
            fs::write(&log, text).unwrap();
            assert!(begun_anew(&log, 5).unwrap().is_none());
            fs::write(&log, format!("{text} is long")).unwrap();
            let file = begun_anew(&log, 5).unwrap().unwrap();
            assert_eq!(
                (file.metadata().unwrap().len(), file.metadata().unwrap().permissions().mode() & 0o777),
                (0, 0o600)
            );
        }
        assert_eq!(fs::read_to_string(dir.path().join("daemon.log.1")).unwrap(), "three is long");
        fs::remove_file(&log).unwrap();
        assert!(begun_anew(&log, 5).unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_that_ends_at_once_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(&dir.path().join("logs"), &BTreeSet::new()).unwrap();
        let instances = Instances::open(dir.path()).unwrap();
        let out = log.try_clone().unwrap().into_parts().0;
        let child = Command::new("sh").args(["-c", "echo no such thing; exit 75"]).stdout(out).spawn().unwrap();
        let failure = watch(&instances, child, log.path()).unwrap_err();
        assert_eq!(failure.kind(), Kind::Conflict);
        assert!(failure.to_string().ends_with("ended at once:\nno such thing"), "{failure}");
    }
}

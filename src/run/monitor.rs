//! The process that a native run belongs to: this program started again, in a session of its own, so that the run outlives
//! whoever started it.
//!
//! ```text
//! <run directory>
//! ├── monitor.lock       flock: held by the monitor while it lives
//! ├── monitor.json       the run was started: processes, boot, control group
//! ├── exit.json          how it ended, published by rename
//! └── stdout.log, stderr.log   what its first process printed, the latest of it, with the part before in `….1`
//! ```
//!
//! The starter hands the order over a socket and hears whether the program runs; none of it stands in an argument or in a
//! file. When the monitor is killed, the run is killed with it (the sandbox's processes follow their parent), and the
//! files tell that nobody saw its end.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::native::{self, NativeSpec};
use super::spec::Outcome;
use crate::error::{Explain, Failure, Kind};
use crate::fs::{FileLock, Sharing};
use crate::report::Silent;
use crate::store::Store;

mod files;
mod output;

pub(super) use files::{State, clear, release, state};

use files::{Started, publish_exit, publish_started, taken};

/// First argument of this program when it is a monitor.
const MONITOR: &str = "__monitor";
/// How long whoever looks at the lock for a moment may hold it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a full disk is waited for when the end must be written down.
const STUBBORN: Duration = Duration::from_secs(900);

/// What a monitor is to run.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// The store's directory.
    pub(super) store: std::path::PathBuf,
    pub(super) spec: NativeSpec,
}

/// What it answers.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// The program runs; what could not be had stands in words for people.
    Begun { warnings: Vec<String> },
    /// The run goes on or has ended already.
    Already,
    /// It could not be started.
    Failed { kind: Kind, lines: Vec<String>, hints: Vec<String> },
}

/// Why a monitor did not start its run.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It could not be started or spoken to.
    #[error("cannot start the monitor of the run in `{directory}`")]
    Start {
        /// The run's directory.
        directory: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended without an answer.
    #[error("the monitor of the run in `{directory}` ended before the run had begun")]
    Silent {
        /// The run's directory.
        directory: std::path::PathBuf,
    },
    /// It told why.
    #[error("{}", lines.join(": "))]
    Told {
        /// Its kind.
        kind: Kind,
        /// The message and its causes, outermost first.
        lines: Vec<String>,
        /// What to do about it.
        hints: Vec<String>,
    },
}

impl Explain for MonitorError {
    fn kind(&self) -> Kind {
        match self {
            Self::Start { source, .. } => Kind::of_io(source),
            Self::Silent { .. } => Kind::System,
            Self::Told { kind, .. } => *kind,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Told { hints, .. } => hints.clone(),
            _ => Vec::new(),
        }
    }
}

/// Takes over when this process is a monitor, and does not return then. To be called first in `main`, after
/// [`crate::sandbox::dispatch`], before there is any thread.
pub fn dispatch() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|it| it != MONITOR) {
        return;
    }
    let code = args.next().map_or(2, |it| attend(Path::new(&it)));
    std::process::exit(code);
}

/// Starts a run and returns once its program runs, with what it could not be given. One that was started before is left
/// as it is.
pub(super) fn begin(directory: &Path, order: &Order) -> Result<Vec<String>, MonitorError> {
    let failed = |source| MonitorError::Start { directory: directory.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // This program, even if another has its name by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg(MONITOR).arg(directory).current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    // With it goes our copy of its end, so that we hear when it is gone.
    drop(command);
    std::thread::spawn(move || child.wait());
    let told = serde_json::to_vec(order).map_err(io::Error::from);
    let told = told.and_then(|it| (&ours).write_all(&it)).and_then(|()| ours.shutdown(Shutdown::Write));
    // One that ended at once may have said why.
    let reply: Option<Reply> = serde_json::from_reader(io::BufReader::new(&ours)).ok();
    match reply {
        Some(Reply::Begun { warnings }) => Ok(warnings),
        Some(Reply::Already) => Ok(Vec::new()),
        Some(Reply::Failed { kind, lines, hints }) => Err(MonitorError::Told { kind, lines, hints }),
        None => {
            told.map_err(failed)?;
            Err(MonitorError::Silent { directory: directory.to_owned() })
        }
    }
}

/// Our side as the monitor.
fn attend(directory: &Path) -> i32 {
    crate::sandbox::close_inherited();
    // Signals of the starter's terminal are not for the run.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let Ok(line) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return 2 };
    // Cut short when the starter was killed: then nothing is started.
    let Ok(order) = serde_json::from_reader::<_, Order>(io::BufReader::new(&line)) else { return 2 };
    let answer = |reply: &Reply| {
        let _ = serde_json::to_vec(reply).map(|it| (&line).write_all(&it));
        let _ = line.shutdown(Shutdown::Both);
    };
    match run(directory, &order, &answer) {
        Ok(()) => 0,
        Err(failure) => {
            answer(&Reply::Failed { kind: failure.kind(), lines: failure.chain(), hints: failure.hints() });
            1
        }
    }
}

/// The whole of a run's life.
fn run(directory: &Path, order: &Order, answer: &dyn Fn(&Reply)) -> Result<(), Failure> {
    let lock = match FileLock::acquire(&files::lock(directory), Sharing::Exclusive, PATIENCE) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            answer(&Reply::Already);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if taken(directory) {
        answer(&Reply::Already);
        return Ok(());
    }
    files::sign(&lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun =
        runtime.block_on(async { Ok::<_, Failure>((native::Signals::listen()?, begin_run(directory, order)?)) });
    let (signals, begun) = match begun {
        Ok(it) => it,
        Err(failure) => {
            output::forget(directory);
            return Err(failure);
        }
    };
    answer(&Reply::Begun { warnings: begun.warnings });
    let ended = runtime.block_on(begun.run.attend(signals));
    let ran_out = begun.run.ran_out();
    for thread in begun.pumps {
        let _ = thread.join();
    }
    let outcome = match ended {
        Ok(code) => Outcome::Exited { code, out_of_memory: ran_out },
        // The sandbox's own process went the way of the program.
        Err(_) if ran_out => Outcome::Exited { code: 137, out_of_memory: true },
        Err(error) => Outcome::Lost { reason: Failure::from(error).to_string() },
    };
    write_down(directory, &outcome);
    // Removing what the run wrote takes its time; who waits for the end knows of it by now.
    drop(begun.run);
    drop(lock);
    Ok(())
}

/// A run that has begun.
struct Begun {
    run: Arc<native::NativeRun>,
    pumps: Vec<std::thread::JoinHandle<()>>,
    warnings: Vec<String>,
}

fn begin_run(directory: &Path, order: &Order) -> Result<Begun, Failure> {
    let (out, pump_out) = output::pump(directory, "stdout.log")?;
    let (err, pump_err) = output::pump(directory, "stderr.log")?;
    let store = Store::open(&order.store)?;
    let run = native::start(&store, &order.spec, (Stdio::null(), out.into(), err.into()), &Silent)?;
    let started = Started::of(run.pid(), run.control_groups());
    publish_started(directory, &started)?;
    let warnings = run.warnings().to_vec();
    Ok(Begun { run: Arc::new(run), pumps: vec![pump_out, pump_err], warnings })
}

/// Writes the end down, however long the disk is full.
fn write_down(directory: &Path, outcome: &Outcome) {
    let began = Instant::now();
    while publish_exit(directory, outcome).is_err() && directory.is_dir() && began.elapsed() < STUBBORN {
        std::thread::sleep(Duration::from_secs(1));
    }
}

//! Other programs: in a process group of their own, ended with all their children, never waiting on us for input.

use std::collections::BTreeSet;
use std::io::{self, Read, Write as _};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

mod hangup;

pub use hangup::Hangup;

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its standard output as text, without white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Its standard error as text, without white space around it.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// Why a program gave no output.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was ended.
    #[error("`{program}` did not end within {} s", limit.as_secs())]
    Late {
        /// The program.
        program: String,
        /// The time it was given.
        limit: Duration,
    },
}

impl crate::error::Explain for RunError {
    fn kind(&self) -> crate::error::Kind {
        match self {
            Self::Start { source, .. } => crate::error::Kind::of_io(source),
            Self::Late { .. } => crate::error::Kind::System,
        }
    }
}

/// How long pipes are read after their program has ended.
const LINGER: Duration = Duration::from_secs(2);

/// Groups that run now, for [`end_all`].
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends every running program of ours (KILL) with its children: the process itself is about to end, and they have groups
/// of their own, so no signal of a terminal reaches them.
pub fn end_all() {
    for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        signal_group(*pid, Signal::KILL);
    }
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

/// A running program with its own process group; ended (KILL) when dropped.
#[derive(Debug)]
pub struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    /// Starts it in a group of its own.
    ///
    /// # Errors
    /// Whatever starting gives.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id());
        Ok(Self { child, ended: false })
    }

    /// The child, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id, which is the group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the whole group; one that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        signal_group(self.child.id(), signal);
    }

    /// Ends it with all its children, if it has not ended, and waits for that.
    pub fn kill(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
            let _ = self.wait();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.child.id());
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Whatever waiting gives.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.end();
        Ok(status)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Whatever waiting gives.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.end();
        }
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end and keeps what it prints. It gets no input; with all its children it is ended at `limit`.
///
/// # Errors
/// [`RunError`]; a program that ends with another code than 0 is no error here.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output, RunError> {
    command.stdin(Stdio::null());
    run_fed(command, None, limit)
}

/// As [`run`], with `input` on its standard input: the way to hand it a secret.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output, RunError> {
    command.stdin(Stdio::piped());
    run_fed(command, Some(input.to_vec()), limit)
}

fn run_fed(command: &mut Command, input: Option<Vec<u8>>, limit: Duration) -> Result<Output, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| RunError::Start { program: program.clone(), source };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::start(command).map_err(start)?;
    if let (Some(input), Some(mut pipe)) = (input, group.child().stdin.take()) {
        // A program that does not read to the end is free to do so.
        thread::spawn(move || drop(pipe.write_all(&input)));
    }
    let stdout = drain(group.child().stdout.take());
    let stderr = drain(group.child().stderr.take());
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = group.try_wait().map_err(start)? {
            break status;
        }
        if began.elapsed() > limit {
            return Err(RunError::Late { program, limit });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    // Children it left behind would keep the pipes open.
    group.signal(Signal::KILL);
    Ok(Output { status, stdout: stdout.collect(), stderr: stderr.collect() })
}

/// The exit code a shell would tell: 128 + signal for one that a signal ended.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A word as yes or no: also the words that ClearML's own configuration accepts (`yes`, `on`, `1`).
#[must_use]
pub fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Splits a text into words as a shell does, with its quotes obeyed and nothing expanded (Python's `shlex.split`, which
/// ClearML reads these texts with: `#` is a letter like any other). `None` when a quote is not closed.
#[must_use]
pub fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        inner => word.push(inner),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => match rest.next()? {
                            inner @ ('"' | '\\') => word.push(inner),
                            inner => word.extend(['\\', inner]),
                        },
                        inner => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next()?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

/// Words as one text that [`words`] and any shell split into the same again.
#[must_use]
pub fn command_line<S: AsRef<str>>(words: &[S]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%_-+=:,./".contains(c);
    let quoted = words.iter().map(|word| {
        let word = word.as_ref();
        if !word.is_empty() && word.chars().all(plain) {
            word.to_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\"'\"'"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A pipe that a thread empties.
struct Drained {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl Drained {
    /// What came until the pipe's end, or until nothing was left to wait for: a daemon that the program started in a
    /// session of its own holds its pipes for as long as it runs.
    fn collect(self) -> Vec<u8> {
        let _ = self.ended.recv_timeout(LINGER);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Drained {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (tell, ended) = mpsc::channel();
    let all = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        if let Some(mut pipe) = pipe {
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        all.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        let _ = tell.send(());
    });
    Drained { bytes, ended }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_holds_the_pipes_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = "setsid sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 600' & \
                      while [ ! -e pid ]; do sleep 0.01; done; echo said";
        let output =
            run(Command::new("sh").args(["-c", script]).current_dir(dir.path()), Duration::from_secs(60)).unwrap();
        assert_eq!(output.text(), "said");
        let pid = fs_err::read_to_string(dir.path().join("pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let output =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(30)).unwrap();
        assert_eq!((output.text().as_str(), output.errors().as_str(), exit_code(output.status)), ("out", "err", 3));
    }

    #[test]
    fn words_are_split_as_python_does_and_put_together_again() {
        let cases: [(&str, &[&str]); 5] = [
            ("train.py --x 1", &["train.py", "--x", "1"]),
            ("a 'b c' \"d \\\" \\x\" e\\ f", &["a", "b c", "d \" \\x", "e f"]),
            ("--tag #1 ''", &["--tag", "#1", ""]),
            ("", &[]),
            ("-m pkg\n'it'\"'\"'s'", &["-m", "pkg", "it's"]),
        ];
        for (text, expected) in cases {
            let split = words(text).unwrap();
            assert_eq!(split, expected, "{text}");
            assert_eq!(words(&command_line(&split)).unwrap(), expected, "{text}");
        }
        assert_eq!([words("'a"), words("\"a"), words("a\\")], [None, None, None]);
    }

    #[test]
    fn input_reaches_the_program() {
        let output = run_with_input(&mut Command::new("cat"), b"hush", Duration::from_secs(30)).unwrap();
        assert_eq!(output.text(), "hush");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let error = run(&mut command, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, RunError::Late { .. }), "{error}");
    }
}

//! Starting a program and holding on to all it said.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A program about to be started in a test's world.
pub(crate) struct Call {
    command: Command,
    root: PathBuf,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Call {
    pub(super) fn new(program: impl AsRef<OsStr>, root: &Path) -> Self {
        let mut command = Command::new(program);
        command.env_clear();
        Self { command, root: root.to_owned(), input: None, limit: Duration::from_secs(600) }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(value);
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, values: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(values);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away.
    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Starts it in another directory.
    pub(crate) fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// What it reads.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// How long it may take (600 s unless said).
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it and leaves it running until the guard goes; its output goes to the end of the file `output`.
    pub(crate) fn spawn(mut self, output: &Path) -> Running {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(output).unwrap().into_file();
        self.command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = self.command.spawn();
        Running(child.unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command.get_program())))
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Panics
    /// If it cannot start, or does not end within the limit.
    pub(crate) fn run(mut self) -> Outcome {
        let shown = format!("{:?}", self.command.get_program());
        let shown = format!("{shown} {:?}", self.command.get_args().collect::<Vec<_>>());
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let writer = self.input.take().map(|bytes| {
            let mut pipe = child.stdin.take().unwrap();
            // A program may end without reading all: its exit code says whether that was right.
            thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let end = Instant::now() + self.limit;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                panic!("{shown} did not end within {:?}", self.limit);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        if let Some(writer) = writer {
            writer.join().unwrap();
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let bytes = stdout.join().unwrap();
        Outcome {
            shown,
            root: self.root,
            code: status.code(),
            stdout: text(&bytes),
            stderr: text(&stderr.join().unwrap()),
            bytes,
        }
    }

    /// Runs it; it must succeed. Its standard output, without the last line's end.
    pub(crate) fn ok(self) -> String {
        self.run().success().stdout.trim_end().to_owned()
    }
}

/// A program that runs; killed with the guard, so that a test that fails leaves none behind.
pub(crate) struct Running(Child);

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Its exit code once it has ended: none if a signal ended it.
    pub(crate) fn status(&mut self) -> Option<Option<i32>> {
        self.0.try_wait().unwrap().map(|it| it.code())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; its exit code, none if a signal ended it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        super::wait_for("the program ends", || self.0.try_wait().unwrap()).code()
    }

    /// Kills it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    shown: String,
    root: PathBuf,
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// The same as it came.
    pub(crate) bytes: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// It must have succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits(0)
    }

    /// It must have ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "{} ended with {:?}, not {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output, what differs from run to run replaced by names.
    pub(crate) fn shown_stdout(&self) -> String {
        filtered(&self.stdout, &self.root)
    }

    /// Standard error, what differs from run to run replaced by names.
    pub(crate) fn shown_stderr(&self) -> String {
        filtered(&self.stderr, &self.root)
    }
}

/// Replaces what differs from run to run: the world's path, digests, ids, ports and durations.
pub(crate) fn filtered(text: &str, root: &Path) -> String {
    let mut text = text.replace(root.to_str().unwrap(), "[ROOT]");
    for (pattern, name) in [
        (r"sha256:[0-9a-f]{64}", "[DIGEST]"),
        (r"\b[0-9a-f]{64}\b", "[SHA256]"),
        (r"\b[0-9a-f]{40}\b", "[COMMIT]"),
        (r"\b[0-9a-f]{32}\b", "[ID]"),
        (r"(127\.0\.0\.1|localhost|0\.0\.0\.0):\d{2,5}", "$1:[PORT]"),
        (r"\b\d+(\.\d+)? ?(ms|s)\b", "[TIME]"),
    ] {
        text = regex::Regex::new(pattern).unwrap().replace_all(&text, name).into_owned();
    }
    text
}

//! Our side of a sandbox: starts the stages, hands them their work and hears what they say.

use std::io::{self, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::docker::{self, Container, Pipes};
use super::job::{self, Entry, Head, Reply, Run, STAGE, Trouble, Walk, Work};
use super::way::Way;
use super::{Output, SandboxError, ids};
use crate::process::Group;
use crate::report::{Event, Reporter};

/// How long a stage may take to get ready.
pub(super) const READY: Duration = Duration::from_secs(60);

/// Bytes of a step's output that are kept: a script may print without end.
const KEPT: usize = 64 << 20;

/// A started stage; ended (KILL) with all that runs in it when dropped.
pub(super) struct Stage {
    keeper: Keeper,
    control: UnixStream,
}

/// What a stage runs in.
enum Keeper {
    Process(Group),
    Container(Container),
}

/// Standard input, output and error.
pub(super) type Streams = (Stdio, Stdio, Stdio);

impl Stage {
    /// Starts a stage in the namespaces of `way` and hands it its work.
    pub(super) fn start(way: &Way, work: &Work, network: bool, streams: Streams) -> Result<Self, SandboxError> {
        Self::start_in(&[], way, work, network, streams)
    }

    /// The same in control groups, named by their directories.
    pub(super) fn start_in(
        control_groups: &[PathBuf],
        way: &Way,
        work: &Work,
        network: bool,
        streams: Streams,
    ) -> Result<Self, SandboxError> {
        let starting = |source| SandboxError::Start { source };
        let (control, theirs) = UnixStream::pair().map_err(starting)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(STAGE).arg("1").arg(theirs.as_raw_fd().to_string());
        command.stdin(streams.0).stdout(streams.1).stderr(streams.2);
        // SAFETY: between fork and exec only fcntl(2) is called, on a descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?));
        }
        let child = Group::start(&mut command).map_err(starting)?;
        // With it goes our copy of their end, so that we hear when they are gone.
        drop(command);
        for group in control_groups {
            // It waits for its work; whatever it starts is in them too.
            let processes = group.join("cgroup.procs");
            fs_err::write(processes, child.pid().to_string()).map_err(starting)?;
        }
        let stage = Self { keeper: Keeper::Process(child), control };
        stage.hand_over(way, work, network)?;
        Ok(stage)
    }

    /// The same with what it prints.
    fn start_piped(way: &Way, work: &Work, network: bool) -> Result<(Self, Pipes), SandboxError> {
        if let Way::Docker { store } = way {
            let started = docker::start(store, work);
            let (container, control, pipes) = started.map_err(|source| SandboxError::Start { source })?;
            let stage = Self { keeper: Keeper::Container(container), control };
            stage.hand_over(way, work, network)?;
            return Ok((stage, pipes));
        }
        let mut stage = Self::start(way, work, network, (Stdio::null(), Stdio::piped(), Stdio::piped()))?;
        let Keeper::Process(group) = &mut stage.keeper else { return Err(unexpected(Reply::Done)) };
        let (Some(stdout), Some(stderr)) = (group.child().stdout.take(), group.child().stderr.take()) else {
            return Err(unexpected(Reply::Done));
        };
        Ok((stage, Pipes { stdout: Box::new(stdout), stderr: Box::new(stderr) }))
    }

    /// The same without anybody listening to what it prints.
    fn start_quiet(way: &Way, work: &Work) -> Result<Self, SandboxError> {
        if matches!(way, Way::Docker { .. }) {
            return Self::start_piped(way, work, true).map(|it| it.0);
        }
        Self::start(way, work, true, (Stdio::null(), Stdio::null(), Stdio::null()))
    }

    fn hand_over(&self, way: &Way, work: &Work, network: bool) -> Result<(), SandboxError> {
        let isolate = matches!(work, Work::Run(_));
        self.tell(&Head { ids: way.ids(), isolate, network })?;
        if let (Way::Mapped(subordinate), Keeper::Process(child)) = (way, &self.keeper) {
            match self.hear(Some(READY))? {
                Reply::Unshared => {}
                other => return Err(unexpected(other)),
            }
            ids::map(child.pid(), subordinate).map_err(|error| {
                let trouble = Trouble { input: false, ..Trouble::input("map user ids", error) };
                SandboxError::Stage(trouble.into())
            })?;
            self.tell(&())?;
        }
        self.tell(&(way.ids(), work))
    }

    fn tell(&self, frame: &impl serde::Serialize) -> Result<(), SandboxError> {
        match job::send(&self.control, frame) {
            // It is gone; what it said last tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match self.hear(Some(READY))? {
                Reply::Failed(trouble) => Err(SandboxError::Stage(trouble.into())),
                other => Err(unexpected(other)),
            },
            other => other.map_err(|source| SandboxError::Start { source }),
        }
    }

    /// The next thing it says.
    pub(super) fn hear(&self, patience: Option<Duration>) -> Result<Reply, SandboxError> {
        let starting = |source| SandboxError::Start { source };
        self.control.set_read_timeout(patience.map(|it| it.max(Duration::from_millis(1)))).map_err(starting)?;
        match job::receive(&self.control) {
            Ok(Some(Reply::Failed(trouble))) => Err(SandboxError::Stage(trouble.into())),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(starting(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the sandbox's process ended without a word",
            ))),
            Err(source) => Err(starting(source)),
        }
    }

    /// Another handle on what it is spoken to over; shut down, it ends whoever listens.
    pub(super) fn line(&self) -> Result<UnixStream, SandboxError> {
        self.control.try_clone().map_err(|source| SandboxError::Start { source })
    }

    /// Ends it and all that runs in it.
    pub(super) fn kill(&mut self) {
        match &mut self.keeper {
            Keeper::Process(group) => group.kill(),
            Keeper::Container(container) => container.end(true),
        }
    }

    /// Lets it end by itself, as it has said it does.
    fn end(&mut self) {
        match &mut self.keeper {
            Keeper::Container(container) => container.end(false),
            Keeper::Process(_) => self.kill(),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn unexpected(reply: Reply) -> SandboxError {
    match reply {
        Reply::Failed(trouble) => SandboxError::Stage(trouble.into()),
        other => SandboxError::Start { source: io::Error::other(format!("the sandbox answered {other:?}")) },
    }
}

/// Has some work done that says nothing on its way.
pub(super) fn work(way: &Way, work: &Work) -> Result<(), SandboxError> {
    let stage = Stage::start_quiet(way, work)?;
    match stage.hear(None)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

/// Hears the entries of an upper directory.
pub(super) fn walk(
    way: &Way,
    walk: Walk,
    take: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), SandboxError>,
) -> Result<(), SandboxError> {
    let stage = Stage::start_quiet(way, &Work::Walk(walk))?;
    let starting = |source| SandboxError::Start { source };
    stage.control.set_read_timeout(None).map_err(starting)?;
    let mut reader = BufReader::with_capacity(1 << 20, &stage.control);
    loop {
        match job::receive(&mut reader).map_err(starting)? {
            Some(Reply::Entry(entry)) => {
                let size = if let job::Node::File { size } = entry.node { size } else { 0 };
                let mut content = (&mut reader).take(size);
                take(entry, &mut content)?;
            }
            Some(Reply::Done) => return Ok(()),
            Some(other) => return Err(unexpected(other)),
            None => return Err(starting(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// What a run needs besides its [`Run`].
pub(super) struct Outside<'a> {
    pub(super) network: bool,
    pub(super) limit: Duration,
    /// Names the program for people.
    pub(super) title: &'a str,
    pub(super) reporter: &'a dyn Reporter,
}

/// Runs a program to its end: what it printed and how it ended, and the mount points that were made for it.
pub(super) fn run(way: &Way, run: Run, outside: &Outside<'_>) -> Result<(Output, Vec<String>), SandboxError> {
    let work = Work::Run(Box::new(run));
    let (mut stage, pipes) = Stage::start_piped(way, &work, outside.network)?;
    thread::scope(|scope| {
        let Pipes { stdout, stderr } = pipes;
        let out = scope.spawn(move || drain(stdout, outside));
        let err = scope.spawn(move || drain(stderr, outside));
        let end = follow(&stage, outside.limit, outside.title);
        // Whatever is left goes now, and with it the other ends of the pipes.
        if end.is_ok() {
            stage.end();
        } else {
            stage.kill();
        }
        let collect = |it: thread::ScopedJoinHandle<'_, Vec<u8>>| it.join().unwrap_or_default();
        let (stdout, stderr) = (collect(out), collect(err));
        let (code, made) = end?;
        Ok((Output { code, stdout, stderr }, made))
    })
}

fn follow(stage: &Stage, limit: Duration, title: &str) -> Result<(i32, Vec<String>), SandboxError> {
    let began = Instant::now();
    let mut made = Vec::new();
    loop {
        let Some(left) = limit.checked_sub(began.elapsed()) else {
            return Err(SandboxError::Late { title: title.to_owned(), limit });
        };
        match stage.hear(Some(left)) {
            Ok(Reply::Made(paths)) => made = paths,
            Ok(Reply::Exited { code }) => return Ok((code, made)),
            Ok(_) => {}
            Err(SandboxError::Start { source }) if source.kind() == io::ErrorKind::WouldBlock => {
                return Err(SandboxError::Late { title: title.to_owned(), limit });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads to the end and reports each line as it comes: all of it, or the last of more than [`KEPT`] bytes.
fn drain(mut pipe: Box<dyn Read + Send>, outside: &Outside<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut shown = 0;
    let mut buffer = vec![0; 32 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        while let Some(length) = all[shown..].iter().position(|it| *it == b'\n') {
            report(outside, &all[shown..shown + length]);
            shown += length + 1;
        }
        if all.len() > KEPT {
            all.drain(..KEPT / 2);
            shown = shown.saturating_sub(KEPT / 2);
        }
    }
    if shown < all.len() {
        report(outside, &all[shown..]);
    }
    all
}

fn report(outside: &Outside<'_>, line: &[u8]) {
    let text = String::from_utf8_lossy(line).trim_end().to_owned();
    outside.reporter.report(Event::Line { source: outside.title.to_owned(), text });
}

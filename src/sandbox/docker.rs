//! The way of last resort: our stage as the first process of a Docker container that may mount.
//!
//! The container has an empty image; what the stage needs of the host (its own program, the system's libraries, the
//! store) is bound into it at the same paths, so the engine must be this machine's. The stage speaks over a socket in
//! the store. Who may use the engine is root of this machine anyway; this gives nobody more than that.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::oneshot;

use super::job::{STAGE, Work};
use crate::digest::Digest;
use crate::engine::{Bind, ContainerSpec, Docker, EngineError, LogChunk};
use crate::error::Failure;
use crate::oci::Platform;
use crate::oci::tar::{Builder, Header};

/// The empty image, in the engine.
const IMAGE: &str = "agent-sandbox:empty";

/// What a stage needs of the host's system, read-only.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ssl", "/etc/pki"];

/// How long an engine may take to get a container going.
const READY: Duration = Duration::from_secs(120);

/// A container with a stage in it; removed when dropped.
pub(super) struct Container {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// What stops a container, while nobody has.
type Stop = Mutex<Option<oneshot::Sender<()>>>;

/// Containers that run now, for [`end_all`].
static RUNNING: Mutex<Vec<Weak<Stop>>> = Mutex::new(Vec::new());

/// Has every container of ours removed: the process is about to end.
pub(super) fn end_all() {
    for stop in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..).filter_map(|it| it.upgrade()) {
        end(&stop);
    }
}

fn end(stop: &Stop) {
    if let Some(stop) = stop.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = stop.send(());
    }
}

/// The outputs of a stage.
pub(super) struct Pipes {
    pub(super) stdout: Box<dyn Read + Send>,
    pub(super) stderr: Box<dyn Read + Send>,
}

/// Starts a stage in a container: the container, the socket to speak over, and what it prints.
pub(super) fn start(store: &Path, work: &Work) -> io::Result<(Container, UnixStream, Pipes)> {
    let dir = tempfile::Builder::new().prefix("s").tempdir_in(store.join("tmp"))?;
    let socket = dir.path().join("c");
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let program = std::env::current_exe()?;
    let spec = specification(store, &program, &socket, work);
    let (stdout, out) = io::pipe()?;
    let (stderr, err) = io::pipe()?;
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name("sandbox container".to_owned()).spawn(move || {
        if let Err(error) = attend(&spec, (out, err), stopped) {
            let _ = tell.send(error);
        }
    })?;
    let stop = Arc::new(Mutex::new(Some(stop)));
    {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|it| it.strong_count() > 0);
        running.push(Arc::downgrade(&stop));
    }
    let container = Container { stop, thread: Some(thread) };
    let began = Instant::now();
    loop {
        match listener.accept() {
            Ok((control, _)) => {
                control.set_nonblocking(false)?;
                let pipes = Pipes { stdout: boxed(stdout), stderr: boxed(stderr) };
                return Ok((container, control, pipes));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match told.recv_timeout(Duration::from_millis(5)) {
            Ok(reason) => return Err(io::Error::other(reason)),
            Err(mpsc::RecvTimeoutError::Timeout) if began.elapsed() < READY => {}
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the container's process does not answer")),
        }
    }
}

fn boxed(reader: PipeReader) -> Box<dyn Read + Send> {
    Box::new(reader)
}

impl Container {
    /// Ends it now, or waits for its own end where that is near.
    pub(super) fn end(&mut self, now: bool) {
        if now {
            end(&self.stop);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// One container's life.
fn attend(spec: &ContainerSpec, pipes: (PipeWriter, PipeWriter), stopped: oneshot::Receiver<()>) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let said = |error: EngineError| Failure::from(error).to_string();
        let docker = Docker::connect_default().map_err(said)?;
        if !docker.endpoint().starts_with("unix://") {
            return Err(format!("the engine at `{}` may be on another machine", docker.endpoint()));
        }
        if docker.image(IMAGE).await.map_err(said)?.is_none() {
            let archive = empty_image().map_err(|error| error.to_string())?;
            docker.load(futures_util::stream::iter([Ok(Bytes::from(archive))])).await.map_err(said)?;
        }
        let id = docker.create(spec).await.map_err(said)?;
        let ran = tokio::select! {
            ran = follow(&docker, &id, pipes) => ran,
            _ = stopped => Ok(()),
        };
        docker.remove(&id).await.map_err(said)?;
        ran.map_err(said)
    })
}

async fn follow(docker: &Docker, id: &str, (mut out, mut err): (PipeWriter, PipeWriter)) -> Result<(), EngineError> {
    docker.start(id).await?;
    let mut output = docker.logs(id, true);
    while let Some(chunk) = output.next().await {
        // Nobody listening any more is no reason to end.
        let _ = match chunk? {
            LogChunk::Out(bytes) => out.write_all(&bytes),
            LogChunk::Err(bytes) => err.write_all(&bytes),
        };
    }
    Ok(())
}

fn specification(store: &Path, program: &Path, socket: &Path, work: &Work) -> ContainerSpec {
    let mut bound: Vec<(PathBuf, bool)> = vec![(store.to_owned(), true)];
    let mut wanted: Vec<(PathBuf, bool)> = SYSTEM.iter().map(|it| (PathBuf::from(it), false)).collect();
    wanted.push((program.to_owned(), false));
    if let Work::Run(run) = work {
        wanted.extend(run.binds.iter().map(|it| (it.source.clone(), it.writable)));
    }
    for (path, writable) in wanted {
        let covered = bound.iter().any(|(known, may)| path.starts_with(known) && (*may || !writable));
        // The engine has its own of these.
        let own = ["/etc/resolv.conf", "/etc/hosts", "/dev", "/proc", "/sys"].iter().any(|it| path.starts_with(it));
        if !covered && !own && path.exists() {
            bound.push((path, writable));
        }
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let bind =
        |(path, writable): &(PathBuf, bool)| Bind { source: text(path), target: text(path), read_only: !writable };
    let entrypoint = [text(program), STAGE.to_owned(), "1".to_owned(), format!("socket:{}", socket.display())];
    ContainerSpec {
        image: IMAGE.to_owned(),
        entrypoint: Some(entrypoint.to_vec()),
        labels: [("agent.sandbox".to_owned(), "1".to_owned())].into(),
        binds: bound.iter().map(bind).collect(),
        network: Some("host".to_owned()),
        user: Some("0:0".to_owned()),
        // To mount and to enter namespaces; all the rest a step could do is taken away by the stage.
        cap_add: vec!["SYS_ADMIN".to_owned()],
        security: ["seccomp=unconfined", "apparmor=unconfined", "label=disable"].map(str::to_owned).to_vec(),
        ..ContainerSpec::default()
    }
}

/// An archive of an image with nothing in it (`docker load`).
fn empty_image() -> io::Result<Vec<u8>> {
    let layer = [0_u8; 1024];
    let platform = Platform::host();
    let config = crate::oci::json::canonical(&serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]},
    }));
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest = crate::oci::json::canonical(
        &serde_json::json!([{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]),
    );
    let mut archive = Builder::new(Vec::new());
    for (path, bytes) in [(name.as_str(), &config[..]), ("layer.tar", &layer), ("manifest.json", &manifest)] {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes)?;
    }
    archive.into_inner()
}

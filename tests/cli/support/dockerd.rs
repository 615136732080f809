//! A Docker engine of a test's own, that it may kill.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::engine::{Docker, Endpoint};

use super::images::block;
use super::wait_until;

/// A running engine; ended with the guard. Its containers go on without it.
pub(crate) struct Dockerd {
    root: PathBuf,
    child: Child,
}

impl Dockerd {
    /// Starts one on a directory, whose path must be short; a directory used before goes on as it was left.
    pub(crate) fn start(root: &Path) -> Self {
        fs_err::create_dir_all(root).unwrap();
        fs_err::write(root.join("daemon.json"), "{}").unwrap();
        // What one that was killed leaves; the number of its containerd may stand for a dead process that nobody has
        // waited for, which dockerd takes for a living one.
        for name in ["docker.sock", "docker.pid", "exec/containerd/containerd.pid"] {
            let _ = fs_err::remove_file(root.join(name));
        }
        let log = fs_err::OpenOptions::new().create(true).append(true).open(root.join("log")).unwrap();
        let path = |name: &str| root.join(name).display().to_string();
        let child = Command::new("dockerd")
            .args(["--config-file", &path("daemon.json"), "--host", &format!("unix://{}", path("docker.sock"))])
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("docker.pid")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--live-restore"])
            .args(["--cgroup-parent", &format!("/agent-test-{}", std::process::id())])
            .stdin(Stdio::null())
            .stdout(log.file().try_clone().unwrap())
            .stderr(log.into_file())
            .spawn()
            .unwrap();
        let dockerd = Self { root: root.to_owned(), child };
        let there = || dockerd.root.join("docker.sock").exists();
        wait_until("dockerd answers", || there() && block(async { dockerd.docker().ping().await.is_ok() }));
        dockerd
    }

    /// Its address, as `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.root.join("docker.sock").display())
    }

    /// Connections to it.
    pub(crate) fn docker(&self) -> Docker {
        Docker::connect(&Endpoint::plain(self.host())).unwrap()
    }

    /// KILL; its containerd goes with it, its containers do not. Its directory.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.root.clone()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
        // One that was killed did not undo this, and the next did not know of it.
        for mounted in ["data", "exec/netns/default"] {
            let _ = Command::new("umount").arg(self.root.join(mounted)).stderr(Stdio::null()).status();
        }
    }
}

//! A Docker engine that goes away and comes back while a run is waited for. In Docker's path, with an engine of its own.

mod docker {
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use agent::engine::{Docker, Endpoint};
    use agent::image::deliver;
    use agent::run::ContainerEngine;
    use agent::run::Engine as _;

    use super::super::{exited, run_image, script, shell, written};
    use crate::support::images::block;
    use crate::support::{Engine, TestContext, require, wait_until};

    /// A daemon of this test alone.
    struct Daemon {
        root: PathBuf,
        child: Child,
    }

    impl Daemon {
        fn start(root: &Path) -> Self {
            fs_err::create_dir_all(root).unwrap();
            fs_err::write(root.join("daemon.json"), "{}").unwrap();
            let _ = fs_err::remove_file(root.join("docker.sock"));
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
            let daemon = Self { root: root.to_owned(), child };
            let there = || daemon.root.join("docker.sock").exists();
            wait_until("dockerd answers", || there() && block(async { daemon.docker().ping().await.is_ok() }));
            daemon
        }

        fn docker(&self) -> Docker {
            let socket = self.root.join("docker.sock");
            Docker::connect(&Endpoint::plain(format!("unix://{}", socket.display()))).unwrap()
        }

        /// KILL; its containerd goes with it, its containers do not.
        fn kill(mut self) -> PathBuf {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            let _ = fs_err::remove_file(self.root.join("docker.pid"));
            // Its number may stand for a dead process that nobody has waited for, which dockerd takes for a living one.
            let _ = fs_err::remove_file(self.root.join("exec/containerd/containerd.pid"));
            self.root.clone()
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = self.child.wait();
            // One that was killed did not undo this, and the next did not know of it.
            let _ = Command::new("umount").arg(self.root.join("data")).stderr(Stdio::null()).status();
        }
    }

    #[test]
    fn a_run_is_waited_for_while_its_engine_is_killed_and_comes_back() {
        require(Engine::Docker);
        let context = TestContext::new();
        let runs = context.path("runs");
        let daemon = Daemon::start(&context.path("docker"));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (name, image) = runtime.block_on(async {
            let (around, image) = shell(&context).await;
            let name = "agent-test-restart:1";
            deliver::docker(&around, &image, &daemon.docker(), &name.parse().unwrap()).await.unwrap();
            (name, run_image(name, &image))
        });
        let engine = std::sync::Arc::new(ContainerEngine::docker(daemon.docker(), false));
        let text = "echo up > $AGENT_SPOOL/up; while [ ! -e $AGENT_SPOOL/go ]; do sleep 0.05; done; exit 9";
        let spec = script(&runs, &image, text);
        runtime.block_on(engine.start(&spec)).unwrap();
        written(&spec, "up");
        let waiting = {
            let (engine, run) = (std::sync::Arc::clone(&engine), spec.id.clone());
            runtime.spawn(async move { engine.wait(&run).await })
        };
        std::thread::sleep(Duration::from_millis(300));
        let root = daemon.kill();
        // It ends while nobody is there to see it.
        fs_err::write(spec.directory.join("spool/go"), "").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        let daemon = Daemon::start(&root);
        assert_eq!(runtime.block_on(waiting).unwrap().unwrap(), exited(9));
        runtime.block_on(engine.remove(&spec.id)).unwrap();
        runtime.block_on(daemon.docker().remove_image(name)).unwrap();
        drop(daemon);
    }
}

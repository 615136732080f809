//! Engines of a test's own: some whose `/etc/cdi` is the test's, and one that finds a stand-in for NVIDIA's hook.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::gpus::StandIn;
use super::{Engine, Running, TestContext, docker_cdi, require, wait_until, write};

/// An engine in a mount namespace of its own: what it mounts goes with it.
pub(crate) struct Apart {
    program: Running,
    /// Where it answers.
    pub(crate) host: String,
}

impl Apart {
    fn start(context: &TestContext, text: &str, socket: &Path, log: &str) -> Self {
        let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-ec", text]);
        let program = call.current_dir(context.path("")).spawn(&context.path(log));
        wait_until("the engine answers", || UnixStream::connect(socket).is_ok());
        Self { program, host: format!("unix://{}", socket.display()) }
    }

    /// Ends it as it should be ended, so that it ends what it started.
    pub(crate) fn end(mut self) {
        self.program.signal(Signal::TERM);
        self.program.wait();
    }
}

/// A CDI specification of some devices: index, device node. Of the driver it has what each run needs, and one library.
pub(crate) fn specification(driver: &StandIn, devices: &[(&str, &str)]) -> String {
    let root = driver.root().display();
    let described: String = devices
        .iter()
        .map(|(name, node)| {
            format!(
                "- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n    \
                 - {{path: /dev/{node}, hostPath: {root}/dev/{node}}}\n"
            )
        })
        .collect();
    format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{described}containerEdits:\n  \
         env: [NVIDIA_VISIBLE_DEVICES=void]\n  deviceNodes:\n  \
         - {{path: /dev/nvidiactl, hostPath: {root}/dev/nvidiactl}}\n  \
         - {{path: /dev/nvidia-uvm, hostPath: {root}/dev/nvidia-uvm}}\n  mounts:\n  \
         - {{hostPath: {}/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, bind]}}\n",
        driver.libraries().display(),
    )
}

/// Podman's service with a store of its own and this specification in its `/etc/cdi`; `first` is run before it.
pub(crate) fn podman(context: &TestContext, specification: &str, first: &str) -> Apart {
    write(&context.path("nvidia.yaml"), specification);
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        context.path("graph").display(),
        context.path("graph-run").display()
    );
    write(&context.path("storage.conf"), &storage);
    let socket = context.path("podman.sock");
    let text = format!(
        "export CONTAINERS_STORAGE_CONF=$PWD/storage.conf\n{ETC}{first}\n\
         exec podman system service --time 0 unix://{}",
        socket.display()
    );
    Apart::start(context, &text, &socket, "podman.log")
}

/// Docker without a hook, in a release that reads specifications, with this one in its `/etc/cdi`.
pub(crate) fn docker(context: &TestContext, specification: &str) -> Apart {
    require(Engine::DockerCdi);
    write(&context.path("nvidia.yaml"), specification);
    let socket = context.path("docker.sock");
    let (dockerd, files) = (dockerd(&socket), docker_cdi());
    write(&context.path("daemon.json"), "{\"features\": {\"cdi\": true}}");
    // Its programs are in the place of this machine's own; everything else is this machine's.
    let usr = if files.canonicalize().unwrap() == Path::new("/") {
        String::new()
    } else {
        format!("mount --bind {}/usr /usr\n", files.display())
    };
    let text = format!("{ETC}{usr}exec {dockerd}");
    Apart::start(context, &text, &socket, "docker.log")
}

/// An `/etc` where the test's specification is.
const ETC: &str = "mkdir over over/upper over/work\n\
    mount -t overlay -o lowerdir=/etc,upperdir=$PWD/over/upper,workdir=$PWD/over/work overlay /etc\n\
    mkdir -p /etc/cdi\ncp nvidia.yaml /etc/cdi/\n";

/// The command of an engine that has nothing in common with this machine's.
fn dockerd(socket: &Path) -> String {
    format!(
        "dockerd --config-file daemon.json --host unix://{} --data-root $PWD/data --exec-root $PWD/exec \
         --pidfile $PWD/docker.pid --bridge none --iptables=false --ip6tables=false --cgroup-parent /agent-test-gpus",
        socket.display()
    )
}

/// Writes down what Docker asks for, in the place of NVIDIA's hook.
const HOOK: &str = r#"#!/usr/bin/env python3
import json, os, sys

state = json.load(sys.stdin)
with open(os.path.join(state["bundle"], "config.json")) as file:
    env = json.load(file)["process"]["env"]
with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "asked"), "a") as file:
    print(*sys.argv[1:], *sorted({it for it in env if it.startswith("NVIDIA_")}), file=file)
"#;

/// Docker with the hook.
pub(crate) struct Hooked {
    /// The engine.
    pub(crate) docker: Apart,
    asked: PathBuf,
}

impl Hooked {
    /// Starts one.
    pub(crate) fn start(context: &TestContext) -> Self {
        let hooks = context.path("hooks");
        fs_err::create_dir(&hooks).unwrap();
        write(&hooks.join("nvidia-container-runtime-hook"), HOOK);
        context.command("chmod").arg("755").arg(hooks.join("nvidia-container-runtime-hook")).ok();
        write(&context.path("daemon.json"), "{}");
        let socket = context.path("docker.sock");
        let text = format!("export PATH=$PWD/hooks:$PATH\nexec {}", dockerd(&socket));
        Self { docker: Apart::start(context, &text, &socket, "docker.log"), asked: hooks.join("asked") }
    }

    /// What the hook was asked since it was last read here: a line for each container.
    pub(crate) fn asked(&self) -> String {
        let text = fs_err::read_to_string(&self.asked).unwrap_or_default();
        let _ = fs_err::remove_file(&self.asked);
        text
    }
}

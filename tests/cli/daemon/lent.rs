//! What a task's container is given by its worker, seen from inside; and what an engine, and whoever may ask it, sees of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use agent::digest::Digest;
use serde_json::json;

use super::Place;
use super::keeper::{Keeper, in_both_engines};
use crate::support::{TestContext, wait_until, write};

/// Says what it finds, secrets by their digests, and stays until it is let go.
const LOOKS: &str = r#"
import errno, hashlib, json, os, stat, time

def text(path):
    with open(path) as file:
        return file.read()

def told(name, value):
    print(name, value, flush=True)

def secret(name, value):
    told(name, hashlib.sha256(value.encode()).hexdigest())

def tried(work):
    try:
        work()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]

def room(path):
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize

def quota():
    for path in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"):
        if os.path.exists("/sys/fs/cgroup/" + path):
            return text("/sys/fs/cgroup/" + path).split()[0]

for name in ("WANDB_API_KEY", "DATABASE", "WORKERS_TOKEN", "HTTPS_PROXY"):
    secret(name, os.environ[name])
config = os.environ["CLEARML_CONFIG_FILE"]
secret("api", json.loads(text(config))["api"]["credentials"]["secret_key"])
told("private", oct(stat.S_IMODE(os.stat(config).st_mode)))
secret("ssh", text("/root/.ssh/id_probe"))
told("ssh-mode", oct(stat.S_IMODE(os.stat("/root/.ssh/id_probe").st_mode)))
told("ssh-write", tried(lambda: open("/root/.ssh/id_probe", "a")))
told("ssh-make", tried(lambda: open("/root/.ssh/new", "w")))
secret("git", text("/root/.git-credentials"))
told("gitconfig", text("/root/.gitconfig").split()[-1])
told("gitconfig-write", tried(lambda: open("/root/.gitconfig", "a")))
told("plain", os.environ["PLAIN"])
told("host", "probe.test" in [name for line in text("/etc/hosts").splitlines() if line.startswith("10.1.2.3") for name in line.split()])
effective = [line.split()[1] for line in text("/proc/self/status").splitlines() if line.startswith("CapEff")][0]
told("net-raw", int(effective, 16) >> 13 & 1)
told("device", os.stat("/dev/probe").st_rdev == os.stat("/dev/null").st_rdev)
told("scratch", room("/scratch"))
told("shm", room("/dev/shm"))
told("quota", quota())
told("seccomp", tried(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))))
with open(os.environ["CLEARML_CACHE_DIR"] + "/probe", "w") as file:
    file.write(os.environ["CLEARML_TASK_ID"])
print("up", os.environ["CLEARML_TASK_ID"], flush=True)
late = time.time() + 600
while not os.path.exists("/lent/go") and time.time() < late:
    time.sleep(0.05)
"#;

/// Says what an earlier task left in the SDK's cache, and takes more memory than it may.
const GREEDY: &str = r#"
import os
with open(os.environ["CLEARML_CACHE_DIR"] + "/probe") as file:
    print("cached", file.read(), flush=True)
print(os.readlink("/proc/self/ns/ipc"), flush=True)
print("up", os.environ["CLEARML_TASK_ID"], flush=True)
room = b"x" * (1 << 30)
print("done", len(room), flush=True)
"#;

/// Refuses one call, which says so.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["sched_setscheduler"], "action": "SCMP_ACT_ERRNO", "args": []}]}"#;

/// Secrets, each with the place it comes from in its name.
struct Secrets {
    api: String,
    proxy: String,
    others: Vec<&'static str>,
}

impl Secrets {
    fn all(&self) -> impl Iterator<Item = &str> {
        [self.api.as_str(), "hush-proxy"].into_iter().chain(self.others.iter().copied())
    }

    /// Fails if one of them is in a text.
    #[track_caller]
    fn are_not_in(&self, what: &str, text: &str) {
        for secret in self.all() {
            assert!(!text.contains(secret), "{secret} is in {what}: {text}");
        }
    }
}

/// The home of whoever runs the agent, with what a task is lent of it.
fn home(context: &TestContext) {
    for (name, text, mode) in [
        (".ssh/id_probe", "hush-key\n", 0o600),
        (".git-credentials", "https://jo:hush-stored@git.test\n", 0o600),
        (".gitconfig", "[user]\n\tname = Jo\n", 0o644),
    ] {
        let path = context.home().join(name);
        write(&path, text);
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|it| it.path()).flat_map(|it| if it.is_dir() { files(&it) } else { vec![it] }).collect()
}

/// Fails unless a task has said that it has all that it is to be given.
#[track_caller]
fn is_lent_all(said: &str, secrets: &Secrets) {
    let digest = |text: &str| Digest::of(text).hex().clone();
    for (name, expected) in [
        ("WANDB_API_KEY", digest("hush-variable").as_str()),
        ("DATABASE", &digest("postgres://jo:hush-url@db.test/x")),
        ("WORKERS_TOKEN", &digest("hush-worker")),
        ("HTTPS_PROXY", &digest(&secrets.proxy)),
        ("api", &digest(&secrets.api)),
        ("private", "0o600"),
        ("ssh", &digest("hush-key\n")),
        ("ssh-mode", "0o600"),
        ("ssh-write", "EROFS"),
        ("ssh-make", "EROFS"),
        ("git", &digest("https://jo:hush-stored@git.test\n")),
        ("gitconfig", "Jo"),
        ("gitconfig-write", "EROFS"),
        ("plain", "seen"),
        ("host", "True"),
        ("net-raw", "0"),
        ("device", "True"),
        ("scratch", "1048576"),
        ("shm", "33554432"),
        ("quota", "150000"),
        ("seccomp", "EPERM"),
    ] {
        assert!(said.contains(&format!("{name} {expected}\n")), "no `{name} {expected}` in {said}");
    }
}

/// Fails if an engine, a command line or a file that others may read holds a secret while a task runs.
#[track_caller]
fn nobody_is_told(keeper: Keeper, place: &Place<'_>, task: &str, secrets: &Secrets) {
    let shown = keeper.inspected(place, task).to_string();
    assert!(shown.contains("PLAIN=seen") && shown.contains("\"team\":\"vision\""), "{shown}");
    secrets.are_not_in("what the engine tells of the container", &shown);
    let image = format!("agent/task-{task}:latest");
    for told in [vec!["image", "inspect", &image], vec!["history", "--no-trunc", &image]] {
        secrets.are_not_in("what the engine tells of the image", &keeper.says(place, &told));
    }
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        let line = fs_err::read(entry.path().join("cmdline")).unwrap_or_default();
        secrets.are_not_in("a command line", &String::from_utf8_lossy(&line));
    }
    for path in files(&place.state()) {
        let text = String::from_utf8_lossy(&fs_err::read(&path).unwrap_or_default()).into_owned();
        if secrets.all().any(|it| text.contains(it)) {
            let mode = fs_err::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o77, 0, "{} holds a secret and may be read by others", path.display());
        }
    }
}

fn a_task_has_what_it_is_lent_and_nobody_is_told_its_secrets(keeper: Keeper) {
    let context = TestContext::warm();
    let place = Place::new(&context);
    home(&context);
    fs_err::create_dir(context.path("lent")).unwrap();
    write(&context.path("seccomp.json"), PROFILE);
    let secrets = Secrets {
        api: place.server.credentials().1.to_owned(),
        proxy: "http://jo:hush-proxy@127.0.0.1:9".to_owned(),
        others: vec!["hush-variable", "hush-url", "hush-worker", "hush-pass", "hush-stored", "hush-key"],
    };
    let config = place.config(&format!(
        "agent {{ git_user: jo, git_pass: hush-pass, extra_docker_arguments: [\"--security-opt\", \"seccomp={}\", \
         \"-e\", \"WORKERS_TOKEN=hush-worker\"] }}",
        context.path("seccomp.json").display()
    ));
    let arguments = format!(
        "-v {}:/lent -e PLAIN=seen -e WANDB_API_KEY=hush-variable -e DATABASE=postgres://jo:hush-url@db.test/x \
         --add-host probe.test:10.1.2.3 --cap-drop NET_RAW --device /dev/null:/dev/probe:r --label team=vision \
         --tmpfs /scratch:size=1m --shm-size 32m --cpus 1.5",
        context.path("lent").display()
    );
    let looks = place.script("looks", LOOKS, &json!({ "arguments": arguments }));
    let greedy = json!({ "arguments": "--memory 64m --memory-swap 64m --ipc host" });
    let greedy = place.script("greedy", GREEDY, &greedy);
    place.enqueue(&looks, "queue");
    place.enqueue(&greedy, "queue");
    let agent = place.agent().env("CLEARML_CONFIG_FILE", config).env("HTTPS_PROXY", &secrets.proxy);
    let daemon = place.daemon_of(agent, "daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);
    place.is_up(&looks);

    let said = place.server.console(&looks);
    is_lent_all(&said, &secrets);
    secrets.are_not_in("the console", &said);
    secrets.are_not_in("what the daemon says", &daemon.said());
    nobody_is_told(keeper, &place, &looks, &secrets);

    write(&context.path("lent/go"), "");
    place.becomes(&looks, "completed");
    place.becomes(&greedy, "failed");
    assert_eq!(place.console(&greedy, &format!("cached {looks}\n")), 1, "{}", place.server.console(&greedy));
    let ipc = fs_err::read_link("/proc/self/ns/ipc").unwrap().display().to_string();
    assert_eq!(place.console(&greedy, &ipc), 1, "{}", place.server.console(&greedy));
    let reason = "out of memory: the kernel ended the program (exit code 137)";
    assert_eq!(place.field(&greedy, "status_reason"), json!(reason), "{}", place.server.console(&greedy));
    assert_eq!((place.console(&greedy, reason), place.console(&greedy, "done ")), (1, 0));
    wait_until("nothing of the secrets is left", || {
        files(&place.state()).iter().all(|it| {
            let text = String::from_utf8_lossy(&fs_err::read(it).unwrap_or_default()).into_owned();
            secrets.all().all(|it| !text.contains(it))
        })
    });
    daemon.stop();
    keeper.forget(&place, &[&looks, &greedy]);
}
in_both_engines!(a_task_has_what_it_is_lent_and_nobody_is_told_its_secrets);

#[test]
fn a_task_that_takes_more_memory_than_it_may_says_so_natively() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let script = "room = b'x' * (1 << 30)\nprint('done', len(room), flush=True)\n";
    let task = place.script("greedy", script, &json!({ "arguments": "--memory 64m --memory-swap 64m" }));
    place.enqueue(&task, "queue");
    let daemon = place.daemon("daemon", &["--queue", "queue", "--native", "--cpu-only"]);
    place.becomes(&task, "failed");
    let reason = "out of memory: the kernel ended the program (exit code 137)";
    assert_eq!(place.field(&task, "status_reason"), json!(reason), "{}", place.server.console(&task));
    assert_eq!((place.console(&task, reason), place.console(&task, "done ")), (1, 0));
    daemon.stop();
}

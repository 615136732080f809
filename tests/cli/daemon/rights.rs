//! Whose the process of a task is in an engine, and what it may: seen from inside.

use agent::digest::Digest;
use serde_json::json;

use super::keeper::{Keeper, PODMAN, in_both_engines};
use super::{Place, STAYS};
use crate::support::TestContext;

/// Says who it is, what it may, whose its secrets are, and that it has them.
const TELLS: &str = r#"
import hashlib, json, os, stat

def whose(path):
    found = os.stat(path)
    return found.st_uid, oct(stat.S_IMODE(found.st_mode))

config = os.environ["CLEARML_CONFIG_FILE"]
with open(config) as file:
    secret = json.load(file)["api"]["credentials"]["secret_key"]
print("user", os.getuid(), "config", *whose(config), "variables", *whose(os.path.dirname(config) + "/environment.json"))
for value in (secret, os.environ["API_TOKEN"]):
    print("has", hashlib.sha256(value.encode()).hexdigest())
with open("/proc/self/status") as file:
    print([line for line in file if line.startswith("CapEff")][0].strip())
"#;

/// Numbers of capabilities that no container has unless it is asked for.
const SYS_ADMIN: u32 = 21;
const SYS_TIME: u32 = 25;

/// A set of capabilities in the text of a process's `status`.
#[track_caller]
fn rights_in(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Whether processes of this machine may have every capability that its kernel has.
fn has_all_rights() -> bool {
    let last = fs_err::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let all = (1 << (last.trim().parse::<u32>().unwrap() + 1)) - 1;
    rights_in(&fs_err::read_to_string("/proc/self/status").unwrap(), "CapBnd:") == all
}

fn a_task_is_its_images_user_and_may_what_was_asked_for(keeper: Keeper) {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let lent = context.path("lent");
    fs_err::create_dir(&lent).unwrap();
    let draft = |arguments: &str| {
        let arguments = format!("-v {}:/lent -e API_TOKEN=hush {arguments}", lent.display());
        let task = place.script("tells", &format!("{TELLS}{STAYS}"), &json!({ "arguments": arguments }));
        place.enqueue(&task, "queue");
        task
    };
    // Docker has this one under another name too, which is not the one it takes by itself.
    let (runtime, pointer) = if keeper.flag == PODMAN.flag {
        ("runc", "/OCIRuntime")
    } else {
        ("io.containerd.runc.v2", "/HostConfig/Runtime")
    };
    let own = draft("");
    let more = draft(&format!("--user 0:0 --cap-add SYS_TIME --runtime {runtime}"));
    let all = draft("--user 0:0 --privileged");
    let image = place.base_with(&["--config.user", "1000"]);
    let agent = place.agent().env("CLEARML_DOCKER_IMAGE", format!("oci:{}", image.display()));
    let daemon = place.daemon_of(agent, "daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);

    for (task, user, rights) in [(&own, 1000, (0, 0)), (&more, 0, (1, 0)), (&all, 0, (1, 1))] {
        if task == &all && !has_all_rights() && keeper.flag != PODMAN.flag {
            // Docker asks for all there are, and cannot give what this machine's root does not have.
            place.becomes(task, "failed");
            let reason = place.field(task, "status_reason").to_string();
            assert!(reason.contains("unable to apply caps: operation not permitted"), "{reason}");
            continue;
        }
        place.is_up(task);
        let said = place.server.console(task);
        let is = format!("user {user} config {user} 0o600 variables {user} 0o600");
        let [secret, token] = [place.server.credentials().1, "hush"].map(|it| format!("has {}", Digest::of(it).hex()));
        for line in [is, secret, token] {
            assert_eq!(said.lines().filter(|it| **it == line).count(), 1, "{line} in {said}");
        }
        let effective = rights_in(&said, "CapEff:");
        assert_eq!((effective >> SYS_TIME & 1, effective >> SYS_ADMIN & 1), rights, "{said}");
        if task == &more {
            let shown = keeper.inspected(&place, task);
            assert_eq!(shown.pointer(pointer), Some(&json!(runtime)), "{shown}");
        }
        place.let_go(task);
        place.becomes(task, "completed");
    }
    daemon.stop();
    keeper.forget(&place, &[&own, &more, &all]);
}
in_both_engines!(a_task_is_its_images_user_and_may_what_was_asked_for);

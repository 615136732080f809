//! What a task's container arguments become: in an engine, by the configuration's policy, by its rules.

use agent::engine::{ContainerSpec, LogChunk};
use agent::image::deliver::docker;

use super::job::Job;
use super::{name, shell};
use crate::support::images::{block, engine, unique};
use crate::support::{Engine, TestContext, base, require, write};

/// Tells what it sees of the settings below.
const SEEN: &str = r#"exec python3 -c '
import os, resource, socket
mounts = [it.split()[1] for it in open("/proc/self/mounts")]
shm = os.statvfs("/dev/shm")
print(socket.gethostname(), resource.getrlimit(resource.RLIMIT_NOFILE), 44 in os.getgroups(), os.getcwd())
print(shm.f_blocks * shm.f_frsize, [it in mounts for it in ("/t", "/scratch", "/data", "/more")])
print(os.access("/data", os.W_OK), os.environ["A"], open("/proc/self/oom_score_adj").read().strip())
'"#;

#[test]
fn docker_takes_what_was_made_of_switches() {
    require(Engine::Docker);
    let context = TestContext::new();
    let (name, data) = (name("settings"), context.path("data"));
    write(&data.join("file"), "x");
    let text = format!(
        "--network none --hostname box --domainname lab.test -eA=1 --ulimit nofile=100:200 --shm-size 32m --memory 256m \
         --memory-swap 512m --pids-limit 100 --tmpfs /t:size=1m -v /scratch -v{0}:/data:ro --cap-drop NET_RAW -w /tmp \
         --mount type=bind,src={0},dst=/more,bind-propagation=rprivate --security-opt no-new-privileges --group-add 44 \
         --user 0:0 --init --stop-timeout 3 -l a=b --health-cmd true --health-interval 30s --log-driver json-file \
         --log-opt max-size=1m --oom-score-adj 100 --dns-search lab.test --expose 80-81 --restart no --rm -it",
        data.display()
    );
    block(async {
        let (around, image) = shell(&context).await;
        let engine = engine();
        docker(&around, &image, &engine, &name.parse().unwrap()).await.unwrap();
        let command = Some(vec![SEEN.to_owned()]);
        let mut spec = ContainerSpec { image: name.clone(), command, ..ContainerSpec::default() };
        agent::run::arguments::apply(&mut spec, &text).unwrap();
        let mut run = agent::run::docker::start(&engine, spec, unique("settings").trim()).await.unwrap();
        let mut said = Vec::new();
        let keep = |chunk: &LogChunk| {
            let (LogChunk::Out(bytes) | LogChunk::Err(bytes)) = chunk;
            said.extend_from_slice(bytes);
        };
        let ended = run.attend(keep, std::future::pending()).await.unwrap();
        run.remove().await.unwrap();
        engine.remove_image(&name).await.unwrap();
        let said = String::from_utf8(said).unwrap();
        let expected = "box (100, 200) True /tmp\n33554432 [True, True, True, True]\nFalse 1 100\n";
        assert_eq!((ended.code, said.as_str()), (0, expected));
    });
}

#[test]
fn a_run_obeys_the_policy_of_its_machine_in_every_spelling() {
    let context = TestContext::new();
    let data = context.path("data");
    write(&data.join("file"), "x");
    let job = Job::new(&context);
    let own = data.display();
    let arguments = format!("-v{own}:/a -itv {own}:/b --volume={own}:/c -e WHERE=${{CLEARML_TASK.name|capitalize}}");
    let container = serde_json::json!({ "image": "", "arguments": arguments });
    job.server.call("tasks.edit", &serde_json::json!({ "task": job.task, "container": container }));
    let image = job.build(&["--entry-point", "reuse_task"]);
    let line = "ls -d /a /b /c /d 2>/dev/null; echo $WHERE";
    let run = || context.agent().args(["run", "--offline", "--trust-image-arguments", &image, "sh", "-c", line]);
    assert_eq!(run().ok(), "/a\n/b\n/c\nA job");
    // An image may come from anywhere: it gets no directory of this machine without being asked for.
    let refused = context.agent().args(["run", "--offline", &image, "sh", "-c", line]).run().exits(77);
    let expected = format!("what is this machine's: `-v{own}:/a`, `-v {own}:/b`, `--volume={own}:/c`");
    assert!(
        refused.stderr.contains(&expected) && refused.stderr.contains("--trust-image-arguments"),
        "{}",
        refused.stderr
    );
    let forbidden = run().env("CLEARML_AGENT__AGENT__FORBIDDEN_DOCKER_ARGS", "[v]").run().success();
    assert_eq!(forbidden.stdout, "A job\n");
    assert_eq!(forbidden.stderr.matches("is not allowed here and left out").count(), 2, "{}", forbidden.stderr);
    let filtered = run().env("CLEARML_AGENT_DOCKER_ARGS_FILTERS", "^--volume$").run().success();
    assert_eq!(filtered.stdout, "/c\nA job\n");
    let further = run().env("CLEARML_AGENT_EXTRA_DOCKER_ARGS", format!("-v {own}:/d:ro --network lab")).run().success();
    assert_eq!(further.stdout, "/a\n/b\n/c\n/d\nA job\n");
    assert!(further.stderr.contains("container argument `--network` is left out"), "{}", further.stderr);
}

#[test]
fn a_rule_of_the_configuration_chooses_the_container() {
    let context = TestContext::new();
    let job = Job::new(&context);
    let project = job.server.call("projects.create", &serde_json::json!({ "name": "Vision/Trees", "description": "" }));
    job.server.call("tasks.edit", &serde_json::json!({ "task": job.task, "project": project["id"] }));
    let rule = |project: &str| {
        format!(
            "[{{ image: \"oci:{}\", arguments: \"--ipc=host --hostname 'a b'\", setup_shell_script: \"true\", \
             match {{ project: \"{project}\", script.binary: \"python3$\" }} }}]",
            base().display()
        )
    };
    let lock = context.path("agent.lock");
    let call = |rules: String| {
        let call = job.agent().env("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__MATCH_RULES", rules);
        call.args(["lock", "--id", &job.task, "--entry-point", "reuse_task", "--lock-file"]).arg(&lock)
    };
    call(rule("^Vision/")).ok();
    let text = fs_err::read_to_string(&lock).unwrap();
    // Its arguments are this machine's, and count when the task runs here.
    assert!(!text.contains("--ipc=host") && !text.contains("--hostname"), "{text}");
    assert!(text.contains("[setup.script]"), "{text}");
    let outcome = call(rule("^Vision/").replace("project:", "moon:")).run().exits(78);
    assert!(outcome.stderr.contains("`moon` instead of rules that match project"), "{}", outcome.stderr);
}

#[test]
fn a_switch_that_docker_does_not_have_is_named() {
    let context = TestContext::new();
    let job = Job::new(&context);
    let container = serde_json::json!({ "image": "", "arguments": "--ipc=host --gpuz all" });
    job.server.call("tasks.edit", &serde_json::json!({ "task": job.task, "container": container }));
    let base = format!("oci:{}", base().display());
    let lock = context.path("agent.lock");
    let call = job.agent().args(["lock", "--id", &job.task, "--docker", &base, "--lock-file"]).arg(&lock);
    let outcome = call.run().exits(65);
    assert!(
        outcome.stderr.contains("the container argument `--gpuz` is no switch of `docker run`"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("docs/container-arguments.md"), "{}", outcome.stderr);
}

//! Tasks that name an image made of them: it runs as it is, until the task asks for something else.

use serde_json::{Value, json};

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{Registry, TestContext, apart, wait_until};

const SCRIPT: &str = "\
import os, sys
print('up', 'first', flush=True)
";

/// Builds the task's image with a store of its own, as on another machine, and has the task name it.
fn build(task: &Task<'_>, target: &str, more: &[&str]) -> Value {
    let base = format!("oci:{}", crate::support::base().display());
    let call = task.context.agent().args(["--json", "build", "--id", &task.id, "--entry-point", "reuse_task"]);
    let call = call.args(["--docker", &base, "--target", target, "--update-task"]).args(more);
    let call = call.env("CLEARML_CONFIG_FILE", task.server.config());
    let call = call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false");
    serde_json::from_str(&call.env("AGENT_CACHE_DIR", task.context.path("elsewhere")).ok()).unwrap()
}

/// The image of the latest run.
fn image(task: &Task<'_>) -> Value {
    let units = task.units();
    let latest = units.iter().max_by_key(|it| it["began"].as_i64()).unwrap_or_else(|| panic!("{units:?}"));
    latest["image"].clone()
}

fn reset(task: &Task<'_>, edit: &Value) {
    task.server.call("tasks.reset", &json!({ "task": task.id, "force": true }));
    let mut body = edit.clone();
    body["task"] = json!(task.id);
    task.server.call("tasks.edit", &body);
}

fn an_image_of_a_registry_runs_as_it_is(place: &Where) {
    let context = TestContext::new();
    let task = Task::new(&context, place, SCRIPT);
    let registry = Registry::start(&context);
    let built = build(&task, &registry.reference("team/train:1"), &["--push"]);
    let named = task.document(&task.id)["container"]["image"].as_str().unwrap().to_owned();
    assert_eq!(named, format!("{}@{}", registry.reference("team/train"), built["manifest"].as_str().unwrap()));

    let outcome = task.execute().args(["--prebuilt-only"]).run().success();
    assert_eq!(outcome.stdout, "up first\n");
    assert_eq!(task.count("is what the task asks for: it runs as it is"), 1, "{}", task.server.console(&task.id));
    for built in ["layer ", "python: ", "code: ", "building"] {
        assert_eq!(task.count(built), 0, "{}", task.server.console(&task.id));
    }
    assert_eq!((&image(&task)["manifest"], &image(&task)["config"]), (&built["manifest"], &built["config"]));

    // Parameters are the server's, and a name is a name.
    let edit = json!({
        "name": "another name",
        "hyperparams": { "Args": { "rate": { "section": "Args", "name": "rate", "value": "2" } } },
    });
    reset(&task, &edit);
    assert_eq!(task.execute().run().success().stdout, "up first\n");
    assert_eq!(image(&task)["config"], built["config"]);

    // Other code is built, and refused where nothing may be.
    reset(&task, &json!({ "script": { "diff": SCRIPT.replace("first", "second") } }));
    task.execute().args(["--prebuilt-only"]).run().exits(80);
    let (status, reason) = task.told();
    let expected = format!(
        "the task is not run here: image `{named}` is not what the task asks for now (code), and only images as they \
         are may run here"
    );
    assert_eq!((status.as_str(), reason), ("failed", expected));
    // The image's own base is no registry's: it is built on where it was met before.
    let base = format!("oci:{}", crate::support::base().display());
    let lock = context.path("met.lock").display().to_string();
    let call =
        context.agent().args(["lock", "--id", &task.id, "--docker", &base, "--force-docker", "--lock-file", &lock]);
    call.env("CLEARML_CONFIG_FILE", task.server.config()).ok();
    reset(&task, &json!({}));
    assert_eq!(task.execute().run().success().stdout, "up second\n");
    assert_eq!(image(&task)["name"], format!("agent/task-{}:latest", task.id));
    if place.flag != "--native" {
        let program = place.flag.trim_start_matches('-');
        task.context.command(program).args(["rmi", "-f", &named]).run();
    }
}
in_each_engine!(an_image_of_a_registry_runs_as_it_is);

/// From a registry that is not this machine's own, which is spoken to over TLS.
#[test]
fn an_image_of_the_world_is_fetched_by_podman() {
    let context = TestContext::new();
    let task = Task::new(&context, &IN_PODMAN, SCRIPT);
    let registry = Registry::start(&context);
    let built = build(&task, &registry.reference("team/train:1"), &["--push"]);
    let known = registry.as_known_to_the_world(&context, "registry.example");
    let named = format!("registry.example/team/train@{}", built["manifest"].as_str().unwrap());
    reset(&task, &json!({ "container": { "image": named } }));
    let (hosts, authorities) = (known.hosts.display(), known.authorities.display());
    let first = format!("mount --bind {hosts} /etc/hosts\nexport SSL_CERT_FILE={authorities}");
    let podman = apart::podman(&context, "cdiVersion: 0.5.0\nkind: example.com/none\ndevices: []\n", &first);
    let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c"]);
    let call = call.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"").arg(&known.hosts);
    let call = call.arg(env!("CARGO_BIN_EXE_agent")).args(["execute", "--id", &task.id, "--podman", "--prebuilt-only"]);
    let call = call.env("CLEARML_CONFIG_FILE", task.server.config()).env("AGENT_STATE_DIR", context.path("state"));
    let call = call.env("CONTAINER_HOST", &podman.host).env("SSL_CERT_FILE", &known.authorities);
    assert_eq!(call.run().success().stdout, "up first\n");
    assert_eq!((&image(&task)["name"], &image(&task)["config"]), (&json!(named), &built["config"]));
    podman.end();
}

#[test]
fn an_image_that_docker_has_runs_from_there_and_the_store_stays_empty() {
    let context = TestContext::new();
    let task = Task::new(&context, &IN_DOCKER, SCRIPT);
    let name = format!("agent-test-prebuilt-{}:1", std::process::id());
    build(&task, &name, &["-o", "type=docker"]);
    let docker = |arguments: &[&str]| context.command("docker").args(arguments).ok();
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &name]);
    assert_eq!(task.execute().run().success().stdout, "up first\n");
    assert_eq!((image(&task)["name"].as_str(), image(&task)["config"].as_str()), (Some(&*name), Some(&*id)));
    assert_eq!(docker(&["images", "--quiet", &format!("agent/task-{}", task.id)]), "");
    let blobs = fs_err::read_dir(context.store().join("blobs/sha256")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0, "something was fetched or built");
    docker(&["rmi", "-f", &name]);
}

#[test]
fn an_image_built_with_arguments_of_the_command_line_is_what_its_task_asks_for_in_docker() {
    let context = TestContext::new();
    let task = Task::new(&context, &IN_DOCKER, "import os\nprint('A', os.environ['A'], flush=True)\n");
    let name = format!("agent-test-arguments-{}:1", std::process::id());
    let base = format!("oci:{} -e A=1 -e B_TOKEN=hush", crate::support::base().display());
    let call = context.agent().args(["build", "--id", &task.id, "--entry-point", "reuse_task", "-o", "type=docker"]);
    let call = call.args(["--target", &name, "--update-task"]).arg(format!("--docker={base}"));
    let call = call.env("CLEARML_CONFIG_FILE", task.server.config());
    let outcome = call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false").run().success();
    assert!(outcome.stderr.contains("the task names B_TOKEN without a value"), "{}", outcome.stderr);
    let container = task.document(&task.id)["container"].clone();
    assert_eq!((&container["image"], &container["arguments"]), (&json!(name), &json!("-e A=1 -e B_TOKEN")));
    assert_eq!(task.execute().args(["--prebuilt-only"]).run().success().stdout, "A 1\n");
    context.command("docker").args(["rmi", "-f", &name]).ok();
}

#[test]
fn an_image_made_for_another_task_is_in_use_in_docker_while_this_one_runs() {
    let context = TestContext::new();
    let script = "import time\nprint('up', flush=True)\ntime.sleep(5)\n";
    let task = Task::new(&context, &IN_DOCKER, script);
    assert_eq!(task.execute().run().success().stdout, "up\n");
    let record = context.path("state/images/docker").join(format!("{}.json", task.id));
    let used = || fs_err::metadata(&record).unwrap().modified().unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    fs_err::OpenOptions::new().append(true).open(&record).unwrap().file().set_modified(old).unwrap();
    let other = task.server.call("tasks.clone", &json!({ "task": task.id }))["id"].as_str().unwrap().to_owned();
    let container = json!({ "image": format!("agent/task-{}:latest", task.id) });
    task.server.call("tasks.edit", &json!({ "task": other, "container": container }));
    let output = context.path("output");
    let mut running = task.execute_other(&other).spawn(&output);
    wait_until("the clone is up", || task.server.console(&other).contains("up\n"));
    assert!(used() > old + std::time::Duration::from_secs(3600), "it counts as unused");
    assert_eq!(running.wait(), Some(0));
    assert!(task.server.console(&other).contains("it runs as it is"), "{}", task.server.console(&other));
}

#[test]
fn an_image_of_the_store_runs_natively_as_it_is() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, SCRIPT);
    let store = context.store().to_owned();
    let base = format!("oci:{}", crate::support::base().display());
    let call = context.agent().args(["--json", "build", "--id", &task.id, "--entry-point", "reuse_task"]);
    let call = call.args(["--docker", &base, "--target", "team/train:1", "-o", "type=store"]);
    let call = call.env("CLEARML_CONFIG_FILE", task.server.config());
    let call = call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false");
    let built: Value = serde_json::from_str(&call.env("AGENT_CACHE_DIR", &store).ok()).unwrap();
    task.server.call("tasks.edit", &json!({ "task": task.id, "container": { "image": "team/train:1" } }));
    assert_eq!(task.execute().args(["--prebuilt-only"]).run().success().stdout, "up first\n");
    assert_eq!((&image(&task)["name"], &image(&task)["config"]), (&json!("team/train:1"), &built["config"]));
}

#[test]
fn a_task_names_no_directory_of_the_machine() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, SCRIPT);
    let image = format!("oci:{}", crate::support::base().display());
    task.server.call("tasks.edit", &json!({ "task": task.id, "container": { "image": image } }));
    let outcome = task.execute().run();
    let expected = format!("the task's image `{image}` is a file or directory of this machine");
    let (status, reason) = task.told();
    assert!(status == "failed" && reason.contains(&expected), "{reason}");
    assert_eq!(outcome.code, Some(77), "{}", outcome.stderr);
}

#[test]
fn what_the_agent_is_given_is_in_no_command_line_and_in_no_image_of_docker() {
    let context = TestContext::new();
    let task = Task::new(&context, &IN_DOCKER, "import os\nprint('token', os.environ['A_TOKEN'], flush=True)\n");
    let setup = json!({ "setup_shell_script": "sleep 5" });
    task.server.call("tasks.edit", &json!({ "task": task.id, "container": setup }));
    let base = format!("oci:{} -e A_TOKEN=hush-{} --shm-size 100m", crate::support::base().display(), task.id);
    let call = context.agent().args(["execute", "--id", &task.id]).arg(format!("--docker={base}"));
    let call = call.env("CLEARML_CONFIG_FILE", task.server.config());
    let call = call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false");
    let output = context.path("output");
    let mut running = call.env("AGENT_STATE_DIR", context.path("state")).spawn(&output);
    let builds = || {
        let processes = fs_err::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|it| fs_err::read(it.path().join("cmdline")).ok());
        let lines = lines.map(|it| String::from_utf8_lossy(&it).replace('\0', " "));
        lines.filter(|it| it.contains(&task.id) && it.contains(" build ")).collect::<Vec<_>>()
    };
    crate::support::wait_until("the build runs", || !builds().is_empty());
    for line in builds() {
        assert!(line.contains("--docker=-") && !line.contains("hush"), "{line}");
    }
    assert_eq!(running.wait(), Some(0), "{}", fs_err::read_to_string(&output).unwrap());
    assert!(fs_err::read_to_string(&output).unwrap().contains(&format!("token hush-{}", task.id)));
    let lock = context.agent().args(["inspect", "--lock", &format!("agent/task-{}:latest", task.id)]).ok();
    for part in ["hush", "\"A_TOKEN\"", "shm-size", "container_arguments"] {
        assert!(!lock.contains(part), "{part} in {lock}");
    }
}

//! A run leaves its lock with the task: what is asked for as then stands anywhere, what was edited is locked anew.

use agent::base::Request;
use agent::clearml::{Client, Login};
use agent::config::{Config, Environment};
use agent::daemon::prebuilt::{self, Prebuilt, Question};
use agent::daemon::writeback;
use agent::lock::Lock;
use agent::run::EngineKind;
use agent::run::choice::{Counted, ImageChoice};
use agent::secret::{Credentials, Secret};
use serde_json::{Value, json};

use crate::build::{Sample, base_argument, built};
use crate::support::images::{around, block};
use crate::support::{Call, Registry, Server, TestContext, venv, write};

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9/simple";

/// The sample on a server of its own, on a base of a registry of its own.
struct Scene<'a> {
    server: Server,
    sample: Sample<'a>,
    registry: Registry,
    /// The base.
    image: String,
    /// The task.
    id: String,
}

impl<'a> Scene<'a> {
    fn new(context: &'a TestContext) -> Self {
        let (server, sample, registry) = (Server::start(context), Sample::new(context), Registry::start(context));
        let image = registry.push_base(context, "library/base:1");
        let id = create(&server, &sample, &image);
        Self { server, sample, registry, image, id }
    }
}

/// The sample on a server, as the SDK of a user who works on a branch records it.
fn create(server: &Server, sample: &Sample<'_>, image: &str) -> String {
    let mut task = sample.task.clone();
    task.as_object_mut().unwrap().remove("id");
    task["type"] = json!("training");
    task["script"]["version_num"] = json!("");
    task["script"]["requirements"]["pip"] = json!("six <= 1.16.0  # mine\n");
    task["container"] = json!({"image": image, "arguments": "--ipc host"});
    server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
}

fn client(server: &Server) -> Client {
    let (access, secret) = server.credentials();
    let login = Login::Keys(Credentials { user: access.to_owned(), password: Secret::new(secret) });
    let server =
        agent::clearml::Server { api: server.api().parse().unwrap(), web: None, files: None, login, verify: true };
    Client::new(server, "test", agent::http::Retry::default()).unwrap()
}

fn task(server: &Server, id: &str) -> Value {
    server.call("tasks.get_by_id", &json!({"task": id}))["task"].take()
}

fn clone(server: &Server, id: &str, edit: &Value) -> String {
    let cloned = server.call("tasks.clone", &json!({"task": id, "new_task_name": "a clone"}));
    let cloned = cloned["id"].as_str().unwrap().to_owned();
    if let Some(requirements) = edit.get("requirements") {
        server.call("tasks.set_requirements", &json!({"task": cloned, "requirements": requirements}));
    } else {
        let mut body = edit.clone();
        body["task"] = json!(cloned);
        server.call("tasks.edit", &body);
    }
    cloned
}

/// `agent lock` of a task on a server.
fn lock_call(context: &TestContext, server: &Server, id: &str) -> Call {
    let call = context.agent().args(["lock", "--id", id, "--lock-file"]).arg(context.path("agent.lock"));
    call.env("CLEARML_CONFIG_FILE", server.config())
}

fn lock(context: &TestContext, server: &Server, id: &str, change: impl FnOnce(Call) -> Call) -> Lock {
    change(lock_call(context, server, id)).ok();
    Lock::read(&context.path("agent.lock")).unwrap()
}

/// A machine that reaches no package index.
fn without_index(call: Call) -> Call {
    let names = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"];
    names.into_iter().fold(call, Call::env_remove).env("PIP_INDEX_URL", NOBODY).env("UV_DEFAULT_INDEX", NOBODY)
}

#[test]
fn a_lock_stands_on_a_machine_that_reaches_nothing_and_edits_are_locked_anew() {
    let context = TestContext::warm();
    let Scene { server, sample, registry, image, id } = Scene::new(&context);
    let first = lock(&context, &server, &id, |call| call);
    block(writeback::after_build(&client(&server), &id, &first)).unwrap();

    let pinned = task(&server, &id);
    let commit = &first.code.as_ref().unwrap().git.as_ref().unwrap().commit;
    assert_eq!(&pinned["script"]["version_num"], commit);
    assert_eq!(pinned["script"]["branch"], "main");
    assert_eq!(pinned["script"]["requirements"]["pip"], json!(["six==1.16.0"]));
    assert_eq!(pinned["script"]["requirements"]["org_pip"], "six <= 1.16.0  # mine\n");
    assert_eq!(pinned["configuration"]["agent-lock"]["type"], "text");
    block(writeback::after_build(&client(&server), &id, &first)).unwrap();
    assert_eq!(task(&server, &id)["configuration"], pinned["configuration"], "written once");

    // The branch moves on, then the repository, the registry and the index are gone, and the machine is another.
    sample.repository.commit(&[("later.py", "x = 1\n")]);
    let (place, away) = (sample.repository.path().to_owned(), context.path("away"));
    fs_err::rename(&place, &away).unwrap();
    drop(registry);
    let other = TestContext::new();
    let again = clone(&server, &id, &json!({"hyperparams": {"Args": {"epochs": {"value": "9"}}}}));
    let second = lock(&other, &server, &again, without_index);
    let parts = |it: &Lock| (it.base.clone(), it.python.clone(), it.system.clone(), it.code.clone(), it.setup.clone());
    assert_eq!(parts(&second), parts(&first));
    assert!(first.system.is_some(), "there were system packages to stand");
    assert!(second.launch.record.to_lossy().contains("\"9\""));
    assert_eq!(second.launch.entry_point, first.launch.entry_point);
    // What nobody reaches is asked for only when everything is to be resolved anew.
    assert_ne!(without_index(lock_call(&other, &server, &again)).arg("--refresh").run().code, Some(0));

    // A changed requirement needs the index, and neither repository nor registry.
    let edited = clone(&server, &id, &json!({"requirements": {"pip": "six==1.16.0\npackaging==24.0\n"}}));
    let third = lock(&context, &server, &edited, |call| call);
    let names: Vec<&str> = third.python.distributions.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["packaging", "six"]);
    assert_eq!((&third.base, &third.code, &third.system), (&first.base, &first.code, &first.system));
    // A setup script needs none of them.
    let container = json!({"image": image, "setup_shell_script": "echo set up > /etc/agent-setup"});
    let edited = clone(&server, &id, &json!({"container": container}));
    let fourth = lock(&other, &server, &edited, without_index);
    assert!(fourth.setup.is_some());
    assert_eq!((&fourth.base, &fourth.python, &fourth.code), (&first.base, &first.python, &first.code));
    // Another commit needs the repository, and no index.
    fs_err::rename(&away, &place).unwrap();
    let edited = clone(&server, &id, &json!({"script": {"version_num": "", "branch": "main", "diff": ""}}));
    let fifth = lock(&other, &server, &edited, without_index);
    let head = sample.repository.git(&["rev-parse", "HEAD"]);
    let git = fifth.code.as_ref().unwrap().git.as_ref().unwrap();
    assert_eq!((git.commit.as_str(), fifth.code.as_ref().unwrap().diff.is_some()), (head.as_str(), false));
    assert_eq!((&fifth.base, &fifth.python, &fifth.system), (&first.base, &first.python, &first.system));
}

#[test]
fn a_locked_build_of_a_known_task_asks_nobody_for_what_moves() {
    let context = TestContext::warm();
    let sample = Sample::new(&context);
    let registry = Registry::start(&context);
    let image = registry.push_base(&context, "library/base:1");
    let mut task = sample.task.clone();
    task["script"]["version_num"] = json!("");
    task["script"]["diff"] = json!("");
    let file = context.path("moving.json");
    write(&file, &task.to_string());
    let arguments = |call: Call, more: &[&str]| call.arg("--task").arg(&file).args(["--docker", &image]).args(more);
    let build = |more: &[&str]| built(&context, |call| arguments(call, more));
    let first = build(&[]);
    // The branch moves on: it is asked anew, unless nothing is to be.
    sample.repository.commit(&[("later.py", "x = 1\n")]);
    assert_eq!(build(&["--locked"]), first);
    let second = build(&[]);
    assert_ne!(second, first);
    sample.repository.commit(&[("last.py", "x = 1\n")]);
    // The repository and the registry are gone.
    fs_err::rename(sample.repository.path(), context.path("away")).unwrap();
    drop(registry);
    assert_eq!(build(&["--locked"]), second);
    let outcome = arguments(context.agent().arg("lock"), &[]).arg("--lock-file").arg(context.path("no.lock")).run();
    assert_ne!(outcome.code, Some(0), "{}", outcome.stdout);
    // What was never asked is nothing that is known.
    task["script"]["branch"] = json!("other");
    write(&file, &task.to_string());
    let call = arguments(context.agent().arg("lock"), &["--locked"]).arg("--lock-file").arg(context.path("no.lock"));
    let outcome = call.run();
    assert!(outcome.code != Some(0) && outcome.stderr.contains("cannot have the task's code"), "{}", outcome.stderr);
}

#[test]
fn another_base_is_locked_anew_with_what_stands_on_it() {
    let context = TestContext::warm();
    let Scene { server, registry, id, .. } = Scene::new(&context);
    let first = lock(&context, &server, &id, |call| call);
    block(writeback::after_build(&client(&server), &id, &first)).unwrap();
    // The same image under another name: nothing that stands on it moves.
    let same = registry.push_base(&context, "library/same:2");
    let edited = clone(&server, &id, &json!({"container": {"image": same}}));
    let second = lock(&context, &server, &edited, without_index);
    assert_ne!(second.base.name, first.base.name);
    assert_eq!(
        (&second.base.config, &second.python, &second.system),
        (&first.base.config, &first.python, &first.system)
    );
    // A tag that was moved is asked for only where the configuration says so.
    let forced = lock(&context, &server, &id, |call| call.env("CLEARML_AGENT__AGENT__DOCKER_FORCE_PULL", "1"));
    assert_eq!(forced.base, first.base);
    drop(registry);
    let call = lock_call(&context, &server, &id).env("CLEARML_AGENT__AGENT__DOCKER_FORCE_PULL", "1");
    assert_ne!(call.run().code, Some(0), "the registry is gone");
    lock(&context, &server, &id, |call| call);
    // What cannot be read is told, and does not stop anything that it would not have stopped before.
    server.call(
        "tasks.edit_configuration",
        &json!({
            "task": id, "force": true, "configuration": [{"name": "agent-lock", "value": "no lock", "type": "text"}],
        }),
    );
    let outcome = lock_call(&context, &server, &id).run();
    assert!(outcome.stderr.contains("the task's lock cannot be used"), "{}", outcome.stderr);
}

#[test]
fn a_forced_image_is_what_it_is_whatever_the_task_carries() {
    let context = TestContext::warm();
    let Scene { server, registry, image, id, .. } = Scene::new(&context);
    let other = registry.push_base(&context, "library/other:1");
    let first = lock(&context, &server, &id, |call| call);
    let another = clone(&server, &id, &json!({"container": {"image": other}}));
    let second = lock(&context, &server, &another, |call| call);
    // Somebody writes a lock that says that another image is the one that was asked for.
    let forged = Lock { base: second.base.clone(), ..first.clone() }.carried().unwrap();
    server.call("tasks.started", &json!({"task": id}));
    block(agent::clearml::tasks::set_configuration(&client(&server), &id, "agent-lock", &forged, "a lock")).unwrap();
    let own = lock(&context, &server, &id, |call| call);
    assert_eq!(own.base, second.base, "whose image it is anyway");
    let forced = lock(&context, &server, &id, |call| call.args(["--docker", &image, "--force-docker"]));
    assert_eq!((&forced.base, &forced.python), (&first.base, &first.python));
    let call = lock_call(&context, &server, &id).env("CLEARML_DOCKER_IMAGE", &image);
    call.env("CLEARML_AGENT__AGENT__DISABLE_TASK_DOCKER_OVERRIDE", "true").ok();
    assert_eq!(Lock::read(&context.path("agent.lock")).unwrap().base, first.base);
    let rule = format!("[{{ image: \"{image}\", force_container_rules: true, match {{}} }}]");
    let call = lock_call(&context, &server, &id).env("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__MATCH_RULES", rule);
    call.ok();
    assert_eq!(Lock::read(&context.path("agent.lock")).unwrap().base, first.base);
}

#[test]
fn a_repositorys_own_requirements_stand_while_they_say_the_same() {
    let context = TestContext::warm();
    let server = Server::start(&context);
    let sample = Sample::new(&context);
    sample.repository.git(&["checkout", "--quiet", "--", "."]);
    sample.repository.commit(&[("requirements.txt", "six==1.16.0\n")]);
    let id = create(&server, &sample, "");
    server.call("tasks.set_requirements", &json!({"task": id, "requirements": {"pip": ""}}));
    server.call("tasks.edit", &json!({"task": id, "script": {"diff": ""}}));
    let local = base_argument();
    let on_base = |call: Call| call.args(["--docker", &local]);
    let first = lock(&context, &server, &id, on_base);
    assert_eq!(first.python.distributions.len(), 1);
    let carried = first.carried().unwrap();
    server.call("tasks.started", &json!({"task": id}));
    block(agent::clearml::tasks::set_configuration(&client(&server), &id, "agent-lock", &carried, "a lock")).unwrap();
    // The branch moves on: other code, the same requirements, and a base that is a file of each machine.
    let other = TestContext::new();
    sample.repository.commit(&[("later.py", "x = 1\n")]);
    let second = lock(&other, &server, &id, |call| without_index(on_base(call)));
    assert_ne!(second.code, first.code);
    let parts = |it: &Lock| (it.base.clone(), it.python.clone(), it.system.clone(), it.uv.clone());
    assert_eq!(parts(&second), parts(&first));
    sample.repository.commit(&[("requirements.txt", "six==1.16.0\npackaging==24.0\n")]);
    let third = lock(&context, &server, &id, on_base);
    assert_eq!((third.python.distributions.len(), &third.base, &third.system), (2, &first.base, &first.system));
}

#[test]
fn a_task_that_names_its_image_is_built_again_on_the_images_own_base() {
    let context = TestContext::warm();
    let Scene { server, registry, image, id, .. } = Scene::new(&context);
    let target = registry.reference("team/train:1");
    let build = |context: &TestContext, id: &str, more: &[&str]| -> Value {
        let call = context.agent().args(["--json", "build", "--id", id, "--entry-point", "reuse_task"]).args(more);
        let call = call.env("CLEARML_CONFIG_FILE", server.config()).arg("--lock-file").arg(context.path("agent.lock"));
        serde_json::from_str(&call.ok()).unwrap()
    };
    let built = build(&context, &id, &["--target", &target, "--push", "--update-task"]);
    let named = format!("{}@{}", registry.reference("team/train"), built["manifest"].as_str().unwrap());
    assert_eq!((&built["task_image"], &task(&server, &id)["container"]["image"]), (&json!(named), &json!(named)));
    assert_eq!(task(&server, &id)["container"]["arguments"], "--ipc host");
    let first = Lock::read(&context.path("agent.lock")).unwrap();

    // What an executor sees of it, on a machine that has nothing.
    let check = |id: &str| {
        let record = agent::task::clearml::parse(&task(&server, id)).unwrap();
        let agent = Config::from_text("test", "", &Environment::default()).unwrap().agent().unwrap();
        let around = around(&context, "elsewhere");
        let image = record.container.image.clone().unwrap();
        let arguments = record.container.arguments.clone();
        let choice = ImageChoice { image, arguments: arguments.clone(), of_task: true };
        let counted = Counted { task: record, choice, carried: arguments, forced: false, own: true };
        let question = Question {
            counted: &counted,
            agent: &agent,
            force_task_init: false,
            engine: EngineKind::Docker,
            offline: false,
        };
        block(prebuilt::check(&around, question)).unwrap()
    };
    assert!(matches!(check(&id), Prebuilt::Same { .. }));
    let parameters = clone(&server, &id, &json!({"hyperparams": {"Args": {"epochs": {"value": "9"}}}}));
    assert!(matches!(check(&parameters), Prebuilt::Same { .. }));
    let edited = clone(&server, &id, &json!({"requirements": {"pip": "six==1.16.0\npackaging==24.0\n"}}));
    let Prebuilt::Differs { what, .. } = check(&edited) else { panic!("the same") };
    assert_eq!(what, ["requirements"]);
    let plain = clone(&server, &id, &json!({"container": {"image": image}}));
    assert!(matches!(check(&plain), Prebuilt::NotOurs));
    // A run writes back what it pins: the image is still what is asked for.
    block(writeback::after_build(&client(&server), &id, &first)).unwrap();
    assert!(matches!(check(&id), Prebuilt::Same { .. }));

    // Built again elsewhere: on the base of its lock, and only what was edited is new.
    let other = TestContext::new();
    let second = registry.reference("team/train:2");
    let again = build(&other, &edited, &["--target", &second, "--push"]);
    let lock = Lock::read(&other.path("agent.lock")).unwrap();
    assert_eq!((&lock.base, &lock.code, &lock.system), (&first.base, &first.code, &first.system));
    assert_eq!(lock.python.distributions.len(), 2);
    let layers = |it: &Value| -> Vec<(String, String)> {
        let layers = it["layers"].as_array().unwrap().iter();
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        layers.map(|it| (text(&it["kind"]), text(&it["digest"]))).collect()
    };
    let (before, after) = (layers(&built), layers(&again));
    let new: Vec<&str> = after.iter().filter(|it| !before.contains(it)).map(|it| it.0.as_str()).collect();
    assert_eq!(new, ["python", "bytecode", "entrypoint"]);
    let request: Request = second.parse().unwrap();
    let found = block(agent::base::find(&around(&context, "third"), &request, &agent::oci::Platform::host())).unwrap();
    assert_eq!(found.pin.layers.len(), first.base.layers.len() + after.len(), "one base, not two");

    // What is published is not changed.
    server.call("tasks.started", &json!({"task": plain}));
    server.call("tasks.completed", &json!({"task": plain}));
    server.call("tasks.publish", &json!({"task": plain}));
    let call = context.agent().args(["build", "--id", &plain, "--entry-point", "reuse_task", "--target", &target]);
    let call = call.args(["--push", "--update-task"]).env("CLEARML_CONFIG_FILE", server.config());
    let outcome = call.run();
    assert!(outcome.code != Some(0) && outcome.stderr.contains("is published"), "{}", outcome.stderr);
}

/// A run of a task that has a lock: objects of its own, old and new.
const RUN: &str = r#"
from clearml import Task

task = Task.init(project_name="team/locks", task_name="locked one", auto_connect_frameworks=False)
net = task.connect_configuration({"layers": [1, 2]}, name="net")
params = task.connect({"batch": 8}, name="model")
task.set_configuration_object("late", config_text="a: 1")
print("NAMES", sorted(task.get_configuration_objects()))
print("TASK", task.id, params["batch"], flush=True)
task.close()
"#;

/// Clones it, as people's scripts do.
const CLONE: &str = r#"
import sys
from clearml import Task

clone = Task.clone(source_task=sys.argv[1], name="clone of the locked one")
clone.set_parameters({"model/batch": 16})
print("CLONE", clone.id, flush=True)
"#;

#[test]
fn the_sdk_is_not_disturbed_by_a_lock_and_does_not_lose_it() {
    let context = TestContext::new();
    let server = Server::start(&context);
    for (name, script) in [("run.py", RUN), ("clone.py", CLONE)] {
        write(&context.work().join(name), script);
    }
    let python = |script: &str| {
        let call = context.command(venv().join("bin/python")).env("CLEARML_CONFIG_FILE", server.config());
        call.arg(script).limit(std::time::Duration::from_secs(900))
    };
    let word = |text: &str, line: &str, index: usize| {
        let line = text.lines().find(|it| it.starts_with(line)).unwrap_or_else(|| panic!("{text}")).to_owned();
        line.split(' ').nth(index).unwrap().to_owned()
    };
    let first = python("run.py").run().success();
    let id = word(&first.stdout, "TASK", 1);
    let before = task(&server, &id);
    let text = "version = 2\nformat = 1\n# a lock with \"quotes\" and a {brace}\n";
    block(agent::clearml::tasks::set_configuration(&client(&server), &id, "agent-lock", text, "about")).unwrap_err();
    // A task that has ended takes none: it is left while the task runs.
    let cloned = python("clone.py").arg(&id).run().success();
    let clone = word(&cloned.stdout, "CLONE", 1);
    server.call("tasks.started", &json!({"task": clone}));
    block(agent::clearml::tasks::set_configuration(&client(&server), &clone, "agent-lock", text, "about")).unwrap();
    let run = python("run.py").env("CLEARML_TASK_ID", &clone).env("CLEARML_LOG_TASK_TO_BACKEND", "0").run().success();
    assert!(run.stdout.contains("NAMES ['agent-lock', 'late', 'net']"), "{}", run.stdout);
    assert_eq!((word(&run.stdout, "TASK", 1), word(&run.stdout, "TASK", 2)), (clone.clone(), "16".to_owned()));
    let after = task(&server, &clone);
    assert_eq!(after["configuration"]["agent-lock"]["value"], text);
    assert_eq!(after["configuration"]["net"], before["configuration"]["net"]);
    // And a clone of that carries it on.
    let cloned = python("clone.py").arg(&clone).run().success();
    let third = task(&server, &word(&cloned.stdout, "CLONE", 1));
    assert_eq!(third["configuration"], after["configuration"]);
}

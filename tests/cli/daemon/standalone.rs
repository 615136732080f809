//! `--standalone-mode`: what is built runs, and what something is missing of fails without anybody being asked for it.

use serde_json::{Value, json};

use super::Place;
use super::keeper::{Keeper, flag, in_each_engine};
use crate::support::{Call, PackageIndex, Registry, TestContext};

/// Where the tests' base is in a registry, and a package index.
struct Outside {
    registry: Registry,
    index: PackageIndex,
}

impl Outside {
    fn start(context: &TestContext) -> Self {
        let outside = Self { registry: Registry::start(context), index: PackageIndex::start(context, "index") };
        for name in ["alpha", "beta"] {
            outside.index.wheel(context, name, "1.0");
        }
        for name in ["base", "other"] {
            outside.registry.push_base(context, &format!("team/{name}:1"));
        }
        outside
    }

    fn image(&self, name: &str) -> String {
        self.registry.reference(&format!("team/{name}:1"))
    }

    /// A program that is told where they are.
    fn tell(&self, call: Call) -> Call {
        let call = ["PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"].into_iter().fold(call, Call::env_remove);
        let names = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];
        let call = names.into_iter().fold(call, |it, name| it.env(name, self.index.url()));
        call.env("CLEARML_DOCKER_IMAGE", self.image("base"))
    }
}

fn task(place: &Place<'_>, package: &str, container: &Value) -> String {
    let task = json!({
        "name": package, "type": "testing", "container": container,
        "script": {
            "entry_point": "job.py", "binary": "python3", "requirements": { "pip": format!("{package}==1.0\n") },
            "diff": format!("import {package}\nprint('has', {package}.VERSION, flush=True)\n"),
        },
    });
    place.server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
}

fn what_is_built_runs_and_what_lacks_something_fails_and_nobody_is_asked(keeper: Option<Keeper>) {
    // A store of its own: others may have had anything.
    let context = TestContext::new();
    let place = Place::new(&context);
    let outside = Outside::start(&context);
    let built = task(&place, "alpha", &json!({}));
    let execute = |task: &str| outside.tell(place.agent().args(["execute", "--id", task, "--cpu-only", flag(keeper)]));
    execute(&built).run().success();
    // The task named no image: now it says which one was its base, unless that is not wanted.
    assert_eq!(place.field(&built, "container")["image"], outside.image("base"));
    let quiet = task(&place, "alpha", &json!({}));
    execute(&quiet).env("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__UPDATE_BACK_TASK", "false").run().success();
    assert_eq!(place.field(&quiet, "container")["image"].as_str().unwrap_or_default(), "");
    // One is made of an image that the engine, or the store, has already.
    let name = format!("agent-test-standalone-{}:1", std::process::id());
    let kept = keeper.map_or("store", |it| it.flag.trim_start_matches('-'));
    let prebuilt = task(&place, "alpha", &json!({}));
    let call = outside.tell(place.agent()).args(["build", "--id", &prebuilt, "--entry-point", "reuse_task"]);
    call.args(["--docker", &outside.image("base"), "--target", &name, "-o", &format!("type={kept}")]).ok();
    place.server.call("tasks.edit", &json!({ "task": prebuilt, "container": { "image": name } }));

    let again = place.server.call("tasks.clone", &json!({ "task": built }))["id"].as_str().unwrap().to_owned();
    let lacks_wheel = task(&place, "beta", &json!({}));
    let lacks_base = task(&place, "alpha", &json!({ "image": outside.image("other") }));
    let tasks = [&again, &quiet, &prebuilt, &lacks_wheel, &lacks_base];
    place.server.call("tasks.reset", &json!({ "task": quiet, "force": true }));
    tasks.iter().for_each(|it| place.enqueue(it, "work"));
    let asked = || (outside.index.asked(), outside.registry.asked());
    let before = asked();
    assert!(!before.0.is_empty() && !before.1.is_empty(), "{before:?}");
    let arguments = ["--queue", "work", "--cpu-only", "--standalone-mode", flag(keeper)];
    let daemon = place.daemon_of(outside.tell(place.agent()), "daemon", &arguments);
    for task in [&again, &quiet, &prebuilt] {
        place.becomes(task, "completed");
        assert!(place.console(task, "has 1.0\n") > 0, "{}", place.server.console(task));
    }
    assert_eq!(place.console(&prebuilt, "it runs as it is"), 1, "{}", place.server.console(&prebuilt));
    for (task, expected) in [(&lacks_wheel, "nothing is fetched here"), (&lacks_base, "nothing is fetched here, and `")]
    {
        place.becomes(task, "failed");
        let reason = place.field(task, "status_reason");
        assert!(reason.as_str().unwrap().contains(expected), "{reason}\n{}", place.server.console(task));
    }
    assert_eq!(asked(), before);
    daemon.stop();
    if let Some(keeper) = keeper {
        tasks.iter().chain([&&built]).for_each(|it| keeper.forget(&place, &[it]));
        keeper.says(&place, &["rmi", "--force", &name]);
        return;
    }
    // What is wrong is only that: elsewhere they run.
    for task in [&lacks_wheel, &lacks_base] {
        place.server.call("tasks.reset", &json!({ "task": task, "force": true }));
        execute(task).run().success();
    }
}
in_each_engine!(what_is_built_runs_and_what_lacks_something_fails_and_nobody_is_asked);

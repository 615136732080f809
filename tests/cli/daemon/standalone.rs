//! `--standalone-mode`: what is built runs, and what something is missing of fails without anybody being asked for it.

use serde_json::{Value, json};

use super::Place;
use crate::support::{Call, PackageIndex, Registry, TestContext, base};

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
            let copy = context.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
            let to = format!("docker://{}", outside.registry.reference(&format!("team/{name}:1")));
            copy.arg(format!("oci:{}:latest", base().display())).arg(to).ok();
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

#[test]
fn what_is_built_runs_and_what_lacks_something_fails_and_nobody_is_asked() {
    // A store of its own: others may have had anything.
    let context = TestContext::new();
    let place = Place::new(&context);
    let outside = Outside::start(&context);
    let built = task(&place, "alpha", &json!({}));
    let execute = |task: &str| outside.tell(place.agent().args(["execute", "--id", task, "--cpu-only"]));
    execute(&built).run().success();
    // The task named no image: now it says which one was its base, unless that is not wanted.
    assert_eq!(place.field(&built, "container")["image"], outside.image("base"));
    let quiet = task(&place, "alpha", &json!({}));
    execute(&quiet).env("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__UPDATE_BACK_TASK", "false").run().success();
    assert_eq!(place.field(&quiet, "container")["image"].as_str().unwrap_or_default(), "");

    let again = place.server.call("tasks.clone", &json!({ "task": built }))["id"].as_str().unwrap().to_owned();
    let lacks_wheel = task(&place, "beta", &json!({}));
    let lacks_base = task(&place, "alpha", &json!({ "image": outside.image("other") }));
    let tasks = [&again, &quiet, &lacks_wheel, &lacks_base];
    place.server.call("tasks.reset", &json!({ "task": quiet, "force": true }));
    tasks.iter().for_each(|it| place.enqueue(it, "work"));
    let asked = outside.index.asked().len();
    let log = context.path("daemon.log");
    let call = outside.tell(place.agent()).args(["--progress", "plain", "daemon", "--queue", "work", "--cpu-only"]);
    let daemon = super::Daemon { program: call.arg("--standalone-mode").spawn(&log), log };
    place.becomes(&again, "completed");
    place.becomes(&quiet, "completed");
    assert_eq!(place.console(&again, "has 1.0\n"), 1);
    for (task, expected) in [(&lacks_wheel, "nothing is fetched here"), (&lacks_base, "nothing is fetched here, and `")]
    {
        place.becomes(task, "failed");
        let reason = place.field(task, "status_reason");
        assert!(reason.as_str().unwrap().contains(expected), "{reason}\n{}", place.server.console(task));
    }
    assert_eq!(outside.index.asked().len(), asked, "{:?}", &outside.index.asked()[asked..]);
    daemon.stop();
    // What is wrong is only that: elsewhere they run.
    for task in [&lacks_wheel, &lacks_base] {
        place.server.call("tasks.reset", &json!({ "task": task, "force": true }));
        execute(task).run().success();
    }
}

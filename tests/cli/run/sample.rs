//! A task recorded by the public SDK, its image, and its parameters with and without a server.

use serde_json::{Value, json};

use super::name;
use crate::support::{Call, Engine, Server, TestContext, base, require, sample};

fn values(call: Call) -> String {
    sample::values(&call.ok())
}

#[test]
fn docker_and_native_runs_of_a_changed_clone_print_the_same_with_and_without_a_server() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let server = Server::start(&context);
    let clone = sample::changed_clone(&context, &server);
    let clone = clone.as_str();

    let (name, layout) = (name("sample"), context.path("image"));
    let (base, output) = (format!("oci:{}", base().display()), format!("type=oci,dest={}", layout.display()));
    let build = context.agent().args(["build", "--id", clone, "--docker", &base, "--target", &name]);
    let build = build.args(["--entry-point", "reuse_task", "-o", "type=docker", "-o", &output]);
    build.env("CLEARML_CONFIG_FILE", server.config()).ok();
    let layout = format!("oci:{}", layout.display());

    let (expected, set) = (sample::CHANGED, ["--set", "Args/rate=0.5"]);
    let docker = |switches: &[&str]| {
        let call = context.command("docker").args(["run", "--rm", "--network", "host"]).args(switches);
        call.arg(&name).args(set)
    };
    let native = |switches: &[&str]| context.agent().arg("run").args(switches).args(set).arg(&layout);
    let volume = format!("{}:/clearml.conf:ro", server.config().display());
    for online in [docker(&["-v", &volume]), native(&[]).env("CLEARML_CONFIG_FILE", server.config())] {
        assert_eq!(values(online), expected);
        assert_eq!(server.status(clone), "completed");
        let task = server.call("tasks.get_by_id", &json!({ "task": clone }))["task"].clone();
        assert_eq!(task.pointer("/hyperparams/Args/rate/value"), Some(&json!("0.5")));
        assert_eq!(task.pointer("/execution/artifacts/0/key"), Some(&json!("result")));
    }
    assert_eq!(values(docker(&[])), expected);
    let journal = context.path("journal");
    assert_eq!(values(native(&["--journal", journal.to_str().unwrap()])), expected);
    let kept: Value = serde_json::from_slice(&fs_err::read(journal.join("task.json")).unwrap()).unwrap();
    assert_eq!(kept.pointer("/execution/artifacts/0/key"), Some(&json!("result")));
    assert!(fs_err::read_to_string(journal.join("events.jsonl")).unwrap().contains("\"loss\""));
    context.command("docker").args(["rmi", "-f", &name]).ok();
}

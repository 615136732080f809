//! A task recorded by the public SDK, its image, and its parameters with and without a server.

use serde_json::{Value, json};

use super::name;
use crate::support::{Call, Engine, Server, TestContext, base, require, venv, write};

/// Says what its parameters are and writes what tasks write.
const SAMPLE: &str = r#"
import argparse
from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--rate", type=float, default=0.1)
task = Task.init(project_name="demo", task_name="sample", auto_connect_frameworks=False)
args = parser.parse_args()
model = task.connect({"batch": 16, "nested": {"depth": 1}}, name="model")
layers = task.connect_configuration({"layers": [1]}, name="layers")
print("VALUES", args.epochs, args.rate, model["batch"], model["nested"]["depth"], layers["layers"], flush=True)
for i in range(args.epochs):
    task.get_logger().report_scalar("loss", "train", iteration=i, value=1.0 / (i + 1))
task.upload_artifact("result", {"epochs": args.epochs}, wait_on_upload=True)
"#;

fn values(call: Call) -> String {
    let outcome = call.run().success();
    let line = outcome.stdout.lines().find(|it| it.starts_with("VALUES"));
    line.unwrap_or_else(|| panic!("no values in {} {}", outcome.stdout, outcome.stderr)).to_owned()
}

#[test]
fn docker_and_native_runs_of_a_changed_clone_print_the_same_with_and_without_a_server() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let server = Server::start(&context);
    let script = context.work().join("train.py");
    write(&script, SAMPLE);
    let recording = context.command(venv().join("bin/python")).arg(&script);
    assert_eq!(values(recording.env("CLEARML_CONFIG_FILE", server.config())), "VALUES 2 0.1 16 1 [1]");
    let found = server.call("tasks.get_all", &json!({ "name": "sample", "only_fields": ["id"] }));
    let clone = server.call("tasks.clone", &json!({ "task": found["tasks"][0]["id"], "new_task_name": "changed" }));
    let clone = clone["id"].as_str().unwrap();
    let changes = json!([
        { "section": "Args", "name": "epochs", "value": "3" },
        { "section": "model", "name": "nested/depth", "value": "9" },
    ]);
    server.call("tasks.edit_hyper_params", &json!({ "task": clone, "hyperparams": changes }));
    let configuration = json!([{ "name": "layers", "value": "layers = [4, 5]", "type": "dictionary" }]);
    server.call("tasks.edit_configuration", &json!({ "task": clone, "configuration": configuration }));

    let (name, layout) = (name("sample"), context.path("image"));
    let (base, output) = (format!("oci:{}", base().display()), format!("type=oci,dest={}", layout.display()));
    let build = context.agent().args(["build", "--id", clone, "--docker", &base, "--target", &name]);
    let build = build.args(["--entry-point", "reuse_task", "-o", "type=docker", "-o", &output]);
    build.env("CLEARML_CONFIG_FILE", server.config()).ok();
    let layout = format!("oci:{}", layout.display());

    let (expected, set) = ("VALUES 3 0.5 16 9 [4, 5]", ["--set", "Args/rate=0.5"]);
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

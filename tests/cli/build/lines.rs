//! The build lines of ClearML's own documentation, as they stand there but for the placeholders and the program's name:
//! each makes an image that does what the documentation says of it.

use serde_json::json;

use super::{Sample, base_argument};
use crate::support::{Call, Engine, Server, TestContext, docker_host, require};

/// Runs and removes images of the tests' Docker.
fn docker(context: &TestContext) -> Call {
    context.command("docker").env("DOCKER_HOST", docker_host())
}

#[test]
fn the_documentations_lines_build_images_that_docker_runs() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let server = Server::start(&context);
    let sample = Sample::new(&context);
    let mut task = sample.task.clone();
    task["type"] = json!("training");
    task.as_object_mut().unwrap().remove("id");
    let id = server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned();
    let name = |what: &str| format!("agent-test-line-{what}-{}", std::process::id());
    let build = |line: &str, what: &str| {
        let line = line.replace("clearml-agent", "exec \"$0\"").replace("<task-id>", &id);
        let line = line.replace("<new-docker-name>", &name(what));
        let shell = context.command("sh").args(["-c", &line, env!("CARGO_BIN_EXE_agent")]);
        let shell = shell.env("CLEARML_CONFIG_FILE", server.config()).env("DOCKER_HOST", docker_host());
        // What `--docker` alone means: the image of the agent's configuration.
        shell.env("CLEARML_DOCKER_IMAGE", base_argument()).ok()
    };
    let run = |what: &str| {
        let config = format!("{}:/clearml.conf:ro", server.config().display());
        docker(&context).args(["run", "--rm", "--network", "host", "--volume", &config, &name(what)])
    };

    build("clearml-agent build --id <task-id> --docker --target <new-docker-name> --entry-point reuse_task", "reuse");
    let outcome = run("reuse").run().success();
    assert!(outcome.stdout.contains("six 1.16.0 changed --epochs 3"), "{}", outcome.stdout);
    let (status, console) = server.ended(&id);
    assert_eq!(status, "completed", "{console}");
    assert!(console.contains("six 1.16.0 changed --epochs 3"), "{console}");

    build("clearml-agent build --id <task-id> --docker --target <new-docker-name> --entry-point clone_task", "clone");
    run("clone").run().success();
    let clones = server.call("tasks.get_all", &json!({"parent": id, "only_fields": ["id", "status"]}));
    let clones = clones["tasks"].as_array().unwrap();
    assert_eq!(clones.len(), 1, "{clones:?}");
    assert_eq!(clones[0]["status"], "completed");

    build("clearml-agent build --id <task-id> --docker --target <new-docker-name>", "environment");
    let program = ["python", "-c", "import six, sys; print(six.__version__, sys.prefix)"];
    let printed = run("environment").args(program).ok();
    assert!(printed.ends_with("1.16.0 /opt/agent/venv"), "{printed}");
    for what in ["reuse", "clone", "environment"] {
        docker(&context).args(["image", "rm", "--force", &name(what)]).ok();
    }
}

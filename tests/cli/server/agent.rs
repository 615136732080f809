//! The public agent, unchanged.

use serde_json::json;

use crate::support::{Server, TestContext, venv};

/// A task that is a script and nothing else.
const SCRIPT: &str = "import os\nfor i in range(3):\n    print('A LINE OF THE TASK', i, flush=True)\n";

#[test]
fn the_agent_serves_a_queue_and_finishes_a_task() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let script = json!({"binary": "python3", "entry_point": "plain.py", "working_dir": ".", "diff": SCRIPT,
        "requirements": {"pip": ""}});
    let task = json!({"name": "plain script", "type": "testing", "script": script});
    let task = server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned();
    server.call("tasks.enqueue", &json!({"task": task, "queue_name": "small"}));
    let config = context.path("agent.conf");
    let text = fs_err::read_to_string(server.config()).unwrap();
    let cache = context.path("cache/agent").display().to_string();
    fs_err::write(&config, format!("{text}agent {{ venvs_dir: \"{cache}\", vcs_cache {{ path: \"{cache}\" }} }}\n"))
        .unwrap();
    let daemon = context
        .command(venv().join("bin/clearml-agent"))
        .args(["daemon", "--queue", "small", "--foreground", "--cpu-only"])
        .env("CLEARML_CONFIG_FILE", &config)
        .env("CLEARML_WORKER_ID", "tester:1")
        .env("CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL", "1")
        .spawn(&context.path("agent.log"));
    let (status, console) = server.ended(&task);
    let log = fs_err::read_to_string(context.path("agent.log")).unwrap();
    assert_eq!(status, "completed", "{console}\n{log}");
    for line in 0..3 {
        assert!(console.contains(&format!("A LINE OF THE TASK {line}")), "{console}");
    }
    let workers = server.call("workers.get_all", &json!({}));
    assert_eq!(workers["workers"][0]["id"], "tester:1", "{workers}");
    let task = server.call("tasks.get_by_id", &json!({"task": task}));
    assert_eq!(task["task"]["status_reason"], "worker execution done");
    drop(daemon);
}

//! The example for compose, as it is shipped but for where things are: a server, a daemon and one for services, a task of
//! each, and nothing is left.

use serde_json::{Value, json};

use crate::support::{Call, Engine, TestContext, base, docker_host, require, wait_for, wait_until};

/// What the example would have on a machine of its own.
struct Project<'a> {
    context: &'a TestContext,
    name: String,
    image: String,
    program: String,
}

impl<'a> Project<'a> {
    fn new(context: &'a TestContext) -> Self {
        require(Engine::Docker);
        require(Engine::Compose);
        let name = format!("agent-test-{}", std::process::id());
        // A registry where nobody listens: the image is Docker's alone.
        let image = format!("localhost:1/{name}:1");
        let copy = context.command("skopeo").args(["copy", "--quiet", "--dest-daemon-host", &docker_host()]);
        copy.arg(format!("oci:{}:latest", base().display())).arg(format!("docker-daemon:{name}:1")).ok();
        context.command("docker").args(["tag", &format!("{name}:1"), &image]).ok();
        let program = std::env::var("AGENT_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
        let own = |path: &str| context.path(path).display().to_string();
        let mut text = include_str!("../../templates/compose/compose.yaml").to_owned();
        for (shipped, here) in [
            ("python:3.12-slim-bookworm", image.as_str()),
            // What the server listens at is for the kernel to say, and stands in the configuration it writes for clients.
            ("127.0.0.1:8008", "127.0.0.1:0"),
            ("127.0.0.1:8081", "127.0.0.1:0"),
            ("/usr/local/bin/agent", &program),
            ("- /var/run/docker.sock:", &format!("- {}:", docker_host().trim_start_matches("unix://"))),
            ("/var/lib/agent-server", &own("data")),
            ("/var/lib/agent", &own("state")),
            ("/var/cache/agent", &own("cached")),
        ] {
            assert!(text.contains(shipped), "{shipped} is not in the example");
            text = text.replace(shipped, here);
        }
        crate::support::write(&context.path("project/compose.yaml"), &text);
        Self { context, name, image, program }
    }

    fn compose(&self, words: &[&str]) -> Call {
        let call = self.context.command("docker-compose").args(["--project-name", &self.name, "--no-ansi"]);
        call.args(words).current_dir(self.context.path("project"))
    }

    /// A call of the server's API; nothing while it does not answer.
    fn call(&self, endpoint: &str, body: &Value) -> Option<Value> {
        let config = fs_err::read_to_string(self.context.path("data/clearml.conf")).ok()?;
        let key = |name: &str| {
            let line = config.lines().find_map(|it| it.trim().strip_prefix(name))?;
            Some(line.trim_start_matches([':', ' ']).trim_matches('"').to_owned())
        };
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{}/{endpoint}", key("api_server")?)).json(body);
        let answer = request.basic_auth(key("access_key")?, key("secret_key")).send().ok()?;
        let mut answer: Value = answer.json().ok()?;
        assert_eq!(answer["meta"]["result_code"], 200, "{endpoint}: {answer}");
        Some(answer["data"].take())
    }

    fn containers(&self) -> String {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        self.context.command("docker").args(["ps", "-aq", "--filter", &filter]).ok()
    }
}

impl Drop for Project<'_> {
    /// A test that fails is told by its own panic: one that leaves this beside it would end all tests and hide it.
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        let attempt = |step: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
        if failing {
            let _ = attempt(&|| {
                let said = self.compose(&["logs", "--no-color"]).run();
                let _ = std::io::Write::write_all(&mut std::io::stderr(), said.stdout.as_bytes());
            });
        }
        let down = attempt(&|| drop(self.compose(&["down", "--timeout", "30"]).run()));
        let gone = attempt(&|| {
            self.context.command("docker").args(["rmi", "-f", &self.image, &format!("{}:1", self.name)]).run();
        });
        if let (Err(panic), false) = (down.and(gone), failing) {
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_example_for_compose_runs_tasks_in_docker_and_goes_down() {
    let context = TestContext::new();
    agent::http::init_tls();
    let project = Project::new(&context);
    project.compose(&["up", "-d"]).run().success();
    let call = |endpoint: &str, body: Value| wait_for(endpoint, || project.call(endpoint, &body));
    let workers = || -> Vec<String> {
        let found = call("workers.get_all", json!({}))["workers"].clone();
        found.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("both daemons are workers", || {
        workers().iter().filter(|it| it.starts_with("docker-host:")).count() == 2
    });
    let tasks = ["default", "services"].map(|queue| {
        let script =
            json!({ "entry_point": "job.py", "diff": "print('up', flush=True)\n", "requirements": { "pip": "" } });
        let task = call("tasks.create", json!({ "name": queue, "type": "testing", "script": script }))["id"].clone();
        call("tasks.enqueue", json!({ "task": task, "queue_name": queue }));
        task.as_str().unwrap().to_owned()
    });
    for task in &tasks {
        let field = |name: &str| call("tasks.get_all", json!({ "id": [task] }))["tasks"][0][name].clone();
        wait_until("the task has ended", || matches!(field("status").as_str(), Some("completed" | "failed")));
        assert_eq!((field("status"), field("status_reason")), (json!("completed"), json!("worker execution done")));
    }
    let listed = project.compose(&["exec", "-T", "daemon", &project.program, "list"]).ok();
    assert_eq!(listed.matches("docker-host:").count(), 2, "{listed}");
    project.compose(&["down"]).run().success();
    assert_eq!(project.containers(), "");
    for task in &tasks {
        context.command("docker").args(["rmi", "-f", &format!("agent/task-{task}:latest")]).ok();
    }
}

//! The lines of ClearML's own documentation that serve queues and execute tasks, placeholders filled in and
//! `clearml-agent` read as `agent`: each is started as it stands, is seen at work, and is stopped by the same words.

use serde_json::{Value, json};

use super::gpus::FOUR;
use crate::support::gpus::StandIn;
use crate::support::{Call, Engine, Running, Server, TestContext, base, require, wait_until};

/// A line, the worker it starts (behind the name), what runs its tasks and the queues it serves as they were asked for.
const LINES: &[(&str, &str, &str, &[&str])] = &[
    ("daemon --queue default", "0", "native", &["default"]),
    ("daemon --queue my_queue", "0", "native", &["my_queue"]),
    ("daemon --queue my_queue --detached", "0", "native", &["my_queue"]),
    ("daemon --detached --queue default --gpus 0", "gpu0", "native", &["default"]),
    ("daemon --detached --queue default --gpus 1", "gpu1", "native", &["default"]),
    ("daemon --gpus 0,1 --queue dual_gpu &", "gpu0,1", "native", &["dual_gpu"]),
    ("daemon --gpus 0,1 --queue dual_gpu  &", "gpu0,1", "native", &["dual_gpu"]),
    ("daemon --detached --queue high_q low_q --gpus 0", "gpu0", "native", &["high_q", "low_q"]),
    ("daemon --detached --queue group_a group_b --order-fairness  --gpus 0", "gpu0", "native", &["group_a", "group_b"]),
    ("daemon --queue default --foreground", "0", "native", &["default"]),
    ("daemon --queue my_queue --docker ubuntu:22.04", "0", "docker", &["my_queue"]),
    ("daemon --queue my_queue --docker", "0", "docker", &["my_queue"]),
    // As one page prints it, its placeholder lost: the server's default queue.
    ("daemon --queue --docker ubuntu:22.04", "0", "docker", &[]),
    ("daemon --queue default --docker --force-current-version", "0", "docker", &["default"]),
    ("daemon --dynamic-gpus --queue dual_gpus=2 single_gpu=1", "dgpuall", "native", &["dual_gpus=2", "single_gpu=1"]),
    ("daemon --dynamic-gpus --queues quad_gpu=4 dual_gpu=2", "dgpuall", "native", &["quad_gpu=4", "dual_gpu=2"]),
    ("daemon --dynamic-gpus --queue dual=2 opportunistic=1-4", "dgpuall", "native", &["dual=2", "opportunistic=1-4"]),
    (
        "daemon --services-mode --queue services --create-queue --docker debian:12 --cpu-only",
        "cpu:0",
        "docker",
        &["services"],
    ),
];

/// A machine of its own for each line, by its name and its state.
struct Machines<'a> {
    context: &'a TestContext,
    server: Server,
    driver: StandIn,
}

impl Machines<'_> {
    /// A line as a shell has it.
    fn line(&self, machine: usize, line: &str) -> Call {
        let program = std::env::var("AGENT_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
        let exec = if line.ends_with('&') { "" } else { "exec " };
        let call = self.context.command("sh").args(["-c", &format!("{exec}\"$0\" {line}"), &program]);
        let call = call.env("AGENT_STATE_DIR", self.context.path(format!("state-{machine}")));
        call.env("CLEARML_CONFIG_FILE", self.server.config())
            .env("CLEARML_WORKER_NAME", format!("box{machine}"))
            .env("CLEARML_DOCKER_IMAGE", format!("oci:{}", base().display()))
            .env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
            .env("AGENT_DRIVER_ROOT", self.driver.root())
            .env("AGENT_CDI_DIRS", self.context.path("cdi"))
    }

    fn daemons(&self, machine: usize) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.line(machine, "daemon --status --json").ok()).unwrap();
        status["daemons"].as_array().unwrap().clone()
    }
}

impl Drop for Machines<'_> {
    fn drop(&mut self) {
        for machine in 0..LINES.len() {
            // What fails here after a failure would end all tests.
            let stopped = std::panic::AssertUnwindSafe(|| {
                for daemon in self.daemons(machine) {
                    self.line(machine, &format!("daemon --stop {}", daemon["worker"].as_str().unwrap())).run();
                }
            });
            let _ = std::panic::catch_unwind(stopped);
        }
    }
}

#[test]
fn each_daemon_line_of_the_original_serves_in_docker_too_and_is_stopped_by_its_own_words() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let driver = StandIn::install(&context, FOUR);
    let machines = Machines { context: &context, server: Server::start(&context), driver };
    let named = |queue: &str| queue.split('=').next().unwrap().to_owned();
    for (line, .., queues) in LINES {
        for queue in queues.iter().filter(|_| !line.contains("--create-queue")) {
            let _ = machines.server.try_call("queues.create", &json!({ "name": named(queue) }));
        }
    }
    let mut attended: Vec<Option<Running>> = Vec::new();
    for (machine, (line, ..)) in LINES.iter().enumerate() {
        let call = machines.line(machine, line);
        let in_background = line.contains("--detached") || line.ends_with('&');
        let mut shell = call.spawn(&context.path(format!("line-{machine}.log")));
        let said = || fs_err::read_to_string(context.path(format!("line-{machine}.log"))).unwrap();
        attended.push(if in_background {
            assert_eq!(shell.wait(), Some(0), "{line}: {}", said());
            None
        } else {
            Some(shell)
        });
    }
    let workers = || -> Vec<Value> {
        let listed: Value = serde_json::from_str(&machines.line(0, "list --json").ok()).unwrap();
        listed["workers"].as_array().unwrap().clone()
    };
    let is = |worker: &str| workers().into_iter().find(|it| it["id"] == worker);
    for (machine, (line, id, engine, queues)) in LINES.iter().enumerate() {
        let worker = format!("box{machine}:{id}");
        wait_until(&format!("`{line}` is at work as {worker}"), || is(&worker).is_some());
        let names: Vec<String> =
            if queues.is_empty() { vec!["default".to_owned()] } else { queues.iter().map(|it| named(it)).collect() };
        let served = is(&worker).unwrap()["queues"].clone();
        let served: Vec<&str> = served.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(served, names, "{line}");
        let daemons = machines.daemons(machine);
        assert_eq!(daemons.len(), 1, "{line}: {daemons:?}");
        let about = &daemons[0]["about"];
        assert_eq!((&daemons[0]["worker"], &about["engine"]), (&json!(worker), &json!(engine)), "{line}");
        assert_eq!(about["queues"], json!(queues), "{line}");
        let shown = machines.line(machine, "daemon --status").ok();
        assert!(shown.starts_with(&format!("{worker} (process ")) && shown.contains(engine), "{line}: {shown}");
    }
    for (machine, ((line, id, ..), shell)) in LINES.iter().zip(attended).enumerate() {
        let words = line.trim_end_matches('&');
        let stopped = machines.line(machine, &format!("{words} --stop")).run().exits(0);
        assert_eq!(stopped.stdout.trim(), format!("box{machine}:{id} is stopped"), "{line}");
        if let Some(mut shell) = shell {
            assert_eq!(shell.wait(), Some(0), "{line}");
        }
    }
    wait_until("no worker is left", || workers().is_empty());
}

#[test]
fn each_execute_line_of_the_original_runs_its_task_in_docker_too() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let driver = StandIn::install(&context, FOUR);
    let machines = Machines { context: &context, server: Server::start(&context), driver };
    let task = || {
        let script =
            json!({ "entry_point": "job.py", "diff": "print('up', flush=True)\n", "requirements": { "pip": "" } });
        let body = json!({ "name": "a task", "type": "testing", "script": script });
        machines.server.call("tasks.create", &body)["id"].as_str().unwrap().to_owned()
    };
    for (machine, more) in ["", " --clone", " --docker"].into_iter().enumerate() {
        let task = task();
        let outcome = machines
            .line(machine, &format!("execute --id {task}{more}"))
            .env_remove("AGENT_DRIVER_ROOT")
            .run()
            .success();
        assert_eq!(outcome.stdout, "up\n");
        let expected = if more == " --clone" { "created" } else { "completed" };
        assert_eq!(machines.server.status(&task), expected);
        if more == " --docker" {
            context.command("docker").args(["rmi", "-f", &format!("agent/task-{task}:latest")]).ok();
        }
    }
}

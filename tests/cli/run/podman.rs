//! In Podman: its service is there already, or started for the run.

use agent::engine::Podman;
use agent::image::deliver::podman;
use rustix::process::{Pid, Signal, kill_process};

use super::docker::{BURST, burst};
use super::job::Job;
use super::{name, shell};
use crate::support::images::block;
use crate::support::{Call, Engine, TestContext, podman_socket, require, setting, wait_for, wait_until};

fn program() -> Podman {
    ["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"].into_iter().fold(Podman::default(), |podman, name| {
        setting(name).into_iter().fold(podman, |podman, value| podman.with_env(name, &value))
    })
}

fn there(call: Call) -> Call {
    call.env("CONTAINER_HOST", format!("unix://{}", podman_socket().display()))
}

#[test]
fn every_byte_of_a_run_arrives() {
    require(Engine::Podman);
    let context = TestContext::new();
    let name = name("podman-bytes");
    block(async {
        let (around, image) = shell(&context).await;
        podman(&around, &image, &program(), &name.parse().unwrap()).await.unwrap();
    });
    for way in [there, std::convert::identity] {
        let call = context.command("sh").args(["-c", "\"$0\" \"$@\" >out", env!("CARGO_BIN_EXE_agent")]);
        let outcome = way(call).args(["run", "--engine", "podman", &name, BURST]).run().exits(3);
        assert_eq!(outcome.stderr, "nor here");
        assert!(fs_err::read(context.work().join("out")).unwrap() == burst(), "standard output differs");
    }
    let outcome = there(context.agent()).args(["run", "--engine", "podman", "no-such-image:1"]).run().exits(66);
    assert!(outcome.stderr.contains("has no image `no-such-image:1`"), "{}", outcome.stderr);
    let outcome = there(context.agent()).args(["run", "--engine", "podman", "--gpus", "3-1", &name]).run().exits(2);
    assert!(outcome.stderr.contains("`3-1`"), "{}", outcome.stderr);
    let call = there(context.agent()).args(["run", "--engine", "podman", "--gpus", "none", &name]);
    assert_eq!(call.arg("echo $NVIDIA_VISIBLE_DEVICES").ok(), "void");
    context.command("podman").args(["rmi", "--force", &name]).ok();
}

#[test]
fn a_task_runs_with_its_server_and_without_and_is_stopped() {
    require(Engine::Podman);
    let context = TestContext::new();
    let (job, name) = (Job::new(&context), name("podman-job"));
    job.build(&["--entry-point", "reuse_task", "-o", &format!("type=podman,name={name}")]);
    let run = |call: Call| call.args(["run", "--engine", "podman", "-e"]);
    let outcome = run(job.agent()).args(["CODE=3", &name]).run().exits(3);
    assert!(outcome.stdout.starts_with(&format!("up {}", job.task)), "{}", outcome.stdout);
    assert_eq!(job.server.status(&job.task), "failed");

    job.server.call("tasks.reset", &serde_json::json!({ "task": job.task, "force": true }));
    let output = context.path("output");
    let mut running = run(there(job.agent())).args(["WAIT=1", &name]).spawn(&output);
    wait_until("the task is up", || job.is_up(&job.task));
    let pid = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = wait_for("the run ends", || running.status());
    let said = fs_err::read_to_string(&output).unwrap();
    assert_eq!((status, job.server.status(&job.task).as_str()), (Some(143), "stopped"), "{said}");

    let outcome = run(there(context.agent())).args(["CODE=0", &name]).run().success();
    assert!(outcome.stderr.contains(".local/share/agent/offline/"), "{}", outcome.stderr);
    let left = context.command("podman").args(["ps", "--all", "--quiet", "--filter", &format!("ancestor={name}")]);
    assert_eq!(left.ok(), "");
    context.command("podman").args(["rmi", "--force", &name]).ok();
}

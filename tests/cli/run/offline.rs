//! Without a server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::job::Job;
use super::name;
use crate::support::{Engine, TestContext, require, write};

/// Where a run said that it kept what was written.
fn place(stderr: &str) -> PathBuf {
    let line = stderr.lines().find_map(|it| it.split_once("what the SDK wrote is in "));
    line.unwrap_or_else(|| panic!("no place in {stderr}")).1.into()
}

fn read(journal: &Path, name: &str) -> String {
    fs_err::read_to_string(journal.join(name)).unwrap()
}

#[test]
fn a_native_run_keeps_what_was_written_and_says_where() {
    let context = TestContext::new();
    let job = Job::new(&context);
    let image = job.build(&["--entry-point", "reuse_task"]);
    let kept = context.home().join(".local/share/agent/offline");
    for user in ["0", "1234:1234"] {
        let outcome = context.agent().args(["run", "--user", user, "--set", "Args/rate=2", &image]).run().success();
        let journal = place(&outcome.stderr);
        assert_eq!(journal.parent(), Some(kept.as_path()), "{}", outcome.stderr);
        assert_eq!(read(&journal, "console.log"), outcome.stdout);
        assert!(outcome.stdout.contains(&format!("up {} /opt/agent/code", job.task)), "{}", outcome.stdout);
        let task: serde_json::Value = serde_json::from_str(&read(&journal, "task.json")).unwrap();
        assert_eq!(task["hyperparams"]["Args"]["rate"]["value"], "2");
        assert!(!outcome.stderr.contains("-v DIR"), "{}", outcome.stderr);
    }
    let count = || fs_err::read_dir(&kept).unwrap().count();
    assert_eq!(count(), 2);
    // Nothing is kept of what is no run of the task, and what goes elsewhere is not here.
    context.agent().args(["run", &image, "true"]).ok();
    context.agent().args(["run", &image, "--help"]).ok();
    let mine = context.path("mine");
    let outcome = context.agent().args(["run", "--offline", "--journal"]).arg(&mine).arg(&image).run().success();
    assert_eq!((place(&outcome.stderr), count()), (mine.clone(), 2));
    assert!(read(&mine, "console.log").contains("up "));
    // With a server it is the server that keeps it.
    job.agent().args(["run", &image]).ok();
    assert_eq!(count(), 2);
}

#[test]
fn docker_run_says_how_to_keep_what_is_written() {
    require(Engine::Docker);
    let context = TestContext::new();
    let (job, name) = (Job::new(&context), name("offline"));
    job.build(&["--entry-point", "reuse_task", "-o", &format!("type=docker,name={name}")]);
    let docker = |switches: &[&str]| context.command("docker").args(["run", "--rm"]).args(switches).arg(&name).run();
    let outcome = docker(&[]).success();
    assert!(outcome.stderr.contains("-v DIR:/opt/agent/journal"), "{}", outcome.stderr);
    let mine = context.path("mine");
    fs_err::create_dir(&mine).unwrap();
    let volume = format!("{}:/opt/agent/journal", mine.display());
    // Somebody else than who owns it: told, and run all the same.
    let outcome = docker(&["--user", "1234", "-v", &volume]).success();
    assert!(outcome.stderr.contains("user 1234 cannot keep"), "{}", outcome.stderr);
    assert_eq!(fs_err::read_dir(&mine).unwrap().count(), 0);
    fs_err::set_permissions(&mine, std::fs::Permissions::from_mode(0o777)).unwrap();
    for switches in [&["--user", "1234", "-v", &volume][..], &["--read-only", "-v", &volume]] {
        let outcome = docker(switches).success();
        assert!(!outcome.stderr.contains("cannot keep") && !outcome.stderr.contains("DIR"), "{}", outcome.stderr);
        assert!(read(&mine, "console.log").ends_with(&outcome.stdout));
    }
    let outcome = context.agent().args(["run", "--engine", "docker", "-v", &volume, &name]).run().success();
    assert!(read(&mine, "console.log").ends_with(&outcome.stdout));
    let outcome = context.agent().args(["run", "--engine", "docker", &name]).run().success();
    let journal = place(&outcome.stderr);
    assert!(journal.starts_with(context.home().join(".local/share/agent/offline")), "{}", journal.display());
    assert_eq!(read(&journal, "console.log"), outcome.stdout);
    context.command("docker").args(["rmi", "-f", &name]).ok();
}

#[test]
fn a_native_run_follows_the_tasks_container_arguments_and_names_what_it_cannot() {
    let context = TestContext::new();
    let (data, mine) = (context.path("data"), context.path("mine"));
    write(&data.join("file"), "the task's\n");
    write(&mine.join("file"), "mine\n");
    let job = Job::new(&context);
    let arguments = format!("--ipc=host --gpus all -v {0}:/data:ro -v /no/such:/gone -v {0}:/twice", data.display());
    let container = serde_json::json!({ "image": "", "arguments": arguments });
    job.server.call("tasks.edit", &serde_json::json!({ "task": job.task, "container": container }));
    let image = job.build(&["--entry-point", "reuse_task"]);
    let line = "cat /data/file /twice/file; ! touch /data/file 2>/dev/null && test ! -e /gone";
    let run = context.agent().args(["run", "--trust-image-arguments", "-v", &format!("{}:/twice", mine.display())]);
    let run = run.args([&image, "sh", "-c", line]);
    let outcome = run.run().success();
    assert_eq!(outcome.stdout, "the task's\nmine\n");
    for part in ["container argument `--gpus` is left out: ", "`/no/such`, which is not here"] {
        assert!(outcome.stderr.contains(part), "{part} is not in {}", outcome.stderr);
    }
}

#[test]
fn variables_of_an_entry_point_are_those_of_its_run() {
    let context = TestContext::new();
    let job = Job::starting(&context, "job.py --where $PLACE/${NAME} '$NOT_SET' \"$5\"");
    let image = job.build(&["--entry-point", "reuse_task"]);
    let run = context.agent().args(["run", "--offline", "-e", "PLACE=/data", "-e", "NAME=a b", &image]);
    let said = run.ok();
    assert!(said.ends_with("/opt/agent/code --where /data/a b $NOT_SET $5"), "{said}");
}

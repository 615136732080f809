//! Task to image to run.

use super::{Sample, base_argument, built};
use crate::support::{Engine, TestContext, docker_host, require, write};

#[test]
fn a_task_file_becomes_an_image_that_runs_natively() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let manifest = sample.build(&["--entry-point", "reuse_task"]);
    let image = format!("oci:{}", context.path("image").display());
    let outcome = context.agent().args(["run", "--offline", &image]).run().success();
    assert!(outcome.stdout.contains("six 1.16.0 changed --epochs 3"), "{}", outcome.stdout);
    let outcome = context
        .agent()
        .args(["run", "--offline", &image, "python", "-c", "import six, sys; print(sys.prefix); sys.exit(7)"])
        .run()
        .exits(7);
    assert!(outcome.stdout.contains("/opt/agent/venv"), "{}", outcome.stdout);
    let shown = context.agent().args(["inspect", &image]).ok();
    for part in [&manifest[..], "libsm6", "train.py", "3.11"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let verified = context.agent().args(["verify", &image]).ok();
    assert!(verified.contains(&manifest), "{verified}");
}

#[test]
fn other_programs_accept_the_image() {
    require(Engine::Skopeo);
    require(Engine::Umoci);
    let context = TestContext::new();
    let manifest = Sample::new(&context).build(&[]);
    let image = format!("oci:{}:1", context.path("image").display());
    let seen = context.command("skopeo").args(["inspect", "--format", "{{.Digest}}", &image]).ok();
    assert_eq!(seen, manifest);
    let bundle = context.path("bundle");
    let place = format!("{}:1", context.path("image").display());
    context.command("umoci").args(["unpack", "--rootless", "--image", &place]).arg(&bundle).ok();
    assert!(bundle.join("rootfs/opt/agent/venv/bin/python").is_symlink());
    assert!(!bundle.join("rootfs/opt/agent/code/.git").exists());
}

#[test]
fn docker_runs_a_stored_script_and_ends_with_its_code() {
    require(Engine::Docker);
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    sample.task["script"] = serde_json::json!({
        "entry_point": "job.py", "diff": "import sys\nprint('stored', sys.argv)\nsys.exit(5)\n", "requirements": {"pip": ""},
    });
    let name = format!("agent-test-{}:1", std::process::id());
    let arguments = ["--docker", &base_argument(), "--target", &name, "--entry-point", "reuse_task"];
    context.agent().args(["build", "--task"]).arg(sample.file()).args(arguments).env("DOCKER_HOST", docker_host()).ok();
    let run = context
        .command("docker")
        .args(["run", "--rm", "--network", "none", &name])
        .env("DOCKER_HOST", docker_host())
        .run();
    context.command("docker").args(["rmi", "-f", &name]).env("DOCKER_HOST", docker_host()).ok();
    let outcome = run.exits(5);
    assert!(outcome.stdout.contains("stored"), "{}", outcome.stdout);
}

#[test]
fn secrets_of_a_task_are_in_neither_lock_nor_layers() {
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    sample.task["hyperparams"]["Args"]["api_key"] =
        serde_json::json!({"section": "Args", "name": "api_key", "value": "s3cr3t-p4rameter"});
    sample.task["container"] = serde_json::json!({"arguments": "-e DB_PASSWORD=s3cr3t-variable -e PLAIN=yes"});
    let lock = sample.lock(&["--entry-point", "reuse_task"]);
    let text = fs_err::read_to_string(&lock).unwrap();
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(text.contains("DB_PASSWORD") && text.contains("Args/api_key") && text.contains("PLAIN"), "{text}");
    let image = context.path("image");
    built(&context, |call| call.arg("--lock").arg(&lock));
    for blob in fs_err::read_dir(image.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let bytes = fs_err::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|it| it == b"s3cr3t"), "{}", path.display());
        let unpacked =
            context.command("sh").args(["-c", "zcat < \"$0\" 2>/dev/null | grep -c s3cr3t || true"]).arg(&path).ok();
        assert_eq!(unpacked.lines().last().unwrap_or("0"), "0", "{}", path.display());
    }
}

#[test]
fn a_dry_run_makes_nothing() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let image = context.path("image");
    let output = format!("type=oci,dest={}", image.display());
    let call = context.agent().arg("build").arg("--task").arg(sample.file()).args(["--docker", &base_argument()]);
    call.args(["--target", "x:1", "--dry-run", "-o", &output]).ok();
    assert!(!image.exists());
    write(&context.path("done"), "");
}

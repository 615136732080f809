//! The README's first command, as a stranger runs it.

use crate::support::{Engine, Registry, TestContext, require, user, write};

/// What must be on the screen in the end, with and without Docker.
fn shows_all(text: &str) {
    for line in [
        "ClearML Task: created new task id=",
        "$ agent build --id ",
        "status      completed",
        "parameters  ",
        "General/steps=40",
        "scalar      loss/train: 40 values, ",
        "plot        fit/",
        "artifact    line",
        "console     y = 2.0",
        "the same image, bit for bit: sha256:",
        "Go on with:",
    ] {
        assert!(text.contains(line), "`{line}` is missing in:\n{text}");
    }
}

#[test]
fn quickstart_in_docker() {
    require(Engine::Docker);
    require(Engine::Git);
    let context = TestContext::warm();
    let outcome = context.agent().arg("quickstart").run().success();
    shows_all(&outcome.stdout);
    assert!(outcome.stdout.contains("$ docker run --rm --network host"), "{}", outcome.stdout);
    let secret =
        fs_err::read_to_string(context.home().join(".local/share/agent/quickstart/server/clearml.conf")).unwrap();
    let (_, secret) = secret.split_once("secret_key").unwrap();
    let secret = secret.trim_start_matches([' ', ':', '=', '"']).split('"').next().unwrap();
    assert!(secret.len() > 8 && !outcome.stdout.contains(secret) && !outcome.stderr.contains(secret));
}

#[test]
fn quickstart_natively_where_there_is_no_engine() {
    require(Engine::Git);
    let context = TestContext::warm();
    let nowhere = format!("unix://{}", context.path("no-such-socket").display());
    let outcome = context.agent().env("DOCKER_HOST", nowhere).arg("quickstart").run().success();
    shows_all(&outcome.stdout);
    assert!(outcome.stdout.contains("$ agent run oci:"), "{}", outcome.stdout);
}

#[test]
fn quickstart_of_another_user_without_rights() {
    require(Engine::Git);
    let context = TestContext::new();
    let user = user();
    context.command("chown").args(["-R", &format!("{user}:{user}")]).arg(context.path("")).ok();
    let nowhere = format!("unix://{}", context.path("no-such-socket").display());
    let quickstart = ["-u", &user, "--", env!("CARGO_BIN_EXE_agent"), "quickstart"];
    let outcome = context.command("runuser").args(quickstart).env("DOCKER_HOST", nowhere).run().success();
    shows_all(&outcome.stdout);
    assert!(outcome.stdout.contains("$ agent run oci:"), "{}", outcome.stdout);
}

/// Where packages are not Debian's, the base is one that the world has.
#[test]
fn quickstart_of_another_distribution_takes_its_base_from_a_registry() {
    require(Engine::Git);
    require(Engine::Skopeo);
    let context = TestContext::warm();
    let registry = Registry::start(&context);
    registry.push_base(&context, "library/python:3.12-slim");
    let known = registry.as_known_to_the_world(&context, "registry-1.docker.io");
    let release = context.path("os-release");
    write(&release, "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=43\n");
    let script = "mount --bind \"$0\" /etc/os-release && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let nowhere = format!("unix://{}", context.path("no-such-socket").display());
    let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]);
    let call = call.arg(&release).arg(&known.hosts).arg(env!("CARGO_BIN_EXE_agent")).arg("quickstart");
    let outcome = call.env("DOCKER_HOST", nowhere).env("SSL_CERT_FILE", &known.authorities).run().success();
    shows_all(&outcome.stdout);
    assert!(outcome.stdout.contains(" --docker python:3.12-slim --force-docker "), "{}", outcome.stdout);
}

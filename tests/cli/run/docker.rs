//! In Docker.

use agent::engine::{ContainerSpec, LogChunk};
use agent::image::deliver::docker;

use super::{name, shell};
use crate::support::images::{block, engine, unique};
use crate::support::{Engine, TestContext, require};

/// All 256 bytes, eight MiB of them, then ends without an end of line on both streams.
pub(super) const BURST: &str = r#"exec python3 -c '
import sys
sys.stdout.buffer.write(bytes(range(256)) * 32768)
sys.stdout.buffer.write(b"\x01\x00\x00no end")
sys.stdout.flush()
sys.stderr.write("nor here")
sys.exit(3)'"#;

pub(super) fn burst() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255_u8).cycle().take(8 << 20).collect();
    bytes.extend_from_slice(b"\x01\x00\x00no end");
    bytes
}

#[test]
fn every_byte_of_a_run_arrives() {
    require(Engine::Docker);
    let context = TestContext::new();
    let name = name("bytes");
    block(async {
        let (around, image) = shell(&context).await;
        docker(&around, &image, &engine(), &name.parse().unwrap()).await.unwrap();
    });
    for _ in 0..3 {
        let call = context.command("sh").args(["-c", "\"$0\" \"$@\" >out", env!("CARGO_BIN_EXE_agent")]);
        let outcome = call.args(["run", "--engine", "docker", &name, BURST]).run().exits(3);
        assert_eq!(outcome.stderr, "nor here");
        assert!(fs_err::read(context.work().join("out")).unwrap() == burst(), "standard output differs");
    }
    block(async { engine().remove_image(&name).await.unwrap() });
}

/// Eight MiB of text, and no end of line in the end. An engine's log is for text: other bytes are lost in it.
const LINES: &str = r#"exec python3 -c '
import sys
sys.stdout.write("0123456789abcde\n" * (1 << 19) + "no end")
sys.stdout.flush()
sys.stderr.write("nor here")
sys.exit(3)'"#;

#[test]
fn a_run_that_is_found_again_tells_all_from_its_beginning() {
    require(Engine::Docker);
    let context = TestContext::new();
    let name = name("found");
    block(async {
        let (around, image) = shell(&context).await;
        let engine = engine();
        docker(&around, &image, &engine, &name.parse().unwrap()).await.unwrap();
        let spec = ContainerSpec {
            image: name.clone(),
            command: Some(vec![LINES.to_owned()]),
            network: Some("none".to_owned()),
            ..ContainerSpec::default()
        };
        let id = unique("found");
        // Whoever started it is gone, as after a crash.
        drop(agent::run::docker::start(&engine, spec, id.trim()).await.unwrap());
        let mut found = agent::run::docker::find(&engine, id.trim()).await.unwrap().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let keep = |chunk: &LogChunk| match chunk {
            LogChunk::Out(bytes) => out.extend_from_slice(bytes),
            LogChunk::Err(bytes) => err.extend_from_slice(bytes),
        };
        let ended = found.attend(keep, std::future::pending()).await.unwrap();
        assert_eq!((ended.code, ended.heard), (3, true));
        let expected = [b"0123456789abcde\n".repeat(1 << 19), b"no end".to_vec()].concat();
        assert!(out == expected, "standard output differs");
        assert_eq!(err, b"nor here");
        found.remove().await.unwrap();
        engine.remove_image(&name).await.unwrap();
    });
}

#[test]
fn an_image_gets_nothing_of_the_host_by_its_own_word() {
    require(Engine::Docker);
    let context = TestContext::new();
    let job = super::job::Job::new(&context);
    let arguments = "-v /:/host --shm-size 100m -e WAIT=";
    let container = serde_json::json!({ "image": "", "arguments": arguments });
    job.server.call("tasks.edit", &serde_json::json!({ "task": job.task, "container": container }));
    let name = name("host");
    job.build(&["--entry-point", "reuse_task", "-o", &format!("type=docker,name={name}")]);
    let run = |more: &[&str]| {
        let call = context.agent().args(["run", "--engine", "docker", "--offline"]).args(more);
        call.args([&name, "sh", "-c", "ls -d /host 2>/dev/null; df -k /dev/shm | tail -1 | awk '{print $2}'"])
    };
    let refused = run(&[]).run().exits(77);
    let expected = "the container arguments in the image ask for what is this machine's: `-v /:/host`";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    assert_eq!(run(&["--trust-image-arguments"]).ok(), "/host\n102400");
    let left_out = run(&[]).env("CLEARML_AGENT__AGENT__FORBIDDEN_DOCKER_ARGS", "[volume]").run().success();
    assert_eq!(left_out.stdout, "102400\n");
    assert_eq!(left_out.stderr.matches("is not allowed here and left out").count(), 1, "{}", left_out.stderr);
    context.command("docker").args(["rmi", "-f", &name]).ok();
}

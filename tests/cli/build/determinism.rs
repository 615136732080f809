//! The same lock is the same image, whoever builds it, wherever and however.

use super::{Sample, base_argument, built};
use crate::support::{TestContext, user};

#[test]
fn the_same_lock_gives_the_same_manifest_whatever_surrounds_it() {
    let first = TestContext::new();
    let sample = Sample::new(&first);
    let lock = sample.lock(&["--entry-point", "clone_task", "--apt", "libgomp1"]);
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    // The layers are there already: nothing is made, and the image is the same.
    assert_eq!(built(&first, |call| call.arg("--lock").arg(&lock)), digest);
    let second = TestContext::new();
    let other = built(&second, |_| {
        let agent = env!("CARGO_BIN_EXE_agent");
        let script = "umask 077; exec taskset -c 0 \"$0\" \"$@\"";
        let call = second.command("sh").args(["-c", script, agent, "build"]).arg("--lock").arg(&lock);
        call.args(["--docker", &base_argument(), "--repository"])
            .arg(sample.repository.path())
            .env("TZ", "Asia/Kathmandu")
            .env("LC_ALL", "C")
            .env("SOURCE_DATE_EPOCH", "1")
            .env("HOSTNAME", "elsewhere")
    });
    assert_eq!(other, digest, "umask, time zone, locale, cores, directory and store must not matter");
}

#[test]
fn another_user_without_rights_gives_the_same_manifest() {
    let first = TestContext::new();
    let sample = Sample::new(&first);
    let lock = sample.lock(&["--apt", "libgomp1"]);
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    let second = TestContext::new();
    let user = user();
    let run = |arguments: &[&str]| second.command("runuser").args(["-u", &user, "--"]).args(arguments).run();
    let owner = format!("{user}:{user}");
    second.command("chown").args(["-R", &owner]).arg(second.path("")).ok();
    second.command("chmod").args(["-R", "a+rX"]).arg(first.path("")).ok();
    let metadata = second.path("metadata.json");
    let output = format!("type=oci,dest={}", second.path("image").display());
    let texts = [&lock, &metadata, sample.repository.path()].map(|it| it.display().to_string());
    run(&[
        env!("CARGO_BIN_EXE_agent"),
        "build",
        "--lock",
        &texts[0],
        "--repository",
        &texts[2],
        "--docker",
        &base_argument(),
        "--target",
        "sample:1",
        "-o",
        &output,
        "--metadata-file",
        &texts[1],
    ])
    .success();
    let metadata: serde_json::Value = serde_json::from_slice(&fs_err::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest);
}

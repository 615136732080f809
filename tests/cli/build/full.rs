//! Disks that are full: of the store and of the place an image goes to.

use std::path::Path;

use super::{Sample, base_argument};
use crate::support::{Call, TestContext};

/// The program with a small disk at a directory of the world, which goes with it.
fn on_small_disk(context: &TestContext, directory: &Path, size: &str) -> Call {
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs '{}' && \"$@\"; code=$?; find '{}' -type f >&2; exit $code",
        directory.display(),
        directory.display()
    );
    let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    call.arg(env!("CARGO_BIN_EXE_agent"))
}

#[test]
fn a_full_disk_is_told_and_nothing_half_done_remains() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let (task, base) = (sample.file(), base_argument());
    let arguments = ["--docker", &base, "--apt", "libgomp1", "--target", "sample:1", "-o"];
    let output = context.path("image");
    let to = format!("type=oci,dest={}", output.display());
    // No room for the base's blob; for the blob, not for its files.
    for size in ["20m", "90m"] {
        let call = on_small_disk(&context, context.store(), size);
        let outcome = call.args(["build", "--task"]).arg(&task).args(arguments).arg(&to).run().exits(73);
        let said = &outcome.stderr;
        assert!(said.contains("No space left on device") && said.contains("hint: Make room"), "{size}: {said}");
        assert!(!output.exists(), "{size}: {said}");
        let unfinished = context.store().join("tmp/").display().to_string();
        let left = said.lines().filter(|it| it.starts_with(&unfinished));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<&str>::new(), "{size}: {said}");
    }

    let disk = context.path("disk");
    fs_err::create_dir(&disk).unwrap();
    let to = format!("type=oci,dest={}", disk.join("image").display());
    let call = on_small_disk(&context, &disk, "20m");
    let outcome = call.args(["build", "--task"]).arg(&task).args(arguments).arg(&to).run().exits(73);
    let said = &outcome.stderr;
    assert!(said.contains("No space left on device") && said.contains(disk.to_str().unwrap()), "{said}");
    // Blobs that were finished may stay for the next try; without an index they are no image.
    let files: Vec<&str> = said.lines().filter(|it| it.starts_with(disk.to_str().unwrap())).collect();
    let finished = |it: &&str| !it.contains(".tmp") && !it.ends_with("index.json");
    assert!(files.iter().all(finished), "{files:?}");
}

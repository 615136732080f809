//! `ci/gpu`, all of it, on the stand-in: what is left to a machine with a GPU is the GPU.

use std::path::Path;

use crate::support::gpus::{GPUS, StandIn};
use crate::support::{Call, TestContext, base};

fn script(context: &TestContext, path: &Path) -> Call {
    let program = std::env::var_os("AGENT_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_agent").into());
    context.command(path).env("AGENT_TEST_PROGRAM", program).env("AGENT_TEST_BASE", base())
}

#[test]
fn the_proof_for_machines_with_gpus_goes_through() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, GPUS);
    driver.nodes();
    let carried = context.path("carried");
    script(&context, &Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/gpu")).arg("prepare").arg(&carried).ok();
    let check = || {
        let path = std::env::var("PATH").unwrap();
        // Without network, as it is meant to be.
        let call = script(&context, Path::new("unshare")).args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" check",
        ]);
        call.arg(carried.join("gpu"))
            .env("AGENT_TEST_GPU_SECONDS", "2")
            .env("PATH", format!("{}:{path}", driver.path("usr/bin").display()))
            .env("AGENT_DRIVER_ROOT", driver.root())
            .env("AGENT_CDI_DIRS", context.path("none"))
    };
    let outcome = check().run().success();
    assert!(outcome.stderr.contains("3 GPUs and 2 MIG instances are nvidia-smi's"), "{}", outcome.stderr);
    assert!(outcome.stderr.ends_with("==> everything is as it should be\n"), "{}", outcome.stderr);
    // Without partitions there is a run with all of them as well.
    let whole: String = GPUS.lines().filter(|it| !it.starts_with("mig")).map(|it| format!("{it}\n")).collect();
    driver.change(&whole);
    let outcome = check().run().success();
    assert!(outcome.stdout.contains("devices 3"), "{}", outcome.stdout);
    // A node that is missing is found out.
    fs_err::remove_file(driver.path("dev/nvidia1")).unwrap();
    let outcome = check().run().exits(1);
    assert!(outcome.stderr.contains("the device node `/dev/nvidia1` is missing"), "{}", outcome.stderr);
}

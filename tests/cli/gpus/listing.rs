//! `agent gpus`, with a stand-in for NVIDIA's library.

use serde_json::{Value, json};

use crate::support::gpus::{GPUS, StandIn};
use crate::support::{Call, TestContext};

fn asked(context: &TestContext, driver: &StandIn, arguments: &[&str]) -> Call {
    context.agent().arg("gpus").args(arguments).env("AGENT_DRIVER_ROOT", driver.root())
}

fn json(call: Call) -> Value {
    serde_json::from_str(&call.arg("--json").ok()).unwrap()
}

#[test]
fn devices_of_the_library_are_listed() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, GPUS);
    let outcome = asked(&context, &driver, &[]).run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @r"
    driver 550.54.14, CUDA up to 12.4
    gpu  name                       memory      used  busy  compute  uuid
    0    NVIDIA H100 80GB HBM3    80.0 GiB  1.00 GiB  42 %  9.0      GPU-aaaaaaaa-0000-0000-0000-000000000000
    1    NVIDIA H100 80GB HBM3    80.0 GiB  1.00 GiB        9.0      GPU-bbbbbbbb-0000-0000-0000-000000000000
    1:0  NVIDIA H100 MIG 1g.10gb  10.0 GiB                           MIG-b0b0b0b0-0000-0000-0000-000000000000
    1:1  NVIDIA H100 MIG 1g.10gb  10.0 GiB                           MIG-b1b1b1b1-0000-0000-0000-000000000000
    2    NVIDIA GB10                                  42 %  9.0      GPU-cccccccc-0000-0000-0000-000000000000
    ");
    let told = json(asked(&context, &driver, &[]));
    assert_eq!(told["driver"], "550.54.14");
    let first = &told["devices"][0];
    assert_eq!((&first["minor"], &first["brand"]), (&json!(3), &json!("tesla")));
    assert_eq!(told["devices"][2]["memory_total"], Value::Null);
    assert_eq!(told["devices"][1]["instances"][1]["uuid"], "MIG-b1b1b1b1-0000-0000-0000-000000000000");
    // As the loader finds it, too.
    let by_loader = context.agent().arg("gpus").env("LD_LIBRARY_PATH", driver.libraries());
    assert_eq!(json(by_loader), told);
}

#[test]
fn some_of_them_are_named_as_everywhere() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, GPUS);
    let outcome = asked(&context, &driver, &["--gpus", "2,1:0"]).run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @r"
    driver 550.54.14, CUDA up to 12.4
    gpu  name                       memory      used  busy  compute  uuid
    2    NVIDIA GB10                                  42 %  9.0      GPU-cccccccc-0000-0000-0000-000000000000
    1    NVIDIA H100 80GB HBM3    80.0 GiB  1.00 GiB        9.0      GPU-bbbbbbbb-0000-0000-0000-000000000000
    1:0  NVIDIA H100 MIG 1g.10gb  10.0 GiB                           MIG-b0b0b0b0-0000-0000-0000-000000000000
    ");
    let outcome = asked(&context, &driver, &["--gpus", "0-3"]).run().exits(66);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: there is no GPU `3`: there are 0, 1 and 2
    hint: `agent gpus` lists what there is.
    ");
    let outcome = asked(&context, &driver, &["--gpus", "one"]).run().exits(2);
    assert!(outcome.stderr.contains("`one` is no index, range, instance or UUID"), "{}", outcome.stderr);
}

#[test]
fn an_old_driver_tells_of_devices_and_who_uses_them() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, &GPUS.replace("HBM3\ngpu 0", "HBM3\nprocess 4711\ngpu 0"));
    driver.grow_old(&context);
    let told = json(asked(&context, &driver, &[]));
    let first = &told["devices"][0];
    assert_eq!((&first["memory_total"], &first["processes"]), (&Value::Null, &json!([4711])));
    insta::assert_snapshot!(asked(&context, &driver, &["--gpus", "all", "--share", "1"]).ok(), @"free: 1:0, 1:1, 2; a task gets 1:0");
}

#[test]
fn what_a_task_of_a_queue_would_get_is_told_from_what_is_free_now() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, GPUS);
    let share = |list: &str, share: &str| asked(&context, &driver, &["--gpus", list, "--share", share]);
    insta::assert_snapshot!(share("all", "1-2").ok(), @"free: 0, 1:0, 1:1, 2; a task gets 0, 1:0");
    // Somebody computes on the first device and on the second's first instance.
    let busy =
        GPUS.replace("HBM3\ngpu 0", "HBM3\nprocess 4711\ngpu 0").replacen("1g.10gb\n", "1g.10gb\nprocess 4712\n", 1);
    driver.change(&busy);
    insta::assert_snapshot!(share("all", "1-2").ok(), @"free: 1:1, 2; a task gets 1:1, 2");
    insta::assert_snapshot!(share("all", "3").ok(), @"free: 1:1, 2; a task of 3 waits");
    let told = json(share("0,2", "1-4"));
    assert_eq!((&told["free"], &told["gets"]), (&json!(["2"]), &json!(["2"])));
    let outcome = share("0,2", "3").run().exits(80);
    assert!(outcome.stderr.contains("at least 3 GPUs for a task, and this worker has 2"), "{}", outcome.stderr);
    let outcome = share("all", "0.5").run().exits(2);
    assert!(outcome.stderr.contains("parts of a GPU are not given"), "{}", outcome.stderr);
}

#[test]
fn those_that_fell_off_the_bus_are_lost_and_a_driver_that_fails_is_told() {
    let context = TestContext::new();
    let driver = StandIn::install(&context, GPUS);
    let told = |first: u32, others: u32| {
        let lines = GPUS.lines().map(|line| match line.split(' ').next().unwrap() {
            "gpu" if line.contains("aaaa") => format!("{line}\nlost {first}\n"),
            "gpu" => format!("{line}\nlost {others}\n"),
            _ => format!("{line}\n"),
        });
        driver.change(&lines.collect::<String>());
        asked(&context, &driver, &["--json"]).run()
    };
    let indices = |text: &str| -> Vec<u64> {
        let told: Value = serde_json::from_str(text).unwrap();
        told["devices"].as_array().unwrap().iter().map(|it| it["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indices(&told(15, 0).success().stdout), [1, 2]);
    let shown = asked(&context, &driver, &[]).run().success();
    insta::assert_snapshot!(shown.shown_stdout(), @r"
    driver 550.54.14, CUDA up to 12.4
    gpu  name                                              memory      used  busy  compute  uuid
    0    lost: it fell off the bus or cannot be reached
    1    NVIDIA H100 80GB HBM3                           80.0 GiB  1.00 GiB        9.0      GPU-bbbbbbbb-0000-0000-0000-000000000000
    1:0  NVIDIA H100 MIG 1g.10gb                         10.0 GiB                           MIG-b0b0b0b0-0000-0000-0000-000000000000
    1:1  NVIDIA H100 MIG 1g.10gb                         10.0 GiB                           MIG-b1b1b1b1-0000-0000-0000-000000000000
    2    NVIDIA GB10                                                         42 %  9.0      GPU-cccccccc-0000-0000-0000-000000000000
    ");
    let lost = json!([{"index": 0, "reason": "it fell off the bus or cannot be reached"}]);
    assert_eq!(json(asked(&context, &driver, &[]))["lost"], lost);
    let outcome = asked(&context, &driver, &["--gpus", "0,1"]).run().exits(66);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: GPU 0 is lost: it fell off the bus or cannot be reached
    hint: Reset it (`nvidia-smi --gpu-reset`) or restart the machine; until then `--gpus` can name others.
    ");
    // One that this user may not open is none to reset.
    assert_eq!(indices(&told(4, 0).success().stdout), [1, 2]);
    let outcome = asked(&context, &driver, &["--gpus", "0"]).run().exits(66);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: GPU 0 is lost: this user may not use it
    hint: Make sure this user may open /dev/nvidiactl and /dev/nvidia*.
    ");
    told(15, 0).success();
    // Named, the others are listed alone.
    assert_eq!(json(asked(&context, &driver, &["--gpus", "1:0,2"]))["lost"], json!([]));
    assert_eq!(indices(&told(999, 0).success().stdout), [1, 2]);
    assert_eq!(indices(&told(0, 999).success().stdout), [0]);
    assert!(indices(&told(15, 15).success().stdout).is_empty());
    let outcome = asked(&context, &driver, &["--gpus", "all"]).run().exits(66);
    assert!(outcome.stderr.contains("GPU 0 is lost: it fell off the bus"), "{}", outcome.stderr);
    // That all fail, and not of their own accord, is the driver's fault.
    let outcome = told(15, 999).exits(74);
    assert!(outcome.stderr.contains("the NVIDIA driver does not answer: a device failed"), "{}", outcome.stderr);
    // An instance by itself, too.
    driver.change(&GPUS.replacen("1g.10gb\n", "1g.10gb\nlost 999\n", 1));
    let shown = asked(&context, &driver, &[]).ok();
    let first = "\n1:0  lost: the driver fails on it: an internal driver error occurred\n1:1  NVIDIA H100 MIG";
    assert!(shown.contains(first), "{shown}");
    let outcome = asked(&context, &driver, &["--gpus", "1:0"]).run().exits(66);
    assert!(outcome.stderr.contains("GPU 1:0 is lost: the driver fails on it"), "{}", outcome.stderr);
}

#[test]
fn a_machine_without_a_driver_is_told_plainly() {
    let context = TestContext::new();
    // A library whose driver is not loaded, so that the test says the same on a machine that has GPUs.
    let driver = StandIn::install(&context, "unloaded\n");
    let outcome = asked(&context, &driver, &[]).run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @"no GPUs: NVIDIA's library is installed, its kernel driver is not loaded");
    assert_eq!(json(asked(&context, &driver, &[]))["devices"], json!([]));
    let outcome = asked(&context, &driver, &["--gpus", "all"]).run().exits(66);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: GPUs `all` are asked for and cannot be had: NVIDIA's library is installed, its kernel driver is not loaded
    hint: Install the driver, or go without GPUs: `--cpu-only` (or `--gpus none`).
    ");
}

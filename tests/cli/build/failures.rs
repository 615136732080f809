//! What goes wrong says what, names the input and what to do, and ends with a code of its own.

use serde_json::json;

use super::{Sample, base_argument};
use crate::support::{Server, TestContext, write};

/// What is wrong, the exit code, what the message must name, how the task is spoilt, more arguments.
type Case<'a> = (&'a str, i32, &'a [&'a str], &'a dyn Fn(&mut serde_json::Value), &'a [&'a str]);

#[test]
fn failures_name_the_input_and_the_remedy() {
    let context = TestContext::warm();
    let sample = Sample::new(&context);
    let base = base_argument();
    let attempt = |change: &dyn Fn(&mut serde_json::Value), more: &[&str]| {
        let mut task = sample.task.clone();
        change(&mut task);
        let path = context.path("broken.json");
        write(&path, &task.to_string());
        let call = context.agent().arg("build").arg("--task").arg(path);
        let call = if more.contains(&"--docker") { call } else { call.args(["--docker", &base]) };
        let output = format!("type=oci,dest={}", context.path("never").display());
        let outcome = call.args(["--target", "never:1", "-o", &output]).args(more).run();
        let shown = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!context.path("never").exists(), "nothing half-done may stay: {more:?} {shown}");
        outcome
    };
    let cases: &[Case<'_>] = &[
        (
            "requirements",
            80,
            &["packaging"],
            &|it| {
                it["script"]["requirements"]["pip"] = json!("packaging==24.0\npackaging==23.0\n");
            },
            &[],
        ),
        (
            "commit",
            66,
            &["1111111111111111111111111111111111111111"],
            &|it| {
                it["script"]["version_num"] = json!("1".repeat(40));
            },
            &[],
        ),
        (
            "diff",
            65,
            &["helper.py"],
            &|it| {
                let diff = "diff --git a/helper.py b/helper.py\n--- a/helper.py\n+++ b/helper.py\n@@ -1 +1 @@\n-NOT THERE\n+NEW\n";
                it["script"]["diff"] = json!(diff);
            },
            &[],
        ),
        ("entry point", 65, &["missing.py"], &|it| it["script"]["entry_point"] = json!("missing.py"), &[]),
        ("base", 66, &["no-such-layout"], &|_| {}, &["--docker", "oci:/no-such-layout"]),
        ("registry", 69, &["127.0.0.1:9"], &|_| {}, &["--docker", "127.0.0.1:9/x:1"]),
        ("package", 66, &["no-such-package-here"], &|_| {}, &["--apt", "no-such-package-here"]),
        ("python", 80, &["3.6"], &|_| {}, &["--python-version", "3.6"]),
        ("setup", 65, &["setup"], &|it| it["container"] = json!({"setup_shell_script": "exit 9"}), &[]),
    ];
    for (what, code, words, change, more) in cases {
        let outcome = attempt(change, more);
        let said = outcome.stderr.clone();
        assert_eq!(outcome.code, Some(*code), "{what}: {said}");
        for word in *words {
            assert!(said.contains(word), "{what}: `{word}` is not in\n{said}");
        }
        assert!(said.contains("error"), "{what}: {said}");
    }
}

#[test]
fn a_task_that_is_none_says_so() {
    let context = TestContext::warm();
    let path = context.path("task.json");
    write(&path, "{");
    let outcome = context.agent().args(["build", "--task"]).arg(&path).args(["--target", "x:1"]).run();
    outcome.exits(65);
}

#[test]
fn a_task_is_named_by_its_whole_name_in_any_case() {
    let context = TestContext::new();
    let server = Server::start(&context);
    for name in ["Odd one (v1.0)", "same name", "Same Name", "another same name"] {
        server.call("tasks.create", &json!({"name": name, "type": "training", "script": {"entry_point": "a.py"}}));
    }
    let build = |name: &str| {
        let call = context.agent().args(["build", "--id", name, "--docker", "oci:/no-such-layout", "--target", "x:1"]);
        call.args(["--entry-point", "reuse_task"]).env("CLEARML_CONFIG_FILE", server.config()).run()
    };
    let several = build("SAME NAME");
    assert_eq!(several.code, Some(65), "{}", several.stderr);
    assert!(several.stderr.contains("2 tasks are called `SAME NAME`"), "{}", several.stderr);
    let none = build("od one (v1.0)");
    assert_eq!(none.code, Some(66), "{}", none.stderr);
    assert!(none.stderr.contains("there is no task `od one (v1.0)`"), "{}", none.stderr);
    assert!(none.stderr.contains("`Odd one (v1.0)`"), "{}", none.stderr);
    // It goes on to the base, so that the task was found.
    let found = build("ODD ONE (V1.0)");
    assert!(found.stderr.contains("no-such-layout"), "{}", found.stderr);
}

//! Images that are not what their lock makes.

use serde_json::Value;

use crate::build::Sample;
use crate::support::TestContext;

#[test]
fn an_image_that_is_not_what_its_lock_makes_is_told_layer_by_layer() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    sample.build(&["--entry-point", "reuse_task"]);
    let verify = |tag: &str| {
        let image = format!("oci:{}:{tag}", context.path("image").display());
        context.agent().args(["verify", &image]).run()
    };
    let same = verify("1").exits(0);
    assert!(same.stdout.contains("the same"), "{}", same.stdout);
    let place = |tag: &str| format!("{}:{tag}", context.path("image").display());
    let change = |what: &str| {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/verify.py");
        context.command("python3").args([program, what, &place("1"), &place(what)]).ok();
    };

    // Somebody adds a layer on top.
    change("added");
    let added = verify("added").exits(1);
    for word in ["not the same", "more", "nothing", "configuration", "manifest"] {
        assert!(added.stdout.contains(word), "`{word}` is not in\n{}", added.stdout);
    }

    // Somebody changes the code where it stands.
    change("edited");
    let edited = verify("edited").exits(1);
    let differing: Vec<&str> = edited.stdout.lines().filter(|it| it.starts_with("layer ")).collect();
    assert_eq!(differing.len(), 1, "{}", edited.stdout);
    assert!(differing[0].contains("code "), "{}", edited.stdout);

    let image = format!("oci:{}", place("edited"));
    let outcome = context.agent().args(["verify", "--json", &image]).run().exits(1);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["same"], false);
    let what: Vec<&str> =
        report["differences"].as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap()).collect();
    assert!(what.len() == 3 && what[0].contains("code") && what[1..] == ["configuration", "manifest"], "{what:?}");

    // An image of somebody else's has no lock.
    let foreign = format!("oci:{}:latest", crate::support::base().display());
    let outcome = context.agent().args(["verify", &foreign]).run();
    assert!(outcome.code != Some(0) && outcome.stderr.contains("error: "), "{}", outcome.stderr);
}

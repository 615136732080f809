//! An edit changes its own layers and no others.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Sample, layers};
use crate::support::TestContext;

/// What changed between two images: the kinds of the layers that are new.
fn changed(sample: &Sample<'_>, before: &[(String, String)], arguments: &[&str]) -> BTreeSet<String> {
    let after = layers(sample.context, &sample.build(arguments));
    let known: BTreeSet<&String> = before.iter().map(|it| &it.1).collect();
    let new = after.iter().filter(|it| !known.contains(&it.1));
    new.map(|it| it.0.trim_start_matches("agent build: ").split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn kinds(kinds: &[&str]) -> BTreeSet<String> {
    kinds.iter().map(|&it| it.to_owned()).collect()
}

#[test]
fn an_edit_changes_its_own_layers_and_no_others() {
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    let arguments = ["--entry-point", "reuse_task"];
    let first = layers(&context, &sample.build(&arguments));
    assert_eq!(changed(&sample, &first, &arguments), kinds(&[]));

    let commit = sample.repository.commit(&[("more.py", "x = 1\n")]);
    let mut before = sample.task.clone();
    sample.task["script"]["version_num"] = json!(commit);
    sample.task["script"]["diff"] = json!("");
    assert_eq!(changed(&sample, &first, &arguments), kinds(&["code", "entrypoint"]), "a new commit");

    std::mem::swap(&mut sample.task, &mut before);
    sample.task["script"]["requirements"]["pip"] = json!("six==1.16.0\npackaging==24.0\n");
    assert_eq!(changed(&sample, &first, &arguments), kinds(&["python", "bytecode", "entrypoint"]), "a requirement");

    sample.task["script"]["requirements"]["pip"] = json!("six==1.16.0\n");
    let with_apt = ["--entry-point", "reuse_task", "--apt", "libgomp1"];
    assert_eq!(changed(&sample, &first, &with_apt), kinds(&["system", "entrypoint"]), "a system package");

    sample.task["container"] = json!({"setup_shell_script": "echo set up > /etc/agent-setup"});
    assert_eq!(changed(&sample, &first, &arguments), kinds(&["setup", "entrypoint"]), "a setup script");

    sample.task["container"] = json!({});
    sample.task["hyperparams"]["Args"]["epochs"]["value"] = json!("4");
    assert_eq!(changed(&sample, &first, &arguments), kinds(&["entrypoint"]), "a parameter");
}

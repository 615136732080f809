//! Every line of the README's "Use it" and "Serve queues" is run, in its order, by a shell.

use crate::support::{Registry, Repository, Server, TestContext, base, venv};

const README: &str = include_str!("../../README.md");

#[test]
fn every_line_of_the_readme_works() {
    let context = TestContext::warm();
    let server = Server::start(&context);
    let registry = Registry::start(&context);
    let block = |heading: &str| -> Vec<&str> {
        let (_, section) = README.split_once(heading).unwrap();
        let (_, block) = section.split_once("```sh\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        block.lines().filter(|it| !it.trim().is_empty()).collect()
    };
    let lines = [block("## Use it"), block("## Serve queues")].concat();
    assert!(lines.len() >= 14, "{lines:?}");

    let origin = Repository::new(&context, "origin");
    origin.git(&["config", "core.bare", "true"]);
    let project = Repository::new(&context, "project");
    let image = format!("oci:{}:latest", base().display());
    let program = "from clearml import Task\ntask = Task.init('readme', 'sample')\n\
                   print('steps', task.connect({'steps': 40})['steps'])\n";
    project.commit(&[("train.py", program), ("requirements.txt", "clearml\n")]);
    project.git(&["remote", "add", "origin", &origin.url()]);
    project.git(&["push", "--quiet", "origin", "main"]);
    let python = context
        .command(venv().join("bin/python"))
        .env("CLEARML_CONFIG_FILE", server.config())
        .current_dir(project.path());
    let printed = python.arg("train.py").ok();
    let (_, rest) = printed.split_once("task id=").unwrap();
    let task: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();

    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_agent")).parent().unwrap().display().to_string();
    let venv = venv();
    for line in lines {
        let path = format!("{bin}:{}:{}", venv.join("bin").display(), std::env::var("PATH").unwrap());
        let shell = context
            .command("sh")
            .env("CLEARML_CONFIG_FILE", server.config())
            .args(["-e", "-c", line])
            .env("PATH", path);
        let shell = shell.env("TASK", &task).env("REGISTRY", registry.address()).env("CLEARML_DOCKER_IMAGE", &image);
        let outcome = shell.run();
        assert_eq!(outcome.code, Some(0), "$ {line}\n{}\n{}", outcome.stdout, outcome.stderr);
    }
}

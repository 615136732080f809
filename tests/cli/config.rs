//! `agent config` and how configuration mistakes are told.

use crate::support::{TestContext, write};

#[test]
fn the_merged_configuration_is_printed_without_secrets() {
    let context = TestContext::new();
    write(
        &context.home().join("clearml.conf"),
        "# mine\napi { api_server: http://localhost:8008, credentials { access_key: AK, secret_key: SK } }\n\
         agent.git_user = ada, agent.git_pass = PW\n",
    );
    let outcome = context.agent().arg("config").env("CLEARML_AGENT__AGENT__DEFAULT_PYTHON", "3.10").run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @r#"
    # from [ROOT]/home/clearml.conf
    agent {
        default_python = 3.10
        git_pass = "****"
        git_user = "ada"
    }
    api {
        api_server = "http://localhost:[PORT]"
        credentials {
            access_key = "****"
            secret_key = "****"
        }
    }
    "#);
    let json = context.agent().args(["--json", "config"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["agent"]["git_user"], "ada");
}

#[test]
fn a_mistake_is_told_with_its_place_and_a_remedy() {
    let context = TestContext::new();
    write(&context.home().join("clearml.conf"), "api {\n  api_server: \"http://x\n}\n");
    let outcome = context.agent().arg("config").run().exits(78);
    insta::assert_snapshot!(outcome.shown_stderr(), @r#"
    error: [ROOT]/home/clearml.conf:2:15: this text is not closed
    hint: End it with `"` on the same line, or use `"""` for a text over several lines.
    "#);
    let outcome = context.agent().args(["config", "--config-file", "none.conf"]).run().exits(78);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: the configuration file `none.conf` does not exist
    hint: Name an existing file with --config-file or CLEARML_CONFIG_FILE, or unset the variable.
    ");
    write(&context.home().join("clearml.conf"), "agent.enable_task_env = perhaps");
    let outcome = context.agent().args(["--json", "config"]).run().exits(78);
    let json: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!(json["error"]["kind"], "config");
    assert_eq!(json["error"]["exit_code"], 78);
}

//! Servers and registries that say no, or nothing: each its exit code, its words and a remedy.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;

use super::{Sample, base_argument};
use crate::support::{Call, Outcome, Registry, Server, TestContext, base, write};

#[track_caller]
fn fails(call: Call, code: i32, words: &[&str]) -> Outcome {
    let outcome = call.run().exits(code);
    for word in words.iter().chain(&["error: "]) {
        assert!(outcome.stderr.contains(word), "`{word}` is not in\n{}", outcome.stderr);
    }
    outcome
}

#[test]
fn a_task_that_the_server_does_not_give() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let (access, secret) = server.credentials();
    let build = |task: &str, host: &str, secret: &str| {
        let call = context.agent().args(["build", "--id", task, "--target", "never:1"]);
        let call = call.env("CLEARML_API_HOST", host).env("CLEARML_API_ACCESS_KEY", access);
        call.env("CLEARML_API_SECRET_KEY", secret)
    };
    let id = "0123456789abcdef0123456789abcdef";
    fails(build(id, server.api(), secret), 66, &[&format!("there is no task `{id}` on `{}", server.api()), "hint: "]);
    fails(build("no such name", server.api(), secret), 66, &["there is no task `no such name`"]);
    let wrong = fails(build(id, server.api(), "not-the-secret"), 77, &["credentials", "CLEARML_API_SECRET_KEY"]);
    assert!(!wrong.stderr.contains("not-the-secret"), "{}", wrong.stderr);
    let nobody = "http://127.0.0.1:9";
    fails(build(id, nobody, secret), 69, &[nobody, "api.api_server"]);
    // Something answers there, but no such server.
    let registry = Registry::start(&context);
    fails(build(id, &format!("http://{}", registry.address()), secret), 69, &["as a ClearML API server does"]);
    let silent = build(id, server.api(), secret).env_remove("CLEARML_API_ACCESS_KEY");
    fails(silent.env_remove("CLEARML_API_SECRET_KEY"), 77, &["no credentials", server.api()]);
    let twice = |name: &str| server.call("tasks.create", &json!({"name": name, "type": "training", "project": ""}));
    let (one, two) = (twice("twice"), twice("twice"));
    let ids = [&one, &two].map(|it| it["id"].as_str().unwrap());
    fails(build("twice", server.api(), secret), 65, &["2 tasks are called `twice`", ids[0], ids[1]]);
}

/// Writes the world's registry credentials.
fn log_in(context: &TestContext, registry: &str, pair: &str) {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    write(&context.home().join(".docker/config.json"), &json!({"auths": {registry: {"auth": auth}}}).to_string());
}

#[test]
fn a_registry_that_does_not_give_or_take() {
    let context = TestContext::warm();
    let sample = Sample::new(&context);
    let task = sample.file();
    let registry = Registry::start_protected(&context, "ada", "secret");
    let reference = registry.reference("library/base:1");
    let copy = context.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
    let copy = copy.args(["--dest-creds", "ada:secret"]).arg(format!("oci:{}:latest", base().display()));
    copy.arg(format!("docker://{reference}")).ok();
    let build = |base: &str, target: &str| {
        let call = context.agent().args(["build", "--task"]).arg(&task);
        call.args(["--docker", base, "--target", target, "--push"])
    };
    let login = format!("docker login {}", registry.address());
    let target = registry.reference("team/train:1");

    fails(build(&reference, &target), 77, &[&reference, &login]);
    fails(build(&base_argument(), &target), 77, &["cannot deliver the image to", &target, &login]);
    log_in(&context, registry.address(), "ada:not-the-password");
    let wrong = fails(build(&reference, &target), 77, &[&reference]);
    assert!(!wrong.stderr.contains("not-the-password"), "{}", wrong.stderr);
    fails(build(&base_argument(), &target), 77, &["cannot deliver the image to", &target]);
    log_in(&context, registry.address(), "ada:secret");
    let unknown = registry.reference("library/none:1");
    fails(build(&unknown, &target), 66, &[&unknown, "Check name and tag"]);
    let tag = registry.reference("library/base:none");
    fails(build(&tag, &target), 66, &[&tag, "Check name and tag"]);
    build(&reference, &target).run().success();

    let nobody = "127.0.0.1:9/team/train:1";
    fails(build(&base_argument(), nobody), 69, &["cannot deliver the image to", nobody]);
    let strict = strict();
    let target = format!("{strict}/team/train:1");
    let words = ["cannot deliver the image to", &target, "this project is archived (DENIED)"];
    fails(build(&base_argument(), &target), 77, &words);
}

/// A registry that shows what it has and takes nothing.
fn strict() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let refusal = r#"{"errors":[{"code":"DENIED","message":"this project is archived"}]}"#;
        let blobs =
            get(|| async { StatusCode::NOT_FOUND }).fallback(move || async move { (StatusCode::FORBIDDEN, refusal) });
        let router = Router::new().route("/v2/", get(|| async { "{}" })).route("/v2/{*path}", blobs);
        crate::support::images::block(async {
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
    });
    address
}

//! Builds that a signal ends: how they end, what they leave, and what the next one finds.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Sample, base_argument};
use crate::support::{Call, Engine, Registry, TestContext, docker_host, require, wait_until};

/// A server that takes connections and never says a word.
struct Deaf {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Deaf {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                kept.push(stream);
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, asked }
    }

    /// A registry that has nothing and takes in uploads for ever.
    fn registry() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        std::thread::spawn(move || {
            let upload = move || {
                counter.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<StatusCode>()
            };
            let router = Router::new()
                .route("/v2/", get(|| async { "{}" }))
                .route("/v2/{*path}", post(upload).fallback(|| async { StatusCode::NOT_FOUND }));
            listener.set_nonblocking(true).unwrap();
            crate::support::images::block(async {
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
            });
        });
        Self { address, asked }
    }

    fn wait(&self) {
        wait_until("the build asks", || self.asked.load(Ordering::SeqCst) > 0);
    }
}

/// Whether a program runs whose command line has this in it.
fn runs(text: &str) -> bool {
    let processes = fs_err::read_dir("/proc").unwrap();
    let lines = processes.flatten().filter_map(|it| fs_err::read(it.path().join("cmdline")).ok());
    lines.map(|it| String::from_utf8_lossy(&it).replace('\0', " ")).any(|it| it.contains(text))
}

/// Starts a build, has it interrupted at some moment, and looks at what is left.
#[track_caller]
fn interrupted(context: &TestContext, build: Call, moment: impl FnOnce(), signal: Signal) {
    let log = context.path("log");
    let _ = fs_err::remove_file(&log);
    let mut program = build.spawn(&log);
    moment();
    program.signal(signal);
    let code = program.wait();
    let said = fs_err::read_to_string(&log).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("error: interrupted"), "{said}");
    assert!(!context.path("image").exists(), "something half-done is left: {said}");
    let root = context.path("").display().to_string();
    wait_until("nothing of it runs any more", || !runs(&root));
    // Whoever opens the store next removes what was cut off.
    context.agent().args(["cache", "info"]).ok();
    let left: Vec<_> = fs_err::read_dir(context.store().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}\n{said}");
}

fn build(sample: &Sample<'_>) -> Call {
    let call = sample.context.agent().args(["build", "--task"]).arg(sample.file());
    call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
}

#[test]
fn whatever_a_build_waits_for_it_can_be_interrupted() {
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    let output = format!("type=oci,dest={}", context.path("image").display());
    let (base, into) = (base_argument(), ["-o", &output, "--target", "sample:1"]);

    let server = Deaf::start();
    let call = context.agent().args(["build", "--id", &"1".repeat(32)]).args(into);
    let call = call.env("CLEARML_API_HOST", format!("http://{}", server.address));
    let call = call.env("CLEARML_API_ACCESS_KEY", "a").env("CLEARML_API_SECRET_KEY", "b");
    interrupted(&context, call, || server.wait(), Signal::INT);

    let registry = Deaf::start();
    let call = build(&sample).args(["--docker", &format!("{}/x:1", registry.address)]).args(into);
    interrupted(&context, call, || registry.wait(), Signal::TERM);

    let index = Deaf::start();
    sample.task["script"]["requirements"]["pip"] = json!("nobody-has-this==1.0\n");
    let mut call = build(&sample).args(["--docker", &base]).args(into).env_remove("PIP_FIND_LINKS");
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"] {
        call = call.env(name, format!("http://{}/simple", index.address));
    }
    interrupted(&context, call, || index.wait(), Signal::INT);

    let git = Deaf::start();
    sample.task["script"]["repository"] = json!(format!("http://{}/project.git", git.address));
    let call = build(&sample).args(["--docker", &base]).args(into);
    interrupted(&context, call, || git.wait(), Signal::TERM);
}

#[test]
fn what_was_finished_before_an_interruption_is_there_for_the_next_build() {
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    let base = base_argument();
    let output = format!("type=oci,dest={}", context.path("image").display());
    let arguments = ["--docker", &base, "--apt", "libgomp1"];
    // A number that no other program has among its arguments.
    let sleep = format!("sleep {}", 1_000_000_000 + u64::from(std::process::id()));
    sample.task["container"] = json!({"setup_shell_script": sleep});
    let asleep = || {
        wait_until("the setup script runs", || runs(&sleep));
        let log = || fs_err::read_to_string(context.path("log")).unwrap();
        wait_until("the code layer is there", || log().contains("code: built"));
    };
    let call = build(&sample).args(arguments).args(["--target", "sample:1", "-o", &output]);
    interrupted(&context, call, asleep, Signal::INT);
    wait_until("the setup script is ended", || !runs(&sleep));

    sample.task["container"] = json!({"setup_shell_script": "echo done > /etc/done"});
    let call = build(&sample).args(arguments).args(["--json", "--target", "sample:1", "-o", &output]);
    let built: Value = serde_json::from_str(&call.ok()).unwrap();
    for layer in built["layers"].as_array().unwrap() {
        match layer["kind"].as_str().unwrap() {
            "system" | "code" => assert_eq!(layer["cached"], true, "{built}"),
            "setup" => assert_eq!(layer["cached"], false, "{built}"),
            _ => {}
        }
    }

    fs_err::remove_dir_all(context.path("image")).unwrap();
    let deaf = Deaf::registry();
    let target = format!("{}/team/train:1", deaf.address);
    let call = build(&sample).args(arguments).args(["--push", "--target", &target]);
    interrupted(&context, call, || deaf.wait(), Signal::TERM);

    let registry = Registry::start(&context);
    let target = registry.reference("team/train:1");
    let call = build(&sample).args(arguments).args(["--json", "--push", "--target", &target]);
    let pushed: Value = serde_json::from_str(&call.ok()).unwrap();
    assert_eq!(pushed["manifest"], built["manifest"]);
    assert!(pushed["layers"].as_array().unwrap().iter().all(|it| it["cached"] == true), "{pushed}");
}

#[test]
fn a_killed_build_leaves_nothing_running_in_its_docker_sandbox() {
    require(Engine::Docker);
    let context = TestContext::new();
    let mut sample = Sample::new(&context);
    let base = base_argument();
    let output = format!("type=oci,dest={}", context.path("image").display());
    let sleep = format!("sleep {}", 2_000_000_000 + u64::from(std::process::id()));
    sample.task["container"] = json!({"setup_shell_script": sleep});
    let call = build(&sample).args(["--docker", &base, "--target", "sample:1", "-o", &output]);
    let call = call.env("AGENT_SANDBOX", "docker").env("DOCKER_HOST", docker_host());
    let mut program = call.spawn(&context.path("log"));
    wait_until("the setup script runs", || runs(&sleep));
    program.signal(Signal::KILL);
    program.wait();
    wait_until("the setup script is ended", || !runs(&sleep));
}

//! What cannot run with this machine's driver is refused before a layer of it is fetched.

use agent::image::deliver::push;
use serde_json::{Value, json};

use crate::engines::shell;
use crate::support::gpus::{GPUS, StandIn};
use crate::support::images::block;
use crate::support::{Call, PackageIndex, Registry, Server, TestContext};

/// A base in a registry that asks for a driver; its layers' digests.
fn base(context: &TestContext, registry: &Registry, name: &str, requirement: &str) -> (String, Vec<String>) {
    let reference = registry.reference(name);
    let digests = block(async {
        let (around, mut image) = shell(context).await;
        let mut config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        let env = config["config"]["Env"].as_array_mut().unwrap();
        env.push(format!("NVIDIA_REQUIRE_CUDA={requirement}").into());
        let bytes = serde_json::to_vec(&config).unwrap();
        image.config = agent::image::Document::new(&image.config.descriptor.media_type, bytes);
        let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        manifest["config"] = json!(image.config.descriptor);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        image.manifest = agent::image::Document::new(&image.manifest.descriptor.media_type, bytes);
        push(&around, &image, &reference.parse().unwrap()).await.unwrap();
        image.layers.iter().map(|it| it.descriptor.digest.hex()).collect()
    });
    (reference, digests)
}

struct World<'a> {
    context: &'a TestContext,
    server: Server,
    driver: StandIn,
}

impl World<'_> {
    fn task(&self, image: &str, requirements: &str) -> String {
        let task = json!({
            "name": "a task", "type": "training", "container": { "image": image },
            "script": {
                "entry_point": "task.py", "binary": "python3", "diff": "print('up')\n",
                "requirements": { "pip": requirements },
            },
        });
        self.server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
    }

    fn agent(&self, arguments: &[&str]) -> Call {
        let call = self.context.agent().args(arguments).env("CLEARML_CONFIG_FILE", self.server.config());
        call.env("AGENT_DRIVER_ROOT", self.driver.root())
            .env("AGENT_STATE_DIR", self.context.path("state"))
            .env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
    }

    fn told(&self, task: &str) -> (String, String) {
        let found = self.server.call("tasks.get_by_id", &json!({ "task": task }))["task"].take();
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("status_reason"))
    }

    fn has(&self, digest: &str) -> bool {
        self.context.store().join("blobs/sha256").join(digest).exists()
    }
}

#[test]
fn an_image_that_the_driver_cannot_run_is_refused_before_it_is_fetched() {
    let context = TestContext::new();
    let world = World { server: Server::start(&context), driver: StandIn::install(&context, GPUS), context: &context };
    let registry = Registry::start(&context);
    let (newer, layers) = base(&context, &registry, "library/newer:1", "cuda>=99.0");
    let (fits, _) = base(&context, &registry, "library/fits:1", "cuda>=12.0");
    let required = "the image requires `cuda>=99.0` (NVIDIA_REQUIRE_CUDA), and GPU 0 has driver 550.54.14, CUDA up to \
                    12.4";

    // The executor's.
    let task = world.task(&newer, "");
    world.agent(&["execute", "--id", &task, "--native", "--gpus", "0"]).run().exits(80);
    let (status, reason) = world.told(&task);
    assert!(status == "failed" && reason.contains(&format!("the image cannot run here: {required}")), "{reason}");
    assert!(!layers.iter().any(|it| world.has(it)), "a layer was fetched");

    // By hand; without a word of GPUs the image is for any machine, and here without them it runs.
    let build = |task: &str, more: &[&str]| {
        let call = world.agent(&["build", "--id", task, "--entry-point", "reuse_task", "--target", "a:1"]);
        call.args(["-o", "type=store"]).args(more)
    };
    let outcome = build(&task, &["--gpus", "0"]).run().exits(80);
    assert!(outcome.stderr.contains(required), "{}", outcome.stderr);
    assert!(!layers.iter().any(|it| world.has(it)), "a layer was fetched");
    // What a recipe would make is known before it is made.
    let made = world.task("recipe:debian-cuda", "");
    let outcome = build(&made, &["--gpus", "0"]).run().exits(80);
    let wanted =
        "the image requires `cuda>=12.6` (NVIDIA_REQUIRE_CUDA), and GPU 0 has driver 550.54.14, CUDA up to 12.4";
    assert!(outcome.stderr.contains(wanted), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("recipe debian-cuda"), "something of it was made: {}", outcome.stderr);
    build(&world.task(&fits, ""), &["--gpus", "0"]).ok();
    // A task may do without the check.
    let own = world.task(&newer, "");
    let container = json!({ "image": newer, "arguments": "-e NVIDIA_DISABLE_REQUIRE=1" });
    world.server.call("tasks.edit", &json!({ "task": own, "container": container }));
    build(&own, &["--gpus", "0"]).ok();
    // And the machine's own arguments may.
    let unchecked = r#"["-e", "NVIDIA_DISABLE_REQUIRE=1"]"#;
    let by_agent = |call: Call| call.env("CLEARML_AGENT__AGENT__EXTRA_DOCKER_ARGUMENTS", unchecked);
    by_agent(build(&task, &["--gpus", "0"])).ok();

    // An image that is built already says it too.
    let target = registry.reference("team/train:1");
    let push = ["--target", &target, "--push", "--update-task"];
    world.agent(&["build", "--id", &task, "--entry-point", "reuse_task"]).args(push).ok();
    let named = world.server.call("tasks.get_by_id", &json!({ "task": task }))["task"]["container"]["image"].take();
    let clone = world.task(named.as_str().unwrap(), "");
    world.agent(&["execute", "--id", &clone, "--native", "--gpus", "0"]).run().exits(80);
    let (status, reason) = world.told(&clone);
    assert!(status == "failed" && reason.contains(&format!("the task is not run here: {required}")), "{reason}");
    world.server.call("tasks.reset", &json!({ "task": clone, "force": true }));
    world.driver.nodes();
    by_agent(world.agent(&["execute", "--id", &clone, "--native", "--gpus", "0"])).run().success();
}

#[test]
fn wheels_of_a_newer_cuda_are_refused_before_anything_is_built() {
    let context = TestContext::new();
    let world = World { server: Server::start(&context), driver: StandIn::install(&context, GPUS), context: &context };
    let index = PackageIndex::start(&context, "index");
    index.wheel(&context, "nvidia_cublas_cu13", "13.0.1");
    let task = world.task("", "nvidia-cublas-cu13==13.0.1\n");
    let base = format!("oci:{}", crate::support::base().display());
    let there = |call: Call| {
        let call = call.env("CLEARML_DOCKER_IMAGE", &base);
        let call = call.env_remove("PIP_FIND_LINKS").env_remove("PIP_EXTRA_INDEX_URL");
        ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]
            .into_iter()
            .fold(call, |it, name| it.env(name, index.url()))
    };
    there(world.agent(&["execute", "--id", &task, "--native", "--gpus", "0"])).run().exits(80);
    let (status, reason) = world.told(&task);
    let expected = "the image cannot run here: nvidia-cublas-cu13 13.0.1 is made for CUDA 13; driver 550.54.14 runs CUDA \
                    up to 12.4";
    assert!(status == "failed" && reason.contains(expected), "{reason}");
    // Without GPUs they are a load, and no hindrance.
    let outcome =
        there(world.agent(&["lock", "--id", &task, "--cpu-only", "--lock-file", "agent.lock"])).run().success();
    assert!(outcome.stderr.contains("its environment has 1 wheels of CUDA libraries"), "{}", outcome.stderr);
}

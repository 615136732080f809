//! Builds by an ordinary user in a container started as Docker starts any: no capabilities, the default seccomp profile
//! (so no namespaces), no engine's socket.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::build::Sample;
use crate::support::{Call, Engine, Registry, TestContext, base, docker_host, require, venv, write};

/// Variables of the world that its programs need wherever they run.
const WORLD: &[&str] = &["HOME", "TMPDIR", "XDG_CACHE_HOME", "AGENT_CACHE_DIR", "SOURCE_DATE_EPOCH", "LC_ALL", "TZ"];
/// Variables that say where engines are: nobody's business in there.
const ENGINES: &[&str] = &["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "DOCKER_HOST"];

/// An image to start such containers from: the tests' base. Gone with the guard.
struct Cage<'a> {
    context: &'a TestContext,
    image: String,
}

impl<'a> Cage<'a> {
    #[track_caller]
    fn new(context: &'a TestContext) -> Self {
        require(Engine::Docker);
        require(Engine::Skopeo);
        let root = context.path("x");
        let name = root.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let cage = Self { context, image: format!("agent-test-unprivileged:{name}") };
        let options = cage.docker().args(["info", "--format", "{{.SecurityOptions}}"]).ok();
        let profile = options.split("name=seccomp,profile=").nth(1).unwrap_or_default();
        let default = ["default", "builtin"].iter().any(|it| profile.starts_with(it));
        assert!(default, "this Docker does not confine containers by its default seccomp profile: {options}");
        let load = context.command("skopeo").args(["copy", "--quiet", "--dest-daemon-host", &docker_host()]);
        load.arg(format!("oci:{}:latest", base().display())).arg(format!("docker-daemon:{}", cage.image)).ok();
        cage
    }

    fn docker(&self) -> Call {
        self.context.command("docker").env("DOCKER_HOST", docker_host())
    }

    /// A program in a container, as user 1000, who owns the world from then on; `agent` and `uv` are on its path.
    fn command(&self, program: &[&str]) -> Call {
        let world = self.context.path("");
        let owner = self.context.command("chown").args(["-R", "1000:1000"]).arg(&world);
        owner.ok();
        let mut call = self.docker().args(["run", "--rm", "--network", "host", "--user", "1000:1000", "--workdir"]);
        call = call.arg(self.context.work());
        let at = |from: &Path, to: &Path, how: &str| format!("{}:{}:{how}", from.display(), to.display());
        let mut volumes = vec![
            at(&world, &world, "rw"),
            at(env!("CARGO_BIN_EXE_agent").as_ref(), "/usr/local/bin/agent".as_ref(), "ro"),
            at(&venv().join("bin/uv").canonicalize().unwrap(), "/usr/local/bin/uv".as_ref(), "ro"),
        ];
        volumes.extend(lent().iter().map(|it| at(it, it, "ro")));
        for volume in volumes {
            call = call.args(["--volume", &volume]);
        }
        // By name alone: docker takes the value from its own environment, and no argument shows it.
        let passed = TestContext::passed().map(|it| it.0).filter(|it| !ENGINES.contains(it));
        for name in passed.chain(WORLD.iter().copied()) {
            call = call.args(["--env", name]);
        }
        call.arg(&self.image).args(program)
    }
}

impl Drop for Cage<'_> {
    fn drop(&mut self) {
        self.docker().args(["image", "rm", "--force", &self.image]).run();
    }
}

/// Files of this machine that its settings for the network name; none inside another.
fn lent() -> Vec<PathBuf> {
    let named = TestContext::passed().filter(|it| !ENGINES.contains(&it.0)).map(|it| PathBuf::from(it.1));
    let mut paths: Vec<PathBuf> = named.chain(["/etc/pip.conf".into()]).collect();
    paths.retain(|it| it.is_absolute() && it.exists());
    paths.sort();
    paths.dedup_by(|later, earlier| later.starts_with(earlier));
    paths
}

/// The digest of the manifest that a registry has under a name.
fn in_registry(context: &TestContext, reference: &str) -> String {
    let inspect = context.command("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    inspect.arg(format!("docker://{reference}")).ok()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn wheels_alone_are_built_and_pushed_as_anybody_in_a_docker_container() {
    let context = TestContext::new();
    let registry = Registry::start(&context);
    let (base, target) = (registry.push_base(&context, "library/base:1"), registry.reference("team/train:1"));
    let task = Sample::new(&context).file().display().to_string();
    // The original's own libraries would be system packages.
    write(&context.home().join("clearml.conf"), "agent.docker_install_opencv_libs: false\n");
    let cage = Cage::new(&context);
    let seen =
        cage.command(&["sh", "-c", "id -u; grep ^Seccomp: /proc/self/status; ls -d /run/*.sock /var/run/*.sock"]);
    let seen = seen.run();
    assert_eq!(seen.stdout.split_whitespace().collect::<Vec<_>>(), ["1000", "Seccomp:", "2"], "{}", seen.stderr);
    let refused = cage.command(&["unshare", "--user", "true"]).run();
    assert_ne!(refused.code, Some(0), "namespaces are allowed there: nothing is proved");

    let arguments =
        ["build", "--json", "--task", &task, "--docker", &base, "--no-bytecode", "--target", &target, "--push"];
    let outcome = cage.command(&[&["agent"], &arguments[..]].concat()).run().success();
    let built = json(&outcome.stdout);
    assert_eq!(built["manifest"], in_registry(&context, &target));
    let kinds: Vec<&Value> = built["layers"].as_array().unwrap().iter().map(|it| &it["kind"]).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|it| **it != "bytecode" && **it != "system"), "{kinds:?}");
    // Somebody who may do everything, with nothing in the store, gets the same.
    let again = context.agent().env("AGENT_CACHE_DIR", context.path("elsewhere")).args(arguments).ok();
    assert_eq!(json(&again)["manifest"], built["manifest"]);
}

#[test]
fn what_a_sandbox_made_before_is_found_and_pushed_as_anybody_in_a_docker_container() {
    let context = TestContext::new();
    let registry = Registry::start(&context);
    let (base, target) = (registry.push_base(&context, "library/base:1"), registry.reference("team/train:1"));
    let task = Sample::new(&context).file().display().to_string();
    let arguments = ["build", "--json", "--task", &task, "--docker", &base, "--apt", "libgomp1", "--target", &target];
    let output = format!("type=oci,dest={}", context.path("image").display());
    let before = json(&context.agent().args(arguments).args(["-o", &output]).ok());
    let cage = Cage::new(&context);
    let outcome = cage.command(&[&["agent"], &arguments[..], &["--push"]].concat()).run().success();
    let after = json(&outcome.stdout);
    let layers = after["layers"].as_array().unwrap();
    for kind in ["system", "python", "bytecode", "code", "entrypoint"] {
        assert!(layers.iter().any(|it| it["kind"] == kind), "no layer `{kind}`: {after}");
    }
    assert!(layers.iter().all(|it| it["cached"] == true), "{after}");
    assert_eq!(after["manifest"], before["manifest"]);
    assert_eq!(in_registry(&context, &target), before["manifest"].as_str().unwrap());
}

#[test]
fn where_no_sandbox_can_be_had_a_docker_container_says_why_before_it_fetches_anything() {
    let context = TestContext::new();
    let registry = Registry::start(&context);
    let base = registry.push_base(&context, "library/base:1");
    let sample = Sample::new(&context);
    let task = sample.file().display().to_string();
    let lock = |name: &str, more: &[&str]| {
        let path = context.path(name).display().to_string();
        let call = context.agent().args(["lock", "--task", &task, "--docker", &base, "--lock-file", &path]).args(more);
        call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false").ok();
        path
    };
    let (bytecode, system) = (lock("bytecode.lock", &[]), lock("system.lock", &["--apt", "libgomp1", "--no-bytecode"]));
    let cage = Cage::new(&context);
    let store = context.path("cold").display().to_string();
    let cases: [(&str, &[&str]); 3] = [
        ("system packages", &["--task", &task, "--docker", &base, "--no-bytecode"]),
        ("layer `system`", &["--lock", &system]),
        ("layer `bytecode`", &["--lock", &bytecode]),
    ];
    for (what, arguments) in cases {
        let cache = format!("AGENT_CACHE_DIR={store}");
        let program =
            [&["env", &cache, "agent", "build", "--target", "never:1", "-o", "type=oci,dest=never"], arguments];
        let outcome = cage.command(&program.concat()).run().exits(81);
        let said = &outcome.stderr;
        let ways = ["as root: ", "with subordinate ids: ", "with one id: ", "through a Docker container: "];
        for word in ways.into_iter().chain([what, "--no-bytecode", "user 1000"]) {
            assert!(said.contains(word), "{what}: `{word}` is not in\n{said}");
        }
        assert!(!context.work().join("never").exists());
        // Neither a layer of the base nor a wheel: all that was asked for is documents.
        for blob in fs_err::read_dir(Path::new(&store).join("blobs/sha256")).unwrap() {
            let bytes = fs_err::read(blob.unwrap().path()).unwrap();
            assert_eq!(bytes.first(), Some(&b'{'), "{what}: {} bytes were fetched", bytes.len());
        }
    }
}

//! Python distributions: those a base has, those that must be built, and the same image from their lock elsewhere.

use std::path::{Path, PathBuf};

use agent::base::{Request, fetch, find};
use agent::image::deliver;
use agent::oci::Platform;
use agent::report::Silent;
use agent::sandbox::{Sandbox, Step, Temporary};
use serde_json::json;

use super::{Sample, base_argument, built};
use crate::support::images::{around, block, layer, on_base};
use crate::support::{Call, PackageIndex, TestContext, base, write};

/// A base on which Python finds a distribution that no index has: the tests' base and one more layer.
fn base_with(context: &TestContext, files: &[(&str, &[u8])]) -> PathBuf {
    let to = context.path("base");
    block(async {
        let around = around(context, "made");
        let request = Request::Layout { directory: base(), tag: Some("latest".to_owned()) };
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        fetch(&around, &base.pin).await.unwrap();
        let image = on_base(&base, &[layer(&around.store, files)]);
        deliver::layout(&around, &image, &to, "latest").await.unwrap();
    });
    to
}

/// The only index there is.
pub(super) fn only(call: Call, index: &PackageIndex) -> Call {
    ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX_URL"]
        .iter()
        .fold(call, |call, name| call.env_remove(name))
        .env("PIP_INDEX_URL", index.url())
        .env("UV_DEFAULT_INDEX", index.url())
}

#[test]
fn what_the_base_has_is_used_and_nothing_fetched() {
    let context = TestContext::new();
    quick(&context);
    let dir = "usr/lib/python3/dist-packages";
    let metadata = "Metadata-Version: 2.1\nName: frob\nVersion: 1.2+cu118\n\nOf no index.\n";
    let layout = base_with(
        &context,
        &[
            (&format!("{dir}/frob.py"), b"VERSION = '1.2+cu118 of the base'\n"),
            (&format!("{dir}/frob-1.2+cu118.dist-info/METADATA"), metadata.as_bytes()),
        ],
    );
    let index = PackageIndex::start(&context, "index");
    let mut sample = Sample::new(&context);
    sample.repository.commit(&[("train.py", "import frob\nprint(frob.VERSION)\n")]);
    sample.task["script"]["version_num"] = json!(sample.repository.git(&["rev-parse", "HEAD"]));
    sample.task["script"]["diff"] = json!("");
    sample.task["script"]["requirements"]["pip"] = json!("frob==1.2+cu118\n");
    built(&context, |call| {
        let call = call.arg("--task").arg(sample.file()).arg("--docker").arg(format!("oci:{}", layout.display()));
        only(call, &index).args(["--entry-point", "reuse_task"])
    });
    assert_eq!(index.asked(), Vec::<String>::new(), "the base has everything");
    let image = format!("oci:{}", context.path("image").display());
    let outcome = context.agent().args(["run", "--offline", &image]).run().success();
    assert!(outcome.stdout.contains("1.2+cu118 of the base"), "{}", outcome.stdout);
}

/// The tests' base without any Python.
fn base_without_python(context: &TestContext) -> PathBuf {
    let to = context.path("base");
    let (around, base) = block(async {
        let around = around(context, "made");
        let request = Request::Layout { directory: base(), tag: Some("latest".to_owned()) };
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        fetch(&around, &base.pin).await.unwrap();
        (around, base)
    });
    let pinned = agent::lock::base::part(&base.pin);
    let sandbox = Sandbox::open(&around.store, &agent::lock::system::layer_blobs(&pinned), &Silent).unwrap();
    let script =
        "dpkg --purge --force-all $(dpkg-query -W -f '${Package}\n' 'python3*' 'libpython3*'); ! command -v python3";
    let output = sandbox.run(&Step::new("purge", &["/bin/sh", "-c", script]), &Silent).unwrap();
    assert_eq!(output.code, 0, "{}", output.last_words());
    let removed = sandbox.layer(Temporary::LeftOut).unwrap();
    block(async {
        deliver::layout(&around, &on_base(&base, &[removed]), &to, "latest").await.unwrap();
    });
    to
}

#[test]
fn a_base_without_python_gets_it_and_the_task_runs() {
    let context = TestContext::new();
    quick(&context);
    let layout = format!("oci:{}", base_without_python(&context).display());
    let sample = Sample::new(&context);
    let lock = context.path("agent.lock");
    let call = context.agent().args(["lock", "--entry-point", "reuse_task", "--docker", &layout, "--task"]);
    call.arg(sample.file()).arg("--lock-file").arg(&lock).ok();
    let text = fs_err::read_to_string(&lock).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let packages = table["system"]["packages"].as_array().unwrap();
    let brought = packages.iter().find(|it| it["sha256"] == table["python"]["digest"]);
    assert!(brought.is_some_and(|it| it["name"].as_str().unwrap().starts_with("python3")), "{text}");
    let digest = built(&context, |call| call.args(["--docker", &layout, "--lock"]).arg(&lock));
    let image = format!("oci:{}", context.path("image").display());
    let outcome = context.agent().args(["run", "--offline", &image]).run().success();
    assert!(outcome.stdout.contains("six 1.16.0 changed --epochs 3"), "{}", outcome.stdout);
    let elsewhere = TestContext::new();
    let again = built(&elsewhere, |call| {
        let call = call.args(["--docker", &layout, "--repository"]).arg(sample.repository.path());
        call.arg("--lock").arg(&lock)
    });
    assert_eq!(again, digest);
}

/// No system packages: they take time, and are not what these tests are about.
pub(super) fn quick(context: &TestContext) {
    write(&context.home().join("clearml.conf"), "agent.docker_install_opencv_libs: false\n");
}

/// What an sdist's build does: it refuses to be built where it could do harm, and is as careless as some are.
const SETUP: &str = r#"
import os, socket
from setuptools import setup

leaked = [name for name, value in os.environ.items() if "s3cr3t" in value]
assert not leaked, leaked
try:
    socket.create_connection(("127.0.0.1", @PORT@), 5)
except OSError:
    pass
else:
    raise SystemExit("a build has network")
with open("plain.py", "w") as file:
    file.write("WORDS = %r\n" % sorted({"one", "two", "three"}))
setup(name="agent-e2e-plain", version="1.0", py_modules=["plain"])
"#;

/// Puts an sdist into an index.
fn sdist(context: &TestContext, index: &PackageIndex) {
    let port = index.url().split(':').nth(2).unwrap().split('/').next().unwrap().to_owned();
    let dir = context.path("sources/agent_e2e_plain-1.0");
    write(&dir.join("setup.py"), &SETUP.replace("@PORT@", &port));
    write(&dir.join("PKG-INFO"), "Metadata-Version: 1.0\nName: agent-e2e-plain\nVersion: 1.0\n");
    let to = index.directory().join("agent_e2e_plain-1.0.tar.gz");
    context.command("tar").arg("czf").arg(to).args(["-C"]).arg(context.path("sources")).arg("agent_e2e_plain-1.0").ok();
}

const LIBRARY: &str = "[project]\nname = \"library\"\nversion = \"0.3\"\n";

/// A task that needs an sdist of an index with a password and a project of its repository.
fn with_sources<'a>(context: &'a TestContext, index: &PackageIndex) -> Sample<'a> {
    quick(context);
    let mut sample = Sample::new(context);
    let train = "import library, plain\nprint(plain.WORDS, library.NAME)\n";
    sample.repository.commit(&[
        ("train.py", train),
        ("library/pyproject.toml", LIBRARY),
        ("library/library.py", "NAME = 'of the repository'\n"),
    ]);
    sample.task["script"]["version_num"] = json!(sample.repository.git(&["rev-parse", "HEAD"]));
    sample.task["script"]["diff"] = json!("");
    let address = index.url().replace("http://", "http://jo:s3cr3t@");
    sample.task["script"]["requirements"]["pip"] =
        json!(format!("--extra-index-url {address}\nagent-e2e-plain\n./library\n"));
    sample
}

fn elsewhere(context: &TestContext, lock: &Path, repository: &Path) -> Call {
    let output = format!("type=oci,dest={}", context.path("image").display());
    let call = context.agent().args(["build", "--target", "sample:1", "-o", &output, "--lock"]).arg(lock);
    call.args(["--docker", &base_argument(), "--repository"]).arg(repository)
}

#[test]
fn what_was_built_from_sources_is_built_again_in_a_store_without_it() {
    let first = TestContext::new();
    let index = PackageIndex::start(&first, "index");
    sdist(&first, &index);
    let sample = with_sources(&first, &index);
    let lock = sample.lock(&["--entry-point", "reuse_task"]);
    let text = fs_err::read_to_string(&lock).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let python = table["python"].to_string();
    assert!(!text.contains("s3cr3t") && !python.contains(&first.path("").display().to_string()), "{text}");
    for part in ["agent_e2e_plain-1.0.tar.gz", "setuptools", "agent_e2e_plain-1.0-py3-none-any.whl"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    let image = format!("oci:{}", first.path("image").display());
    let outcome = first.agent().args(["run", "--offline", &image]).run().success();
    assert!(outcome.stdout.contains("['one', 'three', 'two'] of the repository"), "{}", outcome.stdout);

    let second = TestContext::new();
    let other = built(&second, |call| {
        let call = call.arg("--lock").arg(&lock).args(["--docker", &base_argument(), "--repository"]);
        call.arg(sample.repository.path())
    });
    assert_eq!(other, digest);

    // Another wheel than the locked one is an error that names the package.
    let third = TestContext::new();
    let distributions = table["python"]["distributions"].as_array().unwrap();
    let plain = distributions.iter().find(|it| it["name"].as_str() == Some("agent-e2e-plain")).unwrap();
    let wheel = plain["sha256"].as_str().unwrap();
    let wrong = third.path("wrong.lock");
    write(&wrong, &text.replace(wheel, &format!("sha256:{}", "0".repeat(64))));
    let outcome = elsewhere(&third, &wrong, sample.repository.path()).run().exits(65);
    assert!(outcome.stderr.contains("`agent-e2e-plain` was built again"), "{}", outcome.stderr);
}

#[test]
fn a_repository_of_this_machine_is_locked_without_its_path() {
    let context = TestContext::new();
    quick(&context);
    let library = crate::support::Repository::new(&context, "somewhere/library");
    library.commit(&[("pyproject.toml", LIBRARY), ("library.py", "NAME = 'of a repository'\n")]);
    let mut sample = Sample::new(&context);
    sample.task["script"]["requirements"]["pip"] = json!(format!("library @ git+{}@main\n", library.url()));
    let lock = sample.lock(&[]);
    let text = fs_err::read_to_string(&lock).unwrap();
    let python = text.parse::<toml::Table>().unwrap()["python"].to_string();
    assert!(python.contains("git+file:library@main") && !python.contains("somewhere"), "{text}");
    let digest = built(&context, |call| call.arg("--lock").arg(&lock));
    assert_eq!(built(&context, |call| call.arg("--lock").arg(&lock)), digest);
    // Who has neither the wheel nor the commit is told so.
    let other = TestContext::new();
    let outcome = elsewhere(&other, &lock, sample.repository.path()).run().exits(66);
    assert!(outcome.stderr.contains("repository of another machine"), "{}", outcome.stderr);
}

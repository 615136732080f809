//! What a repository pins itself: lock files of other programs, digests of requirements, wheels that lie in it.

use serde_json::json;

use super::python::{only, quick};
use super::{Sample, base_argument, built};
use crate::support::{Call, PackageIndex, Repository, TestContext, venv, write};

const TRAIN: &str =
    "import importlib.metadata as m\nimport alpha, beta\nprint('have', m.version('alpha'), m.version('beta'))\n";

/// Puts a wheel with one module into a directory.
fn wheel(context: &TestContext, directory: &std::path::Path, name: &str, version: &str, requires: &str) -> String {
    let script = r#"
import base64, hashlib, os, sys, zipfile
directory, name, version, requires = sys.argv[1:]
info = f"{name}-{version}.dist-info"
requires = f"Requires-Dist: {requires}\n" if requires else ""
files = {f"{name}.py": f"VERSION = {version!r}\n", f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
         f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"}
digest = lambda it: "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(it.encode()).digest()).rstrip(b"=").decode()
record = "".join(f"{path},{digest(text)},{len(text)}\n" for path, text in files.items()) + f"{info}/RECORD,,\n"
os.makedirs(directory, exist_ok=True)
path = os.path.join(directory, f"{name}-{version}-py3-none-any.whl")
with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
    for file, text in [*files.items(), (f"{info}/RECORD", record)]:
        out.writestr(file, text)
print(hashlib.sha256(open(path, "rb").read()).hexdigest())
"#;
    context.command("python3").args(["-c", script]).arg(directory).args([name, version, requires]).ok()
}

/// An index with two releases of `alpha`, which needs `beta`.
fn index(context: &TestContext) -> PackageIndex {
    let index = PackageIndex::start(context, "index");
    for (name, version, requires) in [("alpha", "1.0", "beta"), ("beta", "1.0", "")] {
        wheel(context, index.directory(), name, version, requires);
    }
    index
}

/// The sample with these files committed, and no list of its own.
fn sample<'a>(context: &'a TestContext, files: &[(&str, &str)]) -> Sample<'a> {
    quick(context);
    let mut sample = Sample::new(context);
    sample.repository.commit(&[&[("train.py", TRAIN)], files].concat());
    sample.task["script"]["version_num"] = json!(sample.repository.git(&["rev-parse", "HEAD"]));
    sample.task["script"]["diff"] = json!("");
    sample.task["script"]["requirements"]["pip"] = json!("");
    sample
}

fn run(context: &TestContext) -> String {
    let image = format!("oci:{}", context.path("image").display());
    context.agent().args(["run", "--offline", &image]).run().success().stdout
}

fn of_task(call: Call, sample: &Sample<'_>) -> Call {
    call.arg("--task").arg(sample.file()).args(["--docker", &base_argument(), "--entry-point", "reuse_task"])
}

const PROJECT: &str = "[project]\nname = \"demo\"\nversion = \"0\"\nrequires-python = \">=3.8\"\n\
                       dependencies = [\"alpha\", \"beta ; sys_platform == 'linux'\"]\n[tool.uv]\npackage = false\n";

#[test]
fn a_lock_that_uv_wrote_is_followed_although_there_is_something_newer() {
    let context = TestContext::new();
    let index = index(&context);
    let project = Repository::new(&context, "locking");
    write(&project.path().join("pyproject.toml"), PROJECT);
    let uv = context.command(venv().join("bin/uv")).args(["lock", "--default-index", index.url().as_str()]);
    uv.current_dir(project.path()).env_remove("UV_DEFAULT_INDEX").env_remove("UV_INDEX_URL").ok();
    let locked = fs_err::read_to_string(project.path().join("uv.lock")).unwrap();
    for (name, requires) in [("alpha", "beta"), ("beta", "")] {
        wheel(&context, index.directory(), name, "2.0", requires);
    }
    let files = [("pyproject.toml", PROJECT), ("uv.lock", &locked), ("requirements.txt", "alpha==2.0\n")];
    let sample = sample(&context, &files);
    built(&context, |call| only(of_task(call, &sample), &index));
    assert!(run(&context).contains("have 1.0 1.0"));
    // Another file under the locked name is none of it.
    let other = TestContext::new();
    quick(&other);
    wheel(&context, index.directory(), "beta", "1.0", "alpha");
    let output = format!("type=oci,dest={}", other.path("image").display());
    let call = only(of_task(other.agent().arg("build"), &sample), &index).args(["--target", "x:1", "-o", &output]);
    let outcome = call.run();
    assert!(outcome.code != Some(0) && outcome.stderr.contains("beta"), "{}", outcome.stderr);
}

#[test]
fn a_lock_of_poetry_is_followed() {
    let context = TestContext::new();
    let index = index(&context);
    let (alpha, beta) = (
        wheel(&context, index.directory(), "alpha", "2.0", "beta"),
        wheel(&context, index.directory(), "beta", "2.0", ""),
    );
    let lock = format!(
        "[[package]]\nname = \"alpha\"\nversion = \"2.0\"\noptional = false\npython-versions = \"*\"\ngroups = [\"main\"]\n\
         files = [{{file = \"alpha-2.0-py3-none-any.whl\", hash = \"sha256:{alpha}\"}}]\n\n\
         [[package]]\nname = \"beta\"\nversion = \"2.0\"\noptional = false\npython-versions = \"*\"\ngroups = [\"main\"]\n\
         files = [{{file = \"beta-2.0-py3-none-any.whl\", hash = \"sha256:{beta}\"}}]\n\n\
         [metadata]\nlock-version = \"2.1\"\npython-versions = \"*\"\ncontent-hash = \"x\"\n"
    );
    wheel(&context, index.directory(), "beta", "3.0", "");
    let sample = sample(&context, &[("poetry.lock", &lock)]);
    built(&context, |call| only(of_task(call, &sample), &index));
    assert!(run(&context).contains("have 2.0 2.0"));
}

#[test]
fn digests_of_requirements_are_enforced() {
    let context = TestContext::new();
    let index = index(&context);
    let beta = wheel(&context, index.directory(), "beta", "1.0", "");
    let mut sample = sample(&context, &[]);
    let build = |sample: &Sample<'_>| {
        let output = format!("type=oci,dest={}", context.path("image").display());
        only(of_task(context.agent().arg("build"), sample), &index).args(["--target", "x:1", "-o", &output]).run()
    };
    let zeros = "0".repeat(64);
    sample.task["script"]["requirements"]["pip"] = json!(format!("alpha==1.0\nbeta==1.0 --hash=sha256:{zeros}\n"));
    let outcome = build(&sample);
    assert!(outcome.code != Some(0), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("beta") && outcome.stderr.contains("error: "), "{}", outcome.stderr);
    let hash = format!("alpha==1.0\nbeta==1.0 \\\n  --hash=sha256:{zeros} \\\n  --hash=sha256:{beta}\n");
    sample.task["script"]["requirements"]["pip"] = json!(hash);
    build(&sample).success();
    assert!(run(&context).contains("have 1.0 1.0"));
}

#[test]
fn a_wheel_of_the_repository_is_installed_wherever_the_lock_is_built() {
    let context = TestContext::new();
    let index = index(&context);
    quick(&context);
    let mut sample = Sample::new(&context);
    wheel(&context, &sample.repository.path().join("wheels"), "alpha", "7.0", "beta");
    sample.repository.git(&["add", "wheels"]);
    sample.repository.commit(&[("train.py", TRAIN), ("requirements.txt", "./wheels/alpha-7.0-py3-none-any.whl\n")]);
    sample.task["script"]["version_num"] = json!(sample.repository.git(&["rev-parse", "HEAD"]));
    sample.task["script"]["diff"] = json!("");
    sample.task["script"]["requirements"]["pip"] = json!("");
    let lock = context.path("agent.lock");
    let locking = only(of_task(context.agent().arg("lock"), &sample), &index).arg("--lock-file").arg(&lock);
    locking.ok();
    let text = fs_err::read_to_string(&lock).unwrap();
    assert!(text.contains("path = \"wheels/alpha-7.0-py3-none-any.whl\""), "{text}");
    let build = |context: &TestContext| {
        built(context, |call| {
            let call = only(call.arg("--lock").arg(&lock), &index).args(["--docker", &base_argument(), "--repository"]);
            call.arg(sample.repository.path())
        })
    };
    let digest = build(&context);
    assert!(run(&context).contains("have 7.0 1.0"));
    // Nothing of the first store is there, and the index never had it.
    let elsewhere = TestContext::new();
    assert_eq!(build(&elsewhere), digest);
}

#[test]
fn a_variable_of_a_requirement_is_the_containers_and_in_no_lock() {
    let context = TestContext::new();
    let index = index(&context);
    let mut sample = sample(&context, &[]);
    let address = index.url().replace("http://", "http://ci:${INDEX_TOKEN}@");
    sample.task["script"]["requirements"]["pip"] = json!(format!("--extra-index-url {address}\nalpha==1.0\n"));
    let lock = context.path("agent.lock");
    let locking = |sample: &Sample<'_>| {
        let call = of_task(context.agent().arg("lock"), sample).arg("--lock-file").arg(&lock);
        // That of the process is not the task's to have.
        let call = call.env("INDEX_TOKEN", "s3cr3t-of-the-process").env_remove("PIP_FIND_LINKS");
        call.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple/").env("UV_DEFAULT_INDEX", index.url())
    };
    let outcome = locking(&sample).run().exits(65);
    let said = &outcome.stderr;
    assert!(said.contains("`${INDEX_TOKEN}` in the task's requirements has no value"), "{said}");
    sample.task["container"] = json!({"arguments": "-e INDEX_TOKEN=s3cr3t-of-the-task"});
    locking(&sample).ok();
    let text = fs_err::read_to_string(&lock).unwrap();
    assert!(!text.contains("s3cr3t") && text.contains("alpha-1.0"), "{text}");
}

//! Lock files as their programs write them.

use super::*;

fn place() -> Place {
    Place::new("3.11.2", "amd64").unwrap()
}

fn digest(c: char) -> String {
    format!("sha256:{}", c.to_string().repeat(64))
}

fn requirements(contents: &Contents) -> Vec<&str> {
    contents.requirements.iter().map(String::as_str).collect()
}

fn builds(contents: &Contents) -> Vec<&str> {
    contents.builds.iter().map(Secret::reveal).collect()
}

const UV: &str = r#"
version = 1
revision = 3
requires-python = ">=3.9"
resolution-markers = ["python_full_version >= '3.11'", "python_full_version < '3.11'"]

[manifest]
members = ["demo", "library"]

[[package]]
name = "demo"
version = "0.1.0"
source = { editable = "." }
dependencies = [
    { name = "colorama", marker = "sys_platform == 'win32'" },
    { name = "library" },
    { name = "numpy", version = "1.26.4", source = { registry = "https://index.example/simple" }, marker = "python_full_version >= '3.11'" },
    { name = "numpy", version = "1.24.0", source = { registry = "https://index.example/simple" }, marker = "python_full_version < '3.11'" },
    { name = "requests", extra = ["socks"] },
    { name = "torch", marker = "platform_machine == 'x86_64'" },
    { name = "vendored" },
]

[package.optional-dependencies]
plots = [{ name = "matplotlib" }]

[package.dev-dependencies]
dev = [{ name = "pytest" }]
docs = [{ name = "sphinx" }]

[[package]]
name = "library"
version = "0.1.0"
source = { directory = "packages/library" }
dependencies = [{ name = "tool" }, { name = "wheel-at-address" }]

[[package]]
name = "colorama"
version = "0.4.6"
source = { registry = "https://index.example/simple" }

[[package]]
name = "numpy"
version = "1.24.0"
source = { registry = "https://index.example/simple" }

[[package]]
name = "numpy"
version = "1.26.4"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/numpy-1.26.4.tar.gz", hash = "@a", size = 1 }
wheels = [{ url = "https://files.example/numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.whl", hash = "@b", size = 2 }]

[[package]]
name = "matplotlib"
version = "3.0.0"
source = { registry = "https://index.example/simple" }

[[package]]
name = "pytest"
version = "8.0.0"
source = { registry = "https://index.example/simple" }

[[package]]
name = "pysocks"
version = "1.7.1"
source = { registry = "https://index.example/simple" }

[[package]]
name = "requests"
version = "2.32.0"
source = { registry = "https://index.example/simple" }

[package.optional-dependencies]
socks = [{ name = "pysocks" }]

[[package]]
name = "sphinx"
version = "7.0.0"
source = { registry = "https://index.example/simple" }

[[package]]
name = "tool"
version = "1.0"
source = { git = "https://git.example/team/tool?subdirectory=python&tag=v1.0#0123456789abcdef0123456789abcdef01234567" }

[[package]]
name = "torch"
version = "2.3.0+cu121"
source = { registry = "https://torch.example/whl/cu121" }
wheels = [{ url = "https://torch.example/whl/torch-2.3.0.whl", hash = "@c" }]

[[package]]
name = "vendored"
version = "1.0"
source = { path = "wheels/vendored-1.0-py3-none-any.whl" }
wheels = [{ filename = "vendored-1.0-py3-none-any.whl", hash = "@d" }]

[[package]]
name = "wheel-at-address"
version = "1.0"
source = { url = "https://files.example/wheel_at_address-1.0-py3-none-any.whl" }
wheels = [{ url = "https://files.example/wheel_at_address-1.0-py3-none-any.whl", hash = "@e" }]
"#;

fn uv() -> String {
    "abcde".chars().fold(UV.to_owned(), |text, c| text.replace(&format!("@{c}\""), &format!("{}\"", digest(c))))
}

#[test]
fn what_uv_would_sync_is_taken_from_its_lock() {
    let project = "[[tool.uv.index]]\nname = \"torch\"\nurl = \"https://torch.example/whl/cu121/\"\nexplicit = true\n";
    let contents = Lockfile::Uv.read(&uv(), Some(project), &place()).unwrap();
    assert_eq!(
        requirements(&contents),
        [
            "numpy==1.26.4",
            "pysocks==1.7.1",
            "pytest==8.0.0",
            "requests==2.32.0",
            "torch==2.3.0+cu121",
            "wheel-at-address @ https://files.example/wheel_at_address-1.0-py3-none-any.whl",
        ]
    );
    let commit = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(builds(&contents), [format!("tool @ git+https://git.example/team/tool@{commit}#subdirectory=python")]);
    assert_eq!(contents.wheels, ["wheels/vendored-1.0-py3-none-any.whl"]);
    assert_eq!(contents.projects, [(".".to_owned(), true), ("packages/library".to_owned(), false)]);
    // The index that the project names is asked too, the one that it does not name is this machine's business.
    assert_eq!(contents.indexes.iter().map(Secret::reveal).collect::<Vec<_>>(), ["https://torch.example/whl/cu121"]);
    let of_numpy: Vec<String> = contents.hashes["numpy"].iter().map(ToString::to_string).collect();
    assert_eq!(of_numpy, [digest('a'), digest('b')]);
    assert!(contents.hashes.contains_key("vendored"));
}

#[test]
fn groups_and_markers_of_uv_follow_project_and_interpreter() {
    let old = Place::new("3.9.1", "arm64").unwrap();
    let project = "[tool.uv]\ndefault-groups = [\"docs\"]\n";
    let contents = Lockfile::Uv.read(&uv(), Some(project), &old).unwrap();
    let names = requirements(&contents);
    assert!(names.contains(&"sphinx==7.0.0") && !names.contains(&"pytest==8.0.0"), "{names:?}");
    assert!(names.contains(&"numpy==1.24.0") && !names.iter().any(|it| it.starts_with("torch")), "{names:?}");
    let project = "[tool.uv]\ndefault-groups = \"all\"\n";
    let contents = Lockfile::Uv.read(&uv(), Some(project), &old).unwrap();
    assert!(["sphinx==7.0.0", "pytest==8.0.0"].iter().all(|it| contents.requirements.contains(*it)));
}

const POETRY: &str = r#"
[[package]]
name = "Numpy"
version = "1.26.4"
optional = false
python-versions = ">=3.9"
groups = ["main", "dev"]
markers = {main = "python_version >= \"3.11\"", dev = "python_version < \"3\""}
files = [{file = "numpy-1.26.4.tar.gz", hash = "@a"}]

[[package]]
name = "colorama"
version = "0.4.6"
optional = false
groups = ["main"]
markers = "sys_platform == \"win32\""
files = []

[[package]]
name = "plots"
version = "1.0"
optional = true
groups = ["main"]
markers = "extra == \"plots\""
files = []

[[package]]
name = "sphinx"
version = "7.0"
optional = false
groups = ["docs"]
files = []

[[package]]
name = "tool"
version = "1.0"
optional = false
groups = ["main"]
files = []

[package.source]
type = "git"
url = "https://git.example/team/tool.git"
reference = "main"
resolved_reference = "0123456789abcdef0123456789abcdef01234567"

[[package]]
name = "torch"
version = "2.3.0+cu121"
optional = false
groups = ["main"]
files = [{file = "torch-2.3.0.whl", hash = "@b"}]

[package.source]
type = "legacy"
url = "https://torch.example/whl/cu121"
reference = "torch"

[metadata]
lock-version = "2.1"
python-versions = "^3.9"
content-hash = "x"
"#;

#[test]
fn what_poetry_would_install_is_taken_from_its_lock() {
    let project = "[tool.poetry]\nname = \"demo\"\n[tool.poetry.group.docs]\noptional = true\n\
                   [build-system]\nrequires = [\"poetry-core\"]\n";
    let text = POETRY.replace("@a", &digest('a')).replace("@b", &digest('b'));
    let contents = Lockfile::Poetry.read(&text, Some(project), &place()).unwrap();
    assert_eq!(requirements(&contents), ["numpy==1.26.4", "torch==2.3.0+cu121"]);
    assert_eq!(
        builds(&contents),
        ["tool @ git+https://git.example/team/tool.git@0123456789abcdef0123456789abcdef01234567"]
    );
    assert_eq!(contents.indexes[0].reveal(), "https://torch.example/whl/cu121");
    assert_eq!(contents.projects, [(".".to_owned(), true)]);
    assert_eq!(contents.hashes["numpy"].len(), 1);
    let without = project.replace("[tool.poetry]\n", "[tool.poetry]\npackage-mode = false\n");
    assert_eq!(Lockfile::Poetry.read(&text, Some(&without), &place()).unwrap().projects, []);
}

/// As Poetry before 2.1 wrote it: packages without groups, and in the formats before 2.0 files apart from them.
const OLD_POETRY: &str = r#"
[[package]]
name = "colorama"
version = "0.4.6"
category = "main"
optional = false
python-versions = "*"

[[package]]
name = "importlib-metadata"
version = "6.0"
optional = false
python-versions = "*"

[[package]]
name = "numpy"
version = "1.24.0"
optional = false
python-versions = "*"

[[package]]
name = "numpy"
version = "1.26.4"
optional = false
python-versions = "*"

[[package]]
name = "pandas"
version = "2.0.0"
optional = false
python-versions = "*"

[package.dependencies]
fsspec = {version = ">=2022", optional = true, markers = "extra == \"remote\""}
numpy = [
    {version = ">=1.21,<1.25", markers = "python_version < \"3.11\""},
    {version = ">=1.26", markers = "python_version >= \"3.11\""},
]
sqlalchemy = {version = "*", optional = true, markers = "extra == \"sql\""}

[package.extras]
remote = ["fsspec (>=2022)"]
sql = ["sqlalchemy"]

[[package]]
name = "fsspec"
version = "2023.1"
optional = false
python-versions = "*"

[[package]]
name = "pytest"
version = "7.0"
optional = false
python-versions = "*"

[package.dependencies]
colorama = {version = "*", markers = "sys_platform == \"win32\""}

[metadata]
lock-version = "1.1"
python-versions = "^3.8"
content-hash = "x"

[metadata.files]
numpy = [{file = "numpy-1.26.4.tar.gz", hash = "@a"}]
"#;

#[test]
fn old_locks_of_poetry_are_walked_from_the_project() {
    let project = r#"
[tool.poetry]
name = "demo"
[tool.poetry.dependencies]
python = "^3.8"
pandas = {version = "^2.0", extras = ["remote"]}
importlib-metadata = {version = "^6", python = "<3.10"}
[tool.poetry.group.test.dependencies]
pytest = "*"
"#;
    let text = OLD_POETRY.replace("@a", &digest('a'));
    let contents = Lockfile::Poetry.read(&text, Some(project), &place()).unwrap();
    assert_eq!(requirements(&contents), ["fsspec==2023.1", "numpy==1.26.4", "pandas==2.0.0", "pytest==7.0"]);
    assert_eq!(contents.hashes["numpy"].iter().next().unwrap().to_string(), digest('a'));
    let old = Place::new("3.9.1", "amd64").unwrap();
    let contents = Lockfile::Poetry.read(&text, Some(project), &old).unwrap();
    assert!(
        contents.requirements.contains("numpy==1.24.0") && contents.requirements.contains("importlib-metadata==6.0")
    );
    let error = Lockfile::Poetry.read(&text, None, &place()).unwrap_err();
    assert!(error.to_string().contains("[tool.poetry.dependencies]"), "{error}");
}

#[test]
fn a_pylock_of_a_repository_is_read() {
    let text = format!(
        r#"
lock-version = "1.0"
created-by = "x"
[[packages]]
name = "six"
version = "1.16.0"
marker = "python_version >= '3'"
wheels = [{{ url = "https://files.example/six-1.16.0-py2.py3-none-any.whl", hashes = {{ sha256 = "{}" }} }}]
[[packages]]
name = "colorama"
version = "0.4.6"
marker = "sys_platform == 'win32'"
[[packages]]
name = "tool"
vcs = {{ type = "git", url = "https://git.example/tool", commit-id = "0123" }}
[[packages]]
name = "demo"
directory = {{ path = ".", editable = true }}
"#,
        "f".repeat(64)
    );
    let contents = Lockfile::Pylock.read(&text, None, &place()).unwrap();
    assert_eq!(requirements(&contents), ["six==1.16.0"]);
    assert_eq!(builds(&contents), ["tool @ git+https://git.example/tool@0123"]);
    assert_eq!((contents.projects.len(), contents.hashes["six"].len()), (1, 1));
}

#[test]
fn what_cannot_be_followed_is_named() {
    let says = |lockfile: Lockfile, text: &str, words: &[&str]| {
        let error = lockfile.read(text, None, &place()).unwrap_err();
        let said = error.to_string();
        assert!(words.iter().all(|it| said.contains(it)), "{said}");
        assert!(!error.hints().is_empty() && error.kind() == Kind::Input);
    };
    says(Lockfile::Uv, "version = 9", &["`uv.lock`", "format 9"]);
    says(Lockfile::Uv, "version = 1", &["`uv.lock`", "no project"]);
    says(Lockfile::Uv, "<<<<<<< HEAD", &["`uv.lock` cannot be read"]);
    let absent = "version = 1\n[[package]]\nname = \"demo\"\nsource = { virtual = \".\" }\ndependencies = [{ name = \"gone\" }]\n";
    says(Lockfile::Uv, absent, &["`gone`"]);
    says(Lockfile::Uv, &absent.replace("\"gone\"", "\"gone\", marker = \"nonsense\""), &["`nonsense`"]);
    says(Lockfile::Poetry, "[metadata]\nlock-version = \"3.0\"", &["`poetry.lock`", "3.0"]);
    says(Lockfile::Pylock, "lock-version = \"2.0\"", &["`pylock.toml`", "2.0"]);
}

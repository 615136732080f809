//! Lists of the SDK, files of repositories, lock files.

use std::collections::BTreeMap;

use super::*;
use crate::error::Explain as _;

fn run(pip: Option<&str>, files: &[(&str, &str)], repository_first: bool) -> Result<Gathered, RequirementsError> {
    run_with(pip, files, (repository_first, None))
}

fn run_with(
    pip: Option<&str>,
    files: &[(&str, &str)],
    (repository_first, manager): (bool, Option<Manager>),
) -> Result<Gathered, RequirementsError> {
    let files: BTreeMap<String, String> = files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let task = Requirements { pip: pip.map(str::to_owned), ..Requirements::default() };
    gather(&Sources {
        task: &task,
        working_dir: "src",
        entry_point: "train.py",
        repository_first,
        original: false,
        file: &|path| files.get(path).cloned(),
        has: &|path| files.contains_key(path),
        manager,
        target: Target::new("3.11.2", "amd64").as_ref(),
        variable: &|name| (name == "TOKEN").then(|| "s3cr3t".to_owned()),
        is_dir: &|path| files.keys().any(|it| it.starts_with(&format!("{path}/"))),
    })
}

#[test]
fn a_recorded_list_is_read_as_the_sdk_writes_it() {
    let text = "# Python 3.11.2 (main)\n\nnumpy == 1.26.4\npandas[performance]>=2 ; python_version >= '3.9'  # why\n\
                # scipy == 1.0\n--extra-index-url https://u:p@h.example/whl\n-f https://x.example\n\
                foo==1.0 --hash=sha256:HASH0 \\\n  --hash=sha256:HASH1\nhttps://h.example/a-1-py3-none-any.whl\n";
    let text = text.replace("HASH0", &"0".repeat(64)).replace("HASH1", &"1".repeat(64));
    let gathered = run(Some(&text), &[], false).unwrap();
    assert_eq!(gathered.hashes["foo"].len(), 2);
    assert_eq!(
        gathered.requirements,
        [
            "numpy == 1.26.4",
            "pandas[performance]>=2 ; python_version >= '3.9'",
            "foo==1.0",
            "https://h.example/a-1-py3-none-any.whl"
        ]
    );
    assert_eq!(gathered.indexes[0].reveal(), "https://u:p@h.example/whl");
    assert_eq!(gathered.notes, ["`-f` in the task's requirements is ignored"]);
}

#[test]
fn without_a_list_the_repositorys_files_count_from_the_root_down() {
    let files = [
        ("requirements.txt", "-r deep/more.txt\nnumpy\n"),
        ("deep/more.txt", "-c limits.txt\nscipy\n"),
        ("deep/limits.txt", "scipy<2\n"),
        ("src/requirements.txt", "pandas\n"),
    ];
    for pip in [None, Some(" \n")] {
        let gathered = run(pip, &files, false).unwrap();
        assert_eq!(gathered.requirements, ["scipy", "numpy", "pandas"]);
        assert_eq!(gathered.constraints, ["scipy<2"]);
    }
    assert_eq!(run(Some("six"), &files, false).unwrap().requirements, ["six"]);
    assert_eq!(run(Some("six"), &files, true).unwrap().requirements.len(), 3);
    assert_eq!(run(Some("# nothing"), &files, false).unwrap().requirements.len(), 0);
}

#[test]
fn directories_and_what_needs_a_build_are_set_apart() {
    let files = [("setup.py", ""), ("lib/pyproject.toml", "")];
    let text = "-e .\n./lib[fast, Slow]\n-e git+https://h.example/x.git@abc#egg=x\ny @ git+ssh://git@h.example/y\n\
                z @ https://h.example/z-1.tar.gz\nold @ file:///home/jo/old-1.whl\n";
    let gathered = run(Some(text), &files, false).unwrap();
    assert_eq!(
        gathered.projects,
        [
            ProjectRequest { path: String::new(), editable: true, extras: vec![] },
            ProjectRequest {
                path: "lib".to_owned(),
                editable: false,
                extras: vec!["fast".to_owned(), "slow".to_owned()]
            },
        ]
    );
    assert_eq!(gathered.builds.len(), 3);
    assert_eq!(gathered.requirements, ["old"]);
}

#[test]
fn what_is_nothing_is_named() {
    let error = run(Some("../outside\n"), &[("setup.py", "")], false).unwrap_err();
    assert!(error.to_string().contains("`../outside` in the task's requirements"), "{error}");
    let error = run(Some("-r missing.txt\n"), &[], false).unwrap_err();
    assert!(error.to_string().contains("`missing.txt`"), "{error}");
    let error = run(Some("-r a.txt\n"), &[("a.txt", "-r a.txt\n")], false).unwrap_err();
    assert!(matches!(error, RequirementsError::Circle(_)), "{error}");
}

#[test]
fn wheels_of_the_repository_are_set_apart() {
    let files = [("wheels/x-1.0-py3-none-any.whl", ""), ("src/y-1.0-py3-none-any.whl", "")];
    let text = "./wheels/x-1.0-py3-none-any.whl[fast] ; python_version > '3'\ny[slow] @ file:y-1.0-py3-none-any.whl\n\
                z @ file:///home/jo/z-1.0-py3-none-any.whl\n";
    let gathered = run(Some(text), &files, false).unwrap();
    let request = |path: &str, extras: &str, marker: &str| WheelRequest {
        path: path.to_owned(),
        extras: extras.to_owned(),
        marker: marker.to_owned(),
        digest: None,
    };
    assert_eq!(
        gathered.wheels,
        [
            request("wheels/x-1.0-py3-none-any.whl", "[fast]", "python_version > '3'"),
            request("src/y-1.0-py3-none-any.whl", "[slow]", ""),
        ]
    );
    assert_eq!(gathered.requirements, ["z"]);
    let hash = "f".repeat(64);
    let text = format!("./wheels/x-1.0-py3-none-any.whl --hash=sha256:{hash}\n");
    let gathered = run(Some(&text), &files, false).unwrap();
    assert_eq!((gathered.wheels.len(), gathered.hashes["x"].len()), (1, 1));
}

#[test]
fn variables_are_the_tasks_and_digests_are_of_one_kind() {
    let text = "--extra-index-url https://ci:${TOKEN}@h.example/whl\nx @ git+https://${TOKEN}@h.example/x\n\
                y==1.0 ; extra == 'lower'\n-i https://${GONE}@h.example\n";
    let gathered = run(Some(text), &[], false).unwrap();
    assert_eq!(gathered.indexes[0].reveal(), "https://ci:s3cr3t@h.example/whl");
    assert_eq!(gathered.builds[0].reveal(), "x @ git+https://s3cr3t@h.example/x");
    let error = run(Some("x @ https://${GONE}@h.example/x.whl\n"), &[], false).unwrap_err();
    assert!(error.to_string().contains("`${GONE}` in the task's requirements has no value"), "{error}");
    assert!(error.hints()[0].contains("-e GONE="), "{:?}", error.hints());
    let error = run(Some("x==1.0 --hash=md5:00\n"), &[], false).unwrap_err();
    assert!(error.to_string().contains("--hash=md5:00"), "{error}");
}

const UV_LOCK: &str = "version = 1\n[[package]]\nname = \"demo\"\nsource = { virtual = \".\" }\n\
    dependencies = [{ name = \"six\" }]\n[[package]]\nname = \"six\"\nversion = \"1.16.0\"\n\
    source = { registry = \"https://index.example/simple\" }\n";

#[test]
fn a_lock_file_counts_before_lists_of_the_repository() {
    let files = [("uv.lock", UV_LOCK), ("requirements.txt", "numpy\n")];
    let gathered = run(None, &files, false).unwrap();
    assert_eq!((gathered.requirements, gathered.exact), (vec!["six==1.16.0".to_owned()], true));
    assert_eq!(gathered.notes, ["`uv.lock` says what is installed"]);
    // The task's own list counts, unless the configuration names the program.
    let gathered = run(Some("pandas"), &files, false).unwrap();
    assert_eq!((gathered.requirements, gathered.exact), (vec!["pandas".to_owned()], false));
    let gathered = run_with(Some("pandas"), &files, (false, Some(Manager::Uv))).unwrap();
    assert_eq!(gathered.requirements, ["six==1.16.0"]);
    assert_eq!(gathered.notes, ["`uv.lock` says what is installed, not the task's requirements"]);
    // With pip, lists come first.
    assert_eq!(run_with(None, &files, (false, Some(Manager::Pip))).unwrap().requirements, ["numpy"]);
    assert_eq!(run_with(None, &files[..1], (false, Some(Manager::Pip))).unwrap().requirements, ["six==1.16.0"]);
    assert_eq!(run_with(None, &files, (false, Some(Manager::Poetry))).unwrap().requirements, ["numpy"]);
    // The one nearest to the script.
    let near = UV_LOCK.replace("1.16.0", "1.17.0");
    let files = [("uv.lock", UV_LOCK), ("src/uv.lock", &near)];
    assert_eq!(run(None, &files, false).unwrap().requirements, ["six==1.17.0"]);
}

#[test]
fn a_lock_file_that_names_what_is_not_there_is_an_error() {
    let text = UV_LOCK
        .replace("virtual = \".\"", "editable = \".\"")
        .replace("{ registry = \"https://index.example/simple\" }", "{ editable = \"lib\" }");
    let gathered = run(None, &[("uv.lock", &text), ("lib/pyproject.toml", "")], false).unwrap();
    let paths: Vec<&str> = gathered.projects.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["", "lib"]);
    let error = run(None, &[("uv.lock", &text)], false).unwrap_err();
    assert!(error.to_string().contains("`uv.lock` names `lib`, which is not in the repository"), "{error}");
    let error = run(None, &[("uv.lock", "version = 2")], false).unwrap_err();
    assert!(error.to_string().contains("cannot follow `uv.lock`"), "{error}");
}

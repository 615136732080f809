use std::process::Command;

use super::*;
use crate::python::build::Needs;
use crate::python::testing::{host_python, run_here};
use crate::report::{Silent, silent};
use crate::store::Store;

/// A backend that stands in the sources, so that a test needs no index.
const BACKEND: &str = r#"
import base64, hashlib, os, pathlib, time, zipfile

def build_wheel(directory, settings=None, metadata=None):
    files = {"demo.py": pathlib.Path("demo.py").read_text()}
    files["demo-1.5.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: Demo\nVersion: 1.5\n"
    files["demo-1.5.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "demo-1.5.dist-info/RECORD"
    row = lambda name, text: f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text.encode())}"
    files[record] = "\n".join([row(name, text) for name, text in files.items()] + [record + ",,"]) + "\n"
    with zipfile.ZipFile(os.path.join(directory, "demo-1.5-py3-none-any.whl"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            # As careless as some backends are.
            archive.writestr(zipfile.ZipInfo(name, time.localtime()[:6]), text)
    return "demo-1.5-py3-none-any.whl"
"#;

const PYPROJECT: &str = "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n";

fn write(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, text) in [("pyproject.toml", PYPROJECT), ("own.py", BACKEND), ("demo.py", "x = 1\n")] {
        fs::write(to.join(name), text).unwrap();
    }
}

#[test]
fn repositories_are_taken_apart() {
    let git = |text: &str| Git::parse(text).map(|it| (it.address.reveal().to_owned(), it.revision, it.directory));
    assert_eq!(
        git("git+https://u:p@h.example/x.git@v1.0#egg=x&subdirectory=a/b"),
        Some(("https://u:p@h.example/x.git".to_owned(), Some("v1.0".to_owned()), "a/b".to_owned()))
    );
    assert_eq!(git("git+ssh://git@h.example/x"), Some(("ssh://git@h.example/x".to_owned(), None, String::new())));
    assert_eq!(git("git+https://h.example/x#subdirectory=../y"), None);
    assert_eq!(git("https://h.example/x.tar.gz"), None);
}

#[test]
fn labels_have_neither_credentials_nor_directories_of_this_machine() {
    for (asked, shown) in [
        ("git+https://u:p@h.example/x@main", "git+https://h.example/x@main"),
        ("git+ssh://git@h.example/x", "git+ssh://git@h.example/x"),
        ("git+file:///home/jo/lib.git@v2#subdirectory=a", "git+file:lib.git@v2#subdirectory=a"),
        ("git+file:lib.git@v2#subdirectory=a", "git+file:lib.git@v2#subdirectory=a"),
    ] {
        let git = Git::parse(asked).unwrap();
        assert_eq!((git.is_local(), label(&Source::Git(git.clone()))), (asked.contains("file:"), shown.to_owned()));
    }
}

#[test]
fn a_revision_may_tell_a_version() {
    let version = |revision: &str| Git::parse(&format!("git+https://h.example/x@{revision}")).unwrap().version();
    assert_eq!([version("v1.2.0"), version("release/2.0rc1")], ["1.2.0", "2.0rc1"]);
    assert_eq!([version("main"), version("12345678")], ["0.0.0", "0.0.0"]);
}

#[test]
fn sources_become_the_same_wheel_in_every_store() {
    let dir = tempfile::tempdir().unwrap();
    let links = dir.path().join("links");
    fs::create_dir(&links).unwrap();
    write(&dir.path().join("demo-1.5"));
    let packed =
        Command::new("tar").args(["czf", "links/demo-1.5.tar.gz", "demo-1.5"]).current_dir(dir.path()).status();
    assert!(packed.unwrap().success());
    let place = links.display().to_string();
    let indexes = Indexes::of_machine(&|name| match name {
        "PIP_FIND_LINKS" => Some(place.clone()),
        "PIP_NO_INDEX" => Some("1".to_owned()),
        _ => None,
    });
    let check_out = |_: &Git, commit: Option<&str>, to: &Path| {
        assert!(commit.is_none_or(|it| it == "abc"));
        write(&to.join("sub"));
        Ok("abc".to_owned())
    };
    let reporter = silent();
    let supplies = Supplies {
        indexes: &indexes,
        platform: (Libc::Glibc(2, 36), "amd64"),
        constraints: &[],
        check_out: &check_out,
        reporter: &reporter,
    };
    let tools = |needs: Needs<'_>| match needs {
        Needs::Requirements(requires) => Ok(requires.iter().map(|it| panic!("nobody asks for `{it}`")).collect()),
        Needs::Pinned(tools) => Ok(tools.to_vec()),
    };
    let runs = std::cell::Cell::new(0);
    let run = |step: &crate::sandbox::Step| {
        assert!(!step.network && step.env.keys().all(|it| !it.starts_with("PIP_") && !it.starts_with("UV_")));
        runs.set(runs.get() + 1);
        run_here(step)
    };
    let (executable, version) = host_python();
    let bench = |store| Bench {
        store,
        executable: &executable,
        version: &version,
        interpreter: Digest::of("python"),
        below: Digest::of("base"),
        tools: &tools,
        run: &run,
        reporter: &Silent,
    };
    let (here, there) =
        (Store::open(&dir.path().join("here")).unwrap(), Store::open(&dir.path().join("there")).unwrap());
    let git = Git::parse("git+https://u:p@h.example/x@main#subdirectory=sub").unwrap();
    for source in [Source::Requirement("demo[fast]>=1 ; python_version > '3'".to_owned()), Source::Git(git)] {
        let built = build(&bench(&here), &supplies, &source, None).unwrap();
        assert_eq!((built.wheel.name.as_str(), built.wheel.version.as_str()), ("demo", "1.5"));
        let times = runs.get();
        assert_eq!(build(&bench(&here), &supplies, &source, None).unwrap(), built);
        assert_eq!(runs.get(), times, "a build is done once");
        let text = toml::to_string(&built.from).unwrap();
        assert!(!text.contains("u:p") && !text.contains(&dir.path().display().to_string()), "{text}");
        let pinned = ("demo", "1.5", built.wheel.wheel);
        rebuild(&bench(&there), &supplies, pinned, &built.from).unwrap();
        assert!(fetch::is_checked(&there, &built.wheel.wheel) && there.has(&built.wheel.wheel).is_some());
        let other = ("demo", "1.5", Digest::of("other"));
        let error = rebuild(&bench(&there), &supplies, other, &built.from).unwrap_err();
        assert!(error.to_string().contains("`demo` was built again"), "{error}");
        // What a lock calls its sources is put into a directory of ours, and nowhere else.
        for name in ["../demo-1.5.tar.gz", "/tmp/demo-1.5.tar.gz", ".."] {
            let hostile = BuiltFrom { source: name.to_owned(), sha256: Some(Digest::of("x")), ..built.from.clone() };
            let error = rebuild(&bench(&there), &supplies, pinned, &hostile).unwrap_err();
            assert!(error.to_string().contains("is not an address"), "{error}");
        }
    }
}

use std::cell::RefCell;

use super::*;
use crate::python::build::Needs;
use crate::python::fetch;
use crate::python::testing::{Member, host_python, run_here, wheel_members, write_wheel};
use crate::python::wheel::Wheel;
use crate::report::Silent;

#[test]
fn requirements_follow_extras() {
    let requires = [
        "numpy>=1",
        "tomli; python_version < \"3.11\"",
        "pytest ; extra == 'dev'",
        "my-pkg[dev] ; extra == 'all'",
        "rich ; os_name == \"posix\" and extra == 'all'",
    ]
    .map(str::to_owned);
    let plain = of_extras("my-pkg", &requires, &[]);
    assert_eq!(plain, ["numpy>=1", "tomli ; python_full_version < '3.11'"]);
    let all = of_extras("my-pkg", &requires, &["ALL".to_owned()]);
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.contains(&"rich ; os_name == 'posix'".to_owned()) && all.contains(&"pytest".to_owned()), "{all:?}");
}

/// A backend that stands in the project itself, so that a test needs no index.
const BACKEND: &str = r#"
import base64, hashlib, os, zipfile

def get_requires_for_build_wheel(settings=None):
    return ["tool"]

def wheel(directory, files):
    files["p-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: P\nVersion: 1.0\nRequires-Dist: numpy\n\nRequires-Dist: no\n"
    files["p-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "p-1.0.dist-info/RECORD"
    rows = [f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text.encode())}"
            for name, text in files.items()]
    files[record] = "\n".join(rows + [record + ",,"]) + "\n"
    with zipfile.ZipFile(os.path.join(directory, "p-1.0-py3-none-any.whl"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 2, 0, 0, 0)), text)
    return "p-1.0-py3-none-any.whl"

def build_wheel(directory, settings=None, metadata=None):
    import tool
    return wheel(directory, {"p.py": tool.TEXT})

def build_editable(directory, settings=None, metadata=None):
    with open("made.so", "w") as file:
        file.write("module")
    os.makedirs("build")
    return wheel(directory, {"p.pth": os.getcwd() + "\n"})
"#;

#[test]
fn projects_are_built_by_their_own_backend_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut checkout = Checkout::default();
    let text = "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n";
    checkout.insert("sub/pyproject.toml", Mode::File, text.into()).unwrap();
    checkout.insert("sub/own.py", Mode::File, BACKEND.into()).unwrap();
    let asked = RefCell::new(Vec::new());
    let tool = |text: &str| {
        let members = wheel_members("tool", "1", vec![Member::new("tool.py", format!("TEXT = {text:?}\n"))]);
        let path = write_wheel(dir.path(), "tool", "1", &members);
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (sha256, size) = fetch::adopt(&store, &path, &file).unwrap();
        PinnedWheel { name: "tool".to_owned(), version: "1".to_owned(), file, sha256, size, url: None }
    };
    let (old, new) = (tool("x = 1\n"), tool("x = 2\n"));
    let newest = RefCell::new(old.clone());
    let tools = |needs: Needs<'_>| match needs {
        Needs::Requirements(requires) => {
            asked.borrow_mut().push(requires.to_vec());
            Ok(requires.iter().filter(|it| *it == "tool").map(|_| newest.borrow().clone()).collect())
        }
        Needs::Pinned(pinned) => Ok(pinned.to_vec()),
    };
    let (executable, version) = host_python();
    let bench = Bench {
        store: &store,
        executable: &executable,
        version: &version,
        interpreter: Digest::of("python"),
        below: Digest::of("base"),
        tools: &tools,
        run: &run_here,
        reporter: &Silent,
    };
    let request = |editable| ProjectRequest { path: "sub".into(), editable, extras: vec![] };
    let copy = build(&bench, &checkout, &request(false)).unwrap();
    let wheel = &copy.wheel;
    assert_eq!((wheel.name.as_str(), wheel.version.as_str()), ("p", "1.0"));
    assert_eq!((copy.requires(&[]), &wheel.tools), (vec!["numpy".to_owned()], &vec![old]));
    assert_eq!(*asked.borrow(), [vec![], vec!["tool".to_owned()]]);
    let opened = Wheel::open(&store.blob_path(&wheel.wheel), &wheel.file).unwrap();
    assert!(opened.archive().find("p.py").is_some() && copy.added.is_empty());

    let editable = build(&bench, &checkout, &request(true)).unwrap();
    assert_eq!(editable.added.keys().collect::<Vec<_>>(), ["sub/made.so"]);
    let times = asked.borrow().len();
    assert_eq!(build(&bench, &checkout, &request(true)).unwrap(), editable);
    assert_eq!(asked.borrow().len(), times);

    // Elsewhere, and later: there are newer tools, but the lock has those it was made with.
    let elsewhere = Store::open(&dir.path().join("elsewhere")).unwrap();
    for it in [&copy.wheel.tools[0], &new] {
        fetch::adopt(&elsewhere, &store.blob_path(&it.sha256), &it.file).unwrap();
    }
    newest.replace(new);
    let there = Bench { store: &elsewhere, ..bench };
    let other = build(&there, &checkout, &request(false)).unwrap();
    assert_ne!(other.digest(), copy.digest());
    let pinned = (copy.digest(), &copy.wheel.tools[..]);
    assert_eq!(rebuild(&there, &checkout, &request(false), pinned).unwrap(), copy);
    let other = (Digest::of("other"), &copy.wheel.tools[..]);
    let error = rebuild(&there, &checkout, &request(false), other).unwrap_err();
    assert!(error.to_string().contains("`p` was built again"), "{error}");

    let mut broken = checkout.clone();
    broken.insert("sub/own.py", Mode::File, "raise SystemExit('no compiler')\n".into()).unwrap();
    let error = build(&there, &broken, &request(false)).unwrap_err();
    assert!(error.to_string().contains("no compiler"), "{error}");
}

use std::cell::RefCell;

use super::*;
use crate::process;
use crate::report::Silent;

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

#[test]
fn requirements_follow_extras() {
    let pyproject = table(
        "[project]\nname = 'My.Pkg'\ndependencies = ['numpy>=1', 'tomli; python_version < \"3.11\"']\n\
         [project.optional-dependencies]\ndev = ['pytest']\nall = ['my-pkg[dev]', 'rich ; os_name == \"posix\"']\n",
    );
    let (name, requires) = static_metadata(&pyproject).unwrap();
    assert_eq!(name, "my-pkg");
    let plain = of_extras(&name, &requires, &[]);
    assert_eq!(plain, ["numpy>=1", "tomli ; python_full_version < '3.11'"]);
    let all = of_extras(&name, &requires, &["ALL".to_owned()]);
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.contains(&"rich ; os_name == 'posix'".to_owned()) && all.contains(&"pytest".to_owned()), "{all:?}");
    assert!(static_metadata(&table("[project]\nname = 'x'\ndynamic = ['dependencies']\n")).is_none());
    assert!(static_metadata(&table("[tool.poetry]\nname = 'x'\n")).is_none());
}

#[test]
fn a_project_without_a_build_system_has_the_old_one() {
    let old = BuildSystem::of(&toml::Table::new());
    assert_eq!(old.backend, "setuptools.build_meta:__legacy__");
    let own = BuildSystem::of(&table("[build-system]\nrequires = ['x']\nbuild-backend = 'b'\nbackend-path = ['.']\n"));
    assert_eq!((own.requires, own.backend_path), (vec!["x".to_owned()], vec![".".to_owned()]));
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

/// Runs a step on this machine with its paths rewritten, in place of a sandbox.
fn run_here(step: &Step) -> Result<Output, Failure> {
    let here = |text: &str| {
        step.binds.iter().fold(text.to_owned(), |text, bind| text.replace(&bind.target, &bind.source.to_string_lossy()))
    };
    let lent = &step.binds[0].source;
    let call = fs::read_to_string(lent.join("call.json")).unwrap();
    fs::write(lent.join("call.json"), here(&call)).unwrap();
    let mut command = std::process::Command::new("python3");
    command.args(step.argv[1..].iter().map(|it| here(it))).envs(&step.env);
    let output = process::run(&mut command, std::time::Duration::from_secs(120)).unwrap();
    Ok(Output { code: process::exit_code(output.status), stdout: output.stdout, stderr: output.stderr })
}

#[test]
fn projects_are_built_by_their_own_backend_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut checkout = Checkout::default();
    let text = "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n";
    checkout.insert("sub/pyproject.toml", Mode::File, text.into()).unwrap();
    checkout.insert("sub/own.py", Mode::File, BACKEND.into()).unwrap();
    let members = crate::python::testing::wheel_members(
        "tool",
        "1",
        vec![crate::python::testing::Member::new("tool.py", "TEXT = 'x = 1\\n'\n")],
    );
    let tool = crate::python::testing::write_wheel(dir.path(), "tool", "1", &members);
    let asked = RefCell::new(Vec::new());
    let tools = |requires: &[String]| {
        asked.borrow_mut().push(requires.to_vec());
        let file = tool.file_name().unwrap().to_str().unwrap();
        let wanted = requires.iter().filter(|it| *it == "tool");
        Ok(wanted.map(|_| (fetch::adopt(&store, &tool, file).unwrap().0, file.to_owned())).collect())
    };
    let bench = Workbench {
        store: &store,
        checkout: &checkout,
        executable: "/usr/bin/python3",
        version: "3.11.2",
        interpreter: Digest::of("python"),
        below: Digest::of("base"),
        tools: &tools,
        run: &run_here,
        reporter: &Silent,
    };
    let request = |editable| ProjectRequest { path: "sub".into(), editable, extras: vec![] };
    let copy = build(&bench, &request(false)).unwrap();
    assert_eq!(
        (copy.name.as_str(), copy.version.as_str(), &copy.requires[..]),
        ("p", "1.0", &["numpy".to_owned()][..])
    );
    assert_eq!(*asked.borrow(), [vec![], vec!["tool".to_owned()]]);
    let wheel = Wheel::open(&store.blob_path(&copy.wheel), &copy.file).unwrap();
    assert!(wheel.archive().find("p.py").is_some() && copy.added.is_empty());

    let editable = build(&bench, &request(true)).unwrap();
    assert_eq!(editable.added.keys().collect::<Vec<_>>(), ["sub/made.so"]);
    let times = asked.borrow().len();
    assert_eq!(build(&bench, &request(true)).unwrap(), editable);
    assert_eq!(asked.borrow().len(), times);
    let described = describe(&bench, &request(false)).unwrap();
    assert_eq!((described.name.as_str(), described.tree), ("p", checkout.digest_below("sub")));

    let mut broken = checkout.clone();
    broken.insert("sub/own.py", Mode::File, "raise SystemExit('no compiler')\n".into()).unwrap();
    let error = build(&Workbench { checkout: &broken, ..bench }, &request(false)).unwrap_err();
    assert!(error.to_string().contains("no compiler"), "{error}");
}

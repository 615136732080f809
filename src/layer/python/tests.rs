use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use super::*;
use crate::layer::bytecode::{MOUNT, Step};
use crate::process;
use crate::python::testing::{Member, wheel_members, write_wheel};
use crate::report::{Event, Reporter, silent};

/// A store and wheels in it.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn wheel(&self, name: &str, files: Vec<Member>) -> Distribution {
        let path = write_wheel(self.dir.path(), name, "1.0", &wheel_members(name, "1.0", files));
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (sha256, size) = fetch::adopt(&self.store, &path, &file).unwrap();
        Distribution {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            file,
            sha256,
            size,
            url: None,
            direct: false,
            built_from: None,
            path: None,
        }
    }

    /// The content of a layer: `path` and what stands there.
    fn tree(&self, layer: &BuiltLayer) -> BTreeMap<String, Vec<u8>> {
        let blob = self.store.open_blob(&layer.layer.descriptor.digest).unwrap();
        let mut archive = crate::oci::tar::open(blob).unwrap();
        let mut tree = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            if entry.header().entry_type().is_dir() {
                continue;
            }
            if let Some(link) = entry.link_name().unwrap() {
                bytes.extend(format!("-> {}", link.display()).bytes());
            }
            entry.read_to_end(&mut bytes).unwrap();
            assert!(tree.insert(path, bytes).is_none());
        }
        tree
    }
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

fn part(mut distributions: Vec<Distribution>) -> PythonPart {
    distributions.sort_by(|a, b| a.name.cmp(&b.name));
    let (version, executable) = host_python();
    PythonPart {
        version,
        digest: Digest::of(fs::read(&executable).unwrap()),
        executable,
        libc: "glibc 2.36".to_owned(),
        site_packages: true,
        extra_paths: Vec::new(),
        indexes: Vec::new(),
        distributions,
        base_distributions: Vec::new(),
        projects: Vec::new(),
    }
}

fn host_python() -> (String, String) {
    let program = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.executable)";
    let output = process::run(Command::new("python3").args(["-c", program]), Duration::from_secs(60)).unwrap();
    let text = output.text();
    let (version, executable) = text.split_once(' ').expect("python3 runs here");
    (version.to_owned(), executable.to_owned())
}

/// This machine instead of a base.
fn here() -> Compiler<'static> {
    Compiler { ground: Digest::of("here"), run: &on_host }
}

/// Runs a step on this machine instead of a base.
fn on_host(step: &Step<'_>) -> Result<crate::sandbox::Output, crate::error::Failure> {
    let directory = step.directory.display().to_string();
    let arguments: Vec<String> = step.arguments.iter().map(|it| it.replace(MOUNT, &directory)).collect();
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).env_clear().envs(step.environment.iter().cloned());
    let output = process::run(&mut command, Duration::from_secs(300))?;
    let code = process::exit_code(output.status);
    Ok(crate::sandbox::Output { code, stdout: output.stdout, stderr: output.stderr })
}

fn titles(layers: &[BuiltLayer]) -> Vec<String> {
    layers.iter().map(|it| format!("{}: {}", it.kind.as_str(), it.title)).collect()
}

/// All layers of an environment, lowest first.
fn layers(
    store: &Store,
    part: &PythonPart,
    compiler: Option<Compiler<'_>>,
    reporter: &SharedReporter,
) -> Result<Vec<BuiltLayer>, PythonLayerError> {
    let Environment { mut large, shared } = super::layers(store, part, compiler, reporter)?;
    large.extend(shared);
    Ok(large)
}

fn module(name: &str, text: &str) -> Member {
    Member::new(&format!("{name}/__init__.py"), text)
}

const SITE: &str = "opt/agent/venv/lib/python";

#[test]
fn large_wheels_stand_alone_and_an_edit_moves_only_the_shared_layers() {
    let place = Place::new();
    let big = place.wheel("big", vec![module("big", "x = 1\n"), Member::new("big/data.bin", noise(3 << 20))]);
    let small = place.wheel("small", vec![module("small", "y = 2\n")]);
    let first = layers(&place.store, &part(vec![big.clone(), small.clone()]), Some(here()), &silent()).unwrap();
    assert_eq!(
        titles(&first),
        [
            "python: big 1.0",
            "bytecode: big 1.0",
            "python: environment, 1 distribution",
            "bytecode: environment, 1 distribution"
        ]
    );
    let added = place.wheel("added", vec![module("added", "z = 3\n")]);
    let more = part(vec![added, big.clone(), small.clone()]);
    let is_missing = |part: &PythonPart| bytecode::is_missing(&place.store, part, &here().ground);
    assert!(is_missing(&more) && !is_missing(&part(vec![big.clone(), small.clone()])));
    let second = layers(&place.store, &more, Some(here()), &silent()).unwrap();
    assert!(!is_missing(&more));
    let digests = |it: &[BuiltLayer]| it.iter().map(|it| it.layer.descriptor.digest).collect::<Vec<_>>();
    assert_eq!(digests(&first)[..2], digests(&second)[..2]);
    assert_ne!(digests(&first)[2], digests(&second)[2]);
    assert_ne!(digests(&first)[3], digests(&second)[3]);
    assert!(second[0].cached && second[1].cached);
    // Anew, and in a store of its own, the same bytes come out.
    let again = layers(&place.store.forgetful(), &more, Some(here()), &silent()).unwrap();
    assert_eq!(digests(&second), digests(&again));
    let plain = layers(&place.store, &more, None, &silent()).unwrap();
    assert_eq!(digests(&plain), [digests(&second)[0], digests(&second)[2]]);
}

/// What a base could do whose interpreter is another's and whose libraries are not.
fn with_another_standard_library(step: &Step<'_>) -> Result<crate::sandbox::Output, crate::error::Failure> {
    let output = on_host(step)?;
    let code = step.directory.join("code-0");
    let evil: Vec<u8> = fs::read(&code)?.iter().map(|it| !it).collect();
    fs::write(&code, evil)?;
    Ok(output)
}

#[test]
fn bytecode_of_one_base_is_in_no_image_of_another() {
    let place = Place::new();
    let part = part(vec![place.wheel("small", vec![module("small", "y = 2\n")])]);
    let hostile = Compiler { ground: Digest::of("elsewhere"), run: &with_another_standard_library };
    let digests = |compiler: Compiler<'_>, store: &Store| {
        let layers = layers(store, &part, Some(compiler), &silent()).unwrap();
        layers.iter().map(|it| it.layer.descriptor.digest).collect::<Vec<_>>()
    };
    let evil = digests(hostile, &place.store);
    assert!(bytecode::is_missing(&place.store, &part, &here().ground));
    let good = digests(here(), &place.store);
    assert_eq!(good, digests(here(), &place.store.forgetful()));
    assert!(good[0] == evil[0] && good[1] != evil[1], "wheels are the same, bytecode is each base's own");
    assert_eq!(digests(hostile, &place.store), evil);
}

#[test]
fn layers_hold_what_is_imported_and_run() {
    let place = Place::new();
    let entry_points = Member::new("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\ndemo = demo:main\n");
    let demo = place.wheel("demo", vec![module("demo", "def main():\n    return 7\n"), entry_points]);
    let part = part(vec![demo]);
    let layers = layers(&place.store, &part, Some(here()), &silent()).unwrap();
    let tree = place.tree(&layers[0]);
    let minor = target(&part).python;
    assert!(tree.contains_key(&format!("{SITE}{minor}/site-packages/demo/__init__.py")));
    assert_eq!(tree["opt/agent/venv/bin/python"], format!("-> {}", part.executable).into_bytes());
    assert!(tree["opt/agent/venv/bin/demo"].starts_with(b"#!/opt/agent/venv/bin/python\n"));
    let bytecode = place.tree(&layers[1]);
    let (path, code) = bytecode.iter().next().unwrap();
    assert!(path.starts_with(&format!("{SITE}{minor}/site-packages/demo/__pycache__/__init__.")), "{path}");
    // Unchecked-hash bytecode: flags 1, and the path in the image inside.
    assert_eq!(code[4..8], [1, 0, 0, 0]);
    let name = format!("/{SITE}{minor}/site-packages/demo/__init__.py");
    assert!(code.windows(name.len()).any(|it| it == name.as_bytes()));
}

#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<String>>);

impl Reporter for Heard {
    fn report(&self, event: Event) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

#[test]
fn the_later_of_two_owners_wins_whatever_the_grouping() {
    let place = Place::new();
    let files = |name: &str, big: bool| {
        let mut files = vec![
            Member::new("space/shared.py", format!("owner = '{name}'\n")),
            Member::new("space/same.py", "same = 1\n"),
            Member::new(&format!("space/{name}.py"), ""),
        ];
        if big {
            files.push(Member::new(&format!("{name}.bin"), noise(3 << 20)));
        }
        files
    };
    for (alpha_big, beta_big) in [(false, false), (true, false), (false, true), (true, true)] {
        let alpha = place.wheel("alpha", files("alpha", alpha_big));
        let beta = place.wheel("beta", files("beta", beta_big));
        let heard = std::sync::Arc::new(Heard::default());
        let reporter: SharedReporter = heard.clone();
        let part = part(vec![alpha, beta]);
        let layers = layers(&place.store, &part, Some(here()), &reporter).unwrap();
        let mut owners = BTreeSet::new();
        let mut bytecode = 0;
        for layer in &layers {
            for (path, bytes) in place.tree(layer) {
                if path.ends_with("space/shared.py") {
                    owners.insert(String::from_utf8(bytes).unwrap());
                } else if path.contains("__pycache__/shared.") {
                    bytecode += 1;
                }
            }
        }
        assert_eq!(owners, BTreeSet::from(["owner = 'beta'\n".to_owned()]));
        assert_eq!(bytecode, 1);
        let warnings = heard.0.lock().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("beta's is used") && warnings[0].contains("space/shared.py"), "{warnings:?}");
    }
}

#[test]
fn a_wheel_cannot_take_the_environments_own_files() {
    let place = Place::new();
    let evil =
        place.wheel("evil", vec![module("evil", ""), Member::new("evil-1.0.data/scripts/python", "#!/bin/sh\n")]);
    let part = part(vec![evil]);
    let layers = layers(&place.store, &part, None, &silent()).unwrap();
    assert_eq!(place.tree(&layers[0])["opt/agent/venv/bin/python"], format!("-> {}", part.executable).into_bytes());
}

#[test]
fn at_most_so_many_wheels_stand_alone() {
    let sizes: Vec<u64> = (0..60).map(|it| (it + 1) << 20).collect();
    let (large, shared) = group(&sizes);
    assert_eq!((large.len(), shared.len()), (29, 31));
    assert_eq!(group(&[LARGE, LARGE - 1]), (vec![0], vec![1]));
}

/// Unpacks layers of ours into a directory, without `opt/agent/venv` in front.
fn unpack(place: &Place, layers: &[BuiltLayer], to: &Path) {
    for layer in layers {
        for (path, bytes) in place.tree(layer) {
            let path = to.join(path.strip_prefix("opt/agent/venv/").unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// The files below a directory by path, without what installers write by themselves.
fn payload(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !path.is_symlink() {
                walk(root, &path, files);
            } else if !["INSTALLER", "RECORD", "REQUESTED", "direct_url.json"].contains(&name.as_str()) {
                let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(relative, fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(root, root, &mut files);
    files
}

#[test]
fn real_wheels_are_installed_as_pip_installs_them() {
    let place = Place::new();
    let wheels = place.dir.path().join("wheels");
    let run = |arguments: &[&str]| {
        let output =
            process::run(Command::new("python3").args(["-m", "pip"]).args(arguments), Duration::from_secs(600))
                .unwrap();
        assert!(output.status.success(), "{}", output.errors());
    };
    let names = ["numpy", "pyyaml", "six", "tqdm", "httplib2"];
    let at = wheels.display().to_string();
    run(&[&["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", &at][..], &names[..]].concat());
    let mut distributions = Vec::new();
    let mut files = Vec::new();
    for item in fs::read_dir(&wheels).unwrap() {
        let path = item.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let name = crate::python::name::WheelName::parse(&file).unwrap();
        let (sha256, size) = fetch::adopt(&place.store, &path, &file).unwrap();
        let (name, version) = (name.name, name.version);
        distributions.push(Distribution {
            name,
            version,
            file,
            sha256,
            size,
            url: None,
            direct: false,
            built_from: None,
            path: None,
        });
        files.push(path.display().to_string());
    }
    assert_eq!(files.len(), names.len());
    let part = part(distributions);
    let ours = place.dir.path().join("ours");
    unpack(&place, &layers(&place.store, &part, None, &silent()).unwrap(), &ours);
    // pip installs into a prefix as into an environment.
    let theirs = place.dir.path().join("theirs");
    let prefix = theirs.display().to_string();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    run(&[
        &[
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--no-warn-script-location",
            "--ignore-installed",
            "--prefix",
            &prefix,
        ][..],
        &files[..],
    ]
    .concat());
    let (mut ours, theirs) = (payload(&ours), payload(&theirs));
    for own in venv::skeleton(&environment(&part)).keys() {
        ours.remove(own);
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, bytes) in &theirs {
        // Programs name another interpreter and are worded otherwise.
        assert!(path.starts_with("bin/") || bytes == &ours[path], "{path}");
    }
}

//! Bases made from the host's own apt sources, and system packages on top: the same bytes whoever makes them.
//!
//! Needs a host of Debian's family with network to its archive, as the tests do anyway.

use std::time::Duration;

use agent::error::Failure;
use agent::layer::setup::SetupInput;
use agent::lock::system::{Ask, InterpreterNeed, SystemRequest, layer_blobs};
use agent::lock::{BaseLayer, BasePart, RecipePart};
use agent::oci::{Platform, chain_id};
use agent::python::indexes::Indexes;
use agent::report::{Silent, silent};
use agent::sandbox::{LayerBlob, Sandbox, Step, Temporary};
use agent::store::Store;
use agent::system::apt::Apt;
use agent::system::{SystemError, fetch, install, recipe};

use crate::sandbox::{answer, as_user};
use crate::support::PackageIndex;
use crate::support::images::block;

const DAY: Duration = Duration::from_secs(86_400);

/// The store all tests here share: the archive is asked for each file once.
fn store(context: &crate::support::TestContext) -> Store {
    Store::open(context.store()).unwrap()
}

fn base(store: &Store) -> LayerBlob {
    let resolved = recipe::resolve(store, "debian-python", DAY, &Silent).unwrap();
    let base = recipe::build(store, &resolved, &Silent).unwrap();
    LayerBlob { diff_id: base.layer.diff_id, blob: base.layer.descriptor.digest }
}

/// Makes the base and a layer of packages on it, and tells both digests.
fn digests(store: &Store) -> String {
    let base = base(store);
    let sandbox = Sandbox::open(store, &[base], &Silent).unwrap();
    let apt = Apt::open(store, &sandbox, &Silent).unwrap();
    apt.update(DAY).unwrap();
    // A program with a capability, a library, a program that makes a group, and Python compiled when it is installed.
    let names = ["iputils-ping", "libgomp1", "openssh-client", "python3-six"].map(str::to_owned);
    let packages = apt.solve(&names).unwrap();
    fetch::fetch(store, &packages, apt.sources(), &Silent).unwrap();
    install::install(store, &sandbox, &packages, &Silent).unwrap();
    let layer = sandbox.layer(Temporary::LeftOut).unwrap();
    format!("{} {}", base.blob, layer.descriptor.digest)
}

#[test]
fn a_recipe_base_has_python_and_certificates_and_no_trace_of_this_machine() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let base = base(&store);
    let sandbox = Sandbox::open(&store, &[base], &Silent).unwrap();
    let program = "import ssl, ctypes, contextvars, zoneinfo; print(ssl.create_default_context().cert_store_stats()['x509'] > 50)";
    let output = sandbox.run(&Step::new("python3", &["python3", "-c", program]), &Silent).unwrap();
    assert_eq!((output.code, output.text().trim()), (0, "True"), "{}", output.last_words());
    // What apt's own package has in its directory of lists is an empty directory.
    let script = "dpkg --audit; ls /etc/apt/sources.list.d /var/lib/apt/lists | grep -v -e : -e partial; \
                  find /var/log /var/cache /etc/resolv.conf /etc/hostname /etc/machine-id -type f; \
                  find /etc /usr /var /root -type d -newermt 1981-01-01";
    let output = sandbox.run(&Step::new("sh", &["/bin/sh", "-c", script]), &Silent).unwrap();
    assert_eq!(output.text().trim(), "");
}

#[test]
fn a_name_no_package_has_is_told_and_no_pattern() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let sandbox = Sandbox::open(&store, &[base(&store)], &Silent).unwrap();
    let apt = Apt::open(&store, &sandbox, &Silent).unwrap();
    apt.update(DAY).unwrap();
    let error = apt.solve(&["libgomp1".to_owned(), "python3.6".to_owned()]).unwrap_err();
    assert!(matches!(&error, SystemError::Unknown { names } if names == "python3.6"), "{error}");
    assert_eq!(apt.solve(&["python3".to_owned()]).unwrap(), [], "the base has it");
}

fn part(store: &Store) -> BasePart {
    part_of(store, recipe::resolve(store, "debian-python", DAY, &Silent).unwrap())
}

fn part_of(store: &Store, resolved: recipe::Resolved) -> BasePart {
    let base = recipe::build(store, &resolved, &Silent).unwrap();
    BasePart {
        name: Some("recipe:debian-python".to_owned()),
        source: None,
        manifest: Some(base.manifest.digest),
        config: base.config.digest,
        platform: Platform::host(),
        layers: vec![BaseLayer { diff_id: base.layer.diff_id, blob: Some(base.layer.descriptor) }],
        recipe: Some(resolved.into()),
    }
}

#[test]
fn a_system_part_is_solved_once_and_its_layer_built_once() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let base = part(&store);
    let request =
        SystemRequest { packages: vec!["libgomp1".to_owned(), "python3".to_owned()], ..SystemRequest::default() };
    let asked = std::cell::Cell::new(0);
    let mut layers = || {
        asked.set(asked.get() + 1);
        Ok::<_, Failure>(layer_blobs(&base))
    };
    let mut resolve = |max_age| {
        let mut ask = Ask { layers: &mut layers, reporter: &Silent };
        agent::lock::system::resolve(&store, &base, &request, max_age, &mut ask).unwrap().part.unwrap()
    };
    let part = resolve(Duration::ZERO);
    assert_eq!(part, resolve(DAY));
    assert_eq!(asked.get(), 1, "the second time nothing is asked");
    let names: Vec<&str> = part.packages.iter().map(|it| it.name.as_str()).collect();
    assert_eq!((part.requested.len(), names.contains(&"libgomp1"), names.contains(&"python3")), (2, true, false));
    let text = toml::to_string(&part).unwrap();
    assert!(!text.contains("://"), "no address stands in the lock:\n{text}");

    let build = |store: &Store| {
        let mut layers = || Ok(layer_blobs(&base));
        agent::layer::system::build(store, &base, &part, &mut layers, &Silent).unwrap().unwrap()
    };
    let first = build(&store);
    let second = build(&store);
    assert!(second.cached);
    let anew = build(&store.forgetful());
    assert!(!anew.cached);
    assert_eq!((&first.layer, &second.layer), (&anew.layer, &anew.layer));
    assert!(first.title.starts_with("libgomp1"), "{}", first.title);
}

#[test]
fn a_base_without_an_interpreter_gets_its_distributions_own() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let mut bare = recipe::resolve(&store, "debian-python", DAY, &Silent).unwrap();
    bare.packages.retain(|it| !it.name.contains("python"));
    let base = part_of(&store, bare);
    let resolve = |version: Option<&str>| {
        let interpreter = Some(InterpreterNeed { version: version.map(str::to_owned) });
        let request = SystemRequest { interpreter, ..SystemRequest::default() };
        let mut layers = || Ok(layer_blobs(&base));
        let mut ask = Ask { layers: &mut layers, reporter: &Silent };
        agent::lock::system::resolve(&store, &base, &request, DAY, &mut ask)
    };
    let found = resolve(None).unwrap();
    let (part, interpreter) = (found.part.unwrap(), found.interpreter.unwrap());
    assert_eq!(part.requested, [""; 0]);
    let mut layers = || Ok(layer_blobs(&base));
    let built = agent::layer::system::build(&store, &base, &part, &mut layers, &Silent).unwrap().unwrap();
    let mut blobs = layer_blobs(&base);
    blobs.push(LayerBlob { diff_id: built.layer.diff_id, blob: built.layer.descriptor.digest });
    let sandbox = Sandbox::open(&store, &blobs, &Silent).unwrap();
    let program = "import contextvars, platform; print(platform.python_version())";
    let output = sandbox.run(&Step::new("python", &[&interpreter.executable, "-c", program]), &Silent).unwrap();
    assert_eq!((output.code, output.text().trim()), (0, interpreter.version.as_str()), "{}", output.last_words());

    let minor = interpreter.version.rsplit_once('.').unwrap().0;
    assert_eq!(resolve(Some(minor)).unwrap().interpreter.as_ref(), Some(&interpreter));
    let error = resolve(Some("3.5")).unwrap_err().to_string();
    assert!(error.contains("no Python 3.5") && error.contains(&interpreter.version), "{error}");
}

#[test]
fn a_setup_script_has_network_and_leaves_its_files_and_nothing_of_ours() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let base = part(&store);
    let script =
        b"set -e\ngetent hosts localhost\ntest -s /etc/resolv.conf\necho $KIND > /opt/kind\necho t > /tmp/kept\n";
    let input = SetupInput {
        below: chain_id(&[base.layers[0].diff_id]).unwrap(),
        script,
        env: &[("KIND".to_owned(), "gold".to_owned())].into(),
    };
    let mut layers = || Ok(layer_blobs(&base));
    let built = agent::layer::setup::build(&store.forgetful(), &input, &mut layers, &Silent).unwrap();
    let mut blobs = layer_blobs(&base);
    blobs.push(LayerBlob { diff_id: built.layer.diff_id, blob: built.layer.descriptor.digest });
    let sandbox = Sandbox::open(&store, &blobs, &Silent).unwrap();
    let mut step =
        Step::new("sh", &["/bin/sh", "-c", "cat /opt/kind /tmp/kept; ls -A /etc/resolv.conf /run /etc/apt/apt.conf.d"]);
    step.private_tmp = false;
    let said = sandbox.run(&step, &Silent).unwrap().text();
    assert!(said.starts_with("gold\nt\n"), "{said}");
    assert!(!said.contains("agent"), "{said}");
}

/// The recipe with CUDA, with few of its libraries.
fn small_cuda() -> String {
    let text = recipe::text("debian-cuda").unwrap();
    let left_out = |line: &&str| line.starts_with("  \"nvidia-") && !line.contains("nvidia-cuda-runtime");
    let lines: Vec<&str> = text.lines().filter(|it| !left_out(it)).collect();
    let last = text.lines().rfind(|it| it.starts_with("requirements = [\"")).unwrap();
    lines.join("\n").replace(last, "requirements = [\"nvidia-nvtx-cu12==12.6.77\"]")
}

#[test]
fn a_recipe_lays_out_libraries_of_wheels_as_nvidias_images_have_them() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let indexes = Indexes::of_machine(&|name| std::env::var(name).ok());
    let text = small_cuda();
    let resolve = || agent::lock::recipe::resolve(&store, ("debian-cuda", &text), &indexes, DAY, &silent()).unwrap();
    let resolved = resolve();
    let names: Vec<&str> = resolved.wheels.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["nvidia-cuda-runtime-cu12", "nvidia-nvtx-cu12"]);
    assert_eq!(resolve(), resolved);
    // What a lock has of it is all that another machine needs.
    let part: RecipePart = resolved.clone().into();
    let written = toml::to_string(&part).unwrap();
    assert_eq!(toml::from_str::<RecipePart>(&written).unwrap(), part);
    assert_eq!(agent::lock::system::recipe("debian-cuda", &part), resolved);
    block(agent::lock::recipe::fetch(&store, &resolved, &indexes, &silent())).unwrap();
    let made = recipe::build(&store, &resolved, &Silent).unwrap();
    assert_eq!(recipe::build(&store.forgetful(), &resolved, &Silent).unwrap(), made, "the same bytes");
    // The packages' layer is the one of the recipe without.
    let plain =
        recipe::build(&store, &recipe::resolve(&store, "debian-python", DAY, &Silent).unwrap(), &Silent).unwrap();
    assert_eq!((&made.layer, made.above.len()), (&plain.layer, 3));

    let config: serde_json::Value = serde_json::from_slice(&store.read_blob(&made.config.digest).unwrap()).unwrap();
    let env: Vec<&str> = config["config"]["Env"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    for variable in [
        "CUDA_VERSION=12.6.3",
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "NVIDIA_REQUIRE_CUDA=cuda>=12.6",
        "NVIDIA_VISIBLE_DEVICES=all",
    ] {
        assert!(env.contains(&variable), "{env:?}");
    }
    assert_eq!(config["config"]["Labels"]["com.nvidia.cudnn.version"], "9.5.1.17");
    assert_eq!(config["history"].as_array().unwrap().len(), 4);

    let blobs: Vec<LayerBlob> =
        made.layers().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.descriptor.digest }).collect();
    let sandbox = Sandbox::open(&store, &blobs, &Silent).unwrap();
    // By name alone, as the linker finds it; this call needs no driver.
    let program = "import ctypes; version = ctypes.c_int()\n\
        assert ctypes.CDLL('libcudart.so.12').cudaRuntimeGetVersion(ctypes.byref(version)) == 0\n\
        ctypes.CDLL('libnvToolsExt.so.1'); print(version.value)";
    let output = sandbox.run(&Step::new("python3", &["python3", "-c", program]), &Silent).unwrap();
    assert_eq!((output.code, output.text().trim()), (0, "12060"), "{}", output.last_words());
    let script = "readlink /usr/local/cuda /usr/local/cuda-12; ls /usr/local/cuda/lib64 /usr/local/cuda; \
                  ls /usr/share/doc | grep nvidia; cat /etc/ld.so.conf.d/nvidia.conf; \
                  find /etc /usr /var -newermt 1981-01-01 -name '*cuda*'";
    let listed = sandbox.run(&Step::new("sh", &["/bin/sh", "-c", script]), &Silent).unwrap().text();
    let expected = "cuda-12.6\ncuda-12.6\n/usr/local/cuda:\nlib64\ntargets\n\n/usr/local/cuda/lib64:\nlibcudart.so.12\n\
                    nvidia-cuda-runtime-cu12\nnvidia-nvtx-cu12\n/usr/local/nvidia/lib\n/usr/local/nvidia/lib64\n";
    assert_eq!(listed, expected);
}

/// The recipe with CUDA with its second list of wheels alone.
fn only_cudnn() -> String {
    let text = recipe::text("debian-cuda").unwrap();
    let parts: Vec<&str> = text.split("[[wheels]]\n").collect();
    assert!(parts.len() == 3 && parts[2].contains("nvidia-cudnn-cu12=="), "{text}");
    [parts[0], parts[2]].join("[[wheels]]\n")
}

/// A wheel as NVIDIA's are: libraries beside headers, in a package of their own.
const WHEEL: &str = "\
import os, sys, zipfile
path, name, version, package, *libraries = sys.argv[1:]
info = f'{name}-{version}.dist-info'
with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as wheel:
    for directory in ('', f'{package}/', f'{package}/include/', f'{package}/lib/'):
        wheel.writestr(f'nvidia/{directory}__init__.py', '')
    wheel.writestr(f'nvidia/{package}/include/{package}.h', '// a header')
    for library in libraries:
        wheel.write(library, f'nvidia/{package}/lib/{os.path.basename(library)}')
    wheel.writestr(f'{info}/License.txt', 'a licence')
    wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')
    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(f'{info}/RECORD', '')
";

/// cuDNN and NCCL are of a gigabyte: these have their names, their files' names and their places alone.
#[test]
fn a_recipe_lays_out_cudnn_and_nccl_where_the_linker_looks_by_itself() {
    let context = crate::support::TestContext::warm();
    let index = PackageIndex::start(&context, "index");
    let cudnn =
        ["", "_adv", "_cnn", "_engines_precompiled", "_engines_runtime_compiled", "_graph", "_heuristic", "_ops"];
    let cudnn: Vec<String> = cudnn.iter().map(|it| format!("libcudnn{it}.so.9")).collect();
    let nccl = vec!["libnccl.so.2".to_owned()];
    for (name, version, tag, package, libraries) in [
        ("nvidia_cudnn_cu12", "9.5.1.17", "manylinux_2_28_x86_64", "cudnn", &cudnn),
        ("nvidia_nccl_cu12", "2.23.4", "manylinux2014_x86_64", "nccl", &nccl),
    ] {
        let source = context.path("library.c");
        let paths: Vec<_> = libraries.iter().map(|it| context.path(it)).collect();
        for (library, path) in libraries.iter().zip(&paths) {
            crate::support::write(&source, &format!("const char *who(void) {{ return \"{library}\"; }}\n"));
            let call = context.command("cc").args(["-shared", "-fPIC", &format!("-Wl,-soname,{library}"), "-o"]);
            call.arg(path).arg(&source).ok();
        }
        let wheel = index.directory().join(format!("{name}-{version}-py3-none-{tag}.whl"));
        context.command("python3").args(["-c", WHEEL]).arg(wheel).args([name, version, package]).args(&paths).ok();
    }
    let store = store(&context);
    let url = index.url();
    let indexes = Indexes::of_machine(&|name| (name == "PIP_INDEX_URL").then(|| url.clone()));
    let text = only_cudnn();
    let asked = ("debian-cuda", text.as_str());
    let resolved = agent::lock::recipe::resolve(&store, asked, &indexes, Duration::ZERO, &silent()).unwrap();
    let names: Vec<&str> = resolved.wheels.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["nvidia-cudnn-cu12", "nvidia-nccl-cu12"]);
    block(agent::lock::recipe::fetch(&store, &resolved, &indexes, &silent())).unwrap();
    let made = recipe::build(&store, &resolved, &Silent).unwrap();
    assert_eq!(made.above.len(), 2, "one layer for the list, and the linker's cache");
    let blobs: Vec<LayerBlob> =
        made.layers().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.descriptor.digest }).collect();
    let sandbox = Sandbox::open(&store, &blobs, &Silent).unwrap();
    let script = "cd /usr/lib/x86_64-linux-gnu; ls | grep -E 'cudnn|nccl' | tr '\\n' ' '; /sbin/ldconfig -p | grep -cE 'cudnn|nccl'; \
                  find / -xdev -path '*nvidia*' -type f | LC_ALL=C sort";
    let listed = sandbox.run(&Step::new("sh", &["/bin/sh", "-c", script]), &Silent).unwrap().text();
    let expected = format!(
        "{} libnccl.so.2 9\n/etc/ld.so.conf.d/nvidia.conf\n/usr/share/doc/nvidia-cudnn-cu12/License.txt\n\
         /usr/share/doc/nvidia-nccl-cu12/License.txt\n",
        cudnn.join(" ")
    );
    assert_eq!(listed, expected);
    // By name alone, as the linker finds them.
    let program = "import ctypes, sys\nfor name in sys.argv[1:]:\n    who = ctypes.CDLL(name).who\n    who.restype = ctypes.c_char_p\n    print(who().decode())";
    let all: Vec<&str> = cudnn.iter().chain(&nccl).map(String::as_str).collect();
    let output =
        sandbox.run(&Step::new("python3", &[&["python3", "-c", program][..], &all].concat()), &Silent).unwrap();
    assert_eq!((output.code, output.text().lines().collect::<Vec<_>>()), (0, all), "{}", output.last_words());
}

#[test]
fn root_and_another_user_make_the_same_base_and_the_same_packages() {
    let shared = store(&crate::support::TestContext::warm());
    let ours = digests(&shared);
    let again = digests(&shared.forgetful());
    assert_eq!(ours, again, "twice as root");
    assert_eq!(as_user("recipes::as_another_user"), ours, "as another user");
}

#[test]
#[ignore = "started as another user by the test above"]
fn as_another_user() {
    answer(digests);
}

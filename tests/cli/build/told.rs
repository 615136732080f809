//! What a build tells people and programs, and what becomes of its store.

use agent::digest::Digest;
use agent::image::validate::{Depth, validate};
use agent::image::{Document, Image, ImageLayer};
use agent::layer::LayerKind;
use agent::oci::{Descriptor, Platform};
use agent::store::Store;
use serde_json::Value;

use super::{Sample, base_argument};
use crate::support::{Call, TestContext};

fn build(sample: &Sample<'_>) -> Call {
    let output = format!("type=oci,dest={}", sample.context.path("image").display());
    let call = sample.context.agent().args(["build", "--task"]).arg(sample.file());
    let call = call.args(["--docker", &base_argument(), "--target", "team/sample:1", "-o", &output]);
    call.env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
}

/// A document of the layout `image` by its digest.
fn document(context: &TestContext, digest: &str) -> Vec<u8> {
    fs_err::read(context.path("image/blobs/sha256").join(digest.trim_start_matches("sha256:"))).unwrap()
}

#[test]
fn layers_digests_and_what_to_do_next_are_told() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let iidfile = context.path("iid");
    let first = build(&sample).arg("--iidfile").arg(&iidfile).run().success();
    let row = |shown: &str, kind: &str| {
        let row = shown.lines().find(|it| it.split_whitespace().next() == Some(kind));
        row.unwrap_or_else(|| panic!("no row `{kind}` in\n{shown}")).to_owned()
    };
    for kind in ["python", "bytecode", "code", "entrypoint"] {
        let row = row(&first.stdout, kind);
        assert!(row.contains("iB") || row.contains(" B"), "no size in {row}");
        assert!(row.contains(" built ") && row.ends_with('s'), "neither `built` nor seconds in {row}");
    }
    assert!(row(&first.stdout, "base").contains("as it is"), "{}", first.stdout);
    let digest = |name: &str| row(&first.stdout, name).split_whitespace().nth(1).unwrap().to_owned();
    let (manifest, config) = (digest("manifest"), digest("config"));
    let written: Value = serde_json::from_slice(&document(&context, &manifest)).unwrap();
    assert_eq!(written["config"]["digest"], config.as_str());
    assert_eq!(fs_err::read_to_string(&iidfile).unwrap(), config);
    assert!(first.stderr.contains("next: agent run team/sample:1"), "{}", first.stderr);
    let second = build(&sample).run().success();
    for kind in ["python", "bytecode", "code", "entrypoint"] {
        let row = row(&second.stdout, kind);
        assert!(row.trim_end().ends_with("cached"), "{row}");
    }
    assert_eq!(row(&second.stdout, "manifest"), row(&first.stdout, "manifest"));
}

#[test]
fn a_terminal_shows_work_as_it_goes_on_and_another_reader_gets_lines() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    // util-linux's `script` gives it a terminal, and keeps what is shown.
    let program = format!(
        "'{}' build --task '{}' --docker '{}' --target sample:1 -o 'type=oci,dest={}'",
        env!("CARGO_BIN_EXE_agent"),
        sample.file().display(),
        base_argument(),
        context.path("image").display()
    );
    let call = context.command("script").args(["--quiet", "--return", "--command", &program, "/dev/null"]);
    let shown = call.env("TERM", "xterm").env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false").ok();
    // Lines are drawn over, a spinner turns, and each piece of work ends with a line of its own.
    assert!(shown.contains("\u{1b}[2K") || shown.contains("\u{1b}[1A"), "nothing is drawn over: {shown:?}");
    assert!("⠁⠂⠄⡀⢀⠠⠐⠈".chars().any(|it| shown.contains(it)), "no spinner: {shown:?}");
    assert!(shown.contains('✓') && shown.contains("next: agent run"), "{shown:?}");
    let plain = build(&sample).run().success();
    assert!(!plain.stderr.contains('\u{1b}') && plain.stderr.contains("python: cached"), "{}", plain.stderr);
}

#[test]
fn a_built_image_is_right_by_the_image_spec() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let digest = sample.build(&["--entry-point", "reuse_task", "--apt", "libgomp1"]);
    let bytes = document(&context, &digest);
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let config_bytes = document(&context, manifest["config"]["digest"].as_str().unwrap());
    let config: Value = serde_json::from_slice(&config_bytes).unwrap();
    let history = config["history"].as_array().unwrap().iter().filter(|it| it["empty_layer"] != true);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap().iter().zip(diff_ids).zip(history);
    let layers: Vec<ImageLayer> = layers
        .map(|((layer, diff_id), told)| {
            let own = told["created_by"].as_str().is_some_and(|it| it.starts_with("agent build"));
            ImageLayer {
                kind: if own { LayerKind::Code } else { LayerKind::Base },
                title: String::new(),
                descriptor: serde_json::from_value::<Descriptor>(layer.clone()).unwrap(),
                diff_id: text(diff_id).parse::<Digest>().unwrap(),
                uncompressed: None,
            }
        })
        .collect();
    assert!(layers.len() > 5, "{manifest}");
    let image = Image {
        manifest: Document::new(&text(&manifest["mediaType"]), bytes),
        config: Document::new(&text(&manifest["config"]["mediaType"]), config_bytes),
        platform: Platform::host(),
        layers,
        base_source: None,
    };
    // The layout's blobs, looked at by another reader of the format than the one that wrote them.
    let store = Store::open(context.store()).unwrap();
    assert_eq!(validate(&store, &image, Depth::Blobs), Vec::<String>::new());
}

#[test]
fn the_store_is_kept_within_its_bound() {
    let context = TestContext::new();
    let sample = Sample::new(&context);
    let blobs = || -> u64 {
        let blobs = fs_err::read_dir(context.store().join("blobs/sha256")).unwrap();
        blobs.map(|it| it.unwrap().metadata().unwrap().len()).sum()
    };
    build(&sample).run().success();
    let before = blobs();
    assert!(before > 8 << 20, "{before}");
    // Builds look now and then: this one not.
    let bounded = || build(&sample).env("CLEARML_AGENT__CACHE__MAX_BYTES", "1M");
    bounded().run().success();
    assert_eq!(blobs(), before);
    fs_err::remove_file(context.store().join("collected")).unwrap();
    let outcome = bounded().run().success();
    assert!(outcome.stderr.contains("the store was over its bound of 1.00 MiB"), "{}", outcome.stderr);
    assert!(blobs() < 1 << 20, "{}", outcome.stderr);
    // What is gone is made again.
    let digest = sample.build(&[]);
    assert!(context.path("image/blobs/sha256").join(digest.trim_start_matches("sha256:")).exists());
    let outcome = build(&sample).env("CLEARML_AGENT__CACHE__MAX_BYTES", "\"much\"").run().exits(2);
    assert!(outcome.stderr.contains("`cache.max_bytes` is `much`"), "{}", outcome.stderr);
}

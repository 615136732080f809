//! Into OCI layouts and archives, read by other people's programs and by ours.

use std::collections::BTreeMap;

use agent::base::{Request, find};
use agent::digest::Digest;
use agent::error::{Explain, Kind};
use agent::image::deliver::{docker_archive, layout, oci_archive};
use agent::image::scan::{ScanError, scan};
use agent::oci::Platform;
use agent::secret::Secret;

use crate::support::images::{around, block, check, layer, on_base, small_base};
use crate::support::{Engine, TestContext, require};

#[test]
fn a_layout_holds_several_images_and_others_read_it() {
    require(Engine::Skopeo);
    require(Engine::Umoci);
    let context = TestContext::new();
    let out = context.path("out");
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "base").await;
        let one = on_base(&base, &[layer(&around.store, &[("opt/one", b"1")])]);
        let two = on_base(&base, &[layer(&around.store, &[("opt/two", b"2")])]);
        // Two at a time: neither may be lost.
        let both = futures_util::future::join(layout(&around, &one, &out, "one"), layout(&around, &two, &out, "two"));
        let (first, second) = both.await;
        assert!(!first.unwrap().unchanged && !second.unwrap().unchanged);
        assert!(layout(&around, &one, &out, "one").await.unwrap().unchanged);
        let moved = layout(&around, &two, &out, "one").await.unwrap();
        assert_eq!((moved.layers, moved.unchanged), (0, false));
        layout(&around, &one, &out, "one").await.unwrap();
        for (tag, image) in [("one", &one), ("two", &two)] {
            let from = format!("oci:{}:{tag}", out.display());
            let shown = context.command("skopeo").args(["inspect", "--format", "{{.Digest}}", &from]).ok();
            assert_eq!(shown, image.manifest.digest().to_string());
            let bundle = context.path(format!("bundle-{tag}"));
            let unpack = context.command("umoci").args(["unpack", "--rootless", "--image"]);
            unpack.arg(format!("{}:{tag}", out.display())).arg(&bundle).ok();
            assert!(bundle.join("rootfs/opt").join(tag).is_file());
            assert_eq!(fs_err::read(bundle.join("rootfs/opt/base.txt")).unwrap(), b"base");
            let again = find(&around, &from.parse().unwrap(), &Platform::host()).await.unwrap();
            assert_eq!((again.pin.manifest, again.diff_ids()), (Some(image.manifest.digest()), image.diff_ids()));
            check(&around, image);
        }
        fs_err::create_dir(context.path("strange")).unwrap();
        fs_err::write(context.path("strange/x"), "x").unwrap();
        let error = layout(&around, &one, &context.path("strange"), "x").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let untagged = format!("oci:{}", out.display());
        let error = find(&around, &untagged.parse().unwrap(), &Platform::host()).await.unwrap_err();
        assert!(error.to_string().contains("name a tag"), "{error}");
    });
}

#[test]
fn an_archive_is_the_same_bytes_each_time_and_comes_back_whole() {
    require(Engine::Skopeo);
    let context = TestContext::new();
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "base").await;
        let image = on_base(&base, &[layer(&around.store, &[("opt/one", b"1")])]);
        let name = "agent-test-archive:1".parse().unwrap();
        let (oci, docker) = (context.path("oci.tar"), context.path("docker.tar"));
        let mut digests = Vec::new();
        for _ in 0..2 {
            oci_archive(&around, &image, &oci, "v1").await.unwrap();
            docker_archive(&around, &image, &docker, &name).await.unwrap();
            digests.push([&oci, &docker].map(|it| Digest::of(fs_err::read(it).unwrap())));
        }
        assert_eq!(digests[0], digests[1]);
        let from = format!("oci-archive:{}:v1", oci.display());
        let shown = context.command("skopeo").args(["inspect", "--format", "{{.Digest}}", &from]).ok();
        assert_eq!(shown, image.manifest.digest().to_string());
        let from = format!("docker-archive:{}:agent-test-archive:1", docker.display());
        let raw = context.command("skopeo").args(["inspect", "--config", "--raw", &from]).run().success();
        assert_eq!(Digest::of(raw.stdout.as_bytes()), image.config.digest());
        let dir = context.path("copied");
        context.command("skopeo").args(["copy", "--quiet", &from, &format!("oci:{}:x", dir.display())]).ok();

        let elsewhere = crate::support::images::around(&context, "elsewhere");
        let copied = Request::Layout { directory: dir, tag: Some("x".to_owned()) };
        let archives = [&oci, &docker].map(|file| Request::Archive { file: file.clone(), tag: None });
        for request in &archives {
            let found = find(&elsewhere, request, &Platform::host()).await.unwrap();
            assert_eq!((found.pin.config, found.diff_ids()), (image.config.digest(), image.diff_ids()), "{request}");
        }
        // skopeo writes the configuration anew.
        let found = find(&elsewhere, &copied, &Platform::host()).await.unwrap();
        assert_eq!(found.diff_ids(), image.diff_ids());
        let missing = Request::Archive { file: context.path("no.tar"), tag: None };
        assert_eq!(find(&elsewhere, &missing, &Platform::host()).await.unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_secret_in_a_layer_of_ours_is_found_and_one_in_the_base_is_the_bases() {
    let context = TestContext::new();
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "password: of-the-base").await;
        let secrets = |value: &str| BTreeMap::from([("KEY".to_owned(), Secret::new(value))]);
        let image = on_base(&base, &[layer(&around.store, &[("opt/x.py", b"key = 'c2VjcmV0LXZhbHVlLTE='")])]);
        assert!(scan(&around.store, &image, &secrets("of-the-base")).is_ok());
        assert!(scan(&around.store, &image, &secrets("another-value")).is_ok());
        let error = scan(&around.store, &image, &secrets("secret-value-1")).unwrap_err();
        assert!(matches!(error, ScanError::Found { .. }), "{error}");
        assert_eq!(error.to_string(), "layer code (code) holds the secret `KEY`");
    });
}

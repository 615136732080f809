//! Registries: pushing to and pulling from the reference implementation, and serving one ourselves.

use std::collections::BTreeMap;

use agent::base::{Request, fetch, find};
use agent::digest::Digest;
use agent::error::{Explain, Kind};
use agent::image::deliver::push;
use agent::oci::json::canonical;
use agent::oci::{Platform, Reference, media};
use agent::registry::auth::Sources;
use agent::registry::serve::{Served, serve};
use agent::registry::{Begun, RegistryError, Settings};
use agent::report::silent;
use serde_json::json;

use crate::support::images::{around, around_with, block, check, layer, on_base, small_base};
use crate::support::{Engine, Registry, TestContext, require};

fn settings(context: &TestContext, registry: &Registry, pair: &str) -> Settings {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    let file = context.path(format!("auth-{}.json", Digest::of(pair).short()));
    fs_err::write(&file, json!({"auths": {registry.address(): {"auth": auth}}}).to_string()).unwrap();
    let credentials = Sources { files: vec![file], ..Sources::default() };
    Settings { credentials, ..Settings::default() }
}

#[test]
fn what_is_pushed_comes_back_and_only_what_is_missing_moves() {
    let context = TestContext::new();
    let registry = Registry::start_protected(&context, "ada", "secret");
    block(async {
        let around = around_with(&context, "store", settings(&context, &registry, "ada:secret"));
        let base = small_base(&around, &context.path("base"), "base").await;
        let target: Reference = registry.reference("team/task:1").parse().unwrap();
        let first = on_base(&base, &[layer(&around.store, &[("opt/a", b"1")])]);
        let delivered = push(&around, &first, &target).await.unwrap();
        assert_eq!((delivered.layers, delivered.mounted), (3, 0));
        assert!(push(&around, &first, &target).await.unwrap().unchanged);
        let code = layer(&around.store, &[("opt/a", b"2")]);
        let second = on_base(&base, std::slice::from_ref(&code));
        assert_eq!(push(&around, &second, &target).await.unwrap().layers, 1);
        // Another repository of the same registry takes everything from the first.
        let other: Reference = registry.reference("team/other:1").parse().unwrap();
        let delivered = push(&around, &second, &other).await.unwrap();
        assert_eq!((delivered.layers, delivered.mounted), (0, 3));

        let elsewhere = around_with(&context, "elsewhere", settings(&context, &registry, "ada:secret"));
        let found = find(&elsewhere, &Request::Image(other.clone()), &Platform::host()).await.unwrap();
        assert_eq!((found.pin.manifest, found.pin.config), (Some(second.manifest.digest()), second.config.digest()));
        assert_eq!(found.pin.source, Some(other.at(second.manifest.digest())));
        assert_eq!(elsewhere.store.has(&code.descriptor.digest), None);
        fetch(&elsewhere, &found.pin).await.unwrap();
        check(&elsewhere, &second);

        for pair in ["ada:wrong", "nobody:secret"] {
            let denied = around_with(&context, "denied", settings(&context, &registry, pair));
            let error = push(&denied, &second, &target).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Denied, "{error}");
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
        let anonymous = crate::support::images::around(&context, "anonymous");
        let error = find(&anonymous, &Request::Image(target), &Platform::host()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{error}");
        assert!(error.hints()[1].contains("docker login"), "{:?}", error.hints());
        let missing: Reference = registry.reference("team/none:1").parse().unwrap();
        let error = find(&elsewhere, &Request::Image(missing), &Platform::host()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
    });
}

#[test]
fn the_layers_of_a_base_in_the_same_registry_are_mounted_unfetched() {
    require(Engine::Skopeo);
    let context = TestContext::new();
    let registry = Registry::start(&context);
    block(async {
        let made = around(&context, "made");
        small_base(&made, &context.path("base"), "mount me").await;
        let from = format!("oci:{}:base", context.path("base").display());
        let reference = registry.reference("library/base:1");
        let copy = context.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from]);
        copy.arg(format!("docker://{reference}")).ok();

        let around = around(&context, "store");
        let base = find(&around, &reference.parse().unwrap(), &Platform::host()).await.unwrap();
        let image = on_base(&base, &[layer(&around.store, &[("opt/a", b"1")])]);
        let target = registry.reference("team/task:1").parse().unwrap();
        let delivered = push(&around, &image, &target).await.unwrap();
        assert_eq!((delivered.layers, delivered.mounted), (1, 2));
        for layer in &base.pin.layers {
            assert_eq!(around.store.has(&layer.blob.digest), None);
        }
        let inspect = context.command("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
        assert_eq!(inspect.arg(format!("docker://{target}")).ok(), image.manifest.digest().to_string());
    });
}

#[test]
fn an_index_gives_the_image_of_the_platform() {
    let context = TestContext::new();
    let registry = Registry::start(&context);
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "base").await;
        let image = on_base(&base, &[]);
        let target: Reference = registry.reference("multi:one").parse().unwrap();
        push(&around, &image, &target).await.unwrap();
        let platform = Platform::host();
        let index = canonical(&json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [{
            "mediaType": media::MANIFEST, "digest": image.manifest.digest(), "size": image.manifest.bytes.len(),
            "platform": platform,
        }]}));
        let multi: Reference = registry.reference("multi:latest").parse().unwrap();
        around.registry.put_manifest(&multi, media::INDEX, &index).await.unwrap();
        let elsewhere = crate::support::images::around(&context, "elsewhere");
        let found = find(&elsewhere, &Request::Image(multi.clone()), &platform).await.unwrap();
        assert_eq!(found.pin.manifest, Some(image.manifest.digest()));
        let odd = Platform { architecture: "s390x".to_owned(), ..platform.clone() };
        let error = find(&elsewhere, &Request::Image(multi.clone()), &odd).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        assert!(error.to_string().contains(&platform.to_string()), "{error}");

        // A mirror answers for a registry that is nowhere.
        let mirrors = BTreeMap::from([("registry.invalid".to_owned(), vec![registry.address().to_owned()])]);
        let mirrored = around_with(&context, "mirrored", Settings { mirrors, ..Settings::default() });
        let there: Reference = "registry.invalid/multi:latest".parse().unwrap();
        let found = find(&mirrored, &Request::Image(there.clone()), &platform).await.unwrap();
        assert_eq!(found.pin.source, Some(there.at(image.manifest.digest())));
        fetch(&mirrored, &found.pin).await.unwrap();
    });
}

#[test]
fn a_blob_that_is_not_what_was_promised_is_refused() {
    let context = TestContext::new();
    let registry = Registry::start(&context);
    block(async {
        let around = around(&context, "store");
        let target: Reference = registry.reference("bad:1").parse().unwrap();
        let real = layer(&around.store, &[("a", b"1")]).descriptor;
        let Begun::Upload(session) = around.registry.begin(&target, &real.digest, &[]).await.unwrap() else { panic!() };
        let other = context.path("other");
        fs_err::write(&other, vec![0; usize::try_from(real.size).unwrap()]).unwrap();
        let refused = around.registry.upload(*session, &real, &other, &silent()).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Refused { .. }), "{refused}");
    });
}

#[test]
fn others_pull_from_the_registry_that_we_serve() {
    require(Engine::Skopeo);
    let context = TestContext::new();
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "base").await;
        let image = on_base(&base, &[layer(&around.store, &[("opt/a", b"1")])]);
        for document in [&image.manifest, &image.config] {
            around.store.put_bytes(&document.bytes).unwrap();
        }
        let mut blobs: Vec<_> = image.layers.iter().map(|it| it.descriptor.clone()).collect();
        blobs.push(image.config.descriptor.clone());
        let served = Served {
            repository: "task".to_owned(),
            tag: "1".to_owned(),
            manifest: image.manifest.descriptor.clone(),
            blobs,
        };
        let serving = serve(around.store.clone(), vec![served]).await.unwrap();
        let (host, credentials) = (serving.host(), serving.credentials().clone());
        let from = format!("docker://{host}/task:1");
        let into = format!("oci:{}:x", context.path("pulled").display());
        let login = format!("{}:{}", credentials.user, credentials.password.reveal());
        let skopeo = |login: &str| {
            let call =
                context.command("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", "--src-creds", login]);
            call.args([&from, &into])
        };
        let (denied, copied) = (skopeo("agent:wrong"), skopeo(&login));
        let run = tokio::task::spawn_blocking(move || (denied.run(), copied.run()));
        let (denied, copied) = run.await.unwrap();
        assert_ne!(denied.code, Some(0));
        copied.success();
        let shown = context.command("skopeo").args(["inspect", "--format", "{{.Digest}}", &into]).ok();
        assert_eq!(shown, image.manifest.digest().to_string());

        let mut settings = Settings::default();
        settings.credentials.given.insert(host.clone(), credentials);
        let elsewhere = around_with(&context, "elsewhere", settings);
        let reference: Reference = format!("{host}/task:1").parse().unwrap();
        let found = find(&elsewhere, &Request::Image(reference), &Platform::host()).await.unwrap();
        fetch(&elsewhere, &found.pin).await.unwrap();
        check(&elsewhere, &image);
    });
}

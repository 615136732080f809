//! Trees of layers as a container sees them.

use super::*;
use crate::base::{Base, PinnedLayer};
use crate::oci::{Layer, LayerWriter, Meta, Platform};

fn layer(store: &Store, fill: impl FnOnce(&mut LayerWriter<'_>)) -> Layer {
    let mut writer = store.layer_writer().unwrap();
    fill(&mut writer);
    writer.finish().unwrap()
}

fn base(layers: &[Layer]) -> Base {
    let layers = layers.iter().map(|it| PinnedLayer { diff_id: it.diff_id, blob: it.descriptor.clone() }).collect();
    let pin =
        Pin { name: None, source: None, manifest: None, config: Digest::of("c"), platform: Platform::host(), layers };
    Base { pin, config: serde_json::json!({}) }
}

#[test]
fn layers_are_merged_as_a_container_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (file, directory) = (Meta::file(), Meta::dir());
    let lower = layer(&store, |it| {
        for path in ["etc", "opt", "opt/old", "usr", "usr/bin"] {
            it.dir(path, &directory).unwrap();
        }
        it.file("etc/passwd", &file, b"root:x:0:0:root:/root:/bin/sh\njo:x:1000:1001::/home/jo:\n").unwrap();
        it.file("etc/group", &file, b"root:x:0:\nstaff:x:50:jo\n").unwrap();
        it.file("opt/old/a", &file, b"a").unwrap();
        it.file("usr/bin/python3.11", &Meta::executable(), b"ELF").unwrap();
        it.hardlink("usr/bin/same", &Meta::executable(), "usr/bin/python3.11").unwrap();
        it.symlink("bin", &file, "usr/bin").unwrap();
        it.symlink("usr/bin/python3", &file, "python3.11").unwrap();
        it.symlink("loop", &file, "/loop").unwrap();
        it.file("gone", &file, b"x").unwrap();
    });
    let upper = layer(&store, |it| {
        it.dir("opt", &directory).unwrap();
        it.dir("opt/old", &directory).unwrap();
        it.opaque("opt/old").unwrap();
        it.file("opt/old/b", &file, b"b").unwrap();
        it.whiteout("gone").unwrap();
    });
    let rootfs = Rootfs::open_local(&store, &base(&[lower, upper])).unwrap();
    assert_eq!(rootfs.resolve("/bin/python3").as_deref(), Some("usr/bin/python3.11"));
    assert_eq!(rootfs.read("/bin/python3").unwrap().as_deref(), Some(&b"ELF"[..]));
    assert_eq!(rootfs.read("bin/same").unwrap().as_deref(), Some(&b"ELF"[..]));
    assert_eq!(rootfs.digest("bin/python3").unwrap(), Some(Digest::of("ELF")));
    assert_eq!(rootfs.list("/opt/old"), ["b"]);
    assert_eq!(rootfs.list(""), ["bin", "etc", "loop", "opt", "usr"]);
    assert_eq!(rootfs.walk("bin").map(|it| it.path.as_str()).collect::<Vec<_>>().len(), 3);
    assert!(!rootfs.exists("gone") && rootfs.stat("loop").is_none());
    assert_eq!(rootfs.resolve("bin/../../../etc").as_deref(), Some("etc"));
    let owner = |user: &str| rootfs.owner(user).map(|it| (it.uid, it.gid)).ok();
    assert_eq!(owner("jo"), Some((1000, 1001)));
    assert_eq!(owner("1000"), Some((1000, 1001)));
    assert_eq!(owner("jo:staff"), Some((1000, 50)));
    assert_eq!(owner("7:8"), Some((7, 8)));
    assert_eq!((owner(""), owner("ghost")), (Some((0, 0)), None));
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut base = base(&[layer(&store, |it| it.file("a", &Meta::file(), b"a").unwrap())]);
    base.pin.layers[0].diff_id = Digest::of("other");
    let error = Rootfs::open_local(&store, &base).unwrap_err();
    assert!(matches!(error, BaseError::Layer { .. }), "{error}");
}

//! Package files as an attacker would make them: a lock may name any, and its base is made of them as root.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::*;
use crate::error::{Failure, Kind};
use crate::oci::tar::{Builder, EntryType, Header};
use crate::report::Silent;

/// An entry of a package's archive: path, kind, what a link says or a file holds.
type Member<'a> = (&'a str, EntryType, &'a str);

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, text) in members {
        let mut header = Header::new_gnu();
        // Written as bytes: the library would refuse some of these names.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        let content = if *kind == EntryType::Regular { text.as_bytes() } else { &[] };
        if *kind != EntryType::Regular {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A package file (deb(5)): an `ar` archive of three members.
fn package_file(name: &str, members: &[Member<'_>]) -> Vec<u8> {
    let control = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nEssential: yes\nMaintainer: x <x@x>\nDescription: x\n"
    );
    let control = archive(&[("./control", EntryType::Regular, &control)]);
    let data = archive(members);
    let mut file = b"!<arch>\n".to_vec();
    for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control[..]), ("data.tar", &data[..])] {
        file.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes());
        file.extend(bytes);
        if bytes.len() % 2 == 1 {
            file.push(b'\n');
        }
    }
    file
}

/// What making a base of such package files gives.
fn make(store: &Store, files: &[(&str, Vec<u8>)]) -> Failure {
    let package = |(name, bytes): &(&str, Vec<u8>)| {
        let (sha256, size) = store.put_bytes(bytes).unwrap();
        let (name, version, arch) = ((*name).to_owned(), "1".to_owned(), "all".to_owned());
        Package { name, version, arch, file: "pool/x.deb".to_owned(), sha256, size, origin: "x/main".to_owned() }
    };
    let resolved = Resolved {
        name: "x".to_owned(),
        text: "description = ''\npackages = []\non = {}\nexclude = ['/usr/share/doc/*']\n".to_owned(),
        suite: "debian x main".to_owned(),
        packages: files.iter().map(package).collect(),
        wheels: Vec::new(),
    };
    build(store, &resolved, &Silent).unwrap_err().into()
}

/// A place that nothing may be written to, and what is there.
struct Outside {
    dir: tempfile::TempDir,
    store: Store,
}

impl Outside {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), "kept").unwrap();
        Self { dir, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing was written here, and nothing by chance beside the sandbox's own directories.
    fn is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(fs::read_to_string(self.path().join("kept")).unwrap(), "kept");
        for name in ["/evil-escape", "/tmp/evil-escape", "/etc/evil-escape"] {
            assert!(!Path::new(name).exists(), "{name}");
        }
    }
}

#[test]
fn nothing_of_a_package_is_written_outside_of_the_root_and_the_error_names_it() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let outside = Outside::new();
    let absolute = outside.path().to_str().unwrap().to_owned();
    let climbing = format!("{}{absolute}", "../".repeat(16));
    let kept = format!("{absolute}/kept");
    let cases: &[(&str, &[Member<'_>], &[Member<'_>])] = &[
        ("an absolute link", &[("./out", Symlink, &absolute)], &[("./out/evil-escape", Regular, "x")]),
        ("a link upwards", &[("./out", Symlink, &climbing)], &[("./out/evil-escape", Regular, "x")]),
        (
            "links in a row",
            &[("./a", Symlink, "/tmp"), ("./out", Symlink, "a/..")],
            &[("./out/../evil-escape", Regular, "x")],
        ),
        (
            "a file over a link",
            &[("./out", Symlink, &kept)],
            &[("./out", Regular, "x"), ("./out/evil-escape", Regular, "x")],
        ),
        ("a name upwards", &[], &[("./../../../../evil-escape", Regular, "x")]),
        ("a link with a name upwards", &[], &[("../evil-escape", Symlink, "/etc")]),
        ("a hard link", &[], &[("./evil", Link, &kept)]),
        ("a hard link upwards", &[], &[("./evil", Link, "../../../etc/passwd")]),
        ("a hard link through a link", &[("./out", Symlink, &absolute)], &[("./evil", Link, "./out/kept")]),
        ("a device", &[], &[("./dev/evil-escape", Char, "")]),
        ("a disk", &[], &[("./dev/evil-escape", Block, "")]),
        ("a pipe", &[], &[("./evil-escape", Fifo, "")]),
        ("a whiteout", &[("./etc", Directory, "")], &[("./etc/.wh.passwd", Regular, "")]),
        ("a loop", &[("./out", Symlink, "out")], &[("./out/evil-escape", Regular, "x")]),
    ];
    for (what, first, second) in cases {
        let files = [("first", package_file("first", first)), ("second", package_file("second", second))];
        let failure = make(&outside.store, &files);
        let text = failure.to_string();
        assert_eq!(failure.kind(), Kind::Input, "{what}: {text}");
        assert!(text.contains("`second_1_all.deb`"), "{what}: {text}");
        outside.is_untouched();
    }
    // A link that leads somewhere inside is followed there, and then the base is still none: it has no dpkg.
    let first = [("./lib", Directory, ""), ("./out", Symlink, "/usr/lib")];
    let second = [("./out/evil-escape", Regular, "x"), ("./usr/share/doc/x", Char, "")];
    let files = [("first", package_file("first", &first)), ("second", package_file("second", &second))];
    let failure = make(&outside.store, &files);
    assert!(failure.to_string().contains("dpkg"), "{failure}");
    assert!(!Path::new("/usr/lib/evil-escape").exists());
    outside.is_untouched();
}

#[test]
fn what_is_no_package_file_is_told_by_name() {
    let outside = Outside::new();
    for bytes in [&b"!<arch>\nnot much of an archive"[..], b"text", &package_file("second", &[])[..200]] {
        let files = [("first", package_file("first", &[])), ("second", bytes.to_vec())];
        let failure = make(&outside.store, &files);
        assert!(failure.to_string().contains("second_1_all.deb"), "{failure}");
    }
    outside.is_untouched();
}

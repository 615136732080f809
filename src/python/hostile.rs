//! Wheels that stress the installer: the odd ones it takes, the hostile ones it refuses.

use std::path::Path;

use super::install::{Content, Target, install};
use super::record;
use super::testing::{Member, wheel_members, write_wheel, zip};
use super::wheel::Wheel;

fn target() -> Target {
    Target { root: "/opt/agent/venv".to_owned(), python: "3.11".to_owned() }
}

fn open(path: &Path) -> Result<Wheel, String> {
    let wheel = Wheel::open(path, path.file_name().unwrap().to_str().unwrap()).map_err(|it| it.to_string())?;
    wheel.verify().map_err(|it| it.to_string())?;
    install(&wheel, &target()).map_err(|it| it.to_string())?;
    Ok(wheel)
}

fn outcome(members: &[Member]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    open(&write_wheel(dir.path(), "demo", "1.0", members)).map(|_| ())
}

fn refused(members: &[Member], reason: &str) {
    let error = outcome(members).unwrap_err();
    assert!(error.contains(reason), "{error}");
}

fn with(member: Member) -> Vec<Member> {
    wheel_members("demo", "1.0", vec![Member::new("demo/__init__.py", "x = 1\n"), member])
}

#[test]
fn odd_but_sound_wheels_are_taken() {
    let long_part = "n".repeat(250);
    let mut members = vec![
        Member::new("demo/__init__.py", "x = 1\n"),
        Member { deflated: false, ..Member::new("demo/stored.txt", "stored") },
        Member { deflated: false, ..Member::new("demo/empty.txt", "") },
        Member { descriptor: true, ..Member::new("demo/described.txt", "described") },
        Member { descriptor: true, wide: true, ..Member::new("demo/wide_described.txt", "both") },
        Member { wide: true, ..Member::new("demo/wide.txt", "zip64") },
        Member { mode: 0o100_755, ..Member::new("demo/tool.sh", "#!/bin/sh\n") },
        Member { mode: 0o040_755, deflated: false, ..Member::new("demo/sub/", "") },
        Member::new(&format!("demo/{long_part}/{long_part}.txt"), "long"),
        Member::new("demo/naïve ü,\"quoted\".txt", "unicode"),
        Member::new("demo.pth", "import demo\n"),
        Member::new("space/name/part.py", ""),
    ];
    members[1].content = b"stored".to_vec();
    outcome(&wheel_members("demo", "1.0", members)).unwrap();
}

#[test]
fn schemes_and_programs_go_where_they_belong() {
    let dir = tempfile::tempdir().unwrap();
    let members = wheel_members(
        "demo",
        "1.0",
        vec![
            Member::new("demo/__init__.py", "x = 1\n"),
            Member::new("demo-1.0.data/scripts/run", "#!python -E\nprint(1)\n"),
            Member::new("demo-1.0.data/scripts/plain", "#!/bin/sh\n"),
            Member::new("demo-1.0.data/data/share/demo.txt", "d"),
            Member::new("demo-1.0.data/headers/demo.h", "h"),
            Member::new("demo-1.0.data/purelib/pure.py", ""),
            Member::new("demo-1.0.data/platlib/plat.py", ""),
            Member::new(
                "demo-1.0.dist-info/entry_points.txt",
                "[console_scripts]\ncon = demo:f\n[gui_scripts]\ngui = demo:g\n",
            ),
        ],
    );
    let wheel = open(&write_wheel(dir.path(), "demo", "1.0", &members)).unwrap();
    let files = install(&wheel, &target()).unwrap();
    let site = "lib/python3.11/site-packages";
    let expected = [
        "bin/con",
        "bin/gui",
        "bin/plain",
        "bin/run",
        "include/site/python3.11/demo/demo.h",
        "lib/python3.11/site-packages/demo-1.0.dist-info/INSTALLER",
        "lib/python3.11/site-packages/demo-1.0.dist-info/METADATA",
        "lib/python3.11/site-packages/demo-1.0.dist-info/RECORD",
        "lib/python3.11/site-packages/demo-1.0.dist-info/WHEEL",
        "lib/python3.11/site-packages/demo-1.0.dist-info/entry_points.txt",
        "lib/python3.11/site-packages/demo/__init__.py",
        "lib/python3.11/site-packages/plat.py",
        "lib/python3.11/site-packages/pure.py",
        "share/demo.txt",
    ];
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    assert!(["bin/con", "bin/gui", "bin/plain", "bin/run"].iter().all(|it| files[*it].executable));
    let Content::Bytes(script) = &files["bin/run"].content else { panic!("rewritten") };
    assert_eq!(script, b"#!/opt/agent/venv/bin/python -E\nprint(1)\n");
    let Content::Bytes(text) = &files[&format!("{site}/demo-1.0.dist-info/RECORD")].content else { panic!("made") };
    let rows = record::parse(std::str::from_utf8(text).unwrap()).unwrap();
    assert_eq!(rows.len(), expected.len());
    let row = rows.iter().find(|it| it.path == "../../../bin/run").unwrap();
    assert_eq!(row.hash, record::hash(script));
}

#[test]
fn names_that_leave_the_root_are_refused() {
    for (name, reason) in [
        ("../evil.py", "leaves the archive's root"),
        ("demo/../../evil.py", "leaves the archive's root"),
        ("/etc/evil", "is absolute"),
        ("demo\\..\\evil.py", "backslash"),
        ("demo//evil.py", "empty part"),
        ("demo/./evil.py", "empty part"),
        ("demo/ev\0il.py", "control character"),
    ] {
        refused(&with(Member::new(name, "x")), reason);
    }
    refused(&with(Member::new("demo-1.0.data/scripts/../../evil", "x")), "leaves the archive's root");
    refused(&with(Member::new("demo-1.0.data/elsewhere/evil", "x")), "a scheme that nobody knows");
}

#[test]
fn headers_that_disagree_are_refused() {
    let other = |change: fn(&mut Member)| {
        let mut members = with(Member::new("demo/data.txt", "content"));
        change(members.iter_mut().find(|it| it.name == "demo/data.txt").unwrap());
        members
    };
    refused(&other(|it| it.local_name = Some("demo/evil.txt".to_owned())), "another name than the directory");
    refused(&other(|it| it.local_size = Some(3)), "another size or checksum");
    refused(&other(|it| it.crc32 = Some(1)), "do not fit each other");
    refused(&other(|it| it.claimed = Some(6)), "RECORD has another size");
    refused(&other(|it| it.claimed = Some(900_000_000)), "cannot come from");
    refused(&other(|it| it.flags = 1), "encrypted");
    refused(&other(|it| it.mode = 0o120_777), "a link or a device");
}

#[test]
fn archives_that_can_be_read_in_two_ways_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = zip(&with(Member::new("demo/data.txt", "content")));
    let attempt = |bytes: &[u8]| {
        let path = dir.path().join("demo-1.0-py3-none-any.whl");
        fs_err::write(&path, bytes).unwrap();
        open(&path).map(|_| ())
    };
    attempt(&good).unwrap();
    assert!(attempt(&[b"MZ prefix", good.as_slice()].concat()).is_err());
    assert!(attempt(&[good.as_slice(), b"suffix"].concat()).is_err());
    assert!(attempt(&[good.as_slice(), good.as_slice()].concat()).is_err());
    assert!(attempt(&good[..good.len() - 1]).is_err());
    assert!(attempt(b"").is_err());
    for cut in [10, 40, good.len() / 2] {
        assert!(attempt(&good[cut..]).is_err());
    }
    // A second end record inside the comment of the first.
    let mut nested = good.clone();
    let length = nested.len();
    nested[length - 2] = 22;
    nested.extend_from_slice(&good[length - 22..]);
    assert!(attempt(&nested).is_err());
}

#[test]
fn names_that_come_twice_are_refused() {
    let twice = [with(Member::new("demo/data.txt", "a")), vec![Member::new("demo/data.txt", "b")]].concat();
    refused(&twice, "its name comes twice");
    refused(&with(Member::new("demo/__init__.py/evil", "x")), "a directory that is a file");
    refused(&with(Member::new("demo", "x")), "it is a file and a directory");
    let same_place = vec![Member::new("demo.py", "a"), Member::new("demo-1.0.data/platlib/demo.py", "b")];
    refused(&wheel_members("demo", "1.0", same_place), "two of its files go to");
}

#[test]
fn record_must_be_right() {
    let mut members = with(Member::new("demo/data.txt", "content"));
    members.iter_mut().find(|it| it.name == "demo/data.txt").unwrap().content = b"changed".to_vec();
    refused(&members, "RECORD has another hash for `demo/data.txt`");
    let mut members = with(Member::new("demo/data.txt", "content"));
    members.iter_mut().find(|it| it.name == "demo/data.txt").unwrap().content = b"longer content".to_vec();
    refused(&members, "RECORD has another size for `demo/data.txt`");
    let mut members = with(Member::new("demo/data.txt", "content"));
    let unlisted = Member::new("demo/unlisted.py", "careless");
    members.insert(0, Member { crc32: Some(1), ..unlisted.clone() });
    refused(&members, "do not fit each other");
    // What RECORD leaves out is told, and taken.
    members[0] = unlisted;
    let dir = tempfile::tempdir().unwrap();
    let wheel = open(&write_wheel(dir.path(), "demo", "1.0", &members)).unwrap();
    assert_eq!(wheel.unlisted().collect::<Vec<_>>(), ["demo/unlisted.py"]);
    assert!(install(&wheel, &target()).unwrap().contains_key("lib/python3.11/site-packages/demo/unlisted.py"));
    let mut members = with(Member::new("demo/data.txt", "content"));
    let record = members.last_mut().unwrap();
    record.content = String::from_utf8_lossy(&record.content).replace("sha256=", "md5=").into_bytes();
    refused(&members, "RECORD has no strong hash");
}

#[test]
fn metadata_of_another_distribution_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let other = wheel_members("other", "1.0", vec![]);
    let error = open(&write_wheel(dir.path(), "demo", "1.0", &other)).unwrap_err();
    assert!(error.contains("is of another distribution"), "{error}");
    let both = [wheel_members("demo", "1.0", vec![]), wheel_members("other", "1.0", vec![])].concat();
    refused(&both, "two metadata directories");
    refused(&[Member::new("demo.py", "x")], "no metadata directory");
    let mut members = with(Member::new("demo/a.py", ""));
    members.iter_mut().find(|it| it.name.ends_with("/WHEEL")).unwrap().content = b"Wheel-Version: 2.0\n".to_vec();
    refused(&members, "its wheel version is not 1");
}

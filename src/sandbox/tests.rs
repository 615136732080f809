//! The sandbox against layers made here; `tests/cli/sandbox.rs` has real bases and other users.

use std::time::Duration;

use super::*;
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::oci::layer::EPOCH;
use crate::report::Silent;

/// The test binary is its own sandbox program: stages begin before the test harness does.
#[expect(unsafe_code, reason = "runs before main, when there is one thread, as `dispatch` asks for")]
#[used]
#[unsafe(link_section = ".init_array")]
static STAGE: extern "C" fn() = {
    extern "C" fn stage() {
        dispatch();
    }
    stage
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// A layer with the host's own programs: a static shell is not to be had everywhere, so its directories are lent.
fn base(store: &Store, fill: impl FnOnce(&mut LayerWriter<'_>)) -> LayerBlob {
    let mut writer = store.layer_writer().unwrap();
    fill(&mut writer);
    let layer = writer.finish().unwrap();
    LayerBlob { diff_id: layer.diff_id, blob: layer.descriptor.digest }
}

fn shell(script: &str) -> Step {
    let mut step = Step::new("sh", &["/bin/sh", "-c", script]);
    for dir in ["/bin", "/lib", "/lib64", "/usr"] {
        if Path::new(dir).exists() {
            step = step.bind(Path::new(dir), dir, false);
        }
    }
    step
}

fn paths(store: &Store, layer: &Layer) -> Vec<(String, i64)> {
    let mut archive = crate::oci::tar::open(store.open_blob(&layer.descriptor.digest).unwrap()).unwrap();
    let entry = |it: crate::oci::tar::Entry<'_, _>| {
        let path = it.path().unwrap().to_string_lossy().into_owned();
        (path, i64::try_from(it.header().mtime().unwrap()).unwrap())
    };
    archive.entries().unwrap().map(|it| entry(it.unwrap())).collect()
}

#[test]
fn what_a_step_changes_is_the_layer_and_nothing_else() {
    let (_dir, store) = store();
    let first = base(&store, |it| {
        it.dir("etc", &Meta::dir()).unwrap();
        it.file("etc/kept", &Meta::file(), b"1").unwrap();
        it.dir("old", &Meta::dir()).unwrap();
        it.file("old/a", &Meta::file(), b"1").unwrap();
        it.file("old/b", &Meta::file(), b"1").unwrap();
        it.dir("swap", &Meta::dir()).unwrap();
        it.file("swap/x", &Meta::file(), b"1").unwrap();
    });
    let second = base(&store, |it| it.whiteout("old/b").unwrap());
    let sandbox = Sandbox::open(&store, &[first, second], &Silent).unwrap();
    let script = "set -e; test ! -e /old/b; rm /old/a; rm -r /swap; mkdir /swap; touch /swap/y; mkdir -p /new/sub; \
                  echo 2 > /new/f; ln /new/f /new/g; ln -s f /new/s; touch -d @1000000000 /new/dated; \
                  mkdir -p /var/log; echo x > /var/log/l; cat /etc/kept; echo lost > /tmp/t";
    let output = sandbox.run(&shell(script), &Silent).unwrap();
    assert_eq!((output.code, output.text().as_str()), (0, "1"), "{}", output.last_words());
    let layer = sandbox.layer(Temporary::LeftOut).unwrap();
    let expected = [
        ("new", EPOCH),
        ("new/dated", 1_000_000_000),
        ("new/f", EPOCH),
        ("new/g", EPOCH),
        ("new/s", EPOCH),
        ("new/sub", EPOCH),
        ("old", EPOCH),
        ("old/.wh.a", EPOCH),
        ("swap", EPOCH),
        ("swap/.wh..wh..opq", EPOCH),
        ("swap/y", EPOCH),
        ("var", EPOCH),
        ("var/log", EPOCH),
    ];
    let found = paths(&store, &layer);
    let found: Vec<_> = found.iter().map(|(path, time)| (path.trim_end_matches('/'), *time)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_dropped_step_leaves_nothing_and_many_run_at_once() {
    let (_dir, store) = store();
    let base = base(&store, |it| it.file("x", &Meta::file(), b"1").unwrap());
    let sandbox = Sandbox::open(&store, &[base], &Silent).unwrap();
    let step = |number: usize| Step {
        changes: Changes::Dropped,
        stdin: vec![b'z'; number],
        ..shell(&format!("cat /x; wc -c; echo {number} > /y; cat /y; exit {number}"))
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let output = sandbox.run(&step(number), &Silent).unwrap();
                let expected = format!("1{number}\n{number}\n");
                assert_eq!((i32::try_from(number).unwrap(), expected), (output.code, output.text()));
            });
        }
    });
    assert_eq!(paths(&store, &sandbox.layer(Temporary::Kept).unwrap()), []);
}

#[test]
fn a_step_sees_no_network_and_no_other_processes() {
    let (_dir, store) = store();
    let sandbox = Sandbox::open(&store, &[], &Silent).unwrap();
    let output = sandbox
        .run(&shell("ls -d /proc/[0-9]* | wc -l; tail -n +2 /proc/net/route | wc -l; hostname"), &Silent)
        .unwrap();
    let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
    assert!(lines[0].parse::<u32>().unwrap() <= 5, "{lines:?}");
    assert_eq!(&lines[1..], ["0", "sandbox"], "{}", output.last_words());
}

#[test]
#[expect(unsafe_code, reason = "a thread of its own gets a umask of its own")]
fn a_step_has_the_umask_of_a_container_whatever_ours_is() {
    let (_dir, store) = store();
    let sandbox = Sandbox::open(&store, &[], &Silent).unwrap();
    let run = || {
        // SAFETY: only this thread's umask and directories part from those of the others; no descriptor is concerned.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        sandbox.run(&shell("umask"), &Silent).unwrap()
    };
    let output = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    assert_eq!(output.text().trim(), "0022");
}

#[test]
fn a_step_that_takes_too_long_is_ended() {
    let (_dir, store) = store();
    let sandbox = Sandbox::open(&store, &[], &Silent).unwrap();
    let step = Step { limit: Duration::from_millis(300), ..shell("sleep 600 & sleep 600") };
    let error = sandbox.run(&step, &Silent).unwrap_err();
    assert!(matches!(error, SandboxError::Late { .. }), "{error}");
}

#[test]
fn a_program_that_does_not_exist_is_an_error_that_names_it() {
    let (_dir, store) = store();
    let sandbox = Sandbox::open(&store, &[], &Silent).unwrap();
    let error = sandbox.run(&Step::new("x", &["/no/such"]), &Silent).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

/// A layer from a tar made entry by entry, as an attacker would.
fn hostile(store: &Store, fill: impl FnOnce(&mut crate::oci::tar::Builder<Vec<u8>>)) -> LayerBlob {
    let mut builder = crate::oci::tar::Builder::new(Vec::new());
    fill(&mut builder);
    let bytes = builder.into_inner().unwrap();
    let (digest, _) = store.put_bytes(&bytes).unwrap();
    LayerBlob { diff_id: digest, blob: digest }
}

fn header(path: &str, kind: crate::oci::tar::EntryType, size: u64, link: &str) -> crate::oci::tar::Header {
    let mut header = crate::oci::tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

#[test]
fn layers_cannot_lead_out_of_their_directory() {
    use crate::oci::tar::EntryType;
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap().to_owned();
    let up = hostile(&store, |it| {
        it.append(&header("a/../../../x", EntryType::Regular, 1, ""), &b"1"[..]).unwrap();
    });
    let error = Sandbox::open(&store, &[up], &Silent).unwrap_err();
    assert!(matches!(error, SandboxError::Layer { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Input);

    // Through a link the file lands inside: the link is resolved as the image would see it.
    let link = hostile(&store, |it| {
        it.append(&header("l", EntryType::Symlink, 0, &target), &b""[..]).unwrap();
        it.append(&header("l/x", EntryType::Regular, 1, ""), &b"1"[..]).unwrap();
    });
    assert!(Sandbox::open(&store, &[link], &Silent).is_err());
    let hard = hostile(&store, |it| {
        it.append(&header("h", EntryType::Link, 0, "/etc/passwd"), &b""[..]).unwrap();
    });
    assert!(Sandbox::open(&store, &[hard], &Silent).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);

    // Other names of files of a layer below: its links mean what they mean inside it, not on the host.
    fs::write(outside.join("secret"), "host").unwrap();
    let below = hostile(&store, |it| {
        it.append(&header("out", EntryType::Symlink, 0, &target), &b""[..]).unwrap();
        it.append(&header("lib", EntryType::Symlink, 0, "/usr"), &b""[..]).unwrap();
        it.append(&header("usr/f", EntryType::Regular, 1, ""), &b"1"[..]).unwrap();
    });
    let name = |of: &str| hostile(&store, |it| it.append(&header("h", EntryType::Link, 0, of), &b""[..]).unwrap());
    let error = Sandbox::open(&store, &[below, name("out/secret")], &Silent).unwrap_err();
    assert!(matches!(error, SandboxError::Layer { .. }), "{error}");
    let inside = Sandbox::open(&store, &[below, name("lib/f")], &Silent).unwrap();
    assert_eq!((inside.file("h"), inside.file("lib/f")), (Some(b"1".to_vec()), Some(b"1".to_vec())));
    assert_eq!(inside.file("out/secret"), None);
    fs::remove_file(outside.join("secret")).unwrap();

    let lie = LayerBlob { diff_id: Digest::of("another"), ..base(&store, |it| it.dir("d", &Meta::dir()).unwrap()) };
    let error = Sandbox::open(&store, &[lie], &Silent).unwrap_err();
    assert!(matches!(error, SandboxError::Layer { .. }), "{error}");
}

#[test]
fn what_is_lent_to_be_read_is_read_only_all_the_way_down() {
    let (_dir, store) = store();
    let sandbox = Sandbox::open(&store, &[], &Silent).unwrap();
    // The usual file system with another one in it that anybody may write to.
    let name = format!("agent-test-{}", std::process::id());
    let script = format!("test -d /lent/shm; touch /lent/shm/{name}");
    let step = shell(&script).bind(Path::new("/dev"), "/lent", false);
    let output = sandbox.run(&step, &Silent).unwrap();
    let written = fs::remove_file(Path::new("/dev/shm").join(&name)).is_ok();
    assert!(!written && output.code != 0, "{}", output.last_words());
    assert!(output.last_words().contains("Read-only"), "{}", output.last_words());
}

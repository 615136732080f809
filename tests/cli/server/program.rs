//! The program: where it listens, what it writes, who may start it twice.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{Server, TestContext};

#[test]
fn what_holds_secrets_is_for_the_owner_alone() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let mode = |path: &str| fs_err::metadata(server.data().join(path)).unwrap().permissions().mode() & 0o777;
    for file in ["clearml.conf", "keys.json", "server.db"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert_eq!(mode(""), 0o700);
    let (access, secret) = server.credentials();
    assert!(access.len() == 20 && secret.len() > 40);
    let log = fs_err::read_to_string(context.path("server.log")).unwrap();
    assert!(!log.contains(secret), "{log}");
    let line = fs_err::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(secret));
}

#[test]
fn a_directory_has_one_server() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let data = server.data().to_owned();
    let second = context.agent().args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(&data).run().exits(75);
    assert!(second.stderr.contains("another server is using"), "{}", second.stderr);
}

#[test]
fn a_server_that_starts_again_has_the_same_addresses_keys_and_tasks() {
    let context = TestContext::new();
    let mut server = Server::start(&context);
    let task = server.call("tasks.create", &json!({"name": "kept", "type": "testing"}))["id"].clone();
    // Another program may take a port while nobody listens on it: then it is another port, that once.
    let kept = (0..5).any(|_| {
        let place = |server: &Server| (server.api().to_owned(), server.files().to_owned());
        let keys = |server: &Server| (server.credentials().0.to_owned(), server.credentials().1.to_owned());
        let before = (place(&server), keys(&server));
        std::mem::replace(&mut server, Server::start_in(&context, "other")).stop();
        std::mem::replace(&mut server, Server::start(&context)).stop();
        assert_eq!(before.1, keys(&server));
        before.0 == place(&server)
    });
    assert!(kept, "the server listened elsewhere each time");
    assert_eq!(server.status(task.as_str().unwrap()), "created");
}

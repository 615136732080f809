//! Whom the program believes: certificates of the system and of SSL_CERT_FILE, and package archives that are signed.

use crate::support::{Call, TestContext, wait_for, write};

/// A server with a certificate of its own, which answers nothing of use.
const SERVER: &str = r#"
import http.server, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
open(sys.argv[3] + ".new", "w").write(str(server.server_port))
import os
os.rename(sys.argv[3] + ".new", sys.argv[3])
server.serve_forever()
"#;

#[test]
fn a_private_authority_is_trusted_where_ssl_cert_file_names_it() {
    let context = TestContext::new();
    let (certificate, key, port) = (context.path("cert.pem"), context.path("key.pem"), context.path("port"));
    let call = context.command("openssl").args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    let call = call.args(["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let call = call.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key).arg("-out");
    call.arg(&certificate).ok();
    let server = context.command("python3").args(["-c", SERVER]).arg(&certificate).arg(&key).arg(&port);
    let _server = server.spawn(&context.path("server.log"));
    let port = wait_for("the server listens", || fs_err::read_to_string(&port).ok());
    let ask = |call: Call| {
        let call = call.args(["build", "--id", &"1".repeat(32), "--target", "never:1"]);
        let call = call.env("CLEARML_API_HOST", format!("https://127.0.0.1:{port}"));
        let call = call.env("CLEARML_API_ACCESS_KEY", "a").env("CLEARML_API_SECRET_KEY", "b");
        call.run().exits(69).stderr
    };
    let stranger = ask(context.agent().env_remove("SSL_CERT_FILE"));
    assert!(stranger.contains("certificate"), "{stranger}");
    // It is believed, and then found to be no such server.
    let known = ask(context.agent().env("SSL_CERT_FILE", &certificate));
    assert!(known.contains("as a ClearML API server does") && !known.contains("certificate"), "{known}");
}

#[test]
fn packages_of_an_archive_that_nobody_signed_are_refused() {
    let context = TestContext::new();
    let release = fs_err::read_to_string("/etc/os-release").unwrap();
    let code = release.lines().find_map(|it| it.strip_prefix("VERSION_CODENAME=")).unwrap().trim_matches('"');
    let archive = context.path("archive");
    let packages = "Package: python3\nVersion: 9\nArchitecture: amd64\nFilename: evil.deb\nSize: 4\nSHA256: 00\n\n";
    write(&archive.join(format!("dists/{code}/main/binary-amd64/Packages")), packages);
    let digest = agent::digest::Digest::of(packages).hex();
    let listing = format!("SHA256:\n {digest} {} main/binary-amd64/Packages\n", packages.len());
    let text = format!("Suite: {code}\nCodename: {code}\nArchitectures: amd64\nComponents: main\n{listing}");
    write(&archive.join(format!("dists/{code}/Release")), &text);
    // This machine's own sources, for this program alone.
    let sources = context.path("apt");
    context.command("cp").args(["-a", "/etc/apt"]).arg(&sources).ok();
    for entry in fs_err::read_dir(sources.join("sources.list.d")).unwrap() {
        fs_err::remove_file(entry.unwrap().path()).unwrap();
    }
    write(&sources.join("sources.list"), &format!("deb file:{} {code} main\n", archive.display()));
    write(&context.path("task.json"), r#"{"name": "x", "script": {"diff": "print(1)\n", "entry_point": "x.py"}}"#);
    let script = "mount --bind \"$0\" /etc/apt && exec \"$@\"";
    let call = context.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]);
    let call = call.arg(&sources).arg(env!("CARGO_BIN_EXE_agent")).args(["build", "--docker", "recipe:debian-python"]);
    let outcome =
        call.args(["--target", "never:1", "-o", "type=oci,dest=never", "--task"]).arg(context.path("task.json"));
    let outcome = outcome.run();
    assert!(outcome.code != Some(0), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("not signed"), "{}", outcome.stderr);
    assert!(!context.work().join("never").exists());
}

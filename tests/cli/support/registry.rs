//! A registry of a test's own: the reference implementation, as Debian has it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::call::Running;
use super::{Engine, TestContext, base, require, wait_for};

/// A running registry; gone with the test.
pub(crate) struct Registry {
    _server: Running,
    address: String,
    storage: PathBuf,
    log: PathBuf,
}

/// A registry under a name of the world.
pub(crate) struct Known {
    _server: Running,
    /// What this machine's names stand in, and that one.
    pub(crate) hosts: PathBuf,
    /// Whom this machine believes, and that one.
    pub(crate) authorities: PathBuf,
}

impl Registry {
    /// One that anyone may read and write.
    #[track_caller]
    pub(crate) fn start(context: &TestContext) -> Self {
        Self::launch(context, None)
    }

    /// One that asks for a name and a password.
    #[track_caller]
    pub(crate) fn start_protected(context: &TestContext, user: &str, password: &str) -> Self {
        Self::launch(context, Some((user, password)))
    }

    #[track_caller]
    fn launch(context: &TestContext, login: Option<(&str, &str)>) -> Self {
        require(Engine::Registry);
        let root = tempfile::Builder::new().prefix("registry-").tempdir_in(context.path("")).unwrap().keep();
        let storage = root.join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        if let Some((user, password)) = login {
            let file = root.join("htpasswd");
            fs_err::write(&file, format!("{user}:{}\n", bcrypt(password))).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: registry, path: {}}}\n", file.display());
        }
        let file = root.join("config.yml");
        fs_err::write(&file, config).unwrap();
        let log = root.join("log");
        let call = context.command("docker-registry").arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        let mut server = call.spawn(&log);
        let address = wait_for("docker-registry listens", || {
            let text = fs_err::read_to_string(&log).unwrap();
            assert!(!server.ended(), "docker-registry ended:\n{text}");
            let (_, rest) = text.split_once("listening on ")?;
            let end = rest.find(|it: char| it == '"' || it.is_whitespace())?;
            Some(rest[..end].to_owned())
        });
        Self { _server: server, address, storage, log }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A reference in this registry.
    pub(crate) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// Pushes the tests' base into it; the reference.
    #[track_caller]
    pub(crate) fn push_base(&self, context: &TestContext, repository: &str) -> String {
        let reference = self.reference(repository);
        let copy = context.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
        copy.arg(format!("oci:{}:latest", base().display())).arg(format!("docker://{reference}")).ok();
        reference
    }

    /// The same images under the name of a registry of the world, for whoever has `hosts` as /etc/hosts and believes
    /// `authorities`.
    #[track_caller]
    pub(crate) fn as_known_to_the_world(&self, context: &TestContext, name: &str) -> Known {
        // An address that nobody else listens on, for the port is given.
        let address = "127.0.84.43";
        let root = tempfile::Builder::new().prefix("known-").tempdir_in(context.path("")).unwrap().keep();
        let (certificate, key) = (root.join("cert.pem"), root.join("key.pem"));
        let call = context.command("openssl").args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
        let call = call.args(["-subj", "/CN=tests", "-addext", &format!("subjectAltName=DNS:{name}")]);
        let call = call.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key).arg("-out");
        call.arg(&certificate).ok();
        let authorities = root.join("authorities.pem");
        let system = fs_err::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap();
        fs_err::write(&authorities, system + "\n" + &fs_err::read_to_string(&certificate).unwrap()).unwrap();
        let hosts = root.join("hosts");
        let own = fs_err::read_to_string("/etc/hosts").unwrap();
        fs_err::write(&hosts, format!("{own}\n{address} {name}\n")).unwrap();
        let config = root.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             http:\n  addr: {address}:443\n  tls: {{certificate: {}, key: {}}}\n",
            self.storage.display(),
            certificate.display(),
            key.display()
        );
        fs_err::write(&config, text).unwrap();
        let call = context.command("docker-registry").arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut server = call.spawn(&root.join("log"));
        wait_for("docker-registry listens on port 443", || {
            assert!(!server.ended(), "docker-registry ended:\n{}", fs_err::read_to_string(root.join("log")).unwrap());
            std::net::TcpStream::connect((address, 443)).ok()
        });
        Known { _server: server, hosts, authorities }
    }

    /// What it was asked so far, a line of its log each.
    pub(crate) fn asked(&self) -> Vec<String> {
        let log = fs_err::read_to_string(&self.log).unwrap();
        log.lines().filter(|it| it.contains(" HTTP/1.1\" ")).map(str::to_owned).collect()
    }

    /// The directory of what it stores.
    pub(crate) fn storage(&self) -> PathBuf {
        self.storage.clone()
    }
}

/// The only kind of password hash that the registry takes, by the C library.
fn bcrypt(password: &str) -> String {
    let salt = "$2b$05$abcdefghijklmnopqrstuu";
    let mut command = Command::new("perl");
    command.args(["-e", "print crypt($ARGV[0], $ARGV[1])", password, salt]).stdin(Stdio::null());
    let hash = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(hash.starts_with("$2b$"), "the C library makes no bcrypt hashes: {hash:?}");
    hash
}

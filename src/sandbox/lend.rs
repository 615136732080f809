//! What a step with network is lent by the host: names, proxies and the certificates it trusts. None of it can enter a
//! layer: it lies in memory or is mounted over what is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Step;
use super::job::Bind;

/// Where the host's certificates are seen inside.
pub const TRUST: &str = "/run/agent/certificates.crt";

/// Where systems keep the bundle of certificates they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Variables by which programs find a bundle of certificates.
pub const TRUST_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
];

/// Where programs of a distribution and their libraries lie.
const PROGRAMS: [&str; 6] = ["/usr/bin", "/usr/lib", "/usr/lib64", "/bin", "/lib", "/lib64"];

const PROXY_VARIABLES: [&str; 8] =
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// The host's bundle of trusted certificates: `SSL_CERT_FILE`, else the system's own.
#[must_use]
pub fn trust_store() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(BUNDLES.iter().map(PathBuf::from)).find(|it| it.is_file())
}

/// The host's proxies, as it names them. They may hold passwords.
#[must_use]
pub fn proxies() -> BTreeMap<String, String> {
    let set = |name: &&str| std::env::var(name).ok().filter(|it| !it.is_empty()).map(|it| ((*name).to_owned(), it));
    PROXY_VARIABLES.iter().filter_map(set).collect()
}

/// A step that runs a program of the host: it sees the host's programs and libraries and nothing else of it, and can
/// change neither.
#[must_use]
pub fn programs(step: Step) -> Step {
    let dirs = PROGRAMS.into_iter().filter(|it| Path::new(it).exists());
    dirs.fold(step, |step, dir| step.bind(Path::new(dir), dir, false))
}

/// Mounts by which a step with network finds other machines.
pub(super) fn names(binds: &mut Vec<Bind>) {
    for file in ["/etc/resolv.conf", "/etc/hosts"] {
        if Path::new(file).exists() {
            binds.push(Bind { source: file.into(), target: file.to_owned(), writable: false });
        }
    }
}

/// Mounts and variables for a step with network: certificates and proxies. Variables the step sets itself stay.
pub(super) fn lend(binds: &mut Vec<Bind>, env: &mut BTreeMap<String, String>) {
    if let Some(source) = trust_store() {
        binds.push(Bind { source, target: TRUST.to_owned(), writable: false });
        for name in TRUST_VARIABLES {
            env.entry(name.to_owned()).or_insert_with(|| TRUST.to_owned());
        }
    }
    for (name, value) in proxies() {
        env.entry(name).or_insert(value);
    }
}

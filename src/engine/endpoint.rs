//! Where the Docker engine listens, found as the `docker` program finds it.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::EngineError;
use crate::digest::Digest;

/// Where the engine of a machine listens when nothing says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix:///var/run/docker.sock`, `tcp://host:2376`.
    pub host: String,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`; absent for a plain connection.
    pub tls: Option<PathBuf>,
}

/// What the search for an engine looks at.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub docker_context: Option<String>,
    /// `DOCKER_TLS_VERIFY` or `DOCKER_TLS` is set to something.
    pub tls: bool,
    /// `DOCKER_CERT_PATH`.
    pub cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG`, else `~/.docker`.
    pub config: PathBuf,
    /// `XDG_RUNTIME_DIR`, where a rootless engine listens.
    pub runtime_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
        Self {
            docker_host: var("DOCKER_HOST"),
            docker_context: var("DOCKER_CONTEXT"),
            tls: var("DOCKER_TLS_VERIFY").is_some() || var("DOCKER_TLS").is_some(),
            cert_path: var("DOCKER_CERT_PATH").map(PathBuf::from),
            config: var("DOCKER_CONFIG").map_or_else(|| crate::fs::expand_home("~/.docker"), PathBuf::from),
            runtime_dir: var("XDG_RUNTIME_DIR").map(PathBuf::from),
        }
    }
}

impl Endpoint {
    /// An endpoint without TLS.
    #[must_use]
    pub fn plain(host: impl Into<String>) -> Self {
        Self { host: host.into(), tls: None }
    }

    /// `DOCKER_HOST` first, then `DOCKER_CONTEXT`, then the context chosen in `config.json`, then the usual sockets.
    ///
    /// # Errors
    /// [`EngineError::Context`] for a named context that cannot be read.
    pub fn find(around: &Surroundings) -> Result<Self, EngineError> {
        if let Some(host) = &around.docker_host {
            let certificates = || around.cert_path.clone().unwrap_or_else(|| around.config.clone());
            return Ok(Self { host: host.clone(), tls: around.tls.then(certificates) });
        }
        match around.docker_context.clone().or_else(|| chosen_context(&around.config)) {
            Some(name) if name != "default" => context(&around.config, &name),
            _ => Ok(usual_socket(around)),
        }
    }
}

fn usual_socket(around: &Surroundings) -> Endpoint {
    let rootless = around.runtime_dir.as_ref().map(|it| it.join("docker.sock"));
    match rootless {
        Some(path) if !Path::new(DEFAULT_SOCKET).exists() && path.exists() => {
            Endpoint::plain(format!("unix://{}", path.display()))
        }
        _ => Endpoint::plain(format!("unix://{DEFAULT_SOCKET}")),
    }
}

fn chosen_context(config: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let text = fs::read(config.join("config.json")).ok()?;
    serde_json::from_slice::<Config>(&text).ok()?.current_context.filter(|it| !it.is_empty())
}

/// Contexts are kept in directories named by the digest of their name.
fn context(config: &Path, name: &str) -> Result<Endpoint, EngineError> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints")]
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Target,
    }
    #[derive(Deserialize)]
    struct Target {
        #[serde(rename = "Host")]
        host: String,
    }
    let unreadable = |reason: String| EngineError::Context { name: name.to_owned(), reason };
    let id = Digest::of(name).hex();
    let file = config.join("contexts/meta").join(&id).join("meta.json");
    let text = fs::read(&file).map_err(|error| unreadable(error.to_string()))?;
    let meta: Meta = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let tls = config.join("contexts/tls").join(&id).join("docker");
    Ok(Endpoint { host: meta.endpoints.docker.host, tls: tls.is_dir().then_some(tls) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(config: &Path) -> Surroundings {
        Surroundings { config: config.to_owned(), ..Surroundings::default() }
    }

    #[test]
    fn docker_host_wins_over_a_context_and_a_context_over_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let id = Digest::of("lab").hex();
        let meta = dir.path().join("contexts/meta").join(&id);
        fs::create_dir_all(&meta).unwrap();
        fs::write(meta.join("meta.json"), r#"{"Name":"lab","Endpoints":{"docker":{"Host":"tcp://lab:2376"}}}"#)
            .unwrap();
        let tls = dir.path().join("contexts/tls").join(&id).join("docker");
        fs::create_dir_all(&tls).unwrap();
        fs::write(dir.path().join("config.json"), r#"{"currentContext":"lab","auths":{}}"#).unwrap();

        let found = Endpoint::find(&around(dir.path())).unwrap();
        assert_eq!(found, Endpoint { host: "tcp://lab:2376".to_owned(), tls: Some(tls) });

        let mut other = around(dir.path());
        other.docker_context = Some("default".to_owned());
        assert!(Endpoint::find(&other).unwrap().host.starts_with("unix://"));
        other.docker_host = Some("unix:///x.sock".to_owned());
        assert_eq!(Endpoint::find(&other).unwrap(), Endpoint::plain("unix:///x.sock"));
        other.tls = true;
        assert_eq!(Endpoint::find(&other).unwrap().tls.as_deref(), Some(dir.path()));
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = around(dir.path());
        around.docker_context = Some("gone".to_owned());
        let error = Endpoint::find(&around).unwrap_err();
        assert!(error.to_string().contains("`gone`"), "{error}");
    }
}

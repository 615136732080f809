//! Credentials as the docker and podman programs keep them: `config.json`, `auth.json`, credential helpers.
//!
//! Files are read in this order, the first that has something for the registry wins: `REGISTRY_AUTH_FILE`,
//! `$DOCKER_CONFIG/config.json` (else `~/.docker/config.json`), `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `~/.config/containers/auth.json`. Inside a file a helper named for the registry wins over what is written there, and
//! that over the helper for all. Read only; blocking (a helper is a program).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde::Deserialize;

use super::RegistryError;
use crate::secret::{Credentials, Secret};

/// What helpers answer as the user when the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper says when it has nothing.
const NOTHING: &str = "credentials not found";

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// User name and password.
    Password(Credentials),
    /// A refresh token that the token server changes for an access token.
    IdentityToken(Secret),
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Those given directly, by registry host; they win.
    pub given: BTreeMap<String, Credentials>,
    /// Files, best first.
    pub files: Vec<PathBuf>,
    /// Where credential helpers are looked for, as `PATH` has it; this process's own `PATH` when absent.
    pub helpers: Option<std::ffi::OsString>,
}

impl Sources {
    /// The files of this user.
    #[must_use]
    pub fn of_process() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        let docker = var("DOCKER_CONFIG").unwrap_or_else(|| crate::fs::expand_home("~/.docker"));
        let config = var("XDG_CONFIG_HOME").unwrap_or_else(|| crate::fs::expand_home("~/.config"));
        let files = [
            var("REGISTRY_AUTH_FILE"),
            Some(docker.join("config.json")),
            var("XDG_RUNTIME_DIR").map(|it| it.join("containers/auth.json")),
            Some(config.join("containers/auth.json")),
        ];
        Self { files: files.into_iter().flatten().collect(), ..Self::default() }
    }

    /// The login for a repository of a registry, `None` to ask anonymously.
    ///
    /// # Errors
    /// [`RegistryError::AuthFile`] for a file that is no such file, [`RegistryError::Helper`] for a helper that fails.
    pub fn login(&self, registry: &str, repository: &str) -> Result<Option<Login>, RegistryError> {
        if let Some(credentials) = self.given.get(registry) {
            return Ok(Some(Login::Password(credentials.clone())));
        }
        for path in &self.files {
            let Some(file) = File::read(path)? else { continue };
            if let Some(login) = self.login_of(&file, registry, repository)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    fn login_of(&self, file: &File, registry: &str, repository: &str) -> Result<Option<Login>, RegistryError> {
        let names = names(registry);
        if let Some((name, helper)) = names.iter().find_map(|it| file.cred_helpers.get_key_value(it)) {
            return self.ask_helper(helper, name);
        }
        if let Some(login) = file.entry(registry, repository, &names).and_then(Entry::login) {
            return Ok(Some(login));
        }
        let Some(helper) = file.creds_store.as_ref().filter(|it| !it.is_empty()) else { return Ok(None) };
        for name in &names {
            if let Some(login) = self.ask_helper(helper, name)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    fn ask_helper(&self, helper: &str, name: &str) -> Result<Option<Login>, RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            username: String,
            secret: String,
        }
        let program = format!("docker-credential-{helper}");
        let failed = |message: String| RegistryError::Helper {
            program: program.clone(),
            registry: name.to_owned(),
            message: message.trim().to_owned(),
        };
        let mut command = Command::new(&program);
        command.arg("get");
        if let Some(path) = &self.helpers {
            command.env("PATH", path);
        }
        let output = crate::process::run_with_input(&mut command, name.as_bytes(), Duration::from_secs(30))
            .map_err(|error| failed(crate::error::Failure::from(error).to_string()))?;
        if !output.status.success() {
            let said = format!("{} {}", output.text(), output.errors());
            return if said.contains(NOTHING) { Ok(None) } else { Err(failed(said)) };
        }
        let answer: Answer =
            serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is not JSON".to_owned()))?;
        let secret = Secret::new(answer.secret);
        if answer.username == TOKEN_USER {
            return Ok(Some(Login::IdentityToken(secret)));
        }
        Ok(Some(Login::Password(Credentials { user: answer.username, password: secret })))
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl File {
    /// A file that is not there or may not be read has nothing to say.
    fn read(path: &Path) -> Result<Option<Self>, RegistryError> {
        let Ok(text) = fs::read(path) else { return Ok(None) };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| RegistryError::AuthFile { path: path.to_owned(), source })
    }

    /// Podman's keys may go down to a repository: the longest wins.
    fn entry(&self, registry: &str, repository: &str, names: &[String]) -> Option<&Entry> {
        let mut path = format!("{registry}/{repository}");
        loop {
            if let Some(entry) = self.auths.get(&path) {
                return Some(entry);
            }
            path.truncate(path.rfind('/')?);
            if path == registry {
                break;
            }
        }
        let plain = |key: &str| bare(key).to_owned();
        names
            .iter()
            .find_map(|it| self.auths.get(it))
            .or_else(|| self.auths.iter().find(|(key, _)| names.contains(&plain(key))).map(|it| it.1))
    }
}

/// A key without scheme and without the `/v1/` that docker once wrote.
fn bare(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |it| it.1);
    rest.strip_suffix("/v1/").or_else(|| rest.strip_suffix("/v2/")).unwrap_or(rest).trim_end_matches('/')
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if !self.identitytoken.is_empty() {
            return Some(Login::IdentityToken(Secret::new(self.identitytoken.clone())));
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|it| String::from_utf8(it).ok());
        let decoded = decoded.filter(|it| !it.is_empty());
        let (user, password) = match decoded.as_deref().and_then(|it| it.split_once(':')) {
            Some((user, password)) => (user.to_owned(), password.trim_end_matches('\0').to_owned()),
            None if !self.username.is_empty() => (self.username.clone(), self.password.clone()),
            None => return None,
        };
        Some(Login::Password(Credentials { user, password: Secret::new(password) }))
    }
}

/// The names under which credentials of a registry are kept.
fn names(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return ["https://index.docker.io/v1/", "index.docker.io", "docker.io"].map(str::to_owned).to_vec();
    }
    vec![registry.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, text).unwrap();
        (dir, Sources { files: vec!["/nowhere/config.json".into(), path], ..Sources::default() })
    }

    fn user(login: Option<Login>) -> Option<String> {
        login.map(|it| match it {
            Login::Password(it) => format!("{}:{}", it.user, it.password.reveal()),
            Login::IdentityToken(it) => format!("token {}", it.reveal()),
        })
    }

    #[test]
    fn entries_are_found_by_host_by_old_address_and_by_repository() {
        let (_dir, sources) = sources(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"am86aHVi"},
                "https://old.example/v1/":{"username":"old","password":"1"},
                "quay.example":{"auth":"cTpx"},
                "quay.example/team":{"auth":"dDp0"},
                "id.example":{"auth":"eDp5","identitytoken":"abc"},
                "empty.example":{}}}"#,
        );
        let ask = |registry: &str, repository: &str| user(sources.login(registry, repository).unwrap());
        assert_eq!(ask("docker.io", "library/python").as_deref(), Some("jo:hub"));
        assert_eq!(ask("old.example", "x").as_deref(), Some("old:1"));
        assert_eq!(ask("quay.example", "team/x").as_deref(), Some("t:t"));
        assert_eq!(ask("quay.example", "other/x").as_deref(), Some("q:q"));
        assert_eq!(ask("id.example", "x").as_deref(), Some("token abc"));
        assert_eq!(ask("empty.example", "x"), None);
        assert_eq!(ask("else.example", "x"), None);
    }

    #[test]
    fn a_helper_that_is_missing_is_an_error_that_names_it() {
        let (_dir, sources) = sources(r#"{"credHelpers":{"r.example":"surely-not-installed"}}"#);
        let error = sources.login("r.example", "x").unwrap_err();
        assert!(error.to_string().contains("`docker-credential-surely-not-installed`"), "{error}");
        assert_eq!(sources.login("other.example", "x").unwrap(), None);
    }

    #[test]
    fn a_helper_is_asked_by_the_name_credentials_are_kept_under() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, mut sources) = sources(r#"{"credHelpers":{"r.example":"test"},"credsStore":"test"}"#);
        let script = r#"#!/bin/sh
read -r name
case "$1 $name" in
"get r.example") echo '{"ServerURL":"r.example","Username":"jo","Secret":"s3"}' ;;
"get https://index.docker.io/v1/") echo '{"Username":"<token>","Secret":"refresh"}' ;;
"get down.example") echo "vault is locked" >&2; exit 1 ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
"#;
        let program = dir.path().join("docker-credential-test");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut path = dir.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        sources.helpers = Some(path);
        let ask = |registry: &str| sources.login(registry, "x").map(user);
        assert_eq!(ask("r.example").unwrap().as_deref(), Some("jo:s3"));
        assert_eq!(ask("docker.io").unwrap().as_deref(), Some("token refresh"));
        assert_eq!(ask("else.example").unwrap(), None);
        let error = ask("down.example").unwrap_err().to_string();
        assert!(error.contains("vault is locked"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named_and_given_credentials_win() {
        let (_dir, mut sources) = sources("{");
        assert!(matches!(sources.login("r.example", "x"), Err(RegistryError::AuthFile { .. })));
        let mine = Credentials { user: "me".to_owned(), password: Secret::new("pw") };
        sources.given.insert("r.example".to_owned(), mine);
        assert_eq!(user(sources.login("r.example", "x").unwrap()).as_deref(), Some("me:pw"));
    }
}

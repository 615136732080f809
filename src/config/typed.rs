//! Typed views of the configuration: the server and its credentials, and the `agent` keys that mean something here.

use url::Url;

use super::value::Value;
use super::{Config, ConfigError};
use crate::secret::{Credentials, Secret};

mod container;

pub use container::{ContainerKeys, MatchRule};

/// The server and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// The API server.
    pub server: Option<Url>,
    /// The web application.
    pub web: Option<Url>,
    /// The file server.
    pub files: Option<Url>,
    /// Access key and secret key.
    pub credentials: Option<Credentials>,
    /// A bearer token, which counts instead of the credentials.
    pub token: Option<Secret>,
    /// Whether the server's certificate is verified.
    pub verify_certificate: bool,
}

/// Credentials for git over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitCredentials {
    /// The host they are for; absent: any.
    pub host: Option<String>,
    /// User name and password.
    pub credentials: Credentials,
}

/// The `agent` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `worker_id`.
    pub worker_id: Option<String>,
    /// `worker_name`.
    pub worker_name: Option<String>,
    /// `default_docker.image`; what stands behind a space in it are arguments.
    pub default_image: Option<String>,
    /// `default_docker.arguments` and those of `default_docker.image`, one argument each.
    pub default_arguments: Vec<String>,
    /// `extra_docker_arguments`: the agent's own, one argument each.
    pub extra_docker_arguments: Vec<String>,
    /// `docker_args_extra_precedes_task`.
    pub extra_arguments_precede_task: bool,
    /// `protected_docker_extra_args`: switches where the side that comes first wins.
    pub protected_docker_arguments: Vec<String>,
    /// `docker_args_filters`: what a task's container arguments may be (regular expressions); empty: anything.
    pub docker_argument_filters: Vec<String>,
    /// `forbidden_docker_args`.
    pub forbidden_docker_arguments: Vec<String>,
    /// `disable_task_docker_override`: the task's image and arguments do not count.
    pub ignore_task_container: bool,
    /// `docker_install_opencv_libs`.
    pub install_opencv_libraries: bool,
    /// `apt_packages` (ours): system packages for every image.
    pub apt_packages: Vec<String>,
    /// `default_python`, `X.Y`.
    pub default_python: Option<String>,
    /// `ignore_requested_python_version`.
    pub ignore_requested_python: bool,
    /// `enable_task_env`: the task's section `Environment` becomes environment variables.
    pub task_environment: bool,
    /// `force_git_root_python_path`.
    pub root_in_python_path: bool,
    /// Git credentials, in the order they are tried; the main pair last.
    pub git_credentials: Vec<GitCredentials>,
    /// `git_host`.
    pub git_host: Option<String>,
    /// `git_host_match_prefix`: hosts are compared as beginnings of whole addresses.
    pub git_host_prefix: bool,
    /// `git_use_ms_entra_token`: passwords are bearer tokens.
    pub git_bearer: bool,
    /// `git_use_azure_pat`: passwords go with the first request.
    pub git_azure_pat: bool,
    /// `translate_ssh`: ssh addresses become https where credentials for their host are known.
    pub translate_ssh: bool,
    /// `translate_ssl_replacement_scheme` is `http`.
    pub translate_ssh_to_http: bool,
    /// `force_git_ssh_protocol`.
    pub force_git_ssh: bool,
    /// `force_git_ssh_port`.
    pub git_ssh_port: Option<u16>,
    /// `force_git_ssh_user`.
    pub git_ssh_user: Option<String>,
    /// `package_manager.extra_index_url`: may hold credentials.
    pub extra_index_urls: Vec<Secret>,
    /// `package_manager.force_repo_requirements_txt`.
    pub repository_requirements: bool,
    /// `package_manager.force_original_requirements`.
    pub original_requirements: bool,
    /// `package_manager.system_site_packages`.
    pub system_site_packages: Option<bool>,
    /// `lock.max_age` (ours): for how many seconds a resolution is remembered.
    pub lock_max_age: u64,
    /// What is said of containers besides images and arguments.
    pub container: ContainerKeys,
}

/// How long a resolution is remembered, in seconds.
const LOCK_MAX_AGE: u64 = 24 * 60 * 60;

impl Config {
    /// The server and its credentials.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for an address that is none, and the like.
    pub fn api(&self) -> Result<Api, ConfigError> {
        let server = match self.url("api.api_server")? {
            Some(url) => Some(url),
            None => self.url("api.host")?,
        };
        let access_key = self.filled("api.credentials.access_key")?;
        let secret_key = self.filled("api.credentials.secret_key")?;
        let credentials =
            access_key.zip(secret_key).map(|(user, secret)| Credentials { user, password: Secret::new(secret) });
        Ok(Api {
            server,
            web: self.url("api.web_server")?,
            files: self.url("api.files_server")?,
            credentials,
            token: self.token.clone(),
            verify_certificate: self.flag("api.verify_certificate")?.unwrap_or(true),
        })
    }

    /// The `agent` section.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a value of the wrong sort.
    pub fn agent(&self) -> Result<Agent, ConfigError> {
        let on = |key: &str, default: bool| self.flag(key).map(|it| it.unwrap_or(default));
        let image = self.filled("agent.default_docker.image")?;
        let mut words = image.iter().flat_map(|it| it.split_whitespace()).map(str::to_owned);
        let default_image = words.next();
        let mut default_arguments: Vec<String> = words.collect();
        default_arguments.extend(self.words("agent.default_docker.arguments")?);
        Ok(Agent {
            worker_id: self.filled("agent.worker_id")?,
            worker_name: self.filled("agent.worker_name")?,
            default_image,
            default_arguments,
            extra_docker_arguments: self.words("agent.extra_docker_arguments")?,
            extra_arguments_precede_task: on("agent.docker_args_extra_precedes_task", true)?,
            protected_docker_arguments: self
                .some_words("agent.protected_docker_extra_args", &["privileged", "security-opt", "network", "ipc"])?,
            docker_argument_filters: self.list("agent.docker_args_filters")?.unwrap_or_default(),
            forbidden_docker_arguments: self.some_words("agent.forbidden_docker_args", &["entrypoint"])?,
            ignore_task_container: on("agent.disable_task_docker_override", false)?,
            install_opencv_libraries: on("agent.docker_install_opencv_libs", true)?,
            apt_packages: self.words("agent.apt_packages")?,
            default_python: self.filled("agent.default_python")?,
            ignore_requested_python: on("agent.ignore_requested_python_version", false)?,
            task_environment: on("agent.enable_task_env", false)?,
            root_in_python_path: on("agent.force_git_root_python_path", false)?,
            git_credentials: self.git_credentials()?,
            git_host: self.filled("agent.git_host")?,
            git_host_prefix: on("agent.git_host_match_prefix", false)?,
            git_bearer: on("agent.git_use_ms_entra_token", false)?,
            git_azure_pat: on("agent.git_use_azure_pat", false)?,
            translate_ssh: on("agent.translate_ssh", true)?,
            translate_ssh_to_http: self.filled("agent.translate_ssl_replacement_scheme")?.as_deref() == Some("http"),
            force_git_ssh: on("agent.force_git_ssh_protocol", false)?,
            git_ssh_port: self.number("agent.force_git_ssh_port", "a port number")?,
            git_ssh_user: self.filled("agent.force_git_ssh_user")?,
            extra_index_urls: self
                .words("agent.package_manager.extra_index_url")?
                .into_iter()
                .map(Secret::new)
                .collect(),
            repository_requirements: on("agent.package_manager.force_repo_requirements_txt", false)?,
            original_requirements: on("agent.package_manager.force_original_requirements", false)?,
            system_site_packages: self.flag("agent.package_manager.system_site_packages")?,
            lock_max_age: self.number("lock.max_age", "a number of seconds")?.unwrap_or(LOCK_MAX_AGE),
            container: self.container_keys()?,
        })
    }

    fn git_credentials(&self) -> Result<Vec<GitCredentials>, ConfigError> {
        let key = "agent.git.extra_credentials";
        let mut found = Vec::new();
        match self.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::List(items)) => {
                for item in items {
                    let Value::Object(fields) = item else { return Err(wrong(key, item, "a list of objects")) };
                    let field = |name: &str| fields.get(name).and_then(Value::text).map(str::to_owned);
                    let credentials = Credentials {
                        user: field("user").unwrap_or_default(),
                        password: Secret::new(field("pass").unwrap_or_default()),
                    };
                    found.push(GitCredentials { host: field("host").filter(|it| !it.is_empty()), credentials });
                }
            }
            Some(other) => return Err(wrong(key, other, "a list of objects")),
        }
        let main = self.filled("agent.git_user")?.zip(self.filled("agent.git_pass")?);
        if let Some((user, pass)) = main {
            let credentials = Credentials { user, password: Secret::new(pass) };
            found.push(GitCredentials { host: self.filled("agent.git_host")?, credentials });
        }
        Ok(found)
    }

    /// A single text that is not empty.
    fn filled(&self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.text() {
                Some(text) => Ok(Some(text.trim().to_owned()).filter(|it| !it.is_empty())),
                None => Err(wrong(key, value, "a text")),
            },
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if value.text() == Some("") => Ok(None),
            Some(value) => value.flag().map(Some).ok_or_else(|| wrong(key, value, "yes or no")),
        }
    }

    fn number<T: std::str::FromStr>(&self, key: &str, expected: &'static str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.filled(key)? else { return Ok(None) };
        let error = |_| ConfigError::Value { key: key.to_owned(), expected, found: format!("`{text}`") };
        text.parse().map(Some).map_err(error)
    }

    fn url(&self, key: &str) -> Result<Option<Url>, ConfigError> {
        let Some(text) = self.filled(key)? else { return Ok(None) };
        let expected = "an address with http:// or https://";
        let error = || ConfigError::Value {
            key: key.to_owned(),
            expected,
            found: format!("`{}`", crate::secret::mask_userinfo(&text)),
        };
        let url = Url::parse(&text).map_err(|_| error())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(error());
        }
        Ok(Some(url))
    }

    /// A list of texts, each as it is.
    fn list(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::List(items)) => {
                let text = |it: &Value| it.text().map(str::to_owned).ok_or_else(|| wrong(key, it, "a list of texts"));
                items.iter().map(text).collect::<Result<_, _>>().map(Some)
            }
            Some(value) => match value.text() {
                Some("") => Ok(None),
                Some(text) => Ok(Some(vec![text.to_owned()])),
                None => Err(wrong(key, value, "a list of texts")),
            },
        }
    }

    /// A list of words: the items of a list as they are, a single text split at white space with its quotes obeyed.
    fn words(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        match self.get(key) {
            Some(value @ (Value::Text(_) | Value::Number(_))) => {
                let text = value.text().unwrap_or_default();
                crate::process::words(text).ok_or_else(|| wrong(key, value, "a text with its quotes closed"))
            }
            _ => Ok(self.list(key)?.unwrap_or_default()),
        }
    }

    fn some_words(&self, key: &str, default: &[&str]) -> Result<Vec<String>, ConfigError> {
        match self.get(key) {
            None => Ok(default.iter().map(|it| (*it).to_owned()).collect()),
            Some(_) => self.words(key),
        }
    }
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), expected, found: value.noun().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn config(text: &str) -> Config {
        Config::from_text("test", text, &Environment::default()).unwrap()
    }

    #[test]
    fn the_server_and_its_credentials() {
        let text = "api { host: http://h:8008, web_server: \"\", credentials { access_key: K, secret_key: 123 } }";
        let api = config(text).api().unwrap();
        assert_eq!(api.server.unwrap().as_str(), "http://h:8008/");
        assert_eq!(api.web, None);
        assert_eq!(api.credentials.unwrap().password.reveal(), "123");
        assert!(api.verify_certificate);
        let environment = Environment::of([("CLEARML_API_HOST_VERIFY_CERT", "0"), ("CLEARML_AUTH_TOKEN", "t")]);
        let api = Config::load(None, &environment).unwrap().api().unwrap();
        assert!(!api.verify_certificate && api.token.is_some());
        let error = config("api.api_server = nonsense").api().unwrap_err();
        let expected =
            "`api.api_server` in the configuration is `nonsense` instead of an address with http:// or https://";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_agent_section() {
        let agent = config(
            "agent { default_docker { image = \"py:3 --ipc=host\", arguments = \"-e 'A=b c'\" }, git_user = u, git_pass = p, \
             git.extra_credentials = [{user: a, pass: b, host: h}], docker_install_opencv_libs = no, \
             package_manager.extra_index_url = [\"https://u:p@i/simple\"], force_git_ssh_port = 2222 }",
        )
        .agent()
        .unwrap();
        assert_eq!(agent.default_image.as_deref(), Some("py:3"));
        assert_eq!(agent.default_arguments, ["--ipc=host", "-e", "A=b c"]);
        assert_eq!(agent.git_credentials.len(), 2);
        assert_eq!(agent.git_credentials[0].host.as_deref(), Some("h"));
        assert!(!agent.install_opencv_libraries);
        assert_eq!(agent.git_ssh_port, Some(2222));
        assert_eq!(agent.forbidden_docker_arguments, ["entrypoint"]);
        assert_eq!(agent.lock_max_age, 86400);
        let error = config("agent.enable_task_env = perhaps").agent().unwrap_err();
        assert_eq!(error.to_string(), "`agent.enable_task_env` in the configuration is a text instead of yes or no");
    }
}

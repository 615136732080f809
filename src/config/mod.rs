//! The configuration: `clearml.conf` files and the environment, merged once into one tree, and typed values of it.
//!
//! A [`Config`] is made by [`Config::load`]; the typed views ([`Config::api`], [`Config::agent`]) check what they read
//! and name the key where it is wrong. Flags of the command line are not seen here: `settings` lays them on top. The
//! module also builds without the feature `host`: the in-image binary reads the same files.

pub mod environment;
pub mod hocon;
pub mod value;

mod executor;
pub mod ignored;
mod load;
mod typed;

use std::fmt;
use std::path::PathBuf;

use crate::error::{Explain, Kind};
use crate::secret::{Secret, is_secret_name, mask_userinfo};
pub use environment::Environment;
pub use executor::Executor;
pub use typed::{Agent, Api, ContainerKeys, GitCredentials, MatchRule};
use value::{Object, Value};

/// The merged configuration.
#[derive(Clone, Default)]
pub struct Config {
    tree: Object,
    /// The files it was read from, lowest first.
    pub files: Vec<PathBuf>,
    token: Option<Secret>,
}

impl Config {
    /// The value at a dotted path of keys (`agent.default_docker.image`).
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        let keys: Vec<&str> = path.split('.').collect();
        value::at(&self.tree, &keys)
    }

    /// The whole tree.
    #[must_use]
    pub const fn tree(&self) -> &Object {
        &self.tree
    }

    /// The whole tree with every secret replaced by `****`, for people to look at.
    #[must_use]
    pub fn masked(&self) -> Object {
        let Value::Object(masked) = masked("", &Value::Object(self.tree.clone())) else { return Object::new() };
        masked
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Whether a key's value is a secret: names of secrets, and the words the original masks when it prints a configuration.
fn is_secret_key(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    is_secret_name(key)
        || ["pass", "secret", "password", "account_key", "key"].iter().any(|it| lower == *it)
        || lower.ends_with("_pass")
        || lower.ends_with("_key")
}

fn masked(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let hidden = is_secret_name(key) && key != "credentials" && key != "extra_credentials";
            let fields = object.iter().map(|(name, inner)| {
                let shown = if hidden && inner.text().is_some() { hide(inner) } else { masked(name, inner) };
                (name.clone(), shown)
            });
            Value::Object(fields.collect())
        }
        Value::List(items) => Value::List(items.iter().map(|it| masked(key, it)).collect()),
        Value::Text(_) | Value::Number(_) if is_secret_key(key) => hide(value),
        Value::Text(text) => Value::Text(mask_assignment(&mask_userinfo(text))),
        other => other.clone(),
    }
}

fn hide(value: &Value) -> Value {
    let text = value.text().unwrap_or_default();
    Value::Text(if text.is_empty() { String::new() } else { "****".to_owned() })
}

/// `NAME=value` and `--env=NAME=value`, as they stand in lists of container arguments and in scripts: the value is hidden
/// up to the next option or the end, since it may hold blanks.
fn mask_assignment(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (name, value) = rest.split_at(at);
        let word = name.rsplit(|c: char| c.is_whitespace() || "\"'=;&|".contains(c)).next().unwrap_or(name);
        masked.push_str(name);
        masked.push('=');
        rest = &value[1..];
        if is_secret_name(word.strip_prefix("-e").unwrap_or(word)) && !rest.is_empty() {
            masked.push_str("****");
            rest = rest.find(" -").map_or("", |end| &rest[end..]);
        }
    }
    masked.push_str(rest);
    masked
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named does not exist.
    #[error("the configuration file `{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A mistake in a text.
    #[error(transparent)]
    Syntax(#[from] hocon::SyntaxError),
    /// A value of the wrong sort.
    #[error("`{key}` in the configuration is {found} instead of {expected}")]
    Value {
        /// The dotted path of keys.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is (never a secret).
        found: String,
    },
}

impl Explain for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Missing { .. } => {
                vec![
                    "Name an existing file with --config-file or CLEARML_CONFIG_FILE, or unset the variable."
                        .to_owned(),
                ]
            }
            Self::Syntax(error) => error.hint.iter().cloned().collect(),
            Self::Value { .. } => {
                vec!["`agent config` shows the merged configuration and where it comes from.".to_owned()]
            }
            Self::Read { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let text = r#"
            api.credentials { access_key = AK1, secret_key = SK1 }
            agent { git_pass = GP1, git_user = ada, git.extra_credentials = [{user: u, pass: GP2, host: h}]
              extra_docker_arguments = ["-e", "MY_TOKEN=TK1", "--env=AWS_SECRET_ACCESS_KEY=TK2", "-e X=1"]
              extra_docker_shell_script = ["-e HF_TOKEN=TK3 -v /a:/b", "--env=API_KEY=TK4=TK5", "API_KEY=TK6 TK7"]
              package_manager.extra_index_url = ["https://user:PW1@index/simple"], empty_password = "" }
            sdk.aws.s3 { key = K1, secret = S1, credentials = [{bucket: b, key: K2, secret: S2}] }
            environment { A = 1, OPENAI_API_KEY = OK1 }
        "#;
        let config = Config::from_text("test", text, &Environment::default()).unwrap();
        let shown = value::object_to_json(&config.masked()).to_string();
        for secret in ["AK1", "SK1", "GP1", "GP2", "TK1", "TK2", "PW1", "K1", "S1", "K2", "S2", "OK1"] {
            assert!(
                !shown.contains(&format!("{secret}\"")) && !shown.contains(&format!(":{secret}@")),
                "{secret} in {shown}"
            );
        }
        assert!(!shown.contains("TK"), "{shown}");
        for plain in [
            "\"-e HF_TOKEN=**** -v /a:/b\"",
            "\"ada\"",
            "\"-e X=1\"",
            "\"u\"",
            "\"h\"",
            "\"empty_password\":\"\"",
            "\"A\":1",
        ] {
            assert!(shown.contains(plain), "{plain} in {shown}");
        }
    }
}

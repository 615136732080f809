//! Which files count, in which order, and what the environment sets on top.

use std::path::{Path, PathBuf};

use super::environment::{Environment, VARIABLES};
use super::hocon::{self, Document};
use super::value::{self, Object, Value};
use super::{Config, ConfigError};

const SECTIONS: [&str; 4] = ["agent", "api", "logging", "sdk"];
const DYNAMIC: &str = "CLEARML_AGENT__";

impl Config {
    /// Reads the configuration: the tree in `CLEARML_CONFIG_PATH`, then `~/trains.conf` and `~/clearml.conf`, or only
    /// `file` or `CLEARML_CONFIG_FILE` instead of these two; on top the `CLEARML_AGENT__…` variables, then those that
    /// stand for one key each. Nothing found is no error: the environment may say it all.
    ///
    /// # Errors
    /// [`ConfigError`]: a named file that is missing or unreadable, or a mistake in one.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let mut files = Vec::new();
        let mut documents = sections(environment, &mut files)?;
        let named =
            file.map(Path::to_owned).or_else(|| environment.get("CLEARML_CONFIG_FILE").map(expand(environment)));
        let candidates = match &named {
            Some(path) => vec![path.clone()],
            None => ["~/trains.conf", "~/clearml.conf"].map(expand(environment)).to_vec(),
        };
        for path in candidates {
            match document(&path)? {
                Some(found) => {
                    documents.push(found);
                    files.push(path);
                }
                None if named.is_some() => return Err(ConfigError::Missing { path }),
                None => {}
            }
        }
        Self::finish(documents, files, environment)
    }

    /// Reads a configuration from a text, for programs and tests that have one.
    ///
    /// # Errors
    /// [`ConfigError`] for a mistake in it.
    pub fn from_text(source: &str, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        Self::finish(vec![hocon::parse(source, text, None)?], Vec::new(), environment)
    }

    fn finish(documents: Vec<Document>, files: Vec<PathBuf>, environment: &Environment) -> Result<Self, ConfigError> {
        let lookup = |name: &str| environment.raw(name).map(str::to_owned);
        let mut tree = hocon::resolve(documents, &lookup)?;
        dynamic(&mut tree, environment)?;
        for variable in VARIABLES {
            if let (Some(key), Some(text)) = (variable.key, environment.get(variable.name)) {
                let path: Vec<&str> = key.split('.').collect();
                value::set(&mut tree, &path, Value::Text(text.to_owned()));
            }
        }
        Ok(Self { tree, files, token: environment.get("CLEARML_AUTH_TOKEN").map(crate::secret::Secret::new) })
    }
}

/// The configuration tree, a file per section; in it or in its `default` directory, as the original keeps its own.
fn sections(environment: &Environment, files: &mut Vec<PathBuf>) -> Result<Vec<Document>, ConfigError> {
    let Some(root) = environment.get("CLEARML_CONFIG_PATH").map(expand(environment)) else { return Ok(Vec::new()) };
    let mut documents = Vec::new();
    for section in SECTIONS {
        let path = root.join(format!("{section}.conf"));
        let Some(text) = read(&path)? else { continue };
        let wrapped = format!("{section} {{ include required({}) }}", quoted(&path));
        // Parsed first as it is, so that a mistake is told at its place in the file.
        hocon::parse(&path.display().to_string(), &text, path.parent())?;
        documents.push(hocon::parse(&path.display().to_string(), &wrapped, Some(Path::new("/")))?);
        files.push(path);
    }
    Ok(documents)
}

fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

fn expand(environment: &Environment) -> impl Fn(&str) -> PathBuf {
    let home = environment.raw("HOME").map(str::to_owned);
    move |path| match (path.strip_prefix("~/"), &home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(path),
    }
}

fn document(path: &Path) -> Result<Option<Document>, ConfigError> {
    let Some(text) = read(path)? else { return Ok(None) };
    Ok(Some(hocon::parse(&path.display().to_string(), &text, Some(crate::fs::parent_of(path)))?))
}

fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    match hocon::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn dynamic(tree: &mut Object, environment: &Environment) -> Result<(), ConfigError> {
    let lookup = |name: &str| environment.raw(name).map(str::to_owned);
    for (name, text) in environment.iter() {
        let Some(rest) = name.strip_prefix(DYNAMIC) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        let path: Vec<&str> = key.split('.').filter(|it| !it.is_empty()).collect();
        if path.is_empty() {
            continue;
        }
        let new = hocon::parse_value(&format!("environment variable {name}"), text, &lookup)?;
        match (value::at(tree, &path), new) {
            (Some(Value::Object(below)), Value::Object(above)) => {
                let mut merged = below.clone();
                value::merge(&mut merged, above);
                value::set(tree, &path, Value::Object(merged));
            }
            (_, new) => value::set(tree, &path, new),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn files_then_dynamic_then_fixed_variables() {
        let home = home(&[
            ("trains.conf", "api.api_server = one, agent.a = trains, agent.b = trains"),
            ("clearml.conf", "agent.b = clearml, agent.c = ${agent.a}, agent.git_user = file"),
            ("tree/agent.conf", "a = tree\nd = tree"),
        ]);
        let root = home.path().to_str().unwrap();
        let environment = Environment::of([
            ("HOME", root),
            ("CLEARML_CONFIG_PATH", &format!("{root}/tree")),
            ("CLEARML_AGENT__AGENT__VENVS_CACHE__PATH", "\"\""),
            ("CLEARML_AGENT__AGENT__GIT_USER", "dynamic"),
            ("CLEARML_AGENT__API__API_SERVER", "http://dynamic"),
            ("TRAINS_API_HOST", "http://fixed"),
            ("CLEARML_API_SECRET_KEY", "s#ecret"),
            ("CLEARML_AUTH_TOKEN", ""),
        ]);
        let config = Config::load(None, &environment).unwrap();
        let text = |path: &str| config.get(path).and_then(Value::text).map(str::to_owned);
        for (path, expected) in [
            ("agent.a", "trains"),
            ("agent.b", "clearml"),
            ("agent.c", "trains"),
            ("agent.d", "tree"),
            ("agent.git_user", "dynamic"),
            ("agent.venvs_cache.path", ""),
            ("api.api_server", "http://fixed"),
            ("api.credentials.secret_key", "s#ecret"),
        ] {
            assert_eq!(text(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(config.files.len(), 3);
        assert!(!format!("{config:?}").contains("ecret"));
    }

    #[test]
    fn a_named_file_is_the_only_one_and_must_exist() {
        let home = home(&[("clearml.conf", "agent.a = 1"), ("other.conf", "agent.b = 2")]);
        let root = home.path().to_str().unwrap();
        let environment = Environment::of([("HOME", root), ("CLEARML_CONFIG_FILE", "~/other.conf")]);
        let config = Config::load(None, &environment).unwrap();
        assert!(config.get("agent.a").is_none() && config.get("agent.b").is_some());
        let config = Config::load(Some(&home.path().join("clearml.conf")), &environment).unwrap();
        assert!(config.get("agent.a").is_some() && config.get("agent.b").is_none());
        let missing = Config::load(Some(&home.path().join("none.conf")), &environment).unwrap_err();
        assert!(missing.to_string().contains("none.conf` does not exist"), "{missing}");
        assert!(Config::load(None, &Environment::default()).unwrap().files.is_empty());
    }

    #[test]
    fn a_mistake_in_a_variable_names_it() {
        let environment = Environment::of([("CLEARML_AGENT__AGENT__A", "a, b")]);
        let error = Config::load(None, &environment).unwrap_err();
        assert_eq!(error.to_string(), "environment variable CLEARML_AGENT__AGENT__A:1:2: nothing may follow the value");
    }
}

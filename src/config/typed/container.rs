//! The `agent` keys about containers: ports, names, mounts, and rules that choose an image.

use std::collections::BTreeMap;

use super::wrong;
use crate::config::value::{Object, Value};
use crate::config::{Config, ConfigError};

/// What the `agent` section says of containers besides images and arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerKeys {
    /// `docker_allow_host_environ`: a task's `-e` values may name variables of the host.
    pub host_variables: bool,
    /// `docker_args_allowed_port_range`: first and last port of the machine that tasks may have.
    pub port_range: Option<(u16, u16)>,
    /// `docker_container_name_format`.
    pub name_format: Option<String>,
    /// `docker_container_name_format_fields`: further fields, and where in the task their values are.
    pub name_fields: BTreeMap<String, String>,
    /// `disable_ssh_mount`.
    pub no_ssh: bool,
    /// `docker_internal_mounts.ssh_folder`: where the ssh directory is seen inside; `~` is the user's home there.
    pub ssh_folder: String,
    /// `docker_internal_mounts.sdk_cache`: where the SDK's cache is seen inside.
    pub sdk_cache_inside: String,
    /// `sdk.storage.cache.default_base_dir`: the SDK's cache on this machine.
    pub sdk_cache: String,
    /// `default_docker.match_rules`.
    pub match_rules: Vec<MatchRule>,
}

/// A rule that chooses the container of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchRule {
    /// What must hold: a field of the task as the configuration names it (`script.binary`), and regular expressions of
    /// which one must be found in it.
    pub fields: Vec<(String, Vec<String>)>,
    /// Packages that must be required: tool (`pip`, `conda`), name, versions.
    pub requirements: Vec<(String, String, String)>,
    /// The image.
    pub image: Option<String>,
    /// Container arguments, one each.
    pub arguments: Vec<String>,
    /// The setup script.
    pub setup_script: Option<String>,
    /// `force_container_rules`: what the task itself says does not count.
    pub force: bool,
}

/// Fields that a rule may ask for.
const FIELDS: [&str; 8] =
    ["project", "project_id", "user_id", "container", "tags", "script.repository", "script.branch", "script.binary"];

impl Config {
    pub(super) fn container_keys(&self) -> Result<ContainerKeys, ConfigError> {
        let on = |key: &str, default: bool| self.flag(key).map(|it| it.unwrap_or(default));
        let or =
            |key: &str, default: &str| Ok::<_, ConfigError>(self.filled(key)?.unwrap_or_else(|| default.to_owned()));
        Ok(ContainerKeys {
            host_variables: on("agent.docker_allow_host_environ", false)?,
            port_range: self.port_range()?,
            name_format: self.filled("agent.docker_container_name_format")?,
            name_fields: self.name_fields()?,
            no_ssh: on("agent.disable_ssh_mount", false)?,
            ssh_folder: or("agent.docker_internal_mounts.ssh_folder", "~/.ssh")?,
            sdk_cache_inside: or("agent.docker_internal_mounts.sdk_cache", "/clearml_agent_cache")?,
            sdk_cache: or("sdk.storage.cache.default_base_dir", "~/.clearml/cache")?,
            match_rules: self.match_rules()?,
        })
    }

    /// `10000-20000`, or a list of two numbers.
    fn port_range(&self) -> Result<Option<(u16, u16)>, ConfigError> {
        let key = "agent.docker_args_allowed_port_range";
        let Some(value) = self.get(key).filter(|it| **it != Value::Null && it.text() != Some("")) else {
            return Ok(None);
        };
        let parts: Vec<String> = match value {
            Value::List(items) => items.iter().filter_map(Value::text).map(str::to_owned).collect(),
            value => value.text().unwrap_or_default().split('-').map(|it| it.trim().to_owned()).collect(),
        };
        let ports: Vec<u16> = parts.iter().filter_map(|it| it.parse().ok()).collect();
        match (parts.len(), ports.as_slice()) {
            (2, [first, last]) if 0 < *first && first <= last => Ok(Some((*first, *last))),
            _ => Err(ConfigError::Value {
                key: key.to_owned(),
                expected: "a range such as 10000-20000",
                found: format!("`{}`", parts.join("-")),
            }),
        }
    }

    fn name_fields(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let key = "agent.docker_container_name_format_fields";
        let expected = "an object of names and fields of the task";
        match self.get(key) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => {
                let text = |(name, value): (&String, &Value)| match value.text() {
                    Some(path) => Ok((name.clone(), path.to_owned())),
                    None => Err(wrong(key, value, expected)),
                };
                fields.iter().map(text).collect()
            }
            Some(other) => Err(wrong(key, other, expected)),
        }
    }

    fn match_rules(&self) -> Result<Vec<MatchRule>, ConfigError> {
        let key = "agent.default_docker.match_rules";
        let forced = self.flag("agent.default_docker.force_container_rules")?.unwrap_or(false);
        match self.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::List(items)) => items
                .iter()
                .map(|item| match item {
                    Value::Object(fields) => rule(key, fields, forced),
                    other => Err(wrong(key, other, "a list of objects")),
                })
                .collect(),
            Some(other) => Err(wrong(key, other, "a list of objects")),
        }
    }
}

fn rule(key: &str, fields: &Object, forced: bool) -> Result<MatchRule, ConfigError> {
    let text = |name: &str| fields.get(name).and_then(Value::text).map(str::trim).filter(|it| !it.is_empty());
    let mut rule = MatchRule { image: text("image").map(str::to_owned), force: forced, ..MatchRule::default() };
    if let Some(value) = fields.get("force_container_rules") {
        rule.force =
            value.flag().ok_or_else(|| wrong(key, value, "a rule whose `force_container_rules` is yes or no"))?;
    }
    match fields.get("arguments") {
        None | Some(Value::Null) => {}
        Some(value @ Value::List(_)) => rule.arguments = texts(key, value)?,
        Some(value) => {
            let text = value.text().unwrap_or_default();
            let expected = "a rule whose arguments have their quotes closed";
            rule.arguments = crate::process::words(text).ok_or_else(|| wrong(key, value, expected))?;
        }
    }
    if let Some(value) = fields.get("setup_shell_script").filter(|it| **it != Value::Null) {
        rule.setup_script = Some(texts(key, value)?.join("\n")).filter(|it| !it.trim().is_empty());
    }
    match fields.get("match") {
        Some(Value::Object(asked)) => conditions(key, "", asked, &mut rule)?,
        Some(other) => return Err(wrong(key, other, "a rule whose `match` is an object")),
        None => {
            return Err(ConfigError::Value {
                key: key.to_owned(),
                expected: "rules with `match`",
                found: "a rule without".to_owned(),
            });
        }
    }
    Ok(rule)
}

/// What stands in `match`: a key that means nothing would make a rule of everything.
fn conditions(key: &str, path: &str, asked: &Object, rule: &mut MatchRule) -> Result<(), ConfigError> {
    for (name, value) in asked {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Object(packages) if path.starts_with("script.requirements.") => {
                let tool = path.trim_start_matches("script.requirements.");
                for (package, versions) in packages {
                    let versions = versions.text().unwrap_or_default().trim().to_owned();
                    rule.requirements.push((tool.to_owned(), package.clone(), versions));
                }
            }
            Value::Object(inner) => conditions(key, &path, inner, rule)?,
            Value::Null => {}
            value if FIELDS.contains(&path.as_str()) => {
                let patterns: Vec<String> = texts(key, value)?.into_iter().filter(|it| !it.is_empty()).collect();
                if !patterns.is_empty() {
                    rule.fields.push((path, patterns));
                }
            }
            _ => {
                let expected = "rules that match project, project_id, user_id, container, tags, script.repository, \
                     script.branch, script.binary and script.requirements";
                return Err(ConfigError::Value { key: key.to_owned(), expected, found: format!("`{path}`") });
            }
        }
    }
    Ok(())
}

fn texts(key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
    let expected = "a rule of texts and lists of texts";
    match value {
        Value::List(items) => {
            items.iter().map(|it| it.text().map(str::to_owned).ok_or_else(|| wrong(key, it, expected))).collect()
        }
        value => value.text().map(|it| vec![it.to_owned()]).ok_or_else(|| wrong(key, value, expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn keys(text: &str) -> Result<ContainerKeys, String> {
        let config = Config::from_text("test", text, &Environment::default()).unwrap();
        config.agent().map(|it| it.container).map_err(|it| it.to_string())
    }

    #[test]
    fn keys_as_the_original_has_them() {
        let none = keys("").unwrap();
        assert_eq!((none.ssh_folder.as_str(), none.sdk_cache_inside.as_str()), ("~/.ssh", "/clearml_agent_cache"));
        assert!(none.match_rules.is_empty() && none.port_range.is_none());
        let text = "agent { docker_args_allowed_port_range = 9000-9100, docker_container_name_format = \"x-{foo}\", \
                    docker_container_name_format_fields { foo = script.branch }, disable_ssh_mount = true }";
        let some = keys(text).unwrap();
        assert_eq!((some.port_range, some.no_ssh), (Some((9000, 9100)), true));
        assert_eq!(some.name_fields["foo"], "script.branch");
        assert_eq!(keys("agent.docker_args_allowed_port_range = [1, 2]").unwrap().port_range, Some((1, 2)));
        for wrong in ["9100-9000", "0-5", "5", "a-b", "1-2-3"] {
            let error = keys(&format!("agent.docker_args_allowed_port_range = \"{wrong}\"")).unwrap_err();
            assert!(error.ends_with("instead of a range such as 10000-20000"), "{error}");
        }
    }

    #[test]
    fn rules_of_all_keys() {
        let text = r#"agent.default_docker { force_container_rules = true, match_rules = [
            { image: "python:3.9", arguments: "--ipc=host -e 'A=b c'", setup_shell_script: ["a", "b"], force_container_rules: false
              match { script { binary: "python3.9$", requirements.pip { tensorflow: "~=2.6", six: "" } }, tags: [x, y] } }
            { image: "x", match { project: "team/.*" } } ] }"#;
        let rules = keys(text).unwrap().match_rules;
        assert_eq!(rules[0].arguments, ["--ipc=host", "-e", "A=b c"]);
        assert_eq!((rules[0].setup_script.as_deref(), rules[0].force, rules[1].force), (Some("a\nb"), false, true));
        let own = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let fields = vec![("script.binary".to_owned(), own(&["python3.9$"])), ("tags".to_owned(), own(&["x", "y"]))];
        assert_eq!(rules[0].fields, fields);
        assert_eq!(rules[0].requirements.len(), 2);
        for (rule, part) in [
            ("{image: x}", "a rule without"),
            ("{image: x, match: 1}", "`match` is an object"),
            ("{image: x, match { moon: full } }", "`moon`"),
            ("5", "a number"),
        ] {
            let error = keys(&format!("agent.default_docker.match_rules = [{rule}]")).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}

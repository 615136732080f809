//! `agent.default_docker.match_rules`: the first rule that fits a task says what its container is.
//!
//! As in the original all conditions of a rule must hold, fields are searched for a regular expression, and required
//! versions must have one in common with the rule's. A rule fills what the task leaves open; one with
//! `force_container_rules` counts alone. Unlike in the original, any server's tasks are looked at.

use pep440_rs::VersionSpecifiers;
use regex::Regex;
use serde_json::Value;

use crate::config::MatchRule;
use crate::error::{Explain, Kind};
use crate::process;
use crate::python::name::normalise;
use crate::task::{Container, Task};

/// A rule that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A pattern.
    #[error("`{pattern}` in `agent.default_docker.match_rules` is not a regular expression")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
    /// Versions.
    #[error("`{versions}` of `{package}` in `agent.default_docker.match_rules` says no versions")]
    Versions {
        /// The package.
        package: String,
        /// What stands there.
        versions: String,
    },
}

impl Explain for RuleError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Pattern { .. } => vec!["Write a regular expression as in \"python3.9$\".".to_owned()],
            Self::Versions { .. } => vec!["Write versions as in \"~=2.6\" or \">=1.2,<2\".".to_owned()],
        }
    }
}

/// Whether rules ask for the full name of the task's project, which a server must be asked for.
#[must_use]
pub fn need_project(rules: &[MatchRule]) -> bool {
    rules.iter().any(|rule| rule.fields.iter().any(|it| it.0 == "project"))
}

/// The project's id of a task.
#[must_use]
pub fn project_of(task: &Task) -> Option<&str> {
    task.record.get("project").and_then(Value::as_str).filter(|it| !it.is_empty())
}

/// The first rule that fits a task.
///
/// # Errors
/// [`RuleError`]
pub fn first<'a>(
    rules: &'a [MatchRule],
    task: &Task,
    project: Option<&str>,
) -> Result<Option<&'a MatchRule>, RuleError> {
    for rule in rules {
        if fits(rule, task, project)? {
            return Ok(Some(rule));
        }
    }
    Ok(None)
}

/// What a rule makes of a task's container.
#[must_use]
pub fn fill(rule: &MatchRule, own: &Container) -> Container {
    let ruled = Container {
        image: rule.image.clone(),
        arguments: (!rule.arguments.is_empty()).then(|| process::command_line(&rule.arguments)),
        setup_script: rule.setup_script.clone(),
    };
    let (first, second) = if rule.force { (&ruled, own) } else { (own, &ruled) };
    Container {
        image: first.image.clone().or_else(|| second.image.clone()),
        arguments: first.arguments.clone().or_else(|| second.arguments.clone()),
        setup_script: first.setup_script.clone().or_else(|| second.setup_script.clone()),
    }
}

fn fits(rule: &MatchRule, task: &Task, project: Option<&str>) -> Result<bool, RuleError> {
    let text = |name: &str| task.record.get(name).and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    for (field, patterns) in &rule.fields {
        let values: Vec<String> = match field.as_str() {
            "project" => project.map(str::to_owned).into_iter().collect(),
            "project_id" => text("project"),
            "user_id" => text("user"),
            "container" => task.container.image.clone().into_iter().collect(),
            "tags" => {
                let tags = task.record.get("tags").and_then(Value::as_array).into_iter().flatten();
                tags.filter_map(|it| it.as_str().map(str::to_owned)).collect()
            }
            "script.repository" => task.script.repository.clone().into_iter().collect(),
            "script.branch" => task.script.branch.clone().into_iter().collect(),
            _ => task.script.interpreter.clone().into_iter().collect(),
        };
        let mut found = false;
        for pattern in patterns {
            let wrong = |source| RuleError::Pattern { pattern: pattern.clone(), source: Box::new(source) };
            let pattern = Regex::new(pattern).map_err(wrong)?;
            found |= values.iter().any(|it| pattern.is_match(it));
        }
        if !found {
            return Ok(false);
        }
    }
    for (tool, package, versions) in &rule.requirements {
        if !requires(task, tool, package, versions)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a task requires a package in versions of which one is among those asked for.
fn requires(task: &Task, tool: &str, package: &str, versions: &str) -> Result<bool, RuleError> {
    let wrong = || RuleError::Versions { package: package.to_owned(), versions: versions.to_owned() };
    let exact = versions.starts_with(|it: char| it.is_ascii_digit());
    let spelled = if exact { format!("=={versions}") } else { versions.to_owned() };
    let asked: VersionSpecifiers = spelled.parse().map_err(|_| wrong())?;
    let asked = pep440_rs::release_specifiers_to_ranges(asked);
    let lines = match tool {
        "conda" => task.script.requirements.conda.as_deref(),
        _ => task.script.requirements.pip.as_deref(),
    };
    for line in lines.unwrap_or_default().lines().map(|it| it.split('#').next().unwrap_or_default().trim()) {
        let end = line.find(|it: char| !(it.is_ascii_alphanumeric() || "-_.".contains(it))).unwrap_or(line.len());
        if end == 0 || normalise(&line[..end]) != normalise(package) {
            continue;
        }
        let rest = line[end..].split(';').next().unwrap_or_default();
        let rest = rest.rsplit(']').next().unwrap_or_default().replace(['(', ')', ' '], "");
        // conda writes one `=`; what is no version (an address) may be any.
        let single = rest.starts_with('=') && !rest.starts_with("==");
        let rest = if single { format!("={}.*", rest.split('=').take(2).collect::<Vec<_>>().join("=")) } else { rest };
        let Ok(required) = rest.parse::<VersionSpecifiers>() else { return Ok(true) };
        if !pep440_rs::release_specifiers_to_ranges(required).is_disjoint(&asked) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Config, Environment};
    use crate::task::clearml;

    fn task() -> Task {
        clearml::parse(&json!({
            "name": "n", "project": "p1", "user": "u1", "tags": ["big", "nightly"],
            "script": {
                "binary": "/usr/bin/python3.9", "repository": "https://h/team/code.git", "branch": "main",
                "requirements": {"pip": ["TensorFlow[and-cuda]==2.8.1 ; python_version > '3'", "six"], "conda": "numpy=1.19"},
            },
            "container": {"arguments": "--ipc=host"},
        }))
        .unwrap()
    }

    fn chosen(rules: &str) -> Result<Option<Container>, String> {
        let text = format!("agent.default_docker.match_rules = [{rules}]");
        let config = Config::from_text("test", &text, &Environment::default()).unwrap();
        let rules = config.agent().unwrap().container.match_rules;
        let task = task();
        let found = first(&rules, &task, Some("Team/Vision")).map_err(|it| it.to_string())?;
        Ok(found.map(|it| fill(it, &task.container)).filter(|it| *it != task.container))
    }

    #[track_caller]
    fn fits(conditions: &str) -> bool {
        let found = chosen(&format!("{{image: found, match {{ {conditions} }} }}")).unwrap();
        found.is_some_and(|it| it.image.as_deref() == Some("found"))
    }

    #[test]
    fn every_condition_counts() {
        for yes in [
            "project: \"^Team/\"",
            "project_id: p1",
            "user_id: u1",
            "tags: [none, night]",
            "script.repository: \"team/.*\\\\.git$\"",
            "script { branch: main, binary: \"python3.9$\" }",
            "script.requirements.pip { tensorflow: \"~=2.6\" }",
            "script.requirements.pip { tensorflow: \"2.8.1\", six: \">1\" }",
            "script.requirements.conda { numpy: \">=1.19,<2\" }",
            "",
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in [
            "project: Other",
            "container: python",
            "tags: [none]",
            "script { branch: main, binary: \"python3.10$\" }",
            "script.requirements.pip { tensorflow: \"<2.8\" }",
            "script.requirements.pip { torch: \"\" }",
            "script.requirements.conda { numpy: \">=2\" }",
        ] {
            assert!(!fits(no), "{no}");
        }
    }

    #[test]
    fn the_first_that_fits_fills_what_is_open() {
        let rules = "{image: a, match.user_id: other}, {image: b, arguments: \"--privileged\", setup_shell_script: s, match {} }, \
                     {image: c, match {} }";
        let container = chosen(rules).unwrap().unwrap();
        assert_eq!((container.image.as_deref(), container.arguments.as_deref()), (Some("b"), Some("--ipc=host")));
        assert_eq!(container.setup_script.as_deref(), Some("s"));
        let forced = chosen("{arguments: \"--privileged\", force_container_rules: true, match {} }").unwrap().unwrap();
        assert_eq!((forced.image, forced.arguments.as_deref()), (None, Some("--privileged")));
        assert_eq!(chosen("{match {} }").unwrap(), None);
    }

    #[test]
    fn what_is_no_rule_is_told() {
        assert!(chosen("{match.user_id: \"(\"}").unwrap_err().contains("`(`"));
        assert!(
            chosen("{match.script.requirements.pip { six: \"about 2\" } }").unwrap_err().contains("`about 2` of `six`")
        );
    }
}

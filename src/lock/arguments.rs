//! Container arguments of a task (`docker run` switches in one text): parsed into typed pieces, filtered by policy, never
//! given to a shell. Environment variables come out of them; what is left stays for whoever runs the image.

use std::collections::BTreeMap;

use regex::Regex;

use crate::process;
use crate::secret::{is_secret_name, strip_userinfo};

use super::launch::LaunchError;

/// What may stand in a task's container arguments (`agent.docker_args_filters`, `agent.forbidden_docker_args`).
#[derive(Debug, Clone, Default)]
pub struct ArgumentPolicy {
    /// Regular expressions of which a switch must match one (at its beginning); empty: any switch may stand.
    pub allowed: Vec<String>,
    /// Names of switches that may not.
    pub forbidden: Vec<String>,
}

/// Container arguments, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Variables with their values.
    pub(super) env: BTreeMap<String, String>,
    /// Variables whose value must come at run time.
    pub(super) secrets: Vec<String>,
    /// Everything else, one text.
    pub(super) rest: Option<String>,
    /// What was left out, for people.
    pub(super) warnings: Vec<String>,
}

/// One switch with what belongs to it.
struct Switch {
    words: Vec<String>,
}

impl Switch {
    /// `--name` or `-x` without a value in the same word.
    fn name(&self) -> &str {
        let word = self.words.first().map_or("", String::as_str);
        word.split('=').next().unwrap_or(word)
    }

    /// The environment assignment, if it is one.
    fn assignment(&self) -> Option<&str> {
        let first = self.words.first()?;
        if first == "-e" || first == "--env" {
            return self.words.get(1).map(String::as_str);
        }
        first.strip_prefix("--env=").or_else(|| first.strip_prefix("-e").filter(|it| !it.is_empty()))
    }
}

pub(super) fn parse(text: &str, policy: &ArgumentPolicy) -> Result<Arguments, LaunchError> {
    let words = process::words(text)
        .ok_or_else(|| LaunchError::Quotes { what: "container arguments", text: strip_userinfo(text) })?;
    let allowed: Vec<Regex> = policy
        .allowed
        .iter()
        .map(|pattern| {
            let source = |source| LaunchError::Filter { pattern: pattern.clone(), source: Box::new(source) };
            Regex::new(&format!("^(?:{pattern})")).map_err(source)
        })
        .collect::<Result<_, _>>()?;
    let mut arguments = Arguments::default();
    let mut rest = Vec::new();
    for switch in switches(&words, &mut arguments.warnings) {
        let name = switch.name();
        let bare = name.trim_start_matches('-');
        let may = allowed.is_empty() || allowed.iter().any(|it| it.is_match(name));
        if !may || policy.forbidden.iter().any(|it| it.trim_start_matches('-') == bare) {
            arguments.warnings.push(format!("container argument `{name}` is not allowed here and left out"));
        } else if bare == "env-file" {
            arguments
                .warnings
                .push("container argument `--env-file` names a file of one machine and is left out".to_owned());
        } else if let Some(assignment) = switch.assignment() {
            assign(&mut arguments, assignment);
        } else {
            rest.extend(switch.words);
        }
    }
    arguments.secrets.sort();
    arguments.secrets.dedup();
    arguments.rest = (!rest.is_empty()).then(|| strip_userinfo(&process::command_line(&rest)));
    Ok(arguments)
}

fn switches(words: &[String], warnings: &mut Vec<String>) -> Vec<Switch> {
    let mut switches: Vec<Switch> = Vec::new();
    for word in words {
        let number = word.parse::<f64>().is_ok();
        if word.starts_with('-') && word.len() > 1 && !number {
            switches.push(Switch { words: vec![word.clone()] });
        } else if let Some(switch) = switches.last_mut().filter(|it| it.words.len() == 1) {
            switch.words.push(word.clone());
        } else {
            warnings
                .push(format!("container argument `{}` belongs to no switch and is left out", strip_userinfo(word)));
        }
    }
    switches
}

fn assign(arguments: &mut Arguments, assignment: &str) {
    let (name, value) = assignment.split_once('=').map_or((assignment, None), |(name, value)| (name, Some(value)));
    match value {
        Some(value) if !is_secret_name(name) && strip_userinfo(value) == value => {
            arguments.env.insert(name.to_owned(), value.to_owned());
        }
        // Without a value docker takes it from its own environment: so it must come at run time too.
        _ => arguments.secrets.push(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str], forbidden: &[&str]) -> ArgumentPolicy {
        let own = |items: &[&str]| items.iter().map(|it| (*it).to_owned()).collect();
        ArgumentPolicy { allowed: own(allowed), forbidden: own(forbidden) }
    }

    #[test]
    fn variables_come_out_and_the_rest_stays() {
        let text = "--ipc=host -e A=1 --env 'B=x y' -eC=3 -e HF_TOKEN=s1 --env=URL=http://u:s2@h -e HOME2 -v /a:/b --memory-swap -1";
        let arguments = parse(text, &policy(&[], &["entrypoint"])).unwrap();
        let env: Vec<_> = arguments.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=1", "B=x y", "C=3"]);
        assert_eq!(arguments.secrets, ["HF_TOKEN", "HOME2", "URL"]);
        assert_eq!(arguments.rest.as_deref(), Some("--ipc=host -v /a:/b --memory-swap -1"));
        assert!(arguments.warnings.is_empty());
    }

    #[test]
    fn the_policy_counts() {
        let text = "word --entrypoint sh --privileged -e A=1 --env-file /x";
        let arguments =
            parse(text, &policy(&["--env$", "-e$", "--entrypoint", "--env-file"], &["entrypoint"])).unwrap();
        assert_eq!(arguments.env.len(), 1);
        assert_eq!(arguments.rest, None);
        assert_eq!(
            arguments.warnings,
            [
                "container argument `word` belongs to no switch and is left out",
                "container argument `--entrypoint` is not allowed here and left out",
                "container argument `--privileged` is not allowed here and left out",
                "container argument `--env-file` names a file of one machine and is left out",
            ]
        );
        assert!(parse("-e 'A", &ArgumentPolicy::default()).is_err());
        assert!(parse("", &policy(&["("], &[])).unwrap_err().to_string().contains("`(`"));
    }
}

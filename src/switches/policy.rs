//! Which switches may stand in container arguments: the original's `agent.docker_args_filters` for a task's own, and
//! `agent.forbidden_docker_args` for everybody's.
//!
//! A switch is forbidden under all its spellings at once: `-v`, `-v/a:/b`, `-itv /a:/b`, `--volume`, `--volume=…`. A
//! filter is tried on the switch as it was written, with and without the value in the same word, as the original does.

use regex::Regex;

use super::{Switch, known};
use crate::error::{Explain, Kind};

/// What may stand in container arguments.
#[derive(Debug, Clone, Default)]
pub struct ArgumentPolicy {
    /// Regular expressions of which a task's switch must match one (at its beginning); empty: any switch may stand.
    pub allowed: Vec<String>,
    /// Names of switches that may not.
    pub forbidden: Vec<String>,
}

/// A filter of the configuration is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` in `agent.docker_args_filters` is not a regular expression")]
pub struct PolicyError {
    /// The pattern.
    pattern: String,
    /// Why.
    #[source]
    source: Box<regex::Error>,
}

impl Explain for PolicyError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hints(&self) -> Vec<String> {
        vec!["Write a regular expression as in \"^--env$\"; look-around and back references are not known.".to_owned()]
    }
}

/// A policy whose names and expressions were understood.
#[derive(Debug)]
pub struct Policy {
    allowed: Vec<Regex>,
    forbidden: Names,
}

/// Switches that a list of a configuration names, whatever the spelling.
#[derive(Debug, Default)]
pub struct Names(Vec<&'static str>);

impl Names {
    /// The switches of a list, `entrypoint`, `--net`, `-v`, `v`; and the entries that name none.
    #[must_use]
    pub fn read(list: &[String]) -> (Self, Vec<&str>) {
        let mut unknown = Vec::new();
        let names = list.iter().filter_map(|entry| {
            let found = known::named(entry);
            if found.is_none() && !entry.trim().is_empty() {
                unknown.push(entry.as_str());
            }
            Some(found?.name)
        });
        let names = names.collect();
        (Self(names), unknown)
    }

    /// Whether a switch is among them.
    #[must_use]
    pub fn have(&self, switch: &Switch) -> bool {
        self.0.contains(&switch.name())
    }
}

impl ArgumentPolicy {
    /// Reads names and expressions. What names no switch is told: a policy that means nothing protects nobody.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn read(&self, warnings: &mut Vec<String>) -> Result<Policy, PolicyError> {
        let expression = |pattern: &String| {
            let wrong = |source| PolicyError { pattern: pattern.clone(), source: Box::new(source) };
            Regex::new(&format!("^(?:{pattern})")).map_err(wrong)
        };
        let allowed = self.allowed.iter().map(expression).collect::<Result<_, _>>()?;
        let (forbidden, unknown) = Names::read(&self.forbidden);
        warnings.extend(unknown.iter().map(|it| unknown_name(it, "agent.forbidden_docker_args")));
        Ok(Policy { allowed, forbidden })
    }
}

/// Tells that an entry of a list of switches names none.
#[must_use]
pub fn unknown_name(entry: &str, key: &str) -> String {
    format!("`{entry}` in `{key}` is no switch of `docker run` and has no effect")
}

impl Policy {
    /// Whether a filter lets a task's switch through.
    #[must_use]
    pub fn allows(&self, switch: &Switch) -> bool {
        let whole = switch.glued();
        let matches =
            |it: &Regex| it.is_match(switch.spelled()) || whole.as_deref().is_some_and(|whole| it.is_match(whole));
        self.allowed.is_empty() || self.allowed.iter().any(matches)
    }

    /// Whether nobody may have the switch.
    #[must_use]
    pub fn forbids(&self, switch: &Switch) -> bool {
        self.forbidden.have(switch)
    }

    /// What is left of a task's switches; what is not, is told.
    #[must_use]
    pub fn of_task(&self, switches: Vec<Switch>, warnings: &mut Vec<String>) -> Vec<Switch> {
        keep(switches, |it| self.allows(it) && !self.forbids(it), "container argument", warnings)
    }

    /// What is left of the agent's own switches; what is not, is told.
    #[must_use]
    pub fn of_agent(&self, switches: Vec<Switch>, warnings: &mut Vec<String>) -> Vec<Switch> {
        keep(switches, |it| !self.forbids(it), "the agent's own container argument", warnings)
    }
}

fn keep(switches: Vec<Switch>, may: impl Fn(&Switch) -> bool, what: &str, warnings: &mut Vec<String>) -> Vec<Switch> {
    let (kept, left_out): (Vec<_>, Vec<_>) = switches.into_iter().partition(may);
    let told = |it: &Switch| format!("{what} `{}` is not allowed here and left out", it.spelled());
    warnings.extend(left_out.iter().map(told));
    kept
}

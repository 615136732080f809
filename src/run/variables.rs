//! The variables that a container is going to have by its arguments, before anything of it is made.

use std::collections::BTreeMap;

use crate::config::{Agent, Environment};
use crate::process;
use crate::secret::Secret;
use crate::switches::{self, Part};

/// The variables of a run's container that stand in its arguments: `arguments` are those that count for the task, and the
/// agent's own come after them. A variable of this process counts only where the agent's own settings name it, for a task
/// must not be able to ask for any.
#[must_use]
pub fn variables(arguments: Option<&str>, agent: &Agent, environment: &Environment) -> BTreeMap<String, Secret> {
    let words = |text: &str| process::words(text).unwrap_or_default();
    let mut variables = BTreeMap::new();
    let of_task = words(arguments.unwrap_or_default());
    let of_agent: Vec<String> = match environment.get("CLEARML_AGENT_EXTRA_DOCKER_ARGS") {
        Some(text) => words(text),
        None => agent.extra_docker_arguments.iter().flat_map(|it| words(it)).collect(),
    };
    for (words, own) in [(of_task, false), (of_agent, true)] {
        for part in switches::scan(&words) {
            let Part::Switch(switch) = part else { continue };
            let Some((name, value)) = switch.assignment() else { continue };
            if let Some(value) = value.or_else(|| environment.raw(name).filter(|_| own)) {
                variables.insert(name.to_owned(), Secret::new(value));
            }
        }
    }
    variables
}

//! Whose container arguments count: the task's and the agent's own, filtered and put together as the original does.
//!
//! `docker_args_filters` says what a task may ask for, `forbidden_docker_args` what nobody may. Of the switches in
//! `protected_docker_extra_args` the side that comes first has them alone; the agent's comes first unless
//! `docker_args_extra_precedes_task` is off. Of any other switch that stands once in a container, the later one counts.

use crate::config::{Agent, Environment};
use crate::process;
use crate::switches::policy::{Names, Policy, unknown_name};
use crate::switches::{self, ArgumentPolicy, PolicyError, Switch, SwitchError};

use super::arguments::Side;

/// What a configuration and the environment say of container arguments.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    protected: Names,
    agent_first: bool,
    own: Vec<String>,
}

/// The policy of a configuration: `CLEARML_AGENT_DOCKER_ARGS_FILTERS`, where it is set, takes the filters' place.
///
/// # Errors
/// [`SwitchError::Quotes`]
pub fn of_configuration(agent: &Agent, machine: &Environment) -> Result<ArgumentPolicy, SwitchError> {
    let allowed = match machine.get("CLEARML_AGENT_DOCKER_ARGS_FILTERS") {
        Some(text) => process::words(text).ok_or(SwitchError::Quotes)?,
        None => agent.docker_argument_filters.clone(),
    };
    Ok(ArgumentPolicy { allowed, forbidden: agent.forbidden_docker_arguments.clone() })
}

impl Rules {
    /// Reads them. What means nothing is told.
    ///
    /// # Errors
    /// [`PolicyError`], [`SwitchError::Quotes`]
    pub fn read(agent: &Agent, machine: &Environment, warnings: &mut Vec<String>) -> Result<Self, RulesError> {
        let policy = of_configuration(agent, machine)?.read(warnings)?;
        let (protected, unknown) = Names::read(&agent.protected_docker_arguments);
        warnings.extend(unknown.iter().map(|it| unknown_name(it, "agent.protected_docker_extra_args")));
        let own = match machine.get("CLEARML_AGENT_EXTRA_DOCKER_ARGS") {
            Some(text) => process::words(text).ok_or(SwitchError::Quotes)?,
            None => agent.extra_docker_arguments.iter().flat_map(|it| apart(it)).collect(),
        };
        Ok(Self { policy, protected, agent_first: agent.extra_arguments_precede_task, own })
    }

    /// The switches that count, in their order, and whose they are.
    ///
    /// # Errors
    /// [`SwitchError`]
    pub fn together(&self, task: &[String], warnings: &mut Vec<String>) -> Result<Vec<(Side, Switch)>, SwitchError> {
        let task = self.policy.of_task(switches::parse_words(task)?, warnings);
        let own = self.policy.of_agent(switches::parse_words(&self.own)?, warnings);
        let task = task.into_iter().map(|it| (Side::Task, it));
        let own = own.into_iter().map(|it| (Side::Agent, it));
        let (mut all, second): (Vec<_>, Vec<_>) =
            if self.agent_first { (own.collect(), task.collect()) } else { (task.collect(), own.collect()) };
        let first: Vec<&'static str> = all.iter().map(|it| it.1.name()).collect();
        for (side, switch) in second {
            if self.protected.have(&switch) && first.contains(&switch.name()) {
                let whose = if self.agent_first { "the agent's own counts" } else { "the task's counts" };
                warnings.push(format!("container argument `{}` is left out: {whose}", switch.spelled()));
            } else {
                all.push((side, switch));
            }
        }
        Ok(all)
    }
}

/// What a configuration says cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A filter.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The agent's own arguments.
    #[error(transparent)]
    Grammar(#[from] SwitchError),
}

/// An entry of a list is a word, but `-e NAME=value` in one entry is meant as two.
fn apart(entry: &str) -> Vec<String> {
    match entry.split_once(char::is_whitespace) {
        Some((switch, value)) if switch.starts_with('-') && !switch.contains('=') => {
            vec![switch.to_owned(), value.trim().to_owned()]
        }
        _ => vec![entry.to_owned()],
    }
}

//! From a task's container arguments and the agent's configuration to the settings of one container.
//!
//! ```text
//! the task's words ─ templates ─▶ switches ─ filters, forbidden ─▶ ┐
//!                                                                   ├─ protected ─▶ followed ─▶ ports, labels, name
//! the agent's words ─ $VARIABLES ─▶ switches ─ forbidden ──────────▶ ┘
//! ```
//!
//! Nothing here touches the machine: what must be known of it is asked for.

use std::collections::BTreeMap;
use std::io;

use super::arguments::{self, ArgumentError, Followed, Gpus, Side};
use super::names::{self, NameError};
use super::policy::{Rules, RulesError};
use super::ports::{self, Mapping, NoPorts, Ports};
use super::templates::{self, Values};
use super::{EngineKind, RunId};
use crate::config::{Agent, Environment};
use crate::engine::ContainerSpec;
use crate::error::{Explain, Kind};
use crate::launch;
use crate::process;
use crate::secret::{Secret, strip_userinfo};
use crate::switches::{Fate, Switch, SwitchError};

/// What is asked of a container.
pub struct Asked<'a> {
    /// What runs it.
    pub engine: EngineKind,
    /// The container arguments that count, one text: whole, or without the variables that the image has.
    pub arguments: &'a str,
    /// The variables that the image has from its lock: those with templates or the host's variables in them are set anew.
    pub variables: &'a BTreeMap<String, String>,
    /// The `agent` section.
    pub agent: &'a Agent,
    /// The agent's environment.
    pub machine: &'a Environment,
    /// Whether the arguments may ask for what is its host's: somebody here has them filtered, or trusts them.
    pub trusted: bool,
    /// What templates are filled with.
    pub values: &'a Values,
    /// Who says which GPUs it sees.
    pub gpus: Gpus,
    /// The network of a container whose arguments name none; absent: the engine's own.
    pub network: Option<&'a str>,
    /// The machine's ports; absent: the task's ports stay what they are.
    pub ports: Option<Ports<'a>>,
    /// The run, which names the container where the configuration says how; absent: as the engine likes.
    pub run: Option<&'a RunId>,
    /// The text of a file that the agent's own arguments name.
    pub read: &'a dyn Fn(&str) -> io::Result<String>,
}

/// What is asked of a container for which there is no image yet.
pub struct Early<'a> {
    /// What is to run it.
    pub engine: EngineKind,
    /// The container arguments that count, one text.
    pub arguments: &'a str,
    /// The `agent` section.
    pub agent: &'a Agent,
    /// The agent's environment.
    pub machine: &'a Environment,
    /// The text of a file that the agent's own arguments name.
    pub read: &'a dyn Fn(&str) -> io::Result<String>,
}

/// The settings of a container.
#[derive(Debug)]
pub struct Chosen {
    /// The container: image, command and GPUs are still to be filled in.
    pub container: ContainerSpec,
    /// TCP ports of the machine that lead to the container's ([`ports::property`] is the task's runtime property).
    pub ports: Vec<Mapping>,
    /// Whether GPUs are asked for by `NVIDIA_VISIBLE_DEVICES` alone (`CLEARML_DOCKER_SKIP_GPUS_FLAG`).
    pub no_gpu_switch: bool,
    /// Worth telling in the run's log.
    pub warnings: Vec<String>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A container argument.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The configuration's policy.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The container's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The machine's ports.
    #[error(transparent)]
    Ports(#[from] NoPorts),
    /// Arguments that nobody here vouches for ask for what is the host's.
    #[error("the container arguments in the image ask for what is this machine's: {asked}")]
    Host {
        /// Which, for people.
        asked: String,
    },
}

impl From<SwitchError> for SettingsError {
    fn from(error: SwitchError) -> Self {
        ArgumentError::Grammar(error).into()
    }
}

impl Explain for SettingsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Argument(error) => error.kind(),
            Self::Rules(_) => Kind::Config,
            Self::Name(error) => error.kind(),
            Self::Ports(_) => Kind::System,
            Self::Host { .. } => Kind::Denied,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Argument(error) => error.hints(),
            Self::Rules(RulesError::Policy(error)) => error.hints(),
            Self::Rules(RulesError::Grammar(error)) => error.hints(),
            Self::Name(error) => error.hints(),
            Self::Host { .. } => vec![
                "Where you trust the image: --trust-image-arguments follows them.".to_owned(),
                "To run it without them: forbid them by agent.forbidden_docker_args of clearml.conf.".to_owned(),
            ],
            Self::Ports(_) => vec!["Widen agent.docker_args_allowed_port_range, or run fewer tasks here.".to_owned()],
        }
    }
}

/// The settings of a task's container.
///
/// # Errors
/// [`SettingsError`] at the first thing that cannot be followed.
pub fn of_task(asked: &Asked<'_>) -> Result<Chosen, SettingsError> {
    let mut warnings = Vec::new();
    let rules = Rules::read(asked.agent, asked.machine, &mut warnings)?;
    let words = process::words(asked.arguments).ok_or(SwitchError::Quotes)?;
    let words: Vec<String> = words.iter().map(|it| templates::fill(it, asked.values, &mut warnings)).collect();
    let variable = |side: Side, name: &str| {
        let may = side == Side::Agent || asked.agent.container.host_variables;
        asked.machine.raw(name).filter(|_| may).map(str::to_owned)
    };
    let following = arguments::Rules { engine: asked.engine, gpus: asked.gpus, variable: &variable, read: asked.read };
    let switches = rules.together(&words, &mut warnings)?;
    if !asked.trusted {
        hosts_own(asked.engine, &switches)?;
    }
    let mut followed = Followed { container: variables(asked, &mut warnings), ..Followed::default() };
    for (side, switch) in switches {
        let switch = expanded(switch, &|name| variable(side, name));
        arguments::follow(&mut followed, &switch, side, &following)?;
    }
    warnings.append(&mut followed.warnings);
    let mut container = followed.container;
    if container.network.is_none() {
        container.network = asked.network.map(str::to_owned);
    }
    let mappings = published(asked, &mut container, followed.published, &mut warnings)?;
    labels(asked, &mut container)?;
    if let (Some(run), Some(format), None) = (asked.run, &asked.agent.container.name_format, &container.name) {
        container.name = Some(names::name(format, &asked.agent.container.name_fields, run, asked.values)?);
    }
    if asked.run.is_some() {
        spool_is_free(&container)?;
    }
    let no_gpu_switch = skips_gpu_switch(asked.machine);
    Ok(Chosen { container, ports: mappings, no_gpu_switch, warnings: distinct(warnings) })
}

/// Whether a task's container arguments, put together with the agent's own, can be followed in an engine: what can be known
/// before there is an image, and before templates have their values.
///
/// # Errors
/// [`SettingsError`] at the first that cannot.
pub fn check(asked: &Early<'_>) -> Result<(), SettingsError> {
    let rules = Rules::read(asked.agent, asked.machine, &mut Vec::new())?;
    let words = process::words(asked.arguments).ok_or(SwitchError::Quotes)?;
    let following =
        arguments::Rules { engine: asked.engine, gpus: Gpus::Assigned, variable: &|_, _| None, read: asked.read };
    let together = match rules.together(&words, &mut Vec::new()) {
        // A value may be a switch of its own.
        Err(_) if templates::has_some(asked.arguments) => return Ok(()),
        together => together?,
    };
    for (side, switch) in together {
        arguments::may_stand(&switch, asked.engine)?;
        if !switch.value().is_some_and(templates::has_some) {
            arguments::follow(&mut Followed::default(), &switch, side, &following)?;
        }
    }
    Ok(())
}

/// `CLEARML_DOCKER_SKIP_GPUS_FLAG`: whether an engine is asked for no GPUs, and told of them by a variable alone.
#[must_use]
pub fn skips_gpu_switch(machine: &Environment) -> bool {
    is_on(machine.get("CLEARML_DOCKER_SKIP_GPUS_FLAG"))
}

/// Refuses what would lie where a worker takes the run's console from.
fn spool_is_free(container: &ContainerSpec) -> Result<(), ArgumentError> {
    let binds = container.binds.iter().map(|it| &it.target);
    let mut targets = binds.chain(&container.volumes).chain(container.tmpfs.keys());
    let is_there = |it: &&String| it.strip_prefix(launch::SPOOL).is_some_and(|it| it.is_empty() || it.starts_with('/'));
    match targets.find(is_there) {
        Some(target) => Err(ArgumentError::Value {
            switch: "--volume".to_owned(),
            value: target.clone(),
            reason: "under a worker the run's console is kept there",
        }),
        None => Ok(()),
    }
}

/// Refuses switches of the task's side that would give the run something of its host.
fn hosts_own(engine: EngineKind, switches: &[(Side, Switch)]) -> Result<(), SettingsError> {
    let native = engine == EngineKind::Native;
    let is_done = |it: &Switch| {
        // The network of a native run is the host's without being asked for.
        matches!(engine.fate(it.known()), Fate::Followed | Fate::Partly(_)) && !(native && it.name() == "network")
    };
    let asked = switches.iter().filter(|(side, it)| *side == Side::Task && is_done(it) && it.reaches_host());
    let asked: Vec<String> = asked.map(|(_, it)| format!("`{}`", strip_userinfo(&it.words().join(" ")))).collect();
    if asked.is_empty() { Ok(()) } else { Err(SettingsError::Host { asked: asked.join(", ") }) }
}

/// Variables of the lock that only a run can know: with templates in them, with variables of the host where a task may
/// have those.
fn variables(asked: &Asked<'_>, warnings: &mut Vec<String>) -> ContainerSpec {
    let mut container = ContainerSpec::default();
    let host = |name: &str| asked.machine.raw(name).filter(|_| asked.agent.container.host_variables).map(str::to_owned);
    for (name, value) in asked.variables {
        let filled = expand(&templates::fill(value, asked.values, warnings), &host);
        if filled != *value {
            container.env.insert(name.clone(), Secret::new(filled));
        }
    }
    container
}

/// A switch whose variable's value has variables of the host in it.
fn expanded(switch: Switch, host: &dyn Fn(&str) -> Option<String>) -> Switch {
    match switch.assignment() {
        Some((name, Some(value))) => {
            let new = format!("{name}={}", expand(value, host));
            switch.with_value(new)
        }
        _ => switch,
    }
}

/// `$NAME` and `${NAME}` replaced; what is not set stays as it is.
fn expand(text: &str, host: &dyn Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|it| it.split_once('}')).map(|it| it.0);
        let plain = after.find(|it: char| !(it.is_ascii_alphanumeric() || it == '_')).unwrap_or(after.len());
        let (name, length) = braced.map_or((&after[..plain], plain), |it| (it, it.len() + 2));
        match host(name) {
            Some(value) => expanded.push_str(&value),
            None => expanded.push_str(&rest[at..=at + length]),
        }
        rest = &after[length..];
    }
    expanded.push_str(rest);
    expanded
}

fn published(
    asked: &Asked<'_>,
    container: &mut ContainerSpec,
    mut published: Vec<ports::Publish>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Mapping>, NoPorts> {
    let mut mappings = Vec::new();
    if published.is_empty() {
        return Ok(mappings);
    }
    if container.network.as_deref() == Some("host") {
        let text = "container argument `--publish` is left out: the container has this machine's network, and its ports are \
                    the machine's";
        warnings.push(text.to_owned());
        return Ok(mappings);
    }
    if let Some(machine) = &asked.ports {
        mappings = ports::settle(&mut published, asked.agent.container.port_range, machine, warnings)?;
        if !mappings.is_empty() {
            let named = asked.machine.get("CLEARML_AGENT_FORCE_HOST_MACHINE_IP").unwrap_or(&machine.address);
            container.env.insert("CLEARML_AGENT_HOST_IP".to_owned(), Secret::new(named));
        }
    }
    published.iter().for_each(|it| it.add_to(container));
    Ok(mappings)
}

/// `CLEARML_AGENT_EXTRA_DOCKER_LABELS`: words `name=value`.
fn labels(asked: &Asked<'_>, container: &mut ContainerSpec) -> Result<(), SwitchError> {
    let text = asked.machine.get("CLEARML_AGENT_EXTRA_DOCKER_LABELS").unwrap_or_default();
    for label in process::words(text).ok_or(SwitchError::Quotes)? {
        let (name, value) = label.split_once('=').unwrap_or((&label, ""));
        container.labels.insert(name.to_owned(), value.to_owned());
    }
    if let Some(worker) = &asked.values.worker_id {
        container.labels.entry("clearml-worker-id".to_owned()).or_insert_with(|| worker.clone());
    }
    Ok(())
}

fn is_on(value: Option<&str>) -> bool {
    value.is_some_and(|it| !["0", "false", "no", "off"].contains(&it.to_ascii_lowercase().as_str()))
}

fn distinct(mut warnings: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    warnings.retain(|it| seen.insert(it.clone()));
    warnings
}

#[cfg(test)]
mod tests;

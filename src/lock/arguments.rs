//! Container arguments of a task (`docker run` switches in one text): filtered by policy, never given to a shell.
//! Environment variables come out of them; what is left stays for whoever runs the image.

use std::collections::BTreeMap;

use crate::process;
use crate::secret::{is_secret_variable, strip_userinfo};
use crate::switches::{self, ArgumentPolicy, SwitchError};

use super::launch::LaunchError;

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

pub(super) fn parse(text: &str, policy: &ArgumentPolicy) -> Result<Arguments, LaunchError> {
    let mut arguments = Arguments::default();
    let policy = policy.read(&mut arguments.warnings)?;
    let mut rest = Vec::new();
    for switch in policy.of_task(switches::parse(text)?, &mut arguments.warnings) {
        if switch.name() == "env-file" {
            arguments
                .warnings
                .push("container argument `--env-file` names a file of one machine and is left out".to_owned());
        } else if let Some((name, value)) = switch.assignment() {
            assign(&mut arguments, name, value);
        } else {
            rest.extend(switch.words());
        }
    }
    arguments.secrets.sort();
    arguments.secrets.dedup();
    arguments.rest = (!rest.is_empty()).then(|| strip_userinfo(&process::command_line(&rest)));
    Ok(arguments)
}

/// Container arguments as a task may show them to whoever sees it: a variable that is a secret by its name only, which an
/// image takes for the same. The text, and those names.
///
/// # Errors
/// [`SwitchError`]
pub fn without_secrets(text: &str) -> Result<(String, Vec<String>), SwitchError> {
    let (mut words, mut secrets) = (Vec::new(), Vec::new());
    for switch in switches::parse(text)? {
        match switch.assignment() {
            Some((name, Some(value))) if is_secret_variable(name, value) => {
                secrets.push(name.to_owned());
                words.extend(["-e".to_owned(), name.to_owned()]);
            }
            _ => words.extend(switch.words()),
        }
    }
    secrets.sort();
    secrets.dedup();
    Ok((strip_userinfo(&process::command_line(&words)), secrets))
}

fn assign(arguments: &mut Arguments, name: &str, value: Option<&str>) {
    match value {
        Some(value) if !is_secret_variable(name, value) => {
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
        let text = "--entrypoint sh --privileged -e A=1 --env-file /x";
        let arguments =
            parse(text, &policy(&["--env$", "-e$", "--entrypoint", "--env-file"], &["entrypoint"])).unwrap();
        assert_eq!(arguments.env.len(), 1);
        assert_eq!(arguments.rest, None);
        assert_eq!(
            arguments.warnings,
            [
                "container argument `--entrypoint` is not allowed here and left out",
                "container argument `--privileged` is not allowed here and left out",
                "container argument `--env-file` names a file of one machine and is left out",
            ]
        );
        assert!(parse("-e 'A", &ArgumentPolicy::default()).is_err());
        let unknown = parse("--privilegd", &ArgumentPolicy::default()).unwrap_err().to_string();
        assert_eq!(unknown, "the container argument `--privilegd` is no switch of `docker run`");
        assert!(parse("", &policy(&["("], &[])).unwrap_err().to_string().contains("`(`"));
    }

    #[test]
    fn what_a_task_may_show_means_the_same_image() {
        let text = "--ipc=host -e A=1 -eHF_TOKEN=s1 --env=URL=http://u:s2@h -e HOME2 -v '/a b:/b'";
        let (shown, secrets) = without_secrets(text).unwrap();
        assert_eq!(shown, "--ipc=host -e A=1 -e HF_TOKEN -e URL -e HOME2 -v '/a b:/b'");
        assert_eq!(secrets, ["HF_TOKEN", "URL"]);
        let policy = ArgumentPolicy::default();
        assert_eq!(parse(&shown, &policy).unwrap(), parse(text, &policy).unwrap());
        assert!(without_secrets("-e 'A").is_err());
    }
}

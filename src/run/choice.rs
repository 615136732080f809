//! Which image and which container arguments count for a task: its own, a rule's of the configuration, or the default.

use serde_json::{Value, json};

use super::rules;
use crate::base::Request;
use crate::clearml::Client;
use crate::config::MatchRule;
use crate::error::{Explain, Failure, Kind};
use crate::lock::asked::is_local;
use crate::task::{Container, Task};

/// An image and container arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChoice {
    /// Image reference, or `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`, `recipe:NAME`.
    pub image: String,
    /// Container arguments, one text.
    pub arguments: Option<String>,
    /// Whether the task names the image.
    pub of_task: bool,
}

/// Which base image counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChoice {
    /// Of `--docker`, else `CLEARML_DOCKER_IMAGE`, else the configuration, else the original's default.
    pub fallback: ImageChoice,
    /// Whether the task's own image does not count (`--force-docker`, `agent.disable_task_docker_override`).
    pub force: bool,
    /// Whether `--docker` names the fallback: for a lock, where a base of this machine lies.
    pub given: bool,
    /// Whether the fallback's arguments are meant for the image: said on the command line of its build, not by a
    /// machine's configuration.
    pub meant: bool,
}

/// What counts for a task.
#[derive(Debug, Clone)]
pub struct Counted {
    /// The task, with the container that counts.
    pub task: Task,
    /// Its image, and the arguments that its runs here get.
    pub choice: ImageChoice,
    /// The arguments that an image may carry: the task's own, and those of its build's command line. What a machine's
    /// configuration adds is for runs on that machine.
    pub carried: Option<String>,
    /// Whether the configuration says which image it is, whatever the task names.
    pub forced: bool,
    /// Whether it is the image that the task itself names.
    pub own: bool,
}

/// A task names a file of this machine.
#[derive(Debug, thiserror::Error)]
#[error("the task's image `{image}` is a file or directory of this machine, and a task may not name those")]
pub struct LocalImage {
    image: String,
}

impl Explain for LocalImage {
    fn kind(&self) -> Kind {
        Kind::Denied
    }

    fn hints(&self) -> Vec<String> {
        vec![
            "Name an image of a registry in the task, or empty its image and name the path here: --docker, \
             CLEARML_DOCKER_IMAGE or agent.default_docker.image."
                .to_owned(),
        ]
    }
}

impl BaseChoice {
    /// The base image of a task: its own, unless there is none or it does not count.
    #[must_use]
    pub fn choose(&self, container: &Container) -> ImageChoice {
        match &container.image {
            Some(image) if !self.force => {
                ImageChoice { image: image.clone(), arguments: container.arguments.clone(), of_task: true }
            }
            _ if self.force => self.fallback.clone(),
            _ => ImageChoice {
                image: self.fallback.image.clone(),
                arguments: container.arguments.clone().or_else(|| self.fallback.arguments.clone()),
                of_task: false,
            },
        }
    }

    /// What counts for a task: its own, filled or replaced by the configuration's rules, else the default. `client` is
    /// asked for the name of the task's project where a rule is about that.
    ///
    /// # Errors
    /// A rule that cannot be understood, the server.
    pub async fn count(
        &self,
        rules: &[MatchRule],
        mut task: Task,
        client: Option<&Client>,
    ) -> Result<Counted, Failure> {
        let own = task.container.clone();
        let (mut force, mut forced) = (self.force, self.force);
        // An image that was named is meant.
        if !rules.is_empty() && !self.given {
            if force {
                task.container = Container { setup_script: own.setup_script.clone(), ..Container::default() };
            }
            let project = project(rules, &task, client).await?;
            if let Some(rule) = rules::first(rules, &task, project.as_deref())? {
                forced |= rule.force && rule.image.is_some();
                let ruled = rules::fill(rule, &task.container);
                if ruled != task.container {
                    (task.container, force) = (ruled, false);
                }
            }
        }
        let choice = Self { force, ..self.clone() }.choose(&task.container);
        let is = |it: &Option<String>| choice.arguments.is_some() && *it == choice.arguments;
        let carries = is(&own.arguments) || self.meant && is(&self.fallback.arguments);
        let carried = choice.arguments.clone().filter(|_| carries);
        let named = choice.of_task && own.image.as_ref() == Some(&choice.image);
        Ok(Counted { task, choice, carried, forced, own: named })
    }
}

impl Counted {
    /// Refuses a file or directory of this machine that somebody's task names: what lies there is not for whoever can make
    /// a task. The configuration may name one.
    ///
    /// # Errors
    /// [`LocalImage`]
    pub fn names_nothing_local(&self) -> Result<(), LocalImage> {
        let image = &self.choice.image;
        match image.parse::<Request>() {
            Ok(request) if self.own && is_local(&request) => Err(LocalImage { image: image.clone() }),
            _ => Ok(()),
        }
    }
}

/// The full name of a task's project, where rules ask for it.
async fn project(rules: &[MatchRule], task: &Task, client: Option<&Client>) -> Result<Option<String>, Failure> {
    let (Some(client), Some(id), true) = (client, rules::project_of(task), rules::need_project(rules)) else {
        return Ok(None);
    };
    let found = client.call("projects.get_all", &json!({ "id": [id], "only_fields": ["name"] })).await?;
    Ok(found.pointer("/projects/0/name").and_then(Value::as_str).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(force: bool, meant: bool) -> BaseChoice {
        let fallback =
            ImageChoice { image: "default:1".to_owned(), arguments: Some("-v /host:/host".to_owned()), of_task: false };
        BaseChoice { fallback, force, given: false, meant }
    }

    fn rule(image: Option<&str>, arguments: &[&str], force: bool) -> MatchRule {
        MatchRule {
            image: image.map(str::to_owned),
            arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
            force,
            ..MatchRule::default()
        }
    }

    async fn count(base: &BaseChoice, rules: &[MatchRule], image: Option<&str>, arguments: Option<&str>) -> Counted {
        let own = |it: Option<&str>| it.map(str::to_owned);
        let container = Container { image: own(image), arguments: own(arguments), setup_script: None };
        base.count(rules, Task { container, ..Task::default() }, None).await.unwrap()
    }

    fn shown(counted: &Counted) -> (&str, Option<&str>, Option<&str>, bool) {
        (&counted.choice.image, counted.choice.arguments.as_deref(), counted.carried.as_deref(), counted.forced)
    }

    #[tokio::test]
    async fn an_image_carries_what_the_task_asks_for_and_nothing_of_the_machine() {
        let (plain, forced) = (base(false, false), base(true, false));
        let host = Some("-v /host:/host");
        let own = count(&plain, &[], Some("own:1"), Some("--ipc=host")).await;
        assert_eq!(shown(&own), ("own:1", Some("--ipc=host"), Some("--ipc=host"), false));
        assert_eq!(shown(&count(&plain, &[], None, None).await), ("default:1", host, None, false));
        assert_eq!(shown(&count(&base(false, true), &[], None, None).await), ("default:1", host, host, false));
        let other = count(&forced, &[], Some("own:1"), Some("--ipc=host")).await;
        assert_eq!(shown(&other), ("default:1", host, None, true));
        let fills = [rule(Some("ruled:1"), &["--privileged"], false)];
        let filled = count(&plain, &fills, None, None).await;
        assert_eq!(shown(&filled), ("ruled:1", Some("--privileged"), None, false));
        let filled = count(&plain, &fills, Some("own:1"), Some("--ipc=host")).await;
        assert_eq!(shown(&filled), ("own:1", Some("--ipc=host"), Some("--ipc=host"), false));
        let rules = [rule(Some("ruled:1"), &["--privileged"], true)];
        let ruled = count(&plain, &rules, Some("own:1"), Some("--ipc=host")).await;
        assert_eq!(shown(&ruled), ("ruled:1", Some("--privileged"), None, true));
        // Forced too where the task names the same: what it carries is not to be believed.
        assert!(count(&plain, &rules, Some("ruled:1"), None).await.forced);
    }

    #[tokio::test]
    async fn a_task_names_no_path_of_the_machine_and_the_configuration_may() {
        for image in ["oci:/srv/images", "oci-archive:/srv/x.tar", "docker-archive:/srv/x.tar"] {
            let counted = count(&base(false, false), &[], Some(image), None).await;
            let error = counted.names_nothing_local().unwrap_err().to_string();
            assert!(error.contains(&format!("`{image}` is a file or directory of this machine")), "{error}");
            let rules = [rule(Some(image), &[], false)];
            let ruled = count(&base(false, false), &rules, None, None).await;
            assert!(ruled.choice.of_task && ruled.names_nothing_local().is_ok());
        }
        let named = count(&base(false, false), &[], Some("recipe:debian-python"), None).await;
        assert!(named.names_nothing_local().is_ok());
    }
}

//! What a run leaves with its task, so that a clone of it is the same task anywhere: the commit where only a branch was
//! recorded, the closure of its requirements beside the user's own text, and the lock.
//!
//! All of it is written while the task runs, and written once: a task that says so already is left alone. Nothing here
//! may fail a run: whoever calls it warns and goes on.

use serde_json::{Value, json};

use crate::clearml::{ApiError, Client, tasks};
use crate::lock::Lock;
use crate::lock::closure::{closure, with_credentials};
use crate::task::{self, Container, Task};

/// What the configuration object says of itself.
const ABOUT: &str =
    "What this task ran with, pinned. Runs of this task and of its clones use it; remove it to resolve anew.";

/// Writes what a lock pins back to its task.
///
/// Everything is tried, whatever fails before.
///
/// # Errors
/// The first of [`ApiError`].
pub async fn after_build(client: &Client, id: &str, lock: &Lock) -> Result<(), ApiError> {
    let answer = tasks::get(client, id).await?;
    // What cannot be read was built from nevertheless: then there is nothing to compare with, and nothing to keep.
    let task = task::clearml::parse(&answer).unwrap_or_default();
    let commit = commit(client, id, &task, lock).await;
    let requirements = requirements(client, id, (&answer, &task), lock).await;
    let lock = leave(client, id, &task, lock).await;
    commit.and(requirements).and(lock)
}

/// Writes the name of the base into a task that names no image (`agent.default_docker.update_back_task`). One that only
/// this machine has is not written.
///
/// # Errors
/// [`ApiError`]
pub async fn default_image(client: &Client, id: &str, lock: &Lock) -> Result<(), ApiError> {
    let (Some(name), Some(_)) = (&lock.base.name, &lock.base.source) else { return Ok(()) };
    let answer = tasks::get(client, id).await?;
    let task = task::clearml::parse(&answer).unwrap_or_default();
    if task.container.image.is_some() {
        return Ok(());
    }
    let familiar = name.parse().map_or_else(|_| name.clone(), |it: crate::oci::Reference| it.familiar());
    image(client, id, &task.container, &familiar, true).await
}

/// Lets a task name an image; its container arguments and setup script stay.
///
/// # Errors
/// [`ApiError`]
pub async fn image(client: &Client, id: &str, container: &Container, image: &str, force: bool) -> Result<(), ApiError> {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let container = json!({
        "image": image, "arguments": text(&container.arguments), "setup_shell_script": text(&container.setup_script),
    });
    tasks::edit(client, id, &json!({ "container": container }), force).await
}

/// Writes the commit that was built into a task that names none.
///
/// # Errors
/// [`ApiError`]
pub async fn commit(client: &Client, id: &str, task: &Task, lock: &Lock) -> Result<(), ApiError> {
    let git = lock.code.as_ref().and_then(|it| it.git.as_ref());
    match git.filter(|_| task.script.commit.is_none()) {
        Some(git) => tasks::edit(client, id, &json!({ "script": { "version_num": git.commit } }), true).await,
        None => Ok(()),
    }
}

async fn requirements(client: &Client, id: &str, (answer, task): (&Value, &Task), lock: &Lock) -> Result<(), ApiError> {
    let lines = closure(&lock.python);
    let now = &task.script.requirements;
    let text = now.pip.clone().unwrap_or_default();
    let lines = with_credentials(lines, &format!("{text}\n{}", now.org_pip.as_deref().unwrap_or_default()));
    if lines.is_empty() || text.lines().eq(lines.iter().map(String::as_str)) {
        return Ok(());
    }
    // What else is there (conda's, other tools') stays.
    let mut fields = answer.pointer("/script/requirements").and_then(Value::as_object).cloned().unwrap_or_default();
    if now.org_pip.is_none() && !text.trim().is_empty() {
        fields.insert("org_pip".to_owned(), json!(text));
    }
    fields.entry("conda").or_insert(json!(""));
    fields.insert("pip".to_owned(), json!(lines));
    tasks::set_requirements(client, id, &Value::Object(fields)).await
}

async fn leave(client: &Client, id: &str, task: &Task, lock: &Lock) -> Result<(), ApiError> {
    match lock.carried() {
        Some(text) if task.lock.as_ref() != Some(&text) => {
            tasks::set_configuration(client, id, task::LOCK, &text, ABOUT).await
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clearml::testing::{client, serve};
    use crate::digest::Digest;
    use crate::lock::{CodePart, GitPart};

    const COMMIT: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    fn lock() -> Lock {
        let digest = Digest::of("x");
        let text = format!(
            "version = 2\nformat = {format}\ncreated = 1\nguest = \"{digest}\"\nbytecode = true\n\
             [base]\nname = \"docker.io/library/python:3.11\"\nsource = \"docker.io/library/python@{digest}\"\n\
             config = \"{digest}\"\nplatform = {{ os = \"linux\", architecture = \"amd64\" }}\nlayers = []\n\
             [python]\nversion = \"3.11.2\"\nexecutable = \"/usr/bin/python3.11\"\nlibc = \"glibc 2.36\"\n\
             digest = \"{digest}\"\nsite_packages = true\n\
             [[python.distributions]]\nname = \"six\"\nversion = \"1.16.0\"\nfile = \"six.whl\"\nsha256 = \"{digest}\"\nsize = 1\n\
             [launch]\nmode = \"reuse_task\"\nname = \"n\"\nentry_point = []\nworking_dir = \"\"\n\
             record = {{ sha256 = \"{record}\", text = \"r\" }}\n",
            format = crate::lock::FORMAT,
            record = Digest::of("r"),
        );
        let mut lock = Lock::parse("test", &text, |_| unreachable!()).unwrap();
        let git = GitPart { url: None, commit: COMMIT.to_owned(), tree: String::new(), submodules: Vec::new() };
        lock.code = Some(CodePart { git: Some(git), diff: None, script: None, tree: digest });
        lock
    }

    /// The calls that writing back makes for a task, and what it answers; one endpoint may be refused.
    async fn calls(task: Value, refused: &'static str) -> (Vec<(String, Value)>, Result<(), ApiError>) {
        let (url, calls) = serve(move |call| match call.path.rsplit('/').next().unwrap_or_default() {
            "auth.login" => Ok(json!({ "token": "t" })),
            "tasks.get_by_id" => Ok(json!({ "task": task })),
            name if name == refused => Err((400, 110, "Invalid task status")),
            _ => Ok(json!({ "updated": 1 })),
        });
        let client = client(url);
        let result = after_build(&client, "ab", &lock()).await;
        let calls = calls.lock().unwrap();
        let found = calls.iter().skip(2).map(|it| {
            let name = it.path.rsplit('/').next().unwrap().to_owned();
            (name, serde_json::from_slice(&it.body).unwrap())
        });
        (found.collect(), result)
    }

    #[tokio::test]
    async fn a_run_pins_and_keeps_what_the_user_wrote() {
        let requirements = json!({"pip": "six\n", "conda": "", "org_conda": "x"});
        let task = json!({"id": "ab", "name": "n", "script": {"branch": "main", "requirements": requirements}});
        let (calls, result) = calls(task, "").await;
        result.unwrap();
        let names: Vec<&str> = calls.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(names, ["tasks.edit", "tasks.set_requirements", "tasks.edit_configuration"]);
        assert_eq!(calls[0].1, json!({"task": "ab", "force": true, "script": {"version_num": COMMIT}}));
        let pinned = json!({"pip": ["six==1.16.0"], "org_pip": "six\n", "conda": "", "org_conda": "x"});
        assert_eq!(calls[1].1["requirements"], pinned);
        let item = &calls[2].1["configuration"][0];
        assert_eq!((&item["name"], &item["type"]), (&json!("agent-lock"), &json!("text")));
        assert!(calls[2].1.get("replace_configuration").is_none(), "others' objects stay");
        assert_eq!(item["value"], json!(lock().carried().unwrap()));
    }

    #[tokio::test]
    async fn what_is_written_already_is_not_written_again() {
        let task = json!({
            "id": "ab", "name": "n",
            "script": {"version_num": COMMIT, "requirements": {"pip": ["six==1.16.0"], "org_pip": "six\n"}},
            "configuration": {"agent-lock": {"name": "agent-lock", "value": lock().carried().unwrap()}},
        });
        let (calls, result) = calls(task, "").await;
        result.unwrap();
        assert_eq!(calls, []);
    }

    #[tokio::test]
    async fn what_is_refused_does_not_keep_the_rest_from_being_written() {
        let task = json!({"id": "ab", "name": "n", "script": {"requirements": {"pip": "six", "org_pip": "older"}}});
        let (calls, result) = calls(task, "tasks.edit").await;
        assert!(matches!(result, Err(ApiError::Refused { .. })), "{result:?}");
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[1].1["requirements"]["org_pip"], "older", "kept once");
    }
}

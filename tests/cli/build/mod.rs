//! The whole road: a task becomes a lock, an image and a run, and the same lock the same image.

mod denied;
mod determinism;
mod edits;
mod failures;
mod full;
mod interrupted;
mod lines;
mod lockfiles;
mod python;
mod road;
mod told;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Repository, TestContext, base, write};

/// A task of a small repository with an uncommitted change and one requirement.
pub(crate) struct Sample<'a> {
    pub(crate) context: &'a TestContext,
    pub(crate) repository: Repository<'a>,
    pub(crate) task: Value,
}

const TRAIN: &str = "\
import six, sys
import helper
print('six', six.__version__, helper.NAME, *sys.argv[1:])
";

impl<'a> Sample<'a> {
    pub(crate) fn new(context: &'a TestContext) -> Self {
        let repository = Repository::new(context, "project");
        let commit = repository.commit(&[("train.py", TRAIN), ("helper.py", "NAME = 'committed'\n")]);
        write(&repository.path().join("helper.py"), "NAME = 'changed'\n");
        let task = json!({
            "id": "0123456789abcdef0123456789abcdef",
            "name": "sample",
            "script": {
                "repository": repository.url(),
                "version_num": commit,
                "branch": "main",
                "entry_point": "train.py --epochs 3",
                "working_dir": ".",
                "binary": "python3",
                "diff": repository.diff(),
                "requirements": {"pip": "six==1.16.0\n"},
            },
            "hyperparams": {"Args": {"epochs": {"section": "Args", "name": "epochs", "value": "3"}}},
        });
        Self { context, repository, task }
    }

    /// Writes the task's file.
    pub(crate) fn file(&self) -> PathBuf {
        let path = self.context.path("task.json");
        write(&path, &serde_json::to_string_pretty(&self.task).unwrap());
        path
    }

    /// Builds it into an OCI layout with more arguments; the manifest digest.
    pub(crate) fn build(&self, arguments: &[&str]) -> String {
        built(self.context, |call| {
            call.arg("--task").arg(self.file()).arg("--docker").arg(base_argument()).args(arguments)
        })
    }

    /// Locks it.
    pub(crate) fn lock(&self, arguments: &[&str]) -> PathBuf {
        let lock = self.context.path("agent.lock");
        let call = self.context.agent().arg("lock").arg("--task").arg(self.file()).arg("--docker").arg(base_argument());
        call.args(arguments).arg("--lock-file").arg(&lock).ok();
        lock
    }
}

/// The base of the tests, as `--docker` takes it.
pub(crate) fn base_argument() -> String {
    format!("oci:{}", base().display())
}

/// Runs `agent build` into the layout `image` of the world; the manifest digest.
pub(crate) fn built(
    context: &TestContext,
    arguments: impl FnOnce(crate::support::Call) -> crate::support::Call,
) -> String {
    let metadata = context.path("metadata.json");
    let output = format!("type=oci,dest={}", context.path("image").display());
    let call = context.agent().arg("build");
    arguments(call).args(["--target", "sample:1", "-o", &output, "--metadata-file"]).arg(&metadata).ok();
    let metadata: Value = serde_json::from_slice(&fs_err::read(metadata).unwrap()).unwrap();
    metadata["containerimage.digest"].as_str().unwrap().to_owned()
}

/// Media type and digest of every layer of an image in the layout, with what its history calls it.
pub(crate) fn layers(context: &TestContext, manifest: &str) -> Vec<(String, String)> {
    let blob = |digest: &str| -> Value {
        let path = context.path("image/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
    };
    let manifest = blob(manifest);
    let config = blob(manifest["config"]["digest"].as_str().unwrap());
    let history: Vec<&Value> =
        config["history"].as_array().unwrap().iter().filter(|it| it["empty_layer"] != json!(true)).collect();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(history.len(), layers.len());
    let name = |it: &Value| it["created_by"].as_str().unwrap_or_default().to_owned();
    history.iter().zip(layers).map(|(told, layer)| (name(told), layer["digest"].as_str().unwrap().to_owned())).collect()
}

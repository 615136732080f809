//! A ClearML server of a test's own: the program under test as `agent server`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::{Value, json};

use super::call::Running;
use super::{TestContext, wait_for};

/// How long one request may take: machines are busy at times.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running server; killed with the guard.
pub(crate) struct Server {
    program: Running,
    data: PathBuf,
    api: String,
    files: String,
    authorization: (String, String),
    client: Client,
}

impl Server {
    /// Starts one on a directory of the world, and waits until it answers.
    pub(crate) fn start(context: &TestContext) -> Self {
        Self::start_in(context, "server")
    }

    /// The same with a directory of another name; a directory used before goes on as it was left.
    pub(crate) fn start_in(context: &TestContext, name: &str) -> Self {
        Self::launch(context, name, "127.0.0.1")
    }

    /// One that is reached from other networks, at an address of this machine.
    pub(crate) fn start_at(context: &TestContext, address: &str) -> Self {
        Self::launch(context, "server", address)
    }

    fn launch(context: &TestContext, name: &str, address: &str) -> Self {
        let data = context.path(name);
        let output = context.path(format!("{name}.log"));
        let _ = fs_err::remove_file(&output);
        let call = context.agent().args(["--json", "server", "--listen", &format!("{address}:0"), "--data"]).arg(&data);
        let mut program = call.spawn(&output);
        let said: Value = wait_for("the server says where it listens", || {
            let text = fs_err::read_to_string(&output).unwrap_or_default();
            assert!(!program.ended(), "the server ended: {text}");
            text.lines().find_map(|it| serde_json::from_str(it).ok())
        });
        let word = |field: &str| said[field].as_str().unwrap().to_owned();
        let config = fs_err::read_to_string(word("config")).unwrap();
        agent::http::init_tls();
        let client = Client::builder().no_proxy().timeout(PATIENCE).connect_timeout(PATIENCE).build().unwrap();
        let authorization = (setting(&config, "access_key"), setting(&config, "secret_key"));
        let server = Self { program, data, api: word("api"), files: word("files"), authorization, client };
        wait_for("the server answers", || server.try_call("debug.ping", &json!({})).ok());
        server
    }

    /// The API's address.
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    /// The file server's address.
    pub(crate) fn files(&self) -> &str {
        &self.files
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The configuration file for clients.
    pub(crate) fn config(&self) -> PathBuf {
        self.data.join("clearml.conf")
    }

    /// Access key and secret key.
    pub(crate) fn credentials(&self) -> (&str, &str) {
        (&self.authorization.0, &self.authorization.1)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Kills it at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.program.kill();
    }

    /// Asks it to end, as Ctrl-C or a service manager does, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.program.signal(rustix::process::Signal::TERM);
        self.program.wait();
    }

    /// One try of a call: the whole answer, whatever its code.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn try_call(&self, name: &str, body: &Value) -> reqwest::Result<Value> {
        let (access, secret) = &self.authorization;
        let request = self.client.post(format!("{}/{name}", self.api)).basic_auth(access, Some(secret));
        request.json(body).send()?.json()
    }

    /// The data of a call that must succeed; a connection that breaks is tried anew.
    #[track_caller]
    pub(crate) fn call(&self, name: &str, body: &Value) -> Value {
        let mut answer = wait_for(name, || self.try_call(name, body).ok());
        assert_eq!(answer["meta"]["result_code"], 200, "{name} {body}: {answer}");
        answer["data"].take()
    }

    /// One try of an upload.
    ///
    /// # Errors
    /// The connection's, or the refusal's.
    pub(crate) fn try_upload(&self, path: &str, content: &str) -> reqwest::Result<()> {
        let (access, secret) = &self.authorization;
        let edge = "an-edge-that-no-content-has";
        let body = format!(
            "--{edge}\r\nContent-Disposition: form-data; name=\"{path}\"; filename=\"{path}\"\r\n\r\n{content}\r\n--{edge}--\r\n"
        );
        let request = self.client.post(&self.files).basic_auth(access, Some(secret));
        let request = request.header("Content-Type", format!("multipart/form-data; boundary={edge}"));
        request.body(body).send()?.error_for_status().map(drop)
    }

    /// A file of the file server, if it has it; a connection that breaks is tried anew.
    #[track_caller]
    pub(crate) fn download(&self, path: &str) -> Option<String> {
        let (access, secret) = &self.authorization;
        wait_for(path, || {
            let request = self.client.get(format!("{}/{path}", self.files)).basic_auth(access, Some(secret));
            let answer = request.send().ok()?;
            Some(if answer.status().is_success() { Some(answer.text().ok()?) } else { None })
        })
    }

    /// A task's status.
    #[track_caller]
    pub(crate) fn status(&self, task: &str) -> String {
        let data = self.call("tasks.get_all", &json!({"id": [task], "only_fields": ["status"]}));
        data["tasks"][0]["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a task has ended; how, and all its console said.
    #[track_caller]
    pub(crate) fn ended(&self, task: &str) -> (String, String) {
        let end = Instant::now() + Duration::from_secs(600);
        loop {
            let status = self.status(task);
            let ended = matches!(status.as_str(), "completed" | "failed" | "stopped");
            if ended || Instant::now() > end {
                return (status, self.console(task));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// All that a task's console said.
    #[track_caller]
    pub(crate) fn console(&self, task: &str) -> String {
        let body = json!({"task": task, "batch_size": 10_000, "order": "asc"});
        let data = self.call("events.get_task_log", &body);
        data["events"].as_array().unwrap().iter().map(|it| it["msg"].as_str().unwrap_or_default()).collect()
    }
}

/// A value of a configuration file we wrote.
fn setting(config: &str, name: &str) -> String {
    let line = config.lines().find_map(|it| it.trim().strip_prefix(name)).unwrap();
    line.trim_start_matches([':', ' ']).trim_matches('"').to_owned()
}

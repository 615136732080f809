//! Runs an image without any container engine: its layers unpacked, an overlay, namespaces, and the image's entry point
//! as the first process.
//!
//! The network is the host's. Values of the environment go over a socket, never into an argument. What the run changes
//! on disk ends with it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Explain, Kind};
use crate::report::Reporter;
use crate::sandbox::{Bind, Guest, LayerBlob, Process, Sandbox, SandboxError};
use crate::store::Store;

/// How long a run may take to end after it was asked to: the in-image process reports to the server meanwhile.
const GRACE: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Debug, Clone, Default)]
pub struct NativeSpec {
    /// All layers of the image, bottom first, their blobs in the store.
    pub layers: Vec<LayerBlob>,
    /// The image configuration (image-spec).
    pub config: Value,
    /// Arguments in place of the image's `Cmd`; the image's own when empty.
    pub arguments: Vec<String>,
    /// Variables on top of the image's own; may hold secrets.
    pub env: BTreeMap<String, String>,
    /// User in place of the image's own, as in an image configuration: `1000`, `name:group`.
    pub user: Option<String>,
    /// What of the host is seen inside.
    pub binds: Vec<Bind>,
    /// Whether the root cannot be written to.
    pub read_only: bool,
    /// Host name inside.
    pub hostname: String,
}

/// Why an image cannot be run natively.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// Nothing says what to run.
    #[error("the image has neither an entry point nor a command")]
    NoCommand,
    /// The user does not exist.
    #[error("the image's user `{user}` stands in neither /etc/passwd nor /etc/group of it")]
    User {
        /// As the image has it.
        user: String,
    },
    /// Signals cannot be heard.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The thread that waits ended.
    #[error("the run was lost sight of")]
    Lost,
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl Explain for NativeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoCommand | Self::User { .. } => Kind::Input,
            Self::Signals(error) => Kind::of_io(error),
            Self::Lost => Kind::Internal,
            Self::Sandbox(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoCommand => vec!["Say what to run after the image's name.".to_owned()],
            Self::Sandbox(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// A run that goes on until it ends; ended (KILL) when dropped.
#[derive(Debug)]
pub struct NativeRun {
    process: Process,
    // Below the process: it goes after it.
    _sandbox: Sandbox,
}

/// Starts an image. To be called outside of async code: unpacking takes its time.
///
/// # Errors
/// [`NativeError`]; there being no sandbox is told before anything is unpacked.
pub fn start(
    store: &Store,
    spec: &NativeSpec,
    streams: (Stdio, Stdio, Stdio),
    reporter: &dyn Reporter,
) -> Result<NativeRun, NativeError> {
    let words = |name: &str| -> Vec<String> {
        let list = spec.config["config"][name].as_array().into_iter().flatten();
        list.filter_map(|it| it.as_str().map(str::to_owned)).collect()
    };
    let text = |name: &str| spec.config["config"][name].as_str().unwrap_or_default().to_owned();
    let mut argv = words("Entrypoint");
    argv.extend(if spec.arguments.is_empty() { words("Cmd") } else { spec.arguments.clone() });
    if argv.is_empty() {
        return Err(NativeError::NoCommand);
    }
    let sandbox = Sandbox::open(store, &spec.layers, reporter)?;
    let user = spec.user.clone().unwrap_or_else(|| text("User"));
    let account = Account::find(&sandbox, &user)?;
    let mut env: BTreeMap<String, String> =
        words("Env").iter().filter_map(|it| it.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    env.entry("HOME".to_owned()).or_insert_with(|| account.home.clone());
    if !spec.hostname.is_empty() {
        env.insert("HOSTNAME".to_owned(), spec.hostname.clone());
    }
    env.extend(spec.env.clone());
    let guest = Guest {
        argv,
        env,
        directory: Some(text("WorkingDir")).filter(|it| !it.is_empty()).unwrap_or_else(|| "/".to_owned()),
        user: account.ids,
        groups: account.groups,
        binds: spec.binds.clone(),
        network: true,
        read_only: spec.read_only,
        hostname: spec.hostname.clone(),
    };
    let process = sandbox.start(&guest, streams)?;
    Ok(NativeRun { process, _sandbox: sandbox })
}

impl NativeRun {
    /// Sends a signal to the image's first process.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end: the exit code. `None` when it goes on after `patience`.
    ///
    /// # Errors
    /// [`SandboxError`] when the program could not be started after all.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Option<i32>, SandboxError> {
        self.process.wait(patience)
    }

    /// Waits for the end and hands on the signals this process gets meanwhile. What was asked to end and does not is
    /// killed, after a while or when asked again.
    ///
    /// # Errors
    /// [`NativeError`]
    pub async fn attend(self, mut signals: Signals) -> Result<i32, NativeError> {
        let run = std::sync::Arc::new(self);
        let waiting = std::sync::Arc::clone(&run);
        let mut end = tokio::task::spawn_blocking(move || waiting.wait(None));
        let mut asked = false;
        let mut deadline = Box::pin(tokio::time::sleep(Duration::MAX / 4));
        loop {
            let heard = tokio::select! {
                ended = &mut end => {
                    return Ok(ended.map_err(|_| NativeError::Lost)??.unwrap_or(1));
                }
                heard = signals.next() => heard,
                () = &mut deadline, if asked => Signal::KILL,
            };
            run.signal(if asked { Signal::KILL } else { heard });
            if !asked {
                asked = true;
                deadline = Box::pin(tokio::time::sleep(GRACE));
            }
        }
    }
}

/// The signals that a run is handed, heard from the moment this is made: before it starts, so that none ends us and
/// leaves it behind.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`NativeError::Signals`]
    pub fn listen() -> Result<Self, NativeError> {
        let listen = |kind| signal(kind).map_err(NativeError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// Who the image's program is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    ids: Option<(u32, u32)>,
    groups: Vec<u32>,
    home: String,
}

impl Account {
    fn find(sandbox: &Sandbox, user: &str) -> Result<Self, NativeError> {
        let read = |path| String::from_utf8_lossy(&sandbox.file(path).unwrap_or_default()).into_owned();
        Self::parse(user, &read("etc/passwd"), &read("etc/group"))
            .ok_or_else(|| NativeError::User { user: user.to_owned() })
    }

    /// `user`, `uid`, `user:group`, `uid:gid` (image-spec, "config.User"); empty is root.
    fn parse(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let name = if name.is_empty() { "0" } else { name };
        let lines = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|it| it.split(':').map(str::to_owned).collect()).collect()
        };
        let accounts = lines(passwd);
        let account = accounts.iter().find(|it| it.first().is_some_and(|it| it == name)).or_else(|| {
            name.parse::<u32>().ok()?;
            accounts.iter().find(|it| it.get(2).is_some_and(|it| it == name))
        });
        let field = |index: usize| account.and_then(|it| it.get(index)?.parse::<u32>().ok());
        let uid = field(2).or_else(|| name.parse().ok())?;
        let groups = lines(group);
        let gid = match group_name {
            Some(group) => group.parse().ok().or_else(|| {
                let found = groups.iter().find(|it| it.first().is_some_and(|it| it == group))?;
                found.get(2)?.parse().ok()
            })?,
            None => field(3).unwrap_or(0),
        };
        let own = account.and_then(|it| it.first().cloned()).unwrap_or_default();
        let member =
            |it: &&Vec<String>| it.get(3).is_some_and(|it| it.split(',').any(|it| it == own && !own.is_empty()));
        let further = match group_name {
            Some(_) => Vec::new(),
            None => groups.iter().filter(member).filter_map(|it| it.get(2)?.parse().ok()).collect(),
        };
        let home = account.and_then(|it| it.get(5).cloned()).filter(|it| !it.is_empty());
        let home = home.unwrap_or_else(|| if uid == 0 { "/root" } else { "/" }.to_owned());
        Some(Self { ids: ((uid, gid) != (0, 0)).then_some((uid, gid)), groups: further, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nml:x:1000:1001:,,,:/home/ml:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nml:x:1001:\nvideo:x:44:ml,other\n";

    fn parse(user: &str) -> Option<Account> {
        Account::parse(user, PASSWD, GROUP)
    }

    fn account(ids: Option<(u32, u32)>, groups: &[u32], home: &str) -> Option<Account> {
        Some(Account { ids, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_are_names_or_numbers_with_or_without_a_group() {
        assert_eq!(parse(""), account(None, &[], "/root"));
        assert_eq!(parse("ml"), account(Some((1000, 1001)), &[44], "/home/ml"));
        assert_eq!(parse("1000"), parse("ml"));
        assert_eq!(parse("ml:video"), account(Some((1000, 44)), &[], "/home/ml"));
        assert_eq!(parse("7:8"), account(Some((7, 8)), &[], "/"));
        assert_eq!((parse("nobody"), parse("ml:nogroup")), (None, None));
    }
}

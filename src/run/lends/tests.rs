//! What is lent of a made-up home.

use super::*;
use crate::config::Config;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        for (path, text) in [
            (".ssh/id_ed25519", "key"),
            (".ssh/config", "Host *"),
            (".ssh/keys/other", "other"),
            (".gitconfig", "[user]"),
            (".git-credentials", "https://u:p@h"),
        ] {
            let path = home.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(home.path("run")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lend(&self, config: &str, machine: &[(&str, &str)], account: Option<&Account>) -> Result<Lent, LendError> {
        let home = self.dir.path().to_str().unwrap();
        let text: String = std::iter::once(("HOME", home))
            .chain(machine.iter().copied())
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let pairs: Vec<(&str, &str)> = text.lines().filter_map(|it| it.split_once('=')).collect();
        let none = ("UNUSED", "");
        let at = |index: usize| pairs.get(index).copied().unwrap_or(none);
        let machine = Environment::of([at(0), at(1), at(2)]);
        let agent = Config::from_text("test", config, &Environment::default()).unwrap().agent().unwrap();
        lend(&Lending { agent: &agent, machine: &machine, account, directory: &self.path("run") })
    }
}

fn own() -> Account {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Account { owner, home: "/root".to_owned() }
}

fn targets(lent: &Lent) -> Vec<(&str, bool)> {
    lent.binds.iter().map(|it| (it.target.as_str(), it.read_only)).collect()
}

#[test]
fn keys_and_credentials_are_copies_that_only_their_reader_sees() {
    let home = Home::new();
    let lent = home.lend("", &[], Some(&own())).unwrap();
    let all = [
        ("/clearml_agent_cache", false),
        ("/root/.ssh", true),
        ("/root/.git-credentials", true),
        ("/root/.gitconfig", true),
    ];
    assert_eq!(targets(&lent), all);
    assert_eq!(lent.env["CLEARML_CACHE_DIR"], "/clearml_agent_cache");
    assert!(home.path(".clearml/cache").is_dir() && lent.warnings.is_empty());
    for (path, mode) in [("ssh", 0o700), ("ssh/keys", 0o700), ("ssh/keys/other", 0o600), ("git-credentials", 0o600)] {
        let found = fs::metadata(home.path("run").join(path)).unwrap();
        assert_eq!((found.mode() & 0o777, (found.uid(), found.gid())), (mode, own().owner), "{path}");
    }
    assert_eq!(fs::read_to_string(home.path("run/ssh/config")).unwrap(), "Host *");
    // A start that is tried again.
    fs::remove_file(home.path(".ssh/config")).unwrap();
    drop(home.lend("", &[], Some(&own())).unwrap());
    assert!(!home.path("run/ssh/config").exists());
}

#[test]
fn what_is_switched_off_is_not_lent() {
    let home = Home::new();
    let ssh = |config: &str, machine: &[(&str, &str)]| {
        let lent = home.lend(config, machine, Some(&own())).unwrap();
        lent.binds.iter().any(|it| it.target.ends_with(".ssh"))
    };
    assert!(ssh("", &[]));
    assert!(!ssh("agent.disable_ssh_mount = true", &[]));
    assert!(!ssh("", &[("CLEARML_AGENT_DISABLE_SSH_MOUNT", "1")]));
    let unknown = home.lend("", &[], None).unwrap();
    assert_eq!(targets(&unknown), [("/clearml_agent_cache", false)]);
    assert!(unknown.warnings[0].contains("its home is not known"));
}

#[test]
fn an_ssh_agent_takes_the_keys_place() {
    let home = Home::new();
    let socket = home.path("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let lent = home.lend("", &[("SSH_AUTH_SOCK", socket.to_str().unwrap())], Some(&own())).unwrap();
    assert!(targets(&lent).contains(&(AGENT_SOCKET, true)) && !home.path("run/ssh").exists());
    assert_eq!(lent.env["SSH_AUTH_SOCK"], AGENT_SOCKET);
}

#[test]
fn an_agent_in_a_pod_names_the_nodes_paths() {
    let home = Home::new();
    let mount = format!("/node/share:{}", home.path("run").display());
    let lent = home.lend("", &[("CLEARML_AGENT_K8S_HOST_MOUNT", &mount)], Some(&own())).unwrap();
    let sources: Vec<_> = lent.binds.iter().map(|it| it.source.as_str()).collect();
    assert_eq!(sources, ["/node/share/ssh", "/node/share/git-credentials", "/node/share/gitconfig"]);
    assert!(lent.warnings[0].contains("is not in the directory shared with the node"));
    let error = home.lend("", &[("CLEARML_AGENT_K8S_HOST_MOUNT", "here")], Some(&own())).unwrap_err();
    assert_eq!(error.to_string(), "CLEARML_AGENT_K8S_HOST_MOUNT is `here`, not `node path:own path`");
}

#[test]
fn accounts_are_known_for_root_alone() {
    assert_eq!(Account::of("", EngineKind::Docker).unwrap().owner, (0, 0));
    assert_eq!(Account::of("root:root", EngineKind::Native).unwrap().owner, own().owner);
    assert_eq!(Account::of("1000", EngineKind::Docker), None);
}

#[test]
fn what_only_the_containers_user_is_to_read_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clearml.conf");
    let (own, group) = own().owner;
    let written = |user: &str, engine, userns| {
        write(&path, b"hush", user, (engine, userns)).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.gid(), group);
        (found.mode() & 0o777, found.uid())
    };
    for root in ["", "0", "root", "root:root", "0:5"] {
        assert_eq!(written(root, EngineKind::Docker, None), (0o600, own), "{root}");
        assert_eq!(written(root, EngineKind::Podman, None), (0o600, own), "{root}");
    }
    // Whoever runs this is root, in a namespace of few users perhaps, or may give nothing away.
    let mine = own.to_string();
    assert_eq!(written(&mine, EngineKind::Docker, None), (0o600, own));
    let another = written("1234:5", EngineKind::Docker, None);
    assert!(another == (0o600, 1234) || (another == (0o644, own) && (own != 0 || !maps(1234))), "{another:?}");
    // Which number these have out here is not known.
    for (user, engine, userns) in [
        ("ml:video", EngineKind::Docker, None),
        ("1234", EngineKind::Docker, Some("keep-id")),
        ("1234", EngineKind::Native, None),
    ] {
        assert_eq!(written(user, engine, userns), (0o644, own), "{user}");
    }
}

/// Whether the user namespace we are in has a user.
fn maps(uid: u32) -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.lines().any(|line| {
        let numbers: Vec<u32> = line.split_whitespace().map(|it| it.parse().unwrap()).collect();
        (numbers[0]..numbers[0].saturating_add(numbers[2])).contains(&uid)
    })
}

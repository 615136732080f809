//! Which package indexes this machine and this task have, and how uv is told.
//!
//! uv's own configuration counts first. Where it has none, what is configured for pip is handed over; where nothing is
//! configured, uv's built-in default stands. Addresses may hold credentials: they travel in environment variables and
//! in memory, never in arguments, messages or locks.

use std::path::{Path, PathBuf};

use fs_err as fs;
use url::Url;

use super::pipconf;
use crate::secret::{Credentials, Secret, split_userinfo};

mod logins;

use logins::Logins;

/// Variables with which a user configures uv's indexes.
const UV_INDEXES: [&str; 6] =
    ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"];

/// The indexes of a resolution.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    /// pip's configuration, handed to uv; empty where uv has its own.
    handed: pipconf::Pip,
    /// `agent.package_manager.extra_index_url`.
    settings: Vec<Secret>,
    /// Addresses the task itself names.
    task: Vec<Secret>,
    /// Hosts of indexes that are this machine's own configuration.
    machine_hosts: Vec<String>,
    /// Who may read what.
    logins: Logins,
    /// Whether the user chose a strategy.
    strategy: bool,
}

impl Indexes {
    /// Reads what this machine has, by these environment variables and the files they lead to.
    #[must_use]
    pub fn of_machine(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut indexes = Self::default();
        let files = uv_files(variable);
        let of_uv: Vec<String> = UV_INDEXES
            .iter()
            .filter_map(|it| variable(it))
            .flat_map(|it| it.split([' ', ',', '\n']).map(str::to_owned).collect::<Vec<_>>())
            .chain(files.iter().flat_map(|it| addresses_in(it)))
            // `UV_INDEX` and uv.toml may name an index: `name=https://…`.
            .map(|it| it.rsplit_once("=http").map_or_else(|| it.clone(), |(_, rest)| format!("http{rest}")))
            .filter(|it| !it.is_empty())
            .collect();
        if of_uv.is_empty() {
            indexes.handed = pipconf::Pip::read(variable);
        }
        let handed: Vec<Secret> = indexes.handed.addresses().cloned().collect();
        for address in of_uv.iter().map(String::as_str).chain(handed.iter().map(Secret::reveal)) {
            indexes.add_own(address);
        }
        for (host, credentials) in netrc(variable) {
            indexes.logins.add_host(host, credentials);
        }
        indexes.strategy = variable("UV_INDEX_STRATEGY").is_some();
        indexes
    }

    /// Adds indexes from the agent's settings.
    pub fn add_settings(&mut self, addresses: &[Secret]) {
        for address in addresses {
            self.add_own(address.reveal());
            self.settings.push(address.clone());
        }
    }

    /// An index of this machine's own configuration.
    fn add_own(&mut self, address: &str) {
        let Ok(url) = Url::parse(address) else { return };
        let (bare, credentials) = split_userinfo(&url);
        let Some(host) = bare.host_str().map(|it| host_key(it, &bare)) else { return };
        self.machine_hosts.push(host);
        self.logins.add_own(bare, credentials);
    }

    /// Adds indexes that the task names.
    pub fn add_task(&mut self, addresses: &[Secret]) {
        // What uv would replace by a variable of its environment is no address: a task could ask for ours.
        for address in addresses.iter().filter(|it| !it.reveal().contains("${")) {
            if let Some((bare, credentials)) = Url::parse(address.reveal()).ok().map(|it| split_userinfo(&it)) {
                self.add_credentials(&bare, credentials);
            }
            self.task.push(address.clone());
        }
    }

    /// Credentials of the indexes that are this machine's own, by host.
    pub fn logins(&self) -> impl Iterator<Item = (String, &Credentials)> {
        self.logins.all().filter(|it| self.machine_hosts.contains(&it.0))
    }

    /// Adds what an address said of who may read it.
    pub fn add_credentials(&mut self, address: &Url, credentials: Option<Credentials>) {
        if let Some(credentials) = credentials {
            self.logins.add(address.clone(), credentials);
        }
    }

    /// What uv is told on top of its own configuration; `links` are directories of wheels besides.
    #[must_use]
    pub fn environment(&self, links: &[&Path]) -> Vec<(String, Secret)> {
        let mut environment = self.handed.environment();
        if !links.is_empty() {
            let handed = environment.iter().position(|it| it.0 == "UV_FIND_LINKS").map(|it| environment.remove(it).1);
            let own = handed.map(|it| it.reveal().to_owned()).or_else(|| std::env::var("UV_FIND_LINKS").ok());
            let all: Vec<String> = own.into_iter().chain(links.iter().map(|it| it.display().to_string())).collect();
            environment.push(("UV_FIND_LINKS".to_owned(), Secret::new(all.join(","))));
        }
        let mut extra: Vec<&str> = self.task.iter().chain(&self.settings).map(Secret::reveal).collect();
        if let Some(own) = environment.iter().position(|it| it.0 == "UV_INDEX") {
            let (_, handed) = environment.remove(own);
            extra.push(handed.reveal());
            environment.push(("UV_INDEX".to_owned(), Secret::new(extra.join(" "))));
        } else if !extra.is_empty() {
            let own = std::env::var("UV_INDEX").unwrap_or_default();
            extra.push(&own);
            environment.push(("UV_INDEX".to_owned(), Secret::new(extra.join(" ").trim())));
        }
        if !self.strategy && environment.iter().any(|it| it.0 == "UV_INDEX") {
            // pip looks at all indexes alike; a task recorded with pip expects that.
            environment.push(("UV_INDEX_STRATEGY".to_owned(), Secret::new("unsafe-best-match")));
        }
        environment
    }

    /// Whether a file's address says something about this machine only, so that a lock must not hold it.
    #[must_use]
    pub fn is_machines_own(&self, address: &Url) -> bool {
        address.scheme() == "file"
            || address.host_str().is_none_or(|it| self.machine_hosts.contains(&host_key(it, address)))
    }

    /// Credentials for an address, where some are known for its place.
    #[must_use]
    pub fn credentials(&self, address: &Url) -> Option<&Credentials> {
        self.logins.of(address)
    }

    /// What of the configuration a resolution depends on, for remembering it. Holds no secret.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<String> {
        let bare = |it: &str| Url::parse(it).map_or_else(|_| it.to_owned(), |url| split_userinfo(&url).0.to_string());
        let mut fields: Vec<String> = self
            .environment(&[])
            .iter()
            .map(|(name, value)| {
                let value: Vec<String> = value.reveal().split(' ').map(bare).collect();
                format!("{name}={}", value.join(" "))
            })
            .collect();
        fields.extend(self.machine_hosts.iter().cloned());
        fields
    }
}

fn host_key(host: &str, url: &Url) -> String {
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The texts of uv's own configuration files.
fn uv_files(variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if variable("UV_NO_CONFIG").is_some() {
        return Vec::new();
    }
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let user = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let files = variable("UV_CONFIG_FILE")
        .map_or_else(|| vec![user.join("uv/uv.toml"), "/etc/uv/uv.toml".into()], |it| vec![PathBuf::from(it)]);
    files.iter().filter_map(|it| fs::read_to_string(it).ok()).collect()
}

/// The addresses of indexes in an uv.toml.
fn addresses_in(text: &str) -> Vec<String> {
    fn collect(value: &toml::Value, found: &mut Vec<String>) {
        match value {
            toml::Value::String(it) => found.push(it.clone()),
            toml::Value::Array(items) => items.iter().for_each(|it| collect(it, found)),
            toml::Value::Table(table) => found.extend(table.get("url").and_then(|it| it.as_str()).map(str::to_owned)),
            _ => {}
        }
    }
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let mut found = Vec::new();
    for table in [Some(&table), table.get("pip").and_then(toml::Value::as_table)].into_iter().flatten() {
        for key in ["index", "index-url", "extra-index-url", "find-links", "default-index"] {
            if let Some(value) = table.get(key) {
                collect(value, &mut found);
            }
        }
    }
    found
}

/// The machines of a netrc file.
fn netrc(variable: &dyn Fn(&str) -> Option<String>) -> Vec<(String, Credentials)> {
    let path = variable("NETRC")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|it| Path::new(&it).join(".netrc")))
        .and_then(|it| fs::read_to_string(it).ok());
    let text = path.unwrap_or_default();
    let mut words = text.split_whitespace();
    let mut machines: Vec<(String, Credentials)> = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "machine" => {
                if let Some(host) = words.next() {
                    let empty = Credentials { user: String::new(), password: Secret::default() };
                    machines.push((host.to_owned(), empty));
                }
            }
            "login" => {
                if let (Some(user), Some((_, last))) = (words.next(), machines.last_mut()) {
                    user.clone_into(&mut last.user);
                }
            }
            "password" => {
                if let (Some(password), Some((_, last))) = (words.next(), machines.last_mut()) {
                    last.password = Secret::new(password);
                }
            }
            "default" => break,
            _ => {}
        }
    }
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(indexes: &Indexes) -> Vec<(String, String)> {
        indexes.environment(&[]).into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect()
    }

    #[test]
    fn pips_configuration_is_handed_over_unless_uv_has_its_own() {
        let home = tempfile::tempdir().unwrap();
        let pip = home.path().join(".config/pip/pip.conf");
        fs::create_dir_all(pip.parent().unwrap()).unwrap();
        fs::write(&pip, "[global]\nindex-url = https://jo:pw@mirror.example/simple\nextra-index-url =\n  https://two.example/a\n  https://three.example/b\n").unwrap();
        let base = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
        let indexes = Indexes::of_machine(&base);
        assert_eq!(
            environment(&indexes),
            [
                ("UV_DEFAULT_INDEX".to_owned(), "https://jo:pw@mirror.example/simple".to_owned()),
                ("UV_INDEX".to_owned(), "https://two.example/a https://three.example/b".to_owned()),
                ("UV_INDEX_STRATEGY".to_owned(), "unsafe-best-match".to_owned()),
            ]
        );
        let wheel = Url::parse("https://mirror.example/files/x.whl").unwrap();
        assert!(indexes.is_machines_own(&wheel));
        assert_eq!(indexes.credentials(&wheel).unwrap().user, "jo");
        assert!(!format!("{indexes:?}{:?}", indexes.fingerprint()).contains("pw"));
        let uv =
            |name: &str| if name == "UV_DEFAULT_INDEX" { Some("https://own.example/s".to_owned()) } else { base(name) };
        let indexes = Indexes::of_machine(&uv);
        assert_eq!(environment(&indexes), []);
        assert!(indexes.is_machines_own(&Url::parse("https://own.example/x.whl").unwrap()));
        assert!(!indexes.is_machines_own(&Url::parse("https://elsewhere.example/x.whl").unwrap()));
    }

    #[test]
    fn uvs_own_file_counts_as_configuration() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".config/uv/uv.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "[[index]]\nname = \"own\"\nurl = \"https://a:b@own.example/simple\"\ndefault = true\n")
            .unwrap();
        fs::write(home.path().join(".netrc"), "machine net.example login u password p\n").unwrap();
        let variable = |name: &str| match name {
            "HOME" => Some(home.path().display().to_string()),
            "PIP_INDEX_URL" => Some("https://pip.example/simple".to_owned()),
            _ => None,
        };
        let indexes = Indexes::of_machine(&variable);
        assert_eq!(environment(&indexes), []);
        assert_eq!(indexes.credentials(&Url::parse("https://own.example/x.whl").unwrap()).unwrap().user, "a");
        assert_eq!(indexes.credentials(&Url::parse("https://net.example/x.whl").unwrap()).unwrap().user, "u");
        let logins: Vec<String> = indexes.logins().map(|it| format!("{} {}", it.0, it.1.user)).collect();
        assert_eq!(logins, ["own.example a"]);
    }

    #[test]
    fn a_password_goes_to_the_place_it_was_given_for() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".netrc"), "machine net.example login net password p\n").unwrap();
        let variable = |name: &str| match name {
            "HOME" => Some(home.path().display().to_string()),
            "UV_DEFAULT_INDEX" => Some("https://one:x@host.example/team/one/simple".to_owned()),
            "UV_INDEX" => Some(
                "https://two:x@host.example/team/two/simple http://plain:x@host.example:8080/simple \
                 http://net.example:8081/simple"
                    .to_owned(),
            ),
            _ => None,
        };
        let indexes = Indexes::of_machine(&variable);
        let user = |address: &str| indexes.credentials(&Url::parse(address).unwrap()).map(|it| it.user.as_str());
        for (address, expected) in [
            ("https://host.example/team/one/simple/x/x.whl", Some("one")),
            ("https://host.example:443/team/two/files/x.whl", Some("two")),
            ("https://host.example/elsewhere/x.whl", Some("one")),
            ("http://host.example:8080/files/x.whl", Some("plain")),
            // Another port, another scheme, another host.
            ("https://host.example:8443/team/one/simple/x.whl", None),
            ("http://host.example/team/one/simple/x.whl", None),
            ("http://host.example:443/team/one/simple/x.whl", None),
            ("https://host.example:8080/simple/x.whl", None),
            ("https://evil.host.example/team/one/simple/x.whl", None),
            ("https://host.example.evil/team/one/simple/x.whl", None),
            // A netrc file has hosts: in the clear only where an index is.
            ("https://net.example/x.whl", Some("net")),
            ("https://net.example:8443/x.whl", Some("net")),
            ("http://net.example:8081/x.whl", Some("net")),
            ("http://net.example/x.whl", None),
            ("ftp://net.example/x.whl", None),
        ] {
            assert_eq!(user(address), expected, "{address}");
        }
    }

    #[test]
    fn a_tasks_own_index_is_asked_too_and_may_be_locked() {
        let mut indexes = Indexes::of_machine(&|_| None);
        indexes.add_task(&[Secret::new("https://k:v@task.example/whl")]);
        assert_eq!(environment(&indexes)[0], ("UV_INDEX".to_owned(), "https://k:v@task.example/whl".to_owned()));
        let wheel = Url::parse("https://task.example/x.whl").unwrap();
        assert!(!indexes.is_machines_own(&wheel));
        assert_eq!(indexes.credentials(&wheel).unwrap().user, "k");
    }
}

//! Who we are to git servers: configured credentials, each for its host, then git's own credential helpers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::address::{Address, SshRules};
use crate::report::{SharedReporter, silent};
use crate::secret::{Credentials, Secret};

/// How repositories are reached.
#[derive(Clone)]
pub struct Access {
    /// Configured credentials, in the order they are tried.
    pub credentials: Vec<HostCredentials>,
    /// Whether git's configured credential helpers are asked last.
    pub helpers: bool,
    /// How addresses are rewritten.
    pub ssh: SshRules,
    /// How long to wait for another process that fetches the same repository.
    pub patience: Duration,
    /// Set to stop a fetch.
    pub interrupt: Arc<AtomicBool>,
    /// Hears what is fetched.
    pub reporter: SharedReporter,
    /// Whether no server may be asked: [`super::GitError::Offline`].
    pub offline: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            credentials: Vec::new(),
            helpers: true,
            ssh: SshRules::default(),
            patience: Duration::from_secs(1800),
            interrupt: Arc::default(),
            reporter: silent(),
            offline: crate::http::is_offline(),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("credentials", &self.credentials).field("ssh", &self.ssh).finish_non_exhaustive()
    }
}

/// Configured credentials (`agent.git_user`, `agent.git.extra_credentials`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCredentials {
    /// The only host they are for; any, if absent.
    pub host: Option<String>,
    /// Whether `host` is the beginning of the whole address instead (`agent.git_host_match_prefix`).
    pub prefix: bool,
    /// User and password.
    pub credentials: Credentials,
    /// How they are sent.
    pub scheme: Scheme,
}

/// How credentials are sent over http.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// User and password, once the server asks.
    Basic,
    /// User and password with the first request, the user empty (Azure personal access tokens).
    BasicAtOnce,
    /// The password as bearer token with the first request (Microsoft Entra).
    Bearer,
}

impl HostCredentials {
    /// User and password for a host, or for any.
    #[must_use]
    pub fn basic(host: Option<&str>, user: &str, password: &str) -> Self {
        let credentials = Credentials { user: user.to_owned(), password: Secret::new(password) };
        Self { host: host.map(str::to_owned), prefix: false, credentials, scheme: Scheme::Basic }
    }

    fn fits(&self, url: &gix::Url) -> bool {
        let Some(wanted) = &self.host else { return true };
        if self.prefix {
            let mut bare = url.clone();
            bare.set_user(None);
            bare.set_password(None);
            return bare.to_bstring().starts_with(wanted.as_bytes());
        }
        url.host().is_some_and(|host| host.eq_ignore_ascii_case(wanted))
    }

    /// Over plain http only what is meant for this very host is sent: anybody on the way can read it.
    fn may_be_sent(&self, url: &gix::Url) -> bool {
        url.scheme != gix::url::Scheme::Http || self.host.is_some() || is_loopback(url)
    }
}

fn is_loopback(url: &gix::Url) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}

/// One way to introduce ourselves.
#[derive(Debug, Clone)]
pub(super) enum Candidate {
    /// These credentials.
    Given(Credentials, Scheme),
    /// Whatever git's credential helpers say, for this user if one is known.
    Helpers(Option<String>),
}

impl Candidate {
    /// The header to send with every request, for schemes that do not wait to be asked.
    pub(super) fn header(&self) -> Option<Secret> {
        use base64::Engine as _;
        let Self::Given(credentials, scheme) = self else { return None };
        let password = credentials.password.reveal();
        match scheme {
            Scheme::Basic => None,
            Scheme::BasicAtOnce => {
                let text = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", credentials.user));
                Some(Secret::new(format!("Basic {text}")))
            }
            Scheme::Bearer => Some(Secret::new(format!("Bearer {password}"))),
        }
    }
}

impl Access {
    /// Whether there are credentials meant for this address.
    pub(super) fn is_configured_for(&self, url: &gix::Url) -> bool {
        self.credentials.iter().any(|it| it.fits(url))
    }

    /// All ways to introduce ourselves to a server, in order. There is always one, so that a server that wants nothing
    /// is asked as well.
    pub(super) fn candidates(&self, address: &Address, url: &gix::Url) -> Vec<Candidate> {
        // What names no host of its own is meant for the repository's, not for one that the repository's files name.
        let at_home = address.is_at(url);
        let named = address.credentials().filter(|_| at_home);
        let own = named.filter(|it| !it.password.is_empty() || !self.helpers);
        let own = own.map(|it| Candidate::Given(it.clone(), Scheme::Basic));
        let configured = (self.credentials.iter())
            .filter(|it| it.fits(url) && it.may_be_sent(url) && (at_home || it.host.is_some()))
            .map(|it| Candidate::Given(it.credentials.clone(), it.scheme));
        let user = named.map(|it| it.user.clone()).filter(|it| !it.is_empty());
        // A user without a password is often a token; asked after those that have one.
        let token = named.filter(|it| it.password.is_empty() && self.helpers);
        let token = token.map(|it| Candidate::Given(it.clone(), Scheme::Basic));
        own.into_iter().chain(configured).chain(token).chain([Candidate::Helpers(user)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(access: &Access, text: &str) -> Vec<String> {
        let address = Address::parse(text).unwrap();
        let url = address.effective(access);
        (access.candidates(&address, &url).iter())
            .map(|it| match it {
                Candidate::Given(credentials, _) => credentials.user.clone(),
                Candidate::Helpers(user) => format!("helpers for {user:?}"),
            })
            .collect()
    }

    #[test]
    fn credentials_go_to_their_host_only() {
        let prefix = HostCredentials { prefix: true, ..HostCredentials::basic(Some("https://h/team/"), "team", "p") };
        let access = Access {
            credentials: vec![
                HostCredentials::basic(Some("other"), "other", "p"),
                prefix,
                HostCredentials::basic(Some("H"), "host", "p"),
                HostCredentials::basic(None, "any", "p"),
            ],
            ..Access::default()
        };
        assert_eq!(users(&access, "https://h/team/x"), ["team", "host", "any", "helpers for None"]);
        assert_eq!(users(&access, "https://h.evil.org/team/x"), ["any", "helpers for None"]);
        assert_eq!(users(&access, "https://jo:p@h/x"), ["jo", "host", "any", "helpers for Some(\"jo\")"]);
        // In the clear only to the host they are limited to.
        assert_eq!(users(&access, "http://h/x"), ["host", "helpers for None"]);
        assert_eq!(users(&access, "http://127.0.0.1:8000/x"), ["any", "helpers for None"]);
        assert!(!format!("{access:?}").contains("\"p\""));
    }

    #[test]
    fn tokens_that_are_sent_at_once_become_headers() {
        let given = |scheme| {
            let credentials = Credentials { user: String::new(), password: Secret::new("tok") };
            Candidate::Given(credentials, scheme).header().map(|it| it.reveal().to_owned())
        };
        assert_eq!(given(Scheme::Basic), None);
        assert_eq!(given(Scheme::BasicAtOnce).unwrap(), "Basic OnRvaw==");
        assert_eq!(given(Scheme::Bearer).unwrap(), "Bearer tok");
    }
}

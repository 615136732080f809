//! Addresses of repositories: read, freed of userinfo, rewritten between https and ssh, resolved for submodules.

use std::fmt;
use std::path::{Path, PathBuf};

use gix::url::Scheme;

use super::GitError;
use super::credential::Access;
use crate::secret::{Credentials, Secret};

/// Where a repository is: `https://`, `http://`, `ssh://`, `git://`, `file://`, `user@host:path` or a directory.
///
/// Shown without userinfo. The user of an ssh address is no secret and part of it (`git@`); its password is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: gix::Url,
    credentials: Option<Credentials>,
}

/// How https and ssh addresses are rewritten on their way to the server (`agent.force_git_ssh_protocol` and its kin).
/// The lock keeps the address as recorded.
#[derive(Debug, Clone, Default)]
pub struct SshRules {
    /// https becomes ssh.
    pub force: bool,
    /// The only host `force` is for (`agent.git_host`); all, if absent.
    pub host: Option<String>,
    /// Port of ssh addresses that `force` makes or touches.
    pub port: Option<u16>,
    /// User of ssh addresses that `force` makes (`git` if absent) or touches.
    pub user: Option<String>,
    /// ssh becomes https where credentials for the host are configured (`agent.translate_ssh`).
    pub translate: bool,
    /// Use `http` instead of `https` for that (`agent.translate_ssl_replacement_scheme`).
    pub plain_http: bool,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`GitError::Address`] for what no git would take, and for remote helpers (`ext::`), which run programs.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let text = text.trim();
        let wrong = || GitError::Address { address: without_userinfo(text) };
        let mut url = gix::url::parse(text.as_bytes()).map_err(|_| wrong())?;
        let known = matches!(url.scheme, Scheme::Https | Scheme::Http | Scheme::Ssh | Scheme::Git | Scheme::File);
        if text.is_empty() || !known || (url.scheme != Scheme::File && url.host().is_none_or(str::is_empty)) {
            return Err(wrong());
        }
        let is_http = matches!(url.scheme, Scheme::Https | Scheme::Http);
        let password = url.set_password(None);
        let user = if is_http { url.set_user(None) } else { None };
        let credentials = is_http.then_some(()).and_then(|()| {
            let user = user.unwrap_or_default();
            let password = Secret::new(password.unwrap_or_default());
            (!user.is_empty() || !password.is_empty()).then_some(Credentials { user, password })
        });
        Ok(Self { url, credentials })
    }

    /// The directory it names, if it is one of this machine.
    #[must_use]
    pub fn local_path(&self) -> Option<PathBuf> {
        (self.url.scheme == Scheme::File).then(|| crate::fs::expand_home(&self.url.path.to_string()))
    }

    /// What the userinfo said, for http.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Whether an address is on the same host, and not in the clear where this one is not.
    pub(super) fn is_at(&self, url: &gix::Url) -> bool {
        let same = url.host().zip(self.url.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        same && (url.scheme != Scheme::Http || self.url.scheme != Scheme::Https)
    }

    /// The address to ask, by the rules given.
    pub(super) fn effective(&self, access: &Access) -> gix::Url {
        let rules = &access.ssh;
        let mut url = self.url.clone();
        let host = url.host().unwrap_or_default().to_owned();
        if rules.force && rules.host.as_deref().is_none_or(|it| it.eq_ignore_ascii_case(&host)) {
            match url.scheme {
                Scheme::Https => {
                    url.scheme = Scheme::Ssh;
                    url.port = rules.port;
                    url.set_user(Some(rules.user.clone().unwrap_or_else(|| "git".to_owned())));
                    return url;
                }
                // `user@host:path` is left alone, as the original does.
                Scheme::Ssh if !url.serialize_alternative_form => {
                    if rules.port.is_some() || rules.user.is_some() {
                        url.port = rules.port;
                        url.set_user(Some(rules.user.clone().unwrap_or_else(|| "git".to_owned())));
                    }
                    return url;
                }
                _ => {}
            }
        }
        if rules.translate && url.scheme == Scheme::Ssh && access.is_configured_for(&url) {
            url.scheme = if rules.plain_http { Scheme::Http } else { Scheme::Https };
            url.serialize_alternative_form = false;
            // The ssh port says nothing about where the web server listens.
            url.port = None;
            url.set_user(None);
            if !url.path.starts_with(b"/") {
                url.path.insert(0, b'/');
            }
        }
        url
    }

    /// The address of a submodule: `./x` and `../x` are relative to this one.
    pub(super) fn submodule(&self, text: &str) -> Result<Self, GitError> {
        if !text.starts_with("./") && !text.starts_with("../") {
            let address = Self::parse(text)?;
            // A repository from elsewhere must not have this machine's own repositories copied into its checkout.
            if address.url.scheme == Scheme::File && self.url.scheme != Scheme::File {
                return Err(GitError::Address { address: address.to_string() });
            }
            return Ok(address);
        }
        let wrong = || GitError::Address { address: format!("{self}/{text}") };
        let path = self.url.path.to_string();
        let rooted = path.starts_with('/');
        let mut parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
        for part in text.split('/').filter(|it| !it.is_empty() && *it != ".") {
            if part != ".." {
                parts.push(part);
            } else if parts.pop().is_none() {
                return Err(wrong());
            }
        }
        let mut resolved = self.clone();
        resolved.url.path = format!("{}{}", if rooted { "/" } else { "" }, parts.join("/")).into();
        // Parsed anew, so that nothing of the old path is kept beside the new one.
        let url = gix::url::parse(resolved.url.to_bstring().as_slice()).map_err(|_| wrong())?;
        Ok(Self { url, credentials: self.credentials.clone() })
    }

    /// The last part of the path, for names of files and messages.
    #[must_use]
    pub fn name(&self) -> String {
        let path = self.url.path.to_string();
        let last = path.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        let name = last.strip_suffix(".git").unwrap_or(last);
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect()
    }

    /// The absolute form of a directory's address; others stay as they are.
    pub(super) fn absolute(mut self) -> Self {
        if let Some(path) = self.local_path()
            && let Ok(path) = std::path::absolute(&path)
        {
            let path: &Path = &path;
            self.url.path = path.to_string_lossy().into_owned().into();
        }
        self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.to_bstring().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that may be a damaged address, without anything that could be its userinfo.
fn without_userinfo(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(at)) if start + 3 <= at => format!("{}****{}", &text[..start + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HostCredentials;

    fn shown(text: &str) -> String {
        Address::parse(text).unwrap().to_string()
    }

    #[test]
    fn userinfo_is_taken_out_and_never_shown() {
        let address = Address::parse("https://jo:p%40ss@host.org:8443/g/x.git").unwrap();
        assert_eq!(address.to_string(), "https://host.org:8443/g/x.git");
        let credentials = address.credentials().unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.reveal()), ("jo", "p@ss"));
        assert!(!format!("{address:?}").contains("ss@"));
        assert_eq!(shown("ssh://git:secret@host/x.git"), "ssh://git@host/x.git");
        assert_eq!(shown("git@host.org:g/x.git"), "git@host.org:g/x.git");
        let damaged = Address::parse("https://jo:se/cr@et@[host/x").unwrap_err().to_string();
        assert!(!damaged.contains("se/cr"), "{damaged}");
    }

    #[test]
    fn what_runs_programs_is_no_address() {
        for bad in ["", "ext::sh -c id", "ext://sh", "https:///x", "foo::bar"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    fn asked(text: &str, ssh: SshRules, hosts: &[&str]) -> String {
        let credentials = hosts.iter().map(|host| HostCredentials::basic(Some(host), "u", "p")).collect();
        let access = Access { ssh, credentials, ..Access::default() };
        Address::parse(text).unwrap().effective(&access).to_bstring().to_string()
    }

    #[test]
    fn https_becomes_ssh_when_forced() {
        let force = || SshRules { force: true, ..SshRules::default() };
        assert_eq!(asked("https://h:8443/g/x.git", force(), &[]), "ssh://git@h/g/x.git");
        let port = SshRules { port: Some(2222), user: Some("me".into()), ..force() };
        assert_eq!(asked("https://h/g/x.git", port.clone(), &[]), "ssh://me@h:2222/g/x.git");
        assert_eq!(asked("ssh://git@h/g/x.git", port.clone(), &[]), "ssh://me@h:2222/g/x.git");
        assert_eq!(asked("git@h:g/x.git", port, &[]), "git@h:g/x.git");
        let other = SshRules { host: Some("other".into()), ..force() };
        assert_eq!(asked("https://h/g/x.git", other, &[]), "https://h/g/x.git");
    }

    #[test]
    fn ssh_becomes_https_where_credentials_are_configured() {
        let rules = || SshRules { translate: true, ..SshRules::default() };
        assert_eq!(asked("git@h:g/x.git", rules(), &["h"]), "https://h/g/x.git");
        assert_eq!(asked("ssh://git@h:2222/g/x.git", rules(), &["h"]), "https://h/g/x.git");
        assert_eq!(asked("git@h:g/x.git", rules(), &["other"]), "git@h:g/x.git");
    }

    #[test]
    fn submodules_are_relative_to_their_repository() {
        let of = |base: &str, text: &str| Address::parse(base).unwrap().submodule(text).map(|it| it.to_string());
        assert_eq!(of("https://jo:p@h/g/x.git", "../y.git").unwrap(), "https://h/g/y.git");
        assert_eq!(of("https://h/g/x", "./y").unwrap(), "https://h/g/x/y");
        assert_eq!(of("git@h:g/x.git", "../../other/y").unwrap(), "git@h:other/y");
        assert_eq!(of("/srv/x", "../y").unwrap(), "/srv/y");
        assert!(of("https://h/x", "../../../y").is_err());
        assert!(of("https://h/x", "/etc/secrets").is_err());
        assert!(of("https://h/x", "file:///etc/secrets").is_err());
    }
}

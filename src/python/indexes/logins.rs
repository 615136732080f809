//! Passwords of package indexes, and which addresses they are for.
//!
//! A password goes to the scheme, host and port that it was given for, as with uv and pip. Where one place has several
//! indexes, the one counts whose path an address shares most of: files of an index often lie beside it. A netrc file
//! names hosts alone; its passwords go to that host over TLS, and in the clear only where this machine has an index.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use url::Url;

use super::host_key;
use crate::secret::Credentials;

/// All that are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Logins {
    /// With the addresses they were given in, which no longer have them; of equals the first counts.
    given: Vec<(Url, Credentials)>,
    /// Of a netrc file, by host.
    hosts: BTreeMap<String, Credentials>,
    /// The indexes of this machine's own configuration.
    own: Vec<Url>,
}

impl Logins {
    /// Adds what an address said of who may read it; counts before what is known.
    pub(super) fn add(&mut self, address: Url, credentials: Credentials) {
        self.given.insert(0, (address, credentials));
    }

    /// Adds an index of this machine's own configuration; what is known counts before it.
    pub(super) fn add_own(&mut self, address: Url, credentials: Option<Credentials>) {
        self.given.extend(credentials.map(|it| (address.clone(), it)));
        self.own.push(address);
    }

    /// Adds a machine of a netrc file; the first of a name counts.
    pub(super) fn add_host(&mut self, host: String, credentials: Credentials) {
        self.hosts.entry(host).or_insert(credentials);
    }

    /// Those for an address.
    pub(super) fn of(&self, address: &Url) -> Option<&Credentials> {
        let same = |it: &&(Url, Credentials)| it.0.origin() == address.origin();
        let given = self.given.iter().filter(same).min_by_key(|it| Reverse(shared(&it.0, address)));
        given.map(|it| &it.1).or_else(|| {
            let own = || self.own.iter().any(|it| it.origin() == address.origin());
            let credentials = self.hosts.get(address.host_str()?)?;
            (address.scheme() == "https" || own()).then_some(credentials)
        })
    }

    /// All, with the hosts (and ports) they are for.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, &Credentials)> {
        let given = self.given.iter().filter_map(|it| Some((host_key(it.0.host_str()?, &it.0), &it.1)));
        given.chain(self.hosts.iter().map(|it| (it.0.clone(), it.1)))
    }
}

/// How many parts two addresses' paths begin with alike.
fn shared(one: &Url, other: &Url) -> usize {
    let parts = |it: &Url| it.path().split('/').map(str::to_owned).collect::<Vec<_>>();
    parts(one).iter().zip(&parts(other)).take_while(|it| it.0 == it.1).count()
}

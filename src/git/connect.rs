//! One exchange with a git server: introduce ourselves, ask for references or commits, receive what they need.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gix::bstr::ByteSlice as _;
use gix::credentials::helper::Action;
use gix::credentials::protocol::Outcome;
use gix::protocol::transport::client::blocking_io::http;
use gix::remote::Direction;
use gix::remote::fetch::{Shallow, Tags};

use super::address::Address;
use super::credential::{Access, Candidate};
use super::{GitError, reason};
use crate::secret::Credentials;

/// How often a server that does not answer is asked.
const ATTEMPTS: u32 = 3;

/// What came of it.
pub(super) enum Received {
    /// The objects are there; these are what the asked-for references point to, tags followed to their commits.
    Tips(Vec<gix::ObjectId>),
    /// The server has no such reference.
    NoSuchReference,
    /// The server does not hand this out (a commit it does not advertise).
    Refused(String),
}

/// Fetches what `specs` name into `repository`, trying every way to introduce ourselves that fits the address.
pub(super) fn receive(
    repository: &gix::Repository,
    address: &Address,
    access: &Access,
    specs: &[String],
    shallow: &Shallow,
) -> Result<Received, GitError> {
    crate::http::init_tls();
    let url = address.effective(access);
    let mut first = None;
    for candidate in access.candidates(address, &url) {
        for attempt in 1..=ATTEMPTS {
            let asked = Cell::new(false);
            let exchange = Exchange { repository, url: &url, access, candidate: &candidate, asked: &asked };
            match exchange.run(specs, shallow) {
                Ok(received) => return Ok(received),
                Err(error) if asked.get() || is_refusal(&error) => {
                    // The first refusal tells most: what comes last is that helpers know nothing.
                    let denied =
                        || GitError::Denied { address: address.to_string(), reason: reason_of(&error, &candidate) };
                    first.get_or_insert_with(denied);
                    break;
                }
                Err(error) => {
                    let passing = error.classify().is_retryable() && attempt < ATTEMPTS;
                    if !passing || access.interrupt.load(std::sync::atomic::Ordering::Relaxed) {
                        let reason = reason_of(&error, &candidate);
                        return Err(GitError::Unreachable { address: address.to_string(), reason });
                    }
                    std::thread::sleep(Duration::from_millis(500) * attempt);
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| GitError::Address { address: address.to_string() }))
}

fn is_refusal(error: &gix::Error) -> bool {
    let mut classes = error.classify();
    classes.any(|it| {
        matches!(it.class(), gix::error::Class::Unauthenticated | gix::error::Class::PermissionDenied)
            || it.io_kind() == Some(std::io::ErrorKind::PermissionDenied)
    })
}

/// What the transport says, without the password that was used, should it quote it.
fn reason_of(error: &gix::Error, candidate: &Candidate) -> String {
    let text = reason(error);
    match candidate {
        Candidate::Given(credentials, _) if !credentials.password.is_empty() => {
            text.replace(credentials.password.reveal(), "****")
        }
        _ => text,
    }
}

struct Exchange<'a> {
    repository: &'a gix::Repository,
    url: &'a gix::Url,
    access: &'a Access,
    candidate: &'a Candidate,
    /// Set when the server wanted credentials.
    asked: &'a Cell<bool>,
}

impl Exchange<'_> {
    fn run(&self, specs: &[String], shallow: &Shallow) -> Result<Received, gix::Error> {
        let remote = self.repository.remote_at(self.url.clone())?.with_fetch_tags(Tags::None);
        let specs = specs.iter().map(|it| gix::bstr::BStr::new(it.as_bytes()));
        let remote = remote.with_refspecs(specs, Direction::Fetch)?;
        let mut connection = remote.connect(Direction::Fetch)?;
        let helpers = connection.configured_credentials_for_current_url();
        connection.set_credentials(self.authenticate(helpers));
        if let Some(options) = self.http_options()? {
            connection.set_transport_options(options);
        }
        let options = gix::remote::ref_map::Options::default();
        let prepared = connection.prepare_fetch(gix::progress::Discard, options)?;
        if prepared.ref_map().mappings.is_empty() {
            return Ok(Received::NoSuchReference);
        }
        self.asked.set(false);
        let prepared = prepared.with_shallow(shallow.clone());
        match prepared.receive(gix::progress::Discard, &self.access.interrupt) {
            Ok(outcome) => {
                let tips =
                    outcome.ref_map.mappings.iter().filter_map(|it| it.remote.peeled_id().map(ToOwned::to_owned));
                Ok(Received::Tips(tips.collect()))
            }
            Err(error) if error.classify().is_retryable() => Err(error),
            Err(error) => Ok(Received::Refused(reason_of(&error, self.candidate))),
        }
    }

    fn authenticate<'a>(
        &'a self,
        mut helpers: impl FnMut(Action) -> Result<Option<Outcome>, gix::Error> + 'a,
    ) -> impl FnMut(Action) -> Result<Option<Outcome>, gix::Error> + 'a {
        move |action| match (self.candidate, action) {
            (Candidate::Given(credentials, _), Action::Get(context)) => {
                // Not asked twice with a header that was refused.
                let refused = self.asked.replace(true) || self.candidate.header().is_some();
                let same_host = context.url.as_ref().is_some_and(|it| same_host(it, self.url));
                Ok((!refused && same_host).then(|| given(credentials, context)))
            }
            (Candidate::Given(..), _) => Ok(None),
            (Candidate::Helpers(user), Action::Get(mut context)) => {
                self.asked.set(true);
                if !self.access.helpers {
                    return Ok(None);
                }
                context.username = context.username.or_else(|| user.clone());
                helpers(Action::Get(context))
            }
            (Candidate::Helpers(_), action) if self.access.helpers => helpers(action),
            (Candidate::Helpers(_), _) => Ok(None),
        }
    }

    /// Our own TLS and timeouts, the proxy of git's configuration, and the header of credentials sent at once.
    fn http_options(&self) -> Result<Option<Box<dyn std::any::Any>>, gix::Error> {
        let url = self.url.to_bstring();
        let Some(options) = self.repository.transport_options(url.as_bstr(), None)? else { return Ok(None) };
        let Ok(mut options) = options.downcast::<http::Options>() else { return Ok(None) };
        if let Some(header) = self.candidate.header() {
            options.extra_headers.push(format!("Authorization: {}", header.reveal()));
        }
        let verify = options.ssl_verify;
        let proxy = options.proxy.clone().filter(|it| !it.is_empty());
        let exempt = format!("{},localhost,127.0.0.0/8,::1", options.no_proxy.clone().unwrap_or_default());
        let configure = move |builder: reqwest::blocking::ClientBuilder| {
            let mut builder =
                builder.tls_backend_preconfigured(crate::http::tls_config(verify)).timeout(Duration::from_secs(120));
            if let Some(proxy) = &proxy {
                let text = if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
                let proxy = reqwest::Proxy::all(text).map_err(|it| gix::Error::from_error(it.without_url()))?;
                builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(&exempt)));
            }
            Ok(builder)
        };
        let backend = http::reqwest::Options { configure_client: Some(Box::new(configure)), configure_request: None };
        options.backend = Some(Arc::new(Mutex::new(backend)));
        Ok(Some(options))
    }
}

fn given(credentials: &Credentials, mut context: gix::credentials::protocol::Context) -> Outcome {
    context.username = Some(credentials.user.clone());
    Outcome {
        identity: gix::sec::identity::Account {
            username: credentials.user.clone(),
            password: credentials.password.reveal().to_owned(),
            oauth_refresh_token: None,
        },
        next: gix::credentials::helper::NextAction::from(context),
    }
}

/// Whether a server that asks, perhaps after a redirect, is the one the credentials were chosen for.
fn same_host(asking: &[u8], chosen: &gix::Url) -> bool {
    let same = |it: &gix::Url| it.host() == chosen.host() && it.scheme == chosen.scheme;
    gix::url::parse(asking).is_ok_and(|it| same(&it))
}

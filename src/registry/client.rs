//! One client for all registries: where they are, who we are there, tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::RegistryError;
use super::auth::{Login, Sources};
use super::challenge::{self, Challenge};
use super::error::Refusal;
use super::watch::Watch;
use crate::http::{self, HttpError, Options, Retry};
use crate::oci::Reference;
use crate::secret::Secret;

/// Where the API of the registry named `docker.io` is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Longest answer of a token server, in bytes.
const LARGEST_TOKEN: usize = 1 << 20;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Hosts (with port) that may be spoken to in plain http or with a certificate nobody vouches for.
    pub insecure: Vec<String>,
    /// For a registry, other hosts to pull from first: `docker.io` → `mirror.example`, `http://10.0.0.1:5000`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Where credentials are looked for.
    pub credentials: Sources,
    /// How long a registry may be silent; a minute when absent.
    pub silence: Option<Duration>,
    /// Whether none may be asked: [`RegistryError::Offline`]. That is so wherever nothing may be fetched.
    pub offline: bool,
}

impl Settings {
    fn silence(&self) -> Duration {
        self.silence.unwrap_or(Duration::from_secs(60))
    }

    fn offline(&self) -> bool {
        self.offline || http::is_offline()
    }
}

/// A client for all registries. Cheap to clone; keeps connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// How often what is pulled is asked for.
    pub(super) patience: Retry,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clients: Mutex<HashMap<Manner, reqwest::Client>>,
    schemes: Mutex<HashMap<String, &'static str>>,
    authorizations: Mutex<HashMap<(String, String), HeaderValue>>,
}

/// How connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Manner {
    /// Whether certificates are checked.
    verified: bool,
    /// Whether silence is somebody else's to watch.
    watched: bool,
}

/// A repository at a host.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The registry as people name it; credentials are kept under it.
    pub(super) registry: String,
    /// The repository there.
    pub(super) repository: String,
    /// `https://host/v2/`.
    base: Url,
    verified: bool,
}

impl Place {
    /// The address of something of the repository: `manifests/<tag>`.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{path}", self.repository));
        url
    }

    /// The right to read the repository.
    pub(super) fn pull(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    /// The rights to read and write the repository.
    pub(super) fn push(&self) -> String {
        format!("repository:{}:pull,push", self.repository)
    }
}

/// What an exchange is for.
pub(super) struct Purpose<'a> {
    /// For people: "pull `x`".
    pub(super) action: String,
    /// Rights that are needed, blanks between.
    pub(super) scope: String,
    /// How often to ask.
    pub(super) retry: Retry,
    /// The image that is missing on a 404.
    pub(super) reference: Option<&'a str>,
    /// Tells whether it goes on, where that takes long.
    pub(super) watch: Option<&'a Watch>,
}

impl Client {
    /// A client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Http`] for a proxy address that is none.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let client = Self {
            inner: Arc::new(Inner {
                settings,
                clients: Mutex::default(),
                schemes: Mutex::default(),
                authorizations: Mutex::default(),
            }),
            patience: Retry { longest: Duration::from_secs(10), ..Retry::SHORT },
        };
        client.http(Manner { verified: true, watched: false })?;
        Ok(client)
    }

    /// The same client for one who can do without an answer: what it pulls is asked for once.
    #[must_use]
    pub fn once(&self) -> Self {
        Self { patience: Retry::NONE, ..self.clone() }
    }

    /// Whether no registry may be asked.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.inner.settings.offline()
    }

    /// Where a repository is.
    pub(super) async fn place(&self, reference: &Reference) -> Result<Place, RegistryError> {
        let host = if reference.registry == "docker.io" { DOCKER_HUB } else { &reference.registry };
        self.place_at(reference, &reference.registry, host).await
    }

    /// Where a repository can be read, mirrors first.
    pub(super) async fn places(&self, reference: &Reference) -> Result<Vec<Place>, RegistryError> {
        let mut places = Vec::new();
        for mirror in self.inner.settings.mirrors.get(&reference.registry).into_iter().flatten() {
            let mirror = mirror.trim_end_matches('/');
            let name = mirror.split_once("://").map_or(mirror, |it| it.1);
            places.extend(self.place_at(reference, name, mirror).await.ok());
        }
        places.push(self.place(reference).await?);
        Ok(places)
    }

    async fn place_at(&self, reference: &Reference, registry: &str, host: &str) -> Result<Place, RegistryError> {
        let malformed = || RegistryError::Document {
            reference: reference.to_string(),
            detail: format!("`{registry}` is not the host of a registry"),
        };
        let (scheme, host) = match host.split_once("://") {
            Some((scheme, host)) => (Some(scheme), host),
            None => (None, host),
        };
        let loopback = is_loopback(host);
        let loose = loopback || self.inner.settings.insecure.iter().any(|it| it == host);
        let scheme = match scheme {
            Some(scheme) => scheme,
            None if loose && !self.inner.settings.offline() => self.scheme_of(host, loopback).await?,
            None => "https",
        };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| malformed())?;
        let (registry, repository) = (registry.to_owned(), reference.repository.clone());
        Ok(Place { registry, repository, base, verified: !loose })
    }

    /// `http` or `https`, whichever answers, asked once per host. An answer of any status will do, save that of a TLS
    /// server to plain http.
    async fn scheme_of(&self, host: &str, loopback: bool) -> Result<&'static str, RegistryError> {
        if let Some(scheme) = locked(&self.inner.schemes).get(host) {
            return Ok(scheme);
        }
        let client = self.http(Manner { verified: false, watched: false })?;
        let mut failure = None;
        // What leaves the machine is tried with TLS first: a password may follow.
        for scheme in if loopback { ["http", "https"] } else { ["https", "http"] } {
            let url = format!("{scheme}://{host}/v2/");
            match http::send(&Retry::NONE, || client.get(&url)).await {
                Ok(answer) if scheme == "https" || answer.status() != StatusCode::BAD_REQUEST => {
                    locked(&self.inner.schemes).insert(host.to_owned(), scheme);
                    return Ok(scheme);
                }
                Ok(_) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok("https"), |error| Err(error.into()))
    }

    fn http(&self, manner: Manner) -> Result<reqwest::Client, HttpError> {
        let mut clients = locked(&self.inner.clients);
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let read = (!manner.watched).then(|| self.inner.settings.silence());
        let client = http::client(&Options { verify: manner.verified, read, offline: false, ..Options::default() })?;
        Ok(clients.entry(manner).or_insert(client).clone())
    }

    /// Sends what `make` makes, while it goes on.
    async fn send(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        make: impl FnMut() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let Some(watch) = purpose.watch else { return Ok(http::send(&purpose.retry, make).await?) };
        tokio::select! {
            answer = http::send(&purpose.retry, make) => Ok(answer?),
            () = watch.stalled(self.inner.settings.silence()) => {
                Err(RegistryError::Stalled { registry: place.registry.clone(), action: purpose.action.clone() })
            }
        }
    }

    /// Sends what `make` makes, proving who we are where that is asked for. The answer may have any status but 401.
    pub(super) async fn exchange(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        if self.is_offline() {
            return Err(RegistryError::Offline { registry: place.registry.clone(), action: purpose.action.clone() });
        }
        let client = self.http(Manner { verified: place.verified, watched: purpose.watch.is_some() })?;
        let key = (place.registry.clone(), purpose.scope.clone());
        let known = locked(&self.inner.authorizations).get(&key).cloned();
        let authorized = |value: &Option<HeaderValue>| {
            let request = make(&client);
            match value {
                Some(value) => request.header(AUTHORIZATION, value.clone()),
                None => request,
            }
        };
        let response = self.send(place, purpose, || authorized(&known)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|it| it.to_str().ok()));
        let login = self.login(place).await?;
        let authorization = match challenge {
            Some(challenge) => self.authorization(place, purpose, &challenge, login.as_ref()).await?,
            None => None,
        };
        let Some(authorization) = authorization else {
            return Err(self.refusal(place, purpose, login.is_some()).of(response).await);
        };
        locked(&self.inner.authorizations).insert(key.clone(), authorization.clone());
        let authorization = Some(authorization);
        let response = self.send(place, purpose, || authorized(&authorization)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            locked(&self.inner.authorizations).remove(&key);
            return Err(self.refusal(place, purpose, login.is_some()).of(response).await);
        }
        Ok(response)
    }

    /// The answer if it is a success, else what the registry says against it.
    pub(super) async fn success(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        response: Response,
    ) -> Result<Response, RegistryError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let key = (place.registry.clone(), purpose.scope.clone());
        let authenticated = locked(&self.inner.authorizations).contains_key(&key) && self.login(place).await?.is_some();
        Err(self.refusal(place, purpose, authenticated).of(response).await)
    }

    #[expect(clippy::unused_self, reason = "reads as the others do")]
    fn refusal<'a>(&self, place: &'a Place, purpose: &'a Purpose<'a>, authenticated: bool) -> Refusal<'a> {
        Refusal { registry: &place.registry, action: &purpose.action, reference: purpose.reference, authenticated }
    }

    async fn login(&self, place: &Place) -> Result<Option<Login>, RegistryError> {
        let this = self.clone();
        let (registry, repository) = (place.registry.clone(), place.repository.clone());
        let found = tokio::task::spawn_blocking(move || this.inner.settings.credentials.login(&registry, &repository));
        found.await.unwrap_or_else(|error| {
            Err(RegistryError::File { action: "look for credentials".to_owned(), source: std::io::Error::other(error) })
        })
    }

    /// The header that answers a challenge; `None` where nothing we have does.
    async fn authorization(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        challenge: &Challenge,
        login: Option<&Login>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, login) {
            (Challenge::Basic, Some(Login::Password(it))) => {
                use base64::Engine as _;
                let pair = format!("{}:{}", it.user, it.password.reveal());
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                Ok(secret_header(&format!("Basic {encoded}")))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, .. }, _) => {
                let token = self.token(place, purpose, (realm, service.as_deref()), login).await?;
                Ok(secret_header(&format!("Bearer {}", token.reveal())))
            }
        }
    }

    async fn token(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        (realm, service): (&str, Option<&str>),
        login: Option<&Login>,
    ) -> Result<Secret, RegistryError> {
        let odd = |detail: &str| RegistryError::Document {
            reference: place.registry.clone(),
            detail: format!("its token server {detail}"),
        };
        let url = Url::parse(realm).map_err(|_| odd("has no address"))?;
        if url.scheme() != "https" && place.base.scheme() == "https" {
            return Err(odd("wants credentials without TLS"));
        }
        let client = self.http(Manner { verified: place.verified, watched: false })?;
        let mut fields: Vec<(&str, &str)> = service.map(|it| ("service", it)).into_iter().collect();
        if let Some(Login::IdentityToken(token)) = login {
            fields.extend([("scope", purpose.scope.as_str()), ("grant_type", "refresh_token"), ("client_id", "agent")]);
            fields.push(("refresh_token", token.reveal()));
        } else {
            fields.extend(purpose.scope.split(' ').filter(|it| !it.is_empty()).map(|it| ("scope", it)));
        }
        let make = || match login {
            Some(Login::IdentityToken(_)) => {
                let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
                let kind = "application/x-www-form-urlencoded";
                client.post(url.clone()).header(reqwest::header::CONTENT_TYPE, kind).body(body)
            }
            Some(Login::Password(it)) => {
                client.get(url.clone()).query(&fields).basic_auth(&it.user, Some(it.password.reveal()))
            }
            None => client.get(url.clone()).query(&fields),
        };
        let answer = http::send(&purpose.retry, make).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(place, purpose, login.is_some()).of(answer).await);
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = http::beginning(answer, LARGEST_TOKEN).await;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| odd("answers something that is no JSON"))?;
        let token = answer.token.or(answer.access_token).filter(|it| !it.is_empty());
        token.map(Secret::new).ok_or_else(|| odd("answers no token"))
    }
}

fn is_loopback(host: &str) -> bool {
    let registry = host.to_owned();
    Reference { registry, repository: String::new(), tag: None, digest: None }.is_loopback()
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

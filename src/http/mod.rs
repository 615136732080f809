//! Talking HTTP: one factory for every client of the program, retries, and errors that never show a secret.
//!
//! TLS is rustls with ring. It trusts the system's store, `SSL_CERT_FILE` and `SSL_CERT_DIR`, read at the first
//! handshake: a program that speaks plain HTTP to its own loopback needs no store at all. Proxies come from the
//! environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`); the loopback is never asked through one.
//! Nothing is reached where [`is_offline`] says so, save a server that is told apart ([`Options::offline`]).
//! In the in-image binary names are resolved by [`names`]; the C library's resolver is not reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{NoProxy, Proxy};

use crate::secret::Secret;

mod error;
pub mod names;
mod retry;
mod tls;

pub use error::HttpError;
pub(crate) use error::shown;
#[cfg(feature = "host")]
pub(crate) use retry::{MESSAGE, beginning};
pub use retry::{Retry, expect_success, send};
pub use tls::init_tls;

/// What a client is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether a server's certificate is checked (`api.verify_certificate`).
    pub verify: bool,
    /// Time to establish a connection, TLS included.
    pub connect: Duration,
    /// Longest silence: until an answer begins (while a body is sent, too) and while it is read. None for who watches
    /// that alone, as uploads must.
    pub read: Option<Duration>,
    /// Time for a whole exchange; none for bodies of unknown size.
    pub total: Option<Duration>,
    /// Whether redirects are followed (at most ten).
    pub redirects: bool,
    /// Variables that count before the environment's: proxies whose passwords no environment is to hold.
    pub variables: BTreeMap<String, Secret>,
    /// The Unix socket that all requests go to, whatever host they name.
    pub socket: Option<std::path::PathBuf>,
    /// Whether there is to be no client at all: [`HttpError::Offline`]. As [`is_offline`] says, by default.
    pub offline: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verify: true,
            connect: Duration::from_secs(10),
            read: Some(Duration::from_secs(60)),
            total: None,
            redirects: true,
            variables: BTreeMap::new(),
            socket: None,
            offline: is_offline(),
        }
    }
}

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("agent/", env!("CARGO_PKG_VERSION"));

/// Whether nothing may be fetched from anywhere: `AGENT_STANDALONE` says so. Servers of tasks are not meant, nor engines.
/// Where it says what nobody understands, which every verb refuses ([`standalone`]), nothing is.
#[must_use]
pub fn is_offline() -> bool {
    standalone().unwrap_or(true)
}

/// What `AGENT_STANDALONE` says.
///
/// # Errors
/// [`HttpError::Standalone`] for what is neither yes nor no.
pub fn standalone() -> Result<bool, HttpError> {
    std::env::var_os(OFFLINE).map_or(Ok(false), |it| said(&it.to_string_lossy()))
}

fn said(text: &str) -> Result<bool, HttpError> {
    match text.trim() {
        "" => Ok(false),
        text => crate::process::flag(text).ok_or_else(|| HttpError::Standalone { text: text.to_owned() }),
    }
}

/// The variable that says that nothing may be fetched; set for programs of ours that are to obey it.
pub const OFFLINE: &str = "AGENT_STANDALONE";

/// What to do about something that is not there where nothing may be fetched.
pub(crate) const OFFLINE_HINT: &str = "`--standalone-mode` or AGENT_STANDALONE says so. Have the task built once on this \
                                       machine without it (`agent build`): the store then has what it needs.";

/// A client. It keeps its connections: make one per server and clone it.
///
/// # Errors
/// [`HttpError::Client`] for a proxy address that is none, [`HttpError::Offline`].
pub fn client(options: &Options) -> Result<reqwest::Client, HttpError> {
    if options.offline && options.socket.is_none() {
        return Err(HttpError::Offline);
    }
    init_tls();
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls::client_config(options.verify))
        .connect_timeout(options.connect)
        .redirect(if options.redirects {
            reqwest::redirect::Policy::default()
        } else {
            reqwest::redirect::Policy::none()
        })
        .no_proxy();
    let given = |name: &str| options.variables.get(name).map(|it| it.reveal().to_owned());
    for proxy in proxies(&|name| given(name).or_else(|| std::env::var(name).ok()))? {
        builder = builder.proxy(proxy);
    }
    if let Some(socket) = &options.socket {
        builder = builder.unix_socket(socket.clone());
    }
    if let Some(read) = options.read {
        builder = builder.read_timeout(read);
    }
    if let Some(total) = options.total {
        builder = builder.timeout(total);
    }
    if cfg!(feature = "guest") {
        builder = builder.dns_resolver(Arc::new(names::Names::system()));
    }
    builder.build().map_err(|source| HttpError::Client { source: source.without_url() })
}

/// The TLS of all our clients, for libraries that make clients of their own.
#[must_use]
pub fn tls_config(verify: bool) -> rustls::ClientConfig {
    tls::client_config(verify)
}

/// The proxies an environment asks for, lower-case names first, as curl reads them.
fn proxies(variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Proxy>, HttpError> {
    let either =
        |name: &str| variable(name).or_else(|| variable(&name.to_ascii_uppercase())).filter(|it| !it.trim().is_empty());
    let exempt = format!("{},localhost,127.0.0.0/8,::1", either("no_proxy").unwrap_or_default());
    let mut proxies = Vec::new();
    for (name, make) in [
        ("http_proxy", Proxy::http as fn(String) -> reqwest::Result<Proxy>),
        ("https_proxy", Proxy::https),
        ("all_proxy", Proxy::all),
    ] {
        if let Some(address) = either(name) {
            let proxy = make(address)
                .map_err(|source| HttpError::Proxy { variable: name.to_owned(), source: source.without_url() })?;
            proxies.push(proxy.no_proxy(NoProxy::from_string(&exempt)));
        }
    }
    Ok(proxies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain;

    #[test]
    fn standalone_is_yes_or_no() {
        let told = |text: &str| said(text).map_err(|it| it.to_string());
        for text in ["1", "true", "Yes", " on "] {
            assert_eq!(told(text), Ok(true), "{text}");
        }
        for text in ["", " ", "0", "false", "No", "off"] {
            assert_eq!(told(text), Ok(false), "{text}");
        }
        assert_eq!(told("maybe"), Err("AGENT_STANDALONE is `maybe`, which is neither yes nor no".to_owned()));
    }

    #[test]
    fn a_proxy_that_is_no_address_is_named_without_its_secret() {
        let error = proxies(&|name| (name == "HTTPS_PROXY").then(|| "http://jo:secret@:bad".to_owned())).unwrap_err();
        assert!(error.to_string().contains("`https_proxy`"), "{error}");
        let failure = crate::error::Failure::from(error);
        assert!(!failure.to_string().contains("secret"), "{failure}");
    }

    #[test]
    fn there_is_no_client_where_nothing_may_be_fetched_but_of_sockets() {
        let options = Options { offline: true, ..Options::default() };
        let error = client(&options).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (crate::error::Kind::NotFound, "nothing is fetched here")
        );
        assert!(client(&Options { socket: Some("/run/engine.sock".into()), ..options }).is_ok());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable_and_no_secret_is_shown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let client = client(&Options::default()).unwrap();
        let url = format!("http://jo:secret@127.0.0.1:{port}/x?token=hidden");
        let error = send(&Retry::NONE, || client.get(&url)).await.unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Unreachable);
        let text = crate::error::Failure::from(error).to_string();
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
    }

    #[tokio::test]
    async fn a_proxy_that_came_in_a_file_is_asked_with_its_password() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://jo:hush@{}", listener.local_addr().unwrap());
        let variables = BTreeMap::from([("http_proxy".to_owned(), Secret::new(proxy))]);
        let client = client(&Options { variables, ..Options::default() }).unwrap();
        let asked = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = vec![0; 4096];
            let size = stream.read(&mut said).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&said[..size]).to_ascii_lowercase()
        };
        let (said, answer) = tokio::join!(asked, client.get("http://server.test/x").send());
        assert_eq!(answer.unwrap().status(), 204);
        assert!(said.starts_with("get http://server.test/x "), "{said}");
        // jo:hush
        assert!(said.contains("proxy-authorization: basic am86ahvzaa=="), "{said}");
    }
}

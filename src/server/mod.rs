//! The embedded ClearML server: the API and the file server, for the SDK and the agents of one user or team.
//!
//! ```text
//! serve ─▶ Site (directory, keys) ─▶ Shared ─┬▶ router   POST|GET|PUT /v2.23/tasks.get_by_id ─▶ services/*
//!                                            └▶ files    POST /, GET|DELETE /path
//! ```
//!
//! [`serve`] starts both and returns where they listen; it prints nothing. Every API call runs in one transaction
//! (`router`), fits the table its endpoint declares (`call`), and is answered in the envelope of `wire`. Answers and
//! refusals are those of a real server, as recorded; `tests` replays the recordings. What this server is not: it has
//! one company and one user, no web pages, and keeps no history of statistics.

mod auth;
mod call;
mod clock;
mod document;
mod entries;
mod error;
mod files;
mod filter;
mod query;
mod router;
mod services;
mod site;
mod storage;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use error::ServerError;
use router::Shared;
use site::{Ports, Site};

use crate::fs::{FileLock, Sharing};
use crate::secret::Credentials;

/// How long requests under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Where a server keeps its state and where it listens.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The data directory, created when it is not there; one server to a directory.
    pub data: PathBuf,
    /// Where the API listens. Port 0 means the port it had last time if that is free, else any.
    pub listen: SocketAddr,
    /// Where the file server listens; the API's address with port 0 when absent.
    pub listen_files: Option<SocketAddr>,
    /// The host name or address clients are to use; the address listened on when absent (the loopback address when
    /// that is "any address").
    pub public_host: Option<String>,
}

impl ServerSettings {
    /// A server on free ports of the loopback address.
    #[must_use]
    pub fn local(data: &Path) -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { data: data.into(), listen, listen_files: None, public_host: None }
    }
}

/// A running server. It stops when this is dropped; [`Running::stop`] waits for that.
#[derive(Debug)]
pub struct Running {
    /// The API's address, `http://host:port`.
    pub api_url: String,
    /// The file server's address.
    pub files_url: String,
    /// What clients are told is the web application; there are no pages, links to it only name tasks.
    pub web_url: String,
    /// Credentials that work.
    pub credentials: Credentials,
    /// A configuration file for any ClearML client, mode 0600.
    pub config_path: PathBuf,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    _lock: FileLock,
}

impl Running {
    /// Stops listening, lets requests under way finish (for a few seconds) and returns.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for mut server in self.servers {
            if tokio::time::timeout(GRACE, &mut server).await.is_err() {
                server.abort();
            }
        }
    }
}

/// Starts the server on the current runtime.
///
/// # Errors
/// The data directory cannot be used or is in use, or an address cannot be listened on.
pub async fn serve(settings: &ServerSettings) -> Result<Running, ServerError> {
    let data = settings.data.clone();
    let opened = tokio::task::spawn_blocking(move || open(&data)).await;
    let (shared, lock) = opened.map_err(|error| ServerError::Data(std::io::Error::other(error)))??;
    let before = shared.site.ports();
    let files_address = settings.listen_files.unwrap_or(SocketAddr::new(settings.listen.ip(), 0));
    let api = bind(settings.listen, before.api).await?;
    let files = bind(files_address, before.files).await?;
    let url = |listener: &TcpListener| {
        let address = listener.local_addr().map_err(ServerError::Data)?;
        Ok::<_, ServerError>((format!("http://{}:{}", host(settings, address.ip()), address.port()), address.port()))
    };
    let ((api_url, api_port), (files_url, files_port)) = (url(&api)?, url(&files)?);
    shared.site.remember_ports(&Ports { api: api_port, files: files_port })?;
    let config_path = shared.site.write_config(&api_url, &files_url)?;
    let credentials = shared.site.credentials.clone();
    let (stop, stopped) = watch::channel(false);
    let servers =
        vec![start(api, router::router(shared.clone()), stopped.clone()), start(files, files::router(shared), stopped)];
    Ok(Running { web_url: api_url.clone(), api_url, files_url, credentials, config_path, stop, servers, _lock: lock })
}

fn open(data: &Path) -> Result<(Arc<Shared>, FileLock), ServerError> {
    crate::fs::create_private_dir(data).map_err(ServerError::Data)?;
    let lock = FileLock::try_acquire(&data.join("lock"), Sharing::Exclusive).map_err(ServerError::Data)?;
    let lock = lock.ok_or_else(|| ServerError::InUse(data.to_owned()))?;
    let site = Site::open(data)?;
    let db = Mutex::new(site.database()?);
    Ok((Arc::new(Shared { site, db }), lock))
}

fn host(settings: &ServerSettings, listening: IpAddr) -> String {
    match (&settings.public_host, listening) {
        (Some(host), _) => host.clone(),
        (None, any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        (None, IpAddr::V6(address)) => format!("[{address}]"),
        (None, IpAddr::V4(address)) => address.to_string(),
    }
}

async fn bind(address: SocketAddr, before: u16) -> Result<TcpListener, ServerError> {
    if address.port() == 0
        && before != 0
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(address.ip(), before)).await
    {
        return Ok(listener);
    }
    let failed = |source| ServerError::Listen { address: address.to_string(), source };
    TcpListener::bind(address).await.map_err(failed)
}

fn start(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) -> JoinHandle<()> {
    // Answers are small and waited for: they are not held back to fill packets.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let until = async move {
        // An error means that `Running` was dropped, which is the same wish.
        let _ = stopped.wait_for(|it| *it).await;
    };
    tokio::spawn(async move {
        // Serving has no error of its own: a connection's errors end that connection.
        let _ = axum::serve(listener, service).with_graceful_shutdown(until).await;
    })
}

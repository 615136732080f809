//! A read-only registry over the store, on loopback and behind a password: for engines that can only pull.
//!
//! It serves the images it was told of and nothing else of the store. A client that begins with TLS gets a plain 400,
//! which is what containerd needs to fall back to http.

use std::collections::{BTreeMap, BTreeSet};
use std::io::SeekFrom;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::oneshot;

use super::RegistryError;
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::secret::{Credentials, Secret};
use crate::store::Store;

/// The user name it knows.
const USER: &str = "agent";
/// Bytes sent at a time.
const PIECE: usize = 256 << 10;

/// An image to serve. All of its blobs must be in the store.
#[derive(Debug, Clone)]
pub struct Served {
    /// Repository.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its configuration and layers.
    pub blobs: Vec<Descriptor>,
}

/// A registry that serves until it is dropped.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    credentials: Credentials,
    stop: Option<oneshot::Sender<()>>,
}

impl Serving {
    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What one must know to pull from it.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

#[derive(Debug)]
struct Shelf {
    store: Store,
    authorization: Secret,
    manifests: BTreeMap<(String, String), Descriptor>,
    blobs: BTreeSet<(String, Digest)>,
}

/// Serves images of the store on a free port of the loopback.
///
/// # Errors
/// [`RegistryError::File`] when there is no port or no randomness to be had.
pub async fn serve(store: Store, images: Vec<Served>) -> Result<Serving, RegistryError> {
    let failed = |source| RegistryError::File { action: "serve a registry on the loopback".to_owned(), source };
    let mut random = [0_u8; 24];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|it| failed(it.into()))?;
    let password = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
    let authorization = Secret::new(format!("Basic {}", STANDARD.encode(format!("{USER}:{password}"))));
    let mut shelf = Shelf { store, authorization, manifests: BTreeMap::new(), blobs: BTreeSet::new() };
    for image in images {
        let digest = image.manifest.digest.to_string();
        shelf.manifests.insert((image.repository.clone(), image.tag), image.manifest.clone());
        shelf.manifests.insert((image.repository.clone(), digest), image.manifest);
        shelf.blobs.extend(image.blobs.into_iter().map(|it| (image.repository.clone(), it.digest)));
    }
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let router = Router::new().route("/v2/", get(ping)).route("/v2/{*path}", get(content)).with_state(Arc::new(shelf));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let _ = serving.await;
    });
    let credentials = Credentials { user: USER.to_owned(), password: Secret::new(password) };
    Ok(Serving { address, credentials, stop: Some(stop) })
}

async fn ping(State(shelf): State<Arc<Shelf>>, headers: HeaderMap) -> Response {
    if let Err(refused) = shelf.admit(&headers) {
        return *refused;
    }
    ([("docker-distribution-api-version", "registry/2.0")], "{}").into_response()
}

async fn content(
    State(shelf): State<Arc<Shelf>>,
    method: Method,
    headers: HeaderMap,
    Path(path): Path<String>,
) -> Response {
    if let Err(refused) = shelf.admit(&headers) {
        return *refused;
    }
    let wanted = |kind: &str| path.rsplit_once(kind).map(|(repository, name)| (repository.to_owned(), name.to_owned()));
    if let Some(key) = wanted("/manifests/") {
        let Some(manifest) = shelf.manifests.get(&key).cloned() else {
            return error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        };
        return shelf.blob(&manifest, &method, &headers).await;
    }
    if let Some((repository, name)) = wanted("/blobs/")
        && let Ok(digest) = name.parse::<Digest>()
        && shelf.blobs.contains(&(repository, digest))
        && let Some(size) = shelf.store.has(&digest)
    {
        let blob = Descriptor { media_type: "application/octet-stream".to_owned(), digest, size };
        return shelf.blob(&blob, &method, &headers).await;
    }
    error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
}

impl Shelf {
    fn admit(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let shown = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes).unwrap_or_default();
        // Digests are compared, so that the time taken says nothing about the password.
        if Digest::of(shown) == Digest::of(self.authorization.reveal()) {
            return Ok(());
        }
        let challenge = [(header::WWW_AUTHENTICATE, r#"Basic realm="agent""#)];
        Err(Box::new((challenge, error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")).into_response()))
    }

    async fn blob(&self, blob: &Descriptor, method: &Method, headers: &HeaderMap) -> Response {
        let (start, status) = match range_start(headers) {
            Some(start) if start < blob.size => (start, StatusCode::PARTIAL_CONTENT),
            Some(_) => return error(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
            None => (0, StatusCode::OK),
        };
        let mut answer = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, &blob.media_type)
            .header(header::CONTENT_LENGTH, blob.size - start)
            .header(header::ACCEPT_RANGES, "bytes")
            .header("docker-content-digest", blob.digest.to_string());
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {start}-{}/{}", blob.size - 1, blob.size);
            answer = answer.header(header::CONTENT_RANGE, range);
        }
        let body = if *method == Method::HEAD {
            Body::empty()
        } else {
            match self.open(blob, start).await {
                Ok(body) => body,
                Err(_) => return error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            }
        };
        answer.body(body).unwrap_or_else(|_| error(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"))
    }

    async fn open(&self, blob: &Descriptor, start: u64) -> std::io::Result<Body> {
        let mut file = tokio::fs::File::open(self.store.blob_path(&blob.digest)).await?;
        file.seek(SeekFrom::Start(start)).await?;
        Ok(Body::from_stream(stream::try_unfold(file, |mut file| async move {
            let mut piece = vec![0; PIECE];
            let count = file.read(&mut piece).await?;
            piece.truncate(count);
            Ok::<_, std::io::Error>((count > 0).then_some((piece, file)))
        })))
    }
}

/// The start of `Range: bytes=<start>-`, the only form we send and serve.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    (status, axum::Json(body)).into_response()
}

//! Registries and engines that are not as nice as those at hand: tokens, connections that break, thin loads refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agent::base::{Request, fetch, find};
use agent::engine::{Docker, Endpoint};
use agent::error::{Explain, Kind};
use agent::image::Image;
use agent::image::deliver::docker;
use agent::oci::{Platform, Reference};
use agent::registry::Settings;
use agent::secret::{Credentials, Secret};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::support::TestContext;
use crate::support::images::{around, around_with, block, check, layer, on_base, small_base};

/// Serves on a free port until the runtime ends.
async fn listen(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A registry that wants tokens and breaks off every blob once, in its middle.
struct Quirky {
    documents: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    broken: Mutex<BTreeMap<String, usize>>,
    tokens: AtomicUsize,
    address: Mutex<String>,
}

impl Quirky {
    fn of(image: &Image, store: &agent::store::Store) -> Self {
        let mut blobs: BTreeMap<String, Vec<u8>> =
            [(image.config.digest().to_string(), image.config.bytes.clone())].into();
        for layer in &image.layers {
            let digest = layer.descriptor.digest;
            blobs.insert(digest.to_string(), store.read_blob(&digest).unwrap());
        }
        let manifest = &image.manifest;
        let documents = ["1".to_owned(), manifest.digest().to_string()].map(|it| (it, manifest.bytes.clone())).into();
        Self { documents, blobs, broken: Mutex::default(), tokens: AtomicUsize::new(0), address: Mutex::default() }
    }
}

async fn token(
    State(quirky): State<Arc<Quirky>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).unwrap_or_default();
    // ada:secret
    if shown != "Basic YWRhOnNlY3JldA==" {
        return (StatusCode::UNAUTHORIZED, r#"{"details":"incorrect username or password"}"#).into_response();
    }
    let has = |key: &str, value: &str| query.iter().any(|(k, v)| k == key && v == value);
    assert!(has("service", "quirky") && has("scope", "repository:team/x:pull"), "{query:?}");
    let number = quirky.tokens.fetch_add(1, Ordering::SeqCst);
    axum::Json(json!({"access_token": format!("token-{number}")})).into_response()
}

async fn content(State(quirky): State<Arc<Quirky>>, headers: HeaderMap, Path(path): Path<String>) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    // The first token is good for one request only.
    let newest = quirky.tokens.load(Ordering::SeqCst);
    let used = quirky.broken.lock().unwrap().len();
    let stale = newest == 1 && used == 1;
    if newest == 0 || shown != format!("Bearer token-{}", newest - 1) || stale {
        let address = quirky.address.lock().unwrap().clone();
        let challenge =
            format!("Bearer realm=\"http://{address}/token\",service=\"quirky\",scope=\"repository:team/x:pull\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], "{}").into_response();
    }
    let name = path.rsplit('/').next().unwrap();
    if let Some(bytes) = quirky.documents.get(name) {
        return bytes.clone().into_response();
    }
    let bytes = quirky.blobs[name].clone();
    let range = headers.get(header::RANGE).map(|it| it.to_str().unwrap().to_owned());
    let times = {
        let mut broken = quirky.broken.lock().unwrap();
        let times = broken.entry(name.to_owned()).or_default();
        *times += 1;
        *times
    };
    if times == 1 {
        let half = Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
        let pieces = futures_util::stream::iter([Ok(half), Err(std::io::Error::other("broken"))]);
        let head = [(header::CONTENT_LENGTH, bytes.len().to_string())];
        return (head, Body::from_stream(pieces)).into_response();
    }
    let start = range.map_or(0, |it| it.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let status = if start > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    (status, bytes[start..].to_vec()).into_response()
}

#[test]
fn tokens_are_fetched_and_broken_downloads_gone_on_with() {
    let context = TestContext::new();
    block(async {
        let made = around(&context, "made");
        let base = small_base(&made, &context.path("base"), "base").await;
        let image = on_base(&base, &[layer(&made.store, &[("opt/x", &[7; 100_000])])]);
        let quirky = Arc::new(Quirky::of(&image, &made.store));
        let router = Router::new()
            .route("/token", get(token))
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{*path}", get(content))
            .with_state(quirky.clone());
        let address = listen(router).await;
        quirky.address.lock().unwrap().clone_from(&address);
        let settings = |password: &str| {
            let mut settings = Settings::default();
            let credentials = Credentials { user: "ada".to_owned(), password: Secret::new(password) };
            settings.credentials.given.insert(address.clone(), credentials);
            settings
        };
        let reference: Reference = format!("{address}/team/x:1").parse().unwrap();
        let denied = around_with(&context, "denied", settings("wrong"));
        let error = find(&denied, &Request::Image(reference.clone()), &Platform::host()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("incorrect username or password"), "{error}");

        let around = around_with(&context, "store", settings("secret"));
        let found = find(&around, &Request::Image(reference), &Platform::host()).await.unwrap();
        assert_eq!(found.pin.manifest, Some(image.manifest.digest()));
        fetch(&around, &found.pin).await.unwrap();
        check(&around, &image);
        assert_eq!(quirky.tokens.load(Ordering::SeqCst), 2);
        assert!(quirky.broken.lock().unwrap().values().all(|it| *it == 2));
    });
}

/// An engine that says it has the lower layers and, at the first load, that it has not.
struct Liar {
    image: Image,
    loads: Mutex<Vec<usize>>,
}

async fn inspect(State(liar): State<Arc<Liar>>, Path(name): Path<String>) -> Response {
    let lower: Vec<String> = liar.image.diff_ids().iter().take(2).map(ToString::to_string).collect();
    let answer = |id: String, layers: Vec<String>| {
        axum::Json(json!({"Id": id, "RepoTags": [], "RootFS": {"Type": "layers", "Layers": layers}})).into_response()
    };
    match name.trim_end_matches("/json") {
        "other" => answer(format!("sha256:{}", "1".repeat(64)), lower),
        "mine:1" if liar.loads.lock().unwrap().len() > 1 => {
            let layers = liar.image.diff_ids().iter().map(ToString::to_string).collect();
            answer(liar.image.config.digest().to_string(), layers)
        }
        _ => (StatusCode::NOT_FOUND, r#"{"message":"no such image"}"#).into_response(),
    }
}

async fn load(State(liar): State<Arc<Liar>>, archive: Bytes) -> Response {
    let layers = liar.image.layers.iter().filter(|it| {
        let name = format!("blobs/sha256/{}", it.descriptor.digest.hex());
        archive.chunks(512).any(|it| it.starts_with(name.as_bytes()))
    });
    let mut loads = liar.loads.lock().unwrap();
    loads.push(layers.count());
    if loads.len() == 1 {
        return r#"{"errorDetail":{"message":"open blobs/sha256/x: no such file"},"error":"no"}"#.into_response();
    }
    r#"{"stream":"Loaded image: mine:1\n"}"#.into_response()
}

#[test]
fn an_engine_that_refuses_a_thin_archive_gets_all_of_it() {
    let context = TestContext::new();
    block(async {
        let around = around(&context, "store");
        let base = small_base(&around, &context.path("base"), "base").await;
        let image = on_base(&base, &[layer(&around.store, &[("opt/x", b"x")])]);
        let liar = Arc::new(Liar { image: image.clone(), loads: Mutex::default() });
        let router = Router::new()
            .route(
                "/images/json",
                get(|| async {
                    axum::Json(json!([{
                        "Id": "other", "ParentId": "", "RepoTags": [], "RepoDigests": [], "Created": 0, "Size": 0,
                        "SharedSize": 0, "Labels": {}, "Containers": 0
                    }]))
                }),
            )
            .route("/images/{*name}", get(inspect))
            .route("/images/load", post(load))
            .with_state(liar.clone());
        let engine = Docker::connect(&Endpoint::plain(format!("tcp://{}", listen(router).await))).unwrap();
        let name: Reference = "mine:1".parse().unwrap();
        let delivered = docker(&around, &image, &engine, &name).await.unwrap();
        assert_eq!(delivered.layers, 3);
        assert_eq!(*liar.loads.lock().unwrap(), [1, 3]);
    });
}

//! Wheels and sdists into the store: by address and digest, many at once, checked before anybody uses them.
//!
//! A wheel is a blob named by its SHA-256. The first time it is seen, every file in it is compared with its RECORD, and
//! that is remembered. A wheel from an index of this machine's own configuration has no address in the lock: its name
//! and version are resolved again, and its digest decides.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use futures_util::StreamExt;
use url::Url;

use super::indexes::Indexes;
use super::wheel::{Wheel, WheelError};
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::http::{self, HttpError, Retry};
use crate::report::SharedReporter;
use crate::store::{Store, StoreError, Table};

/// Downloads at once.
const PARALLEL: usize = 8;
/// Names the checks a wheel has passed; part of what is remembered.
const CHECKS: u32 = 1;

/// A wheel that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// File name.
    pub file: String,
    /// Where it lies, without user information.
    pub url: Url,
    /// Its digest, where known.
    pub sha256: Option<Digest>,
    /// Bytes, where known.
    pub size: Option<u64>,
}

/// Why a wheel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The download failed.
    #[error("cannot download `{file}`")]
    Http {
        /// File name.
        file: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// A file of this machine cannot be read.
    #[error("cannot read `{file}`")]
    Read {
        /// File name.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what its digest says.
    #[error("`{file}` is not the file that was locked")]
    Changed {
        /// File name.
        file: String,
        /// What differs.
        #[source]
        source: StoreError,
    },
    /// It is refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody has it.
    #[error("no index of this machine has `{file}` with digest {sha256}")]
    Nowhere {
        /// File name.
        file: String,
        /// Its digest.
        sha256: Digest,
    },
}

impl Explain for FetchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Http { source, .. } => source.kind(),
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Changed { .. } => Kind::Input,
            Self::Wheel(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Nowhere { .. } => Kind::NotFound,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Http { source, .. } => source.hints(),
            Self::Changed { .. } => vec!["The index has another file under that name now: lock anew.".to_owned()],
            Self::Wheel(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Nowhere { .. } => {
                vec!["Configure the index that had it when it was locked (UV_DEFAULT_INDEX, UV_INDEX or pip's configuration), or lock anew.".to_owned()]
            }
            Self::Read { .. } => Vec::new(),
        }
    }
}

/// Puts wheels into the store: their digests and sizes, in the order asked.
///
/// # Errors
/// The first [`FetchError`]; what came before it is kept.
pub async fn fetch(
    store: &Store,
    indexes: &Indexes,
    wanted: Vec<Wanted>,
    reporter: &SharedReporter,
) -> Result<Vec<(Digest, u64)>, FetchError> {
    let mut results: BTreeMap<usize, (Digest, u64)> = BTreeMap::new();
    let mut missing = Vec::new();
    for (index, it) in wanted.into_iter().enumerate() {
        match it.sha256.and_then(|sha256| Some((sha256, store.has(&sha256)?))) {
            Some(known) if is_checked(store, &known.0) => {
                results.insert(index, known);
            }
            _ => missing.push((index, it)),
        }
    }
    if missing.is_empty() {
        return Ok(results.into_values().collect());
    }
    let client = http::client(&http::Options::default())
        .map_err(|source| FetchError::Http { file: missing[0].1.file.clone(), source })?;
    let total = missing.iter().map(|(_, it)| it.size).sum::<Option<u64>>();
    let count = missing.len();
    reporter.started("wheels", if count == 1 { "1 wheel".to_owned() } else { format!("{count} wheels") });
    let done = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let progress = |bytes: u64| {
        let now = done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
        reporter.progress("wheels", now, total);
    };
    let progress = &progress;
    let client = &client;
    let mut running = futures_util::stream::iter(missing)
        .map(|(index, it)| async move { one(store, client, indexes, &it, progress).await.map(|known| (index, known)) })
        .buffer_unordered(PARALLEL);
    while let Some(result) = running.next().await {
        let (index, known) = result?;
        results.insert(index, known);
    }
    reporter.finished("wheels", format!("{count} fetched"));
    Ok(results.into_values().collect())
}

/// Puts a file that is no wheel into the store, unchecked but for its digest. Blocks; not for a thread of an async
/// runtime.
///
/// # Errors
/// [`FetchError`]
pub fn file(store: &Store, indexes: &Indexes, wanted: &Wanted) -> Result<(Digest, u64), FetchError> {
    let failed = |source| FetchError::Http { file: wanted.file.clone(), source };
    let unstarted = |source| FetchError::Read { file: wanted.file.clone(), source };
    let client = http::client(&http::Options::default()).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unstarted)?;
    runtime.block_on(bring(store, &client, indexes, wanted, &|_| ()))
}

/// Whether a wheel of the store has passed all checks.
#[must_use]
pub fn is_checked(store: &Store, sha256: &Digest) -> bool {
    store.record::<u32>(Table::Distributions, &check_key(sha256)) == Some(CHECKS)
}

/// Checks a wheel that lies in the store, once.
///
/// # Errors
/// [`FetchError::Wheel`] for one that is refused.
pub fn check(store: &Store, sha256: &Digest, file: &str) -> Result<(), FetchError> {
    if is_checked(store, sha256) {
        return Ok(());
    }
    Wheel::open(&store.blob_path(sha256), file)?.verify()?;
    store.remember(Table::Distributions, &check_key(sha256), &CHECKS)?;
    Ok(())
}

/// Puts a wheel file of this machine into the store, checked.
///
/// # Errors
/// [`FetchError`]
pub fn adopt(store: &Store, path: &Path, file: &str) -> Result<(Digest, u64), FetchError> {
    let (digest, size) = copy(store, path, file)?;
    check(store, &digest, file)?;
    Ok((digest, size))
}

fn copy(store: &Store, path: &Path, file: &str) -> Result<(Digest, u64), FetchError> {
    let read = |source| FetchError::Read { file: file.to_owned(), source };
    let mut source = fs::File::open(path).map_err(read)?;
    let mut writer = store.writer()?;
    io::copy(&mut source, &mut writer).map_err(read)?;
    Ok(writer.commit()?)
}

fn check_key(sha256: &Digest) -> Digest {
    Digest::of(format!("checked wheel {sha256}"))
}

/// Has a file in the store.
async fn bring(
    store: &Store,
    client: &reqwest::Client,
    indexes: &Indexes,
    wanted: &Wanted,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), FetchError> {
    if let Some(known) = wanted.sha256.and_then(|sha256| Some((sha256, store.has(&sha256)?))) {
        return Ok(known);
    }
    if wanted.url.scheme() != "file" {
        return download(store, client, indexes, wanted, progress).await;
    }
    let path = wanted.url.to_file_path().unwrap_or_default();
    let (digest, size) = copy(store, &path, &wanted.file)?;
    match wanted.sha256 {
        Some(expected) if expected != digest => {
            let source = StoreError::Mismatch { expected, found: digest };
            Err(FetchError::Changed { file: wanted.file.clone(), source })
        }
        _ => Ok((digest, size)),
    }
}

async fn one(
    store: &Store,
    client: &reqwest::Client,
    indexes: &Indexes,
    wanted: &Wanted,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), FetchError> {
    let (digest, size) = bring(store, client, indexes, wanted, progress).await?;
    let (owned, file) = (store.clone(), wanted.file.clone());
    let checked = tokio::task::spawn_blocking(move || check(&owned, &digest, &file)).await;
    checked.map_err(|error| FetchError::Read { file: wanted.file.clone(), source: io::Error::other(error) })??;
    Ok((digest, size))
}

async fn download(
    store: &Store,
    client: &reqwest::Client,
    indexes: &Indexes,
    wanted: &Wanted,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), FetchError> {
    let failed = |source| FetchError::Http { file: wanted.file.clone(), source };
    let credentials = indexes.credentials(&wanted.url);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let response = http::send(&Retry::SHORT, || {
            let request = client.get(wanted.url.clone());
            match credentials {
                Some(it) => request.basic_auth(&it.user, Some(it.password.reveal())),
                None => request,
            }
        })
        .await
        .map_err(failed)?;
        let response = http::expect_success(response).await.map_err(failed)?;
        match receive(store, response, wanted, progress).await {
            // A body that broke off is asked for again, from the start.
            Err(FetchError::Http { source: HttpError::Broken { .. }, .. }) if attempt < 4 => {}
            result => return result,
        }
    }
}

async fn receive(
    store: &Store,
    response: reqwest::Response,
    wanted: &Wanted,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), FetchError> {
    let mut writer = store.writer()?;
    let mut body = response.bytes_stream();
    let (mut pending, mut unreported) = (0, 0);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| FetchError::Http {
            file: wanted.file.clone(),
            source: HttpError::from_reqwest(error, Some(&wanted.url)),
        })?;
        writer.write_all(&piece).map_err(|source| StoreError::Io { store: store.root().to_owned(), source })?;
        pending += piece.len() as u64;
        unreported += piece.len() as u64;
        if unreported > 256 << 10 {
            progress(unreported);
            unreported = 0;
        }
        if wanted.size.is_some_and(|it| pending > it) {
            break;
        }
    }
    progress(unreported);
    match wanted.sha256 {
        Some(expected) => {
            let size = writer.commit_verified(&expected).map_err(|source| match source {
                StoreError::Mismatch { .. } => FetchError::Changed { file: wanted.file.clone(), source },
                other => other.into(),
            })?;
            Ok((expected, size))
        }
        None => Ok(writer.commit()?),
    }
}

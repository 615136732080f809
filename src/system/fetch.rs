//! Package files, fetched by hash from whatever place has them.
//!
//! A source that has the package's suite and component is asked first, then every other: archives share one pool.

use std::io::Write;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::sources::Source;
use super::{Package, SystemError};
use crate::http::{self, HttpError, Options, Retry};
use crate::report::Reporter;
use crate::store::{Store, StoreError};

/// How many files are fetched at once.
const AT_ONCE: usize = 6;

/// Puts the files of packages into the store, those that are not there yet. To be called outside of async code.
///
/// # Errors
/// [`SystemError::Missing`] names the first file that no source has.
pub fn fetch(
    store: &Store,
    packages: &[Package],
    sources: &[Source],
    reporter: &dyn Reporter,
) -> Result<(), SystemError> {
    let missing: Vec<&Package> = packages.iter().filter(|it| store.has(&it.sha256).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // A lock may come from anywhere: what it asks an archive for lies in that archive.
    if let Some(it) = missing.iter().find(|it| !is_inside(&it.file)) {
        return Err(SystemError::Name { name: it.file.clone() });
    }
    if http::is_offline() {
        let names: Vec<&str> = missing.iter().map(|it| it.file.rsplit('/').next().unwrap_or_default()).collect();
        return Err(SystemError::Offline { what: names.join(", ") });
    }
    let total: u64 = missing.iter().map(|it| it.size).sum();
    reporter.started("apt files", format!("fetching {} package files", missing.len()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| SystemError::File { path: "tokio".into(), source })?;
    let client = http::client(&Options::default())?;
    let result = runtime.block_on(async {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut fetches = JoinSet::new();
        for package in missing {
            let (store, client, permits) = (store.clone(), client.clone(), Arc::clone(&permits));
            let (package, places) = (package.clone(), places(package, sources));
            fetches.spawn(async move {
                let _permit = permits.acquire().await;
                fetch_one(&store, &client, &package, &places).await.map(|()| package.size)
            });
        }
        let mut done = 0;
        while let Some(fetched) = fetches.join_next().await {
            // A future that panicked or was cancelled has fetched nothing; the check below finds that.
            if let Ok(fetched) = fetched {
                done += fetched?;
                reporter.progress("apt files", done, Some(total));
            }
        }
        Ok::<(), SystemError>(())
    });
    result?;
    let absent = packages.iter().find(|it| store.has(&it.sha256).is_none());
    if let Some(package) = absent {
        return Err(missing_file(package, None));
    }
    reporter.finished("apt files", "fetched");
    Ok(())
}

/// Whether a path leads to something below where it begins, in a URL too.
fn is_inside(file: &str) -> bool {
    let usual = |it: char| it.is_ascii_graphic() && !matches!(it, '?' | '#' | '\\');
    let plain = file.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
    !plain.is_empty() && plain.chars().all(usual) && plain.split('/').all(|it| !matches!(it, "." | ".."))
}

fn missing_file(package: &Package, source: Option<HttpError>) -> SystemError {
    SystemError::Missing { file: package.file.clone(), origin: package.origin.clone(), source }
}

/// Addresses to try, the likeliest first.
fn places(package: &Package, sources: &[Source]) -> Vec<String> {
    let has = |source: &&Source| source.components.iter().any(|it| package.origin == format!("{}/{it}", source.suite));
    let mut places: Vec<String> = Vec::new();
    for source in sources.iter().filter(has).chain(sources) {
        let place = format!("{}{}", source.uri, package.file);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

async fn fetch_one(
    store: &Store,
    client: &reqwest::Client,
    package: &Package,
    places: &[String],
) -> Result<(), SystemError> {
    let mut last = None;
    for place in places {
        if let Some(path) = place.strip_prefix("file:") {
            let path = format!("/{}", path.trim_start_matches('/'));
            if let Ok(bytes) = fs_err::read(path) {
                let mut writer = store.writer()?;
                writer.write_all(&bytes).map_err(|source| unwritten(store, source))?;
                if writer.commit_verified(&package.sha256).is_ok() {
                    return Ok(());
                }
            }
            continue;
        }
        match download(store, client, package, place).await {
            Ok(()) => return Ok(()),
            Err(SystemError::Http(error)) => last = Some(error),
            // Another place may have the right file.
            Err(SystemError::Store(StoreError::Mismatch { .. })) => {}
            Err(other) => return Err(other),
        }
    }
    Err(missing_file(package, last))
}

/// Fetches from one place, again where the connection breaks off.
async fn download(store: &Store, client: &reqwest::Client, package: &Package, place: &str) -> Result<(), SystemError> {
    let retry = Retry::SHORT;
    let mut failures = 0;
    loop {
        match once(store, client, package, place).await {
            Err(SystemError::Http(HttpError::Broken { .. })) if failures + 1 < retry.attempts => {
                failures += 1;
                tokio::time::sleep(retry.pause_after(failures)).await;
            }
            other => return other,
        }
    }
}

async fn once(store: &Store, client: &reqwest::Client, package: &Package, place: &str) -> Result<(), SystemError> {
    let response = http::send(&Retry::SHORT, || client.get(place)).await?;
    let response = http::expect_success(response).await?;
    let url = response.url().clone();
    let mut writer = store.writer()?;
    let mut size = 0;
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| HttpError::from_reqwest(error, Some(&url)))?;
        size += piece.len() as u64;
        if size > package.size {
            break;
        }
        writer.write_all(&piece).map_err(|source| unwritten(store, source))?;
    }
    writer.commit_verified(&package.sha256)?;
    Ok(())
}

fn unwritten(store: &Store, source: std::io::Error) -> SystemError {
    SystemError::File { path: store.root().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::report::Silent;

    fn package(bytes: &[u8]) -> Package {
        Package {
            name: "x".to_owned(),
            version: "1:1".to_owned(),
            arch: "all".to_owned(),
            file: "pool/x.deb".to_owned(),
            sha256: Digest::of(bytes),
            size: bytes.len() as u64,
            origin: "b/main".to_owned(),
        }
    }

    #[test]
    fn a_file_is_taken_where_its_bytes_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut list = String::new();
        for (name, bytes) in [("bad", &b"evil"[..]), ("good", b"good")] {
            fs_err::create_dir_all(dir.path().join(name).join("pool")).unwrap();
            fs_err::write(dir.path().join(name).join("pool/x.deb"), bytes).unwrap();
            let suite = if name == "bad" { "b" } else { "c" };
            list.push_str(&format!("deb file:{}/{name} {suite} main\n", dir.path().display()));
        }
        let sources = crate::system::sources::parse("x.list", &list);
        let package = package(b"good");
        assert_eq!(package.file_name(), "x_1%3a1_all.deb");
        fetch(&store, std::slice::from_ref(&package), &sources, &Silent).unwrap();
        assert_eq!(store.read_blob(&package.sha256).unwrap(), b"good");
        let gone = self::package(b"gone");
        let error = fetch(&store, std::slice::from_ref(&gone), &sources, &Silent).unwrap_err();
        assert!(matches!(error, SystemError::Missing { .. }), "{error}");
        assert_eq!(store.has(&Digest::of(b"evil")), None);
        for file in ["../bad/pool/x.deb", "pool/../../x.deb", "pool/%2E%2e%2fx.deb", "pool/x.deb?y", ""] {
            let strange = Package { file: file.to_owned(), ..gone.clone() };
            let error = fetch(&store, &[strange], &sources, &Silent).unwrap_err();
            assert!(matches!(error, SystemError::Name { .. }), "{file}: {error}");
        }
    }

    #[test]
    fn a_connection_that_breaks_off_is_made_again() {
        use std::io::{BufRead, BufReader};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for body in [&b"go"[..], b"good"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|it| !it.unwrap().is_empty()) {}
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n").unwrap();
                stream.write_all(body).unwrap();
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let sources = crate::system::sources::parse("x.list", &format!("deb http://{address}/ b main\n"));
        let package = package(b"good");
        fetch(&store, std::slice::from_ref(&package), &sources, &Silent).unwrap();
        server.join().unwrap();
        assert_eq!(store.read_blob(&package.sha256).unwrap(), b"good");
    }
}

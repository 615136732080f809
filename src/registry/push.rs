//! Writing: blobs that the registry lacks, mounted from another repository where it has them there, then the manifest.

use std::io::SeekFrom;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use url::Url;

use super::client::{Place, Purpose};
use super::watch::Watch;
use super::{Client, RegistryError};
use crate::digest::Digest;
use crate::http::Retry;
use crate::oci::{Descriptor, Reference};
use crate::report::SharedReporter;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// How often an upload is gone on with.
const ATTEMPTS: u32 = 6;

/// How an upload began.
#[derive(Debug)]
#[must_use]
pub enum Begun {
    /// The repository has the blob.
    Existed,
    /// The registry had it in another repository.
    Mounted,
    /// It wants the bytes.
    Upload(Box<Session>),
}

/// An upload session (distribution-spec, "Pushing blobs").
#[derive(Debug)]
pub struct Session {
    target: Reference,
    place: Place,
    scope: String,
    location: Url,
}

impl Client {
    /// Whether a repository has a manifest of that digest under its tag: then nothing is left to push.
    ///
    /// # Errors
    /// [`RegistryError`]; a tag that is not there is none, nor is one that we may write and not read.
    pub async fn has_tag(&self, target: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        match self.digest(target).await {
            Ok(found) => Ok(found == *digest),
            Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins the upload of a blob, unless the registry has it: in the repository, or in one of `from` on the same host.
    ///
    /// # Errors
    /// [`RegistryError::Denied`] and others.
    pub async fn begin(&self, target: &Reference, blob: &Digest, from: &[String]) -> Result<Begun, RegistryError> {
        let place = self.place(target).await?;
        let mut scope = place.push();
        for repository in from.iter().filter(|it| **it != place.repository) {
            scope.push_str(&format!(" repository:{repository}:pull"));
        }
        let purpose = pushing(target, &scope);
        let url = place.url(&format!("blobs/{blob}"));
        let answer = self.exchange(&place, &purpose, |it| it.head(url.clone())).await?;
        if answer.status().is_success() {
            return Ok(Begun::Existed);
        }
        let mut url = place.url("blobs/uploads/");
        for repository in from.iter().filter(|it| **it != place.repository) {
            url.set_query(None);
            url.query_pairs_mut().append_pair("mount", &blob.to_string()).append_pair("from", repository);
            let answer = self.open_session(&place, &purpose, &url).await;
            match answer {
                Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(Begun::Mounted),
                Ok(answer) => {
                    let location = location(&place, &answer, target)?;
                    return Ok(Begun::Upload(Box::new(Session { target: target.clone(), place, scope, location })));
                }
                // A repository that we may not read is no place to mount from.
                Err(_) => url.set_query(None),
            }
        }
        let answer = self.open_session(&place, &purpose, &url).await?;
        let location = location(&place, &answer, target)?;
        Ok(Begun::Upload(Box::new(Session { target: target.clone(), place, scope, location })))
    }

    /// Sends a file as the blob of a session, going on where a broken connection ended.
    ///
    /// # Errors
    /// [`RegistryError`], after several attempts.
    pub async fn upload(
        &self,
        session: Session,
        blob: &Descriptor,
        path: &Path,
        reporter: &SharedReporter,
    ) -> Result<(), RegistryError> {
        let Session { target, place, scope, mut location } = session;
        let id = format!("push {}", blob.digest.short());
        reporter.started(&id, format!("{} to {}", blob.digest.short(), target.registry));
        let purpose = pushing(&target, &scope);
        let mut offset = 0;
        let mut failures = 0;
        loop {
            let rest = Rest { path, offset, size: blob.size, reporter, id: &id };
            let sent = self.send_rest(&place, &purpose, &location, &rest).await;
            let error = match sent {
                Ok(next) => match self.close(&place, &purpose, next, &blob.digest).await {
                    Ok(()) => break,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            failures += 1;
            let final_word = matches!(error, RegistryError::Denied { .. } | RegistryError::File { .. });
            if failures >= ATTEMPTS || final_word {
                return Err(error);
            }
            tokio::time::sleep(Retry::SHORT.pause_after(failures)).await;
            (location, offset) = match self.progress_of(&place, &purpose, &location).await {
                Some(state) if state.1 < blob.size => state,
                _ => {
                    let answer = self.open_session(&place, &purpose, &place.url("blobs/uploads/")).await?;
                    (self::location(&place, &answer, &target)?, 0)
                }
            };
        }
        reporter.finished(&id, "pushed");
        Ok(())
    }

    /// Puts a manifest under the reference's tag or digest.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Mismatch`] where the registry made something else of it.
    pub async fn put_manifest(&self, target: &Reference, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let place = self.place(target).await?;
        let purpose = pushing(target, &place.push());
        let url = place.url(&format!("manifests/{}", target.identifier()));
        let body = Bytes::copy_from_slice(bytes);
        let request =
            |client: &reqwest::Client| client.put(url.clone()).header(CONTENT_TYPE, media_type).body(body.clone());
        let answer = self.exchange(&place, &purpose, request).await?;
        let answer = self.success(&place, &purpose, answer).await?;
        let header = answer.headers().get("docker-content-digest").and_then(|it| it.to_str().ok());
        let expected = Digest::of(bytes);
        match header.and_then(|it| it.parse::<Digest>().ok()) {
            Some(found) if found != expected => {
                Err(RegistryError::Mismatch { reference: target.to_string(), expected, found })
            }
            _ => Ok(()),
        }
    }

    async fn open_session(&self, place: &Place, purpose: &Purpose<'_>, url: &Url) -> Result<Response, RegistryError> {
        let request = |client: &reqwest::Client| client.post(url.clone()).header(CONTENT_LENGTH, "0");
        let answer = self.exchange(place, purpose, request).await?;
        self.success(place, purpose, answer).await
    }

    /// One PATCH with everything from `offset` on: where to close the upload.
    async fn send_rest(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        location: &Url,
        rest: &Rest<'_>,
    ) -> Result<Url, RegistryError> {
        let Rest { path, offset, size, .. } = *rest;
        let unreadable = |source| RegistryError::File { action: format!("read `{}`", path.display()), source };
        // Opened here, so that a file that is not there is our error and not a broken connection.
        fs_err::File::open(path).map_err(unreadable)?;
        let watch = Watch::new();
        let once = Purpose { retry: Retry::NONE, ..watched(purpose, &watch) };
        let answer = self
            .exchange(place, &once, |client| {
                watch.moved();
                let request = client
                    .patch(location.clone())
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, size - offset);
                let request = match offset {
                    0 => request,
                    from => request.header(CONTENT_RANGE, format!("{from}-{}", size - 1)),
                };
                request.body(reqwest::Body::wrap_stream(pieces(rest, watch.clone())))
            })
            .await?;
        let answer = self.success(place, purpose, answer).await?;
        Ok(next_location(location, &answer).unwrap_or_else(|| location.clone()))
    }

    async fn close(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        mut location: Url,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = |client: &reqwest::Client| client.put(location.clone()).header(CONTENT_LENGTH, "0");
        let watch = Watch::of_sent();
        let answer = self.exchange(place, &watched(purpose, &watch), request).await?;
        self.success(place, purpose, answer).await.map(|_| ())
    }

    /// How far an upload is: where to go on, and from which byte.
    async fn progress_of(&self, place: &Place, purpose: &Purpose<'_>, location: &Url) -> Option<(Url, u64)> {
        let answer = self.exchange(place, purpose, |it| it.get(location.clone())).await.ok()?;
        if answer.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let range = answer.headers().get(RANGE)?.to_str().ok()?;
        let end: u64 = range.rsplit_once('-')?.1.trim().parse().ok()?;
        let next = next_location(location, &answer).unwrap_or_else(|| location.clone());
        // `0-0` is how registries say that there is nothing yet.
        Some((next, if end == 0 { 0 } else { end + 1 }))
    }
}

fn pushing(target: &Reference, scope: &str) -> Purpose<'static> {
    Purpose {
        action: format!("push `{target}`"),
        scope: scope.to_owned(),
        retry: Retry::SHORT,
        reference: None,
        watch: None,
    }
}

fn watched<'a>(purpose: &Purpose<'a>, watch: &'a Watch) -> Purpose<'a> {
    Purpose { action: purpose.action.clone(), scope: purpose.scope.clone(), watch: Some(watch), ..*purpose }
}

/// Where the registry wants the bytes; it may say so relative to itself.
fn location(place: &Place, answer: &Response, target: &Reference) -> Result<Url, RegistryError> {
    next_location(&place.url("blobs/uploads/"), answer).ok_or_else(|| RegistryError::Document {
        reference: target.to_string(),
        detail: "its registry began an upload without saying where".to_owned(),
    })
}

fn next_location(base: &Url, answer: &Response) -> Option<Url> {
    base.join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// What is left to send of a file.
struct Rest<'a> {
    path: &'a Path,
    offset: u64,
    size: u64,
    reporter: &'a SharedReporter,
    id: &'a str,
}

/// The bytes that are left, piece by piece.
fn pieces(rest: &Rest<'_>, watch: Watch) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
    let (path, size) = (rest.path.to_owned(), rest.size);
    let (reporter, id) = (rest.reporter.clone(), rest.id.to_owned());
    stream::try_unfold((None, rest.offset), move |(file, done): (Option<tokio::fs::File>, u64)| {
        let (path, reporter, id, watch) = (path.clone(), reporter.clone(), id.clone(), watch.clone());
        async move {
            if done >= size {
                return Ok(None);
            }
            watch.moved();
            let mut file = match file {
                Some(file) => file,
                None => {
                    let mut file = tokio::fs::File::open(&path).await?;
                    file.set_max_buf_size(PIECE);
                    file.seek(SeekFrom::Start(done)).await?;
                    file
                }
            };
            let mut piece = vec![0; PIECE.min(usize::try_from(size - done).unwrap_or(PIECE))];
            let count = file.read(&mut piece).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            piece.truncate(count);
            let done = done + count as u64;
            if done >= size {
                watch.sent();
            }
            reporter.progress(id, done, Some(size));
            Ok(Some((Bytes::from(piece), (Some(file), done))))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::Settings;
    use super::*;
    use crate::oci::media;

    /// Answers one request of an upload; takes the bytes slowly, or not at all after the first.
    fn answer(stream: TcpStream, stall: bool) {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let method = head.split(' ').next().unwrap_or_default();
        if method == "PATCH" {
            let length =
                head.lines().find_map(|it| it.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut left: usize = length.unwrap();
            let mut piece = vec![0; 1 << 20];
            while left > 0 && reader.read_exact(&mut piece[..left.min(1 << 20)]).is_ok() {
                left -= left.min(1 << 20);
                std::thread::sleep(if stall { Duration::from_secs(60) } else { Duration::from_millis(150) });
            }
        }
        let (status, more) = match method {
            "HEAD" => ("404 Not Found", ""),
            "POST" | "PATCH" => ("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n"),
            "PUT" => ("201 Created", ""),
            _ => ("200 OK", ""),
        };
        let text = format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = reader.into_inner().write_all(text.as_bytes());
    }

    /// Uploads 24 MiB where a silence of two seconds is too long.
    async fn upload(stall: bool) -> Result<(), RegistryError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|it| drop(std::thread::spawn(move || answer(it, stall))));
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(24 << 20).unwrap();
        let blob = Descriptor { media_type: media::LAYER.to_owned(), digest: Digest::of("x"), size: 24 << 20 };
        let client = Client::new(Settings { silence: Some(Duration::from_secs(2)), ..Settings::default() }).unwrap();
        let target: Reference = format!("{address}/a:1").parse().unwrap();
        let Begun::Upload(session) = client.begin(&target, &blob.digest, &[]).await.unwrap() else { panic!("had") };
        let Session { place, scope, location, .. } = *session;
        let rest = Rest { path: file.path(), offset: 0, size: blob.size, reporter: &crate::report::silent(), id: "x" };
        client.send_rest(&place, &pushing(&target, &scope), &location, &rest).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_slow_upload_goes_on_and_one_that_stands_still_does_not() {
        upload(false).await.unwrap();
        let error = upload(true).await.unwrap_err();
        assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
    }
}

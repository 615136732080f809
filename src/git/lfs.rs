//! Git LFS: pointers, the batch API with the basic transfer, and the objects' cache.
//!
//! Only SHA-256 pointers in files with `filter=lfs` are followed; what comes is checked against them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::credential::Candidate;
use super::repositories::Repositories;
use super::tree::Tree;
use super::{GitError, reason};
use crate::digest::{Digest, HashingWriter};
use crate::http::{self, Retry};

/// Objects asked for in one request, as git-lfs does.
const BATCH: usize = 100;
/// Objects fetched at the same time, as git-lfs does.
const AT_ONCE: usize = 8;
/// The longest answer about a batch that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// What stands in a file in place of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) oid: Digest,
    pub(super) size: u64,
}

impl Pointer {
    /// Reads a pointer; `None` for anything else.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() >= 1024 {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("version ")?;
        if !matches!(version, "https://git-lfs.github.com/spec/v1" | "https://hawser.github.com/spec/v1") {
            return None;
        }
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let oid = Digest::from_hex(field("oid")?.strip_prefix("sha256:")?).ok()?;
        Some(Self { oid, size: field("size")?.parse().ok()? })
    }
}

/// A file whose content is wanted.
pub(super) struct Wanted {
    pub(super) path: String,
    /// Of the repository it belongs to.
    pub(super) prefix: String,
    pub(super) pointer: Pointer,
}

#[derive(Serialize)]
struct Request<'a> {
    operation: &'a str,
    transfers: [&'a str; 1],
    objects: Vec<Requested>,
    hash_algo: &'a str,
}

#[derive(Serialize)]
struct Requested {
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct Response {
    objects: Vec<Offered>,
}

#[derive(Deserialize)]
struct Offered {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Actions {
    download: Option<Link>,
}

/// Where and how something is to be had; also what `git-lfs-authenticate` answers.
#[derive(Deserialize, Clone)]
struct Link {
    href: String,
    #[serde(default)]
    header: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

impl Repositories {
    /// Brings LFS objects into the cache.
    pub(super) fn fetch_lfs(&self, tree: &Tree, mut wanted: Vec<Wanted>) -> Result<(), GitError> {
        wanted.retain(|it| {
            let path = self.lfs_dir().join(it.pointer.oid.hex());
            let there = fs::metadata(&path).is_ok_and(|it_is| it_is.len() == it.pointer.size);
            if there {
                crate::fs::touch(&path);
            }
            !there
        });
        wanted.sort_by(|a, b| (&a.prefix, a.pointer.oid).cmp(&(&b.prefix, b.pointer.oid)));
        wanted.dedup_by(|a, b| a.prefix == b.prefix && a.pointer == b.pointer);
        for group in wanted.chunk_by(|a, b| a.prefix == b.prefix) {
            let Some(root) = tree.roots.iter().find(|it| it.prefix == group[0].prefix) else { continue };
            let address = &root.commit.address;
            let group: Vec<&Wanted> = match root.commit.local.as_deref() {
                Some(git_dir) => self.copy_local(git_dir, group)?,
                None => group.iter().collect(),
            };
            if group.is_empty() {
                continue;
            }
            let origin = root.commit.local.as_deref().and_then(origin_of);
            let address = origin.as_ref().unwrap_or(address);
            let configured = configured_url(tree, &root.prefix);
            if self.access.offline {
                let what = format!("`{}` (LFS)", group[0].path);
                return Err(GitError::Offline { address: address.to_string(), what });
            }
            let client = Client { repositories: self, address, endpoint: self.endpoint(address, configured)? };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(GitError::cache(self.lfs_dir()))?;
            self.access.reporter.started("git lfs", format!("Fetching {} LFS objects of {address}", group.len()));
            for batch in group.chunks(BATCH) {
                runtime.block_on(client.fetch(batch))?;
            }
            self.access.reporter.finished("git lfs", format!("{} objects", group.len()));
        }
        Ok(())
    }

    /// Takes what a directory of this machine has already; returns the rest.
    fn copy_local<'a>(&self, git_dir: &Path, wanted: &'a [Wanted]) -> Result<Vec<&'a Wanted>, GitError> {
        let mut left = Vec::new();
        for it in wanted {
            let hex = it.pointer.oid.hex();
            let path = git_dir.join("lfs/objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
            let Ok(mut file) = fs::File::open(&path) else {
                left.push(it);
                continue;
            };
            let mut object = Object::create(&self.lfs_dir(), &it.pointer)?;
            std::io::copy(&mut file, &mut object.writer).map_err(GitError::cache(&path))?;
            if object.finish().is_err() {
                left.push(it);
            }
        }
        Ok(left)
    }

    /// Where the batch API is: named by the repository, told over ssh, or derived from the address.
    fn endpoint(&self, address: &Address, configured: Option<String>) -> Result<Link, GitError> {
        let plain = |href: String| Link { href, header: std::collections::BTreeMap::default() };
        if let Some(url) = configured {
            let parsed = Address::parse(&url)?;
            return Ok(plain(parsed.to_string()));
        }
        let url = address.effective(&self.access);
        if url.scheme == gix::url::Scheme::Ssh
            && let Some(link) = ask_over_ssh(&url)
        {
            return Ok(link);
        }
        let mut url = url;
        if url.scheme == gix::url::Scheme::Ssh || url.scheme == gix::url::Scheme::Git {
            url.scheme = gix::url::Scheme::Https;
            url.serialize_alternative_form = false;
            url.port = None;
            url.set_user(None);
            if !url.path.starts_with(b"/") {
                url.path.insert(0, b'/');
            }
        }
        let text = url.to_bstring().to_string();
        let text = text.trim_end_matches('/');
        let suffix = if text.ends_with(".git") { "/info/lfs" } else { ".git/info/lfs" };
        Ok(plain(format!("{text}{suffix}")))
    }
}

/// `lfs.url` of the repository's own `.lfsconfig`.
fn configured_url(tree: &Tree, prefix: &str) -> Option<String> {
    let entry = tree.get(&format!("{prefix}.lfsconfig"))?;
    let bytes = tree.bytes(entry).ok()?;
    let metadata = gix::config::file::Metadata::api();
    let file = gix::config::File::from_bytes_no_includes(&bytes, metadata, Default::default()).ok()?;
    file.string("lfs.url").map(|it| it.to_string())
}

fn origin_of(git_dir: &Path) -> Option<Address> {
    let repository = gix::open(git_dir).ok()?;
    let url = repository.config_snapshot().string("remote.origin.url")?;
    Address::parse(&url.to_string()).ok()
}

/// `ssh git@host git-lfs-authenticate <path> download`
fn ask_over_ssh(url: &gix::Url) -> Option<Link> {
    let host = url.host_argument_safe()?;
    let path = url.path_argument_safe()?.to_string();
    let user = url.user_argument_safe();
    let mut command = std::process::Command::new("ssh");
    command.arg("-oBatchMode=yes");
    if let Some(port) = url.port {
        command.arg(format!("-p{port}"));
    }
    let path = path.replace('\'', r"'\''");
    command.arg(user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")));
    command.arg(format!("git-lfs-authenticate '{path}' download"));
    let output = crate::process::run(&mut command, Duration::from_secs(60)).ok()?;
    let link: Link = serde_json::from_slice(&output.stdout).ok()?;
    (output.status.success() && !link.href.is_empty()).then_some(link)
}

/// An object on its way into the cache.
struct Object<'a> {
    writer: HashingWriter<tempfile::NamedTempFile>,
    path: PathBuf,
    pointer: &'a Pointer,
}

impl<'a> Object<'a> {
    fn create(directory: &Path, pointer: &'a Pointer) -> Result<Self, GitError> {
        let file =
            tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(GitError::cache(directory))?;
        Ok(Self { writer: HashingWriter::new(file), path: directory.join(pointer.oid.hex()), pointer })
    }

    /// Publishes it if it is what the pointer says; else tells what it is.
    fn finish(self) -> Result<(), String> {
        let (file, digest, size) = self.writer.finish();
        if digest != self.pointer.oid || size != self.pointer.size {
            return Err(format!(
                "it is {size} bytes with {digest}, not {} bytes with {}",
                self.pointer.size, self.pointer.oid
            ));
        }
        file.as_file().sync_all().map_err(|it| it.to_string())?;
        file.persist(&self.path).map_err(|it| it.to_string())?;
        Ok(())
    }
}

struct Client<'a> {
    repositories: &'a Repositories,
    address: &'a Address,
    endpoint: Link,
}

impl Client<'_> {
    async fn fetch(&self, wanted: &[&Wanted]) -> Result<(), GitError> {
        let first = wanted.first().map(|it| it.path.clone()).unwrap_or_default();
        let failed = |path: &str, reason: String| GitError::Lfs {
            path: path.to_owned(),
            address: self.address.to_string(),
            reason: crate::secret::mask_userinfo(&reason),
        };
        let http = http::client(&http::Options::default()).map_err(|it| failed(&first, reason(&it)))?;
        let (offered, login) = self.ask(&http, wanted).await.map_err(|it| failed(&first, it))?;
        let downloads = wanted.iter().map(|it| {
            let offered = offered.objects.iter().find(|offered| offered.oid == it.pointer.oid.hex());
            let (http, login) = (&http, login.as_deref());
            async move {
                let link = match offered {
                    Some(Offered { error: Some(it), .. }) => Err(format!("{} (code {})", it.message, it.code)),
                    Some(Offered { actions: Some(Actions { download: Some(link) }), .. }) => Ok(link),
                    _ => Err("the server does not offer it".to_owned()),
                };
                let got = match link {
                    Ok(link) => self.download(http, link, login, &it.pointer).await,
                    Err(reason) => Err(reason),
                };
                got.map_err(|reason| failed(&it.path, reason))
            }
        });
        stream::iter(downloads).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Asks for links; when the server wants credentials, one after the other. Returns those it took.
    async fn ask(&self, http: &reqwest::Client, wanted: &[&Wanted]) -> Result<(Response, Option<String>), String> {
        let objects = wanted.iter().map(|it| Requested { oid: it.pointer.oid.hex(), size: it.pointer.size }).collect();
        let request = Request { operation: "download", transfers: ["basic"], objects, hash_algo: "sha256" };
        let body = serde_json::to_vec(&request).map_err(|it| it.to_string())?;
        let url = format!("{}/objects/batch", self.endpoint.href.trim_end_matches('/'));
        let mut logins = self.logins().into_iter();
        let mut login = None;
        loop {
            let ask = || {
                let request = http.post(&url).header("Accept", MEDIA_TYPE).header("Content-Type", MEDIA_TYPE);
                with_headers(request, &self.endpoint, login.as_deref()).body(body.clone())
            };
            let response = http::send(&Retry::SHORT, ask).await.map_err(|it| reason(&it))?;
            if response.status() == reqwest::StatusCode::UNAUTHORIZED {
                let next = logins.find_map(|it| self.header_of(&it));
                login = Some(next.ok_or("the server wants other credentials")?);
                continue;
            }
            let mut response = http::expect_success(response).await.map_err(|it| reason(&it))?;
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|it| reason(&it.without_url()))? {
                if bytes.len() + chunk.len() > MAX_ANSWER {
                    return Err("its answer has no end".to_owned());
                }
                bytes.extend_from_slice(&chunk);
            }
            let offered = serde_json::from_slice(&bytes).map_err(|it| format!("its answer cannot be read: {it}"))?;
            return Ok((offered, login));
        }
    }

    async fn download(
        &self,
        http: &reqwest::Client,
        link: &Link,
        login: Option<&str>,
        pointer: &Pointer,
    ) -> Result<(), String> {
        // Credentials of the git server go back to it alone, never to where it sends us for the content.
        let origin = |text: &str| url::Url::parse(text).ok().map(|it| it.origin());
        let login = login.filter(|_| origin(&link.href) == origin(&self.endpoint.href));
        let ask = || with_headers(http.get(&link.href), link, login);
        let response = http::send(&Retry::SHORT, ask).await.map_err(|it| reason(&it))?;
        let mut response = http::expect_success(response).await.map_err(|it| reason(&it))?;
        let mut object = Object::create(&self.repositories.lfs_dir(), pointer).map_err(|it| reason(&it))?;
        let mut received = 0_u64;
        while let Some(chunk) = response.chunk().await.map_err(|it| reason(&it.without_url()))? {
            received += chunk.len() as u64;
            if received > pointer.size {
                return Err(format!("it is larger than the {} bytes its pointer says", pointer.size));
            }
            object.writer.write_all(&chunk).map_err(|it| it.to_string())?;
        }
        object.finish()
    }

    fn logins(&self) -> Vec<Candidate> {
        match gix::url::parse(self.endpoint.href.as_bytes()) {
            Ok(url) => self.repositories.access.candidates(self.address, &url),
            Err(_) => Vec::new(),
        }
    }

    /// The `Authorization` header of one way to introduce ourselves.
    fn header_of(&self, candidate: &Candidate) -> Option<String> {
        use base64::Engine as _;
        if let Some(header) = candidate.header() {
            return Some(header.reveal().to_owned());
        }
        let basic = |user: &str, password: &str| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        };
        match candidate {
            Candidate::Given(it, _) => Some(basic(&it.user, it.password.reveal())),
            Candidate::Helpers(user) => {
                let account = self.repositories.ask_helpers(&self.endpoint.href, user.clone())?;
                Some(basic(&account.username, &account.password))
            }
        }
    }
}

fn with_headers(mut request: reqwest::RequestBuilder, link: &Link, login: Option<&str>) -> reqwest::RequestBuilder {
    for (name, value) in &link.header {
        request = request.header(name, value);
    }
    match login {
        Some(login) if !link.header.keys().any(|it| it.eq_ignore_ascii_case("authorization")) => {
            request.header("Authorization", login)
        }
        _ => request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pointers_are_pointers() {
        let oid = Digest::of("x");
        let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12\n", oid.hex());
        assert_eq!(Pointer::parse(text.as_bytes()), Some(Pointer { oid, size: 12 }));
        assert_eq!(Pointer::parse(text.replace("sha256", "md5").as_bytes()), None);
        assert_eq!(Pointer::parse(b"version 1\n"), None);
        assert_eq!(Pointer::parse(&vec![b'x'; 5000]), None);
    }
}

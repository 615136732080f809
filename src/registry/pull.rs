//! Reading: manifests by tag or digest, indexes down to a platform, blobs with resume.

use std::io::Write as _;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, RANGE};
use serde::Deserialize;

use super::client::{Place, Purpose};
use super::{Client, RegistryError};
use crate::digest::Digest;
use crate::http::{HttpError, Retry};
use crate::oci::{Descriptor, Platform, Reference, media};
use crate::report::SharedReporter;
use crate::store::{Store, StoreError};

/// Largest manifest or index we take, in bytes (the distribution-spec's own recommendation).
const LARGEST_MANIFEST: usize = 4 << 20;
/// How often a blob is gone on with after its connection broke.
const RESUMES: u32 = 8;

/// An image of a registry, its manifest read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Where its blobs can be had: the repository at the manifest's digest.
    pub reference: Reference,
    /// The manifest as the registry has it (its media type too).
    pub manifest: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Image configuration; media type as OCI says it.
    pub config: Descriptor,
    /// Layers, bottom first; media types as OCI says them.
    pub layers: Vec<Descriptor>,
}

/// What a manifest's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Images by platform.
    Index(Vec<(Descriptor, Option<Platform>)>),
    /// One image.
    Image {
        /// Image configuration.
        config: Descriptor,
        /// Layers, bottom first.
        layers: Vec<Descriptor>,
    },
}

/// Reads a manifest or an index, OCI's or Docker's; media types come out as OCI says them.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_manifest(bytes: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        schema_version: u32,
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Vec<Descriptor>,
        manifests: Option<Vec<Entry>>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(flatten)]
        descriptor: Descriptor,
        platform: Option<Platform>,
    }
    let as_oci = |it: Descriptor| Descriptor { media_type: media::to_oci(&it.media_type).to_owned(), ..it };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match manifest {
        Manifest { schema_version: 1, .. } => Err("its manifest is of Docker's old schema 1".to_owned()),
        Manifest { manifests: Some(entries), .. } => {
            Ok(Document::Index(entries.into_iter().map(|it| (as_oci(it.descriptor), it.platform)).collect()))
        }
        Manifest { config: Some(config), layers, .. } => {
            Ok(Document::Image { config: as_oci(config), layers: layers.into_iter().map(as_oci).collect() })
        }
        _ => Err("its manifest has no configuration".to_owned()),
    }
}

/// The entry for a platform; a variant is only minded where both name one.
///
/// # Errors
/// The platforms there are.
pub fn choose<'a>(
    entries: &'a [(Descriptor, Option<Platform>)],
    wanted: &Platform,
) -> Result<&'a Descriptor, Vec<String>> {
    let fits = |it: &Platform| it.os == wanted.os && it.architecture == wanted.architecture;
    let same = entries.iter().find(|it| it.1.as_ref() == Some(wanted));
    let like = || {
        entries.iter().find(|(_, platform)| {
            platform.as_ref().is_some_and(|it| fits(it) && (it.variant.is_none() || wanted.variant.is_none()))
        })
    };
    let only = || entries.first().filter(|it| entries.len() == 1 && it.1.is_none());
    same.or_else(like).or_else(only).map(|it| &it.0).ok_or_else(|| {
        entries.iter().filter_map(|it| it.1.as_ref()).filter(|it| it.os != "unknown").map(ToString::to_string).collect()
    })
}

impl Client {
    /// The digest a reference stands for now, in one request; none is sent for a reference that has a digest.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] and others.
    pub async fn digest(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        if let Some(digest) = reference.digest {
            return Ok(digest);
        }
        let name = reference.to_string();
        self.ask_any(reference, async |place| {
            let purpose = self.pulling(place, &name);
            let url = place.url(&format!("manifests/{}", reference.identifier()));
            let answer = self.exchange(place, &purpose, |it| it.head(url.clone()).header(ACCEPT, accepted())).await?;
            let answer = match answer.status() {
                // Some registries and proxies do not know HEAD.
                StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => None,
                _ => Some(self.success(place, &purpose, answer).await?),
            };
            let header = answer.as_ref().and_then(|it| it.headers().get("docker-content-digest"));
            match header.and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok()) {
                Some(digest) => Ok(digest),
                None => Ok(Digest::of(self.manifest_bytes(place, &purpose, &reference.identifier()).await?)),
            }
        })
        .await
    }

    /// The image a reference stands for on a platform. What the store has is not asked for again.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Platform`] and others.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        store: &Store,
    ) -> Result<Pulled, RegistryError> {
        let odd = |detail: String| RegistryError::Document { reference: reference.to_string(), detail };
        let mut digest = self.digest(reference).await?;
        // An index that names an index that names … is no image.
        for _ in 0..3 {
            let bytes = self.manifest(reference, digest, store).await?;
            match parse_manifest(&bytes).map_err(odd)? {
                Document::Index(entries) => {
                    let chosen = choose(&entries, platform).map_err(|available| RegistryError::Platform {
                        reference: reference.to_string(),
                        wanted: platform.to_string(),
                        available,
                    })?;
                    digest = chosen.digest;
                }
                Document::Image { config, layers } => {
                    let media_type = media_type_of(&bytes).unwrap_or_else(|| media::MANIFEST.to_owned());
                    let manifest = Descriptor { media_type, digest, size: bytes.len() as u64 };
                    return Ok(Pulled { reference: reference.at(digest), manifest, bytes, config, layers });
                }
            }
        }
        Err(odd("indexes within indexes".to_owned()))
    }

    /// The bytes of a manifest or index, from the store or the registry; the store has them afterwards.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`] for other bytes than asked for, [`RegistryError::NotFound`] and others.
    pub async fn manifest(
        &self,
        reference: &Reference,
        digest: Digest,
        store: &Store,
    ) -> Result<Vec<u8>, RegistryError> {
        if store.has(&digest).is_some_and(|size| size <= LARGEST_MANIFEST as u64)
            && let Ok(bytes) = store.read_blob(&digest)
        {
            return Ok(bytes);
        }
        let name = reference.at(digest).to_string();
        let bytes = self
            .ask_any(reference, async |place| {
                let bytes = self.manifest_bytes(place, &self.pulling(place, &name), &digest.to_string()).await?;
                let found = Digest::of(&bytes);
                if found == digest {
                    return Ok(bytes);
                }
                Err(RegistryError::Mismatch { reference: name.clone(), expected: digest, found })
            })
            .await?;
        store.put_bytes(&bytes)?;
        Ok(bytes)
    }

    /// Puts a blob of a repository into the store, unless it is there. Goes on where a broken connection ended.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`] for other bytes than asked for, [`RegistryError::NotFound`] and others.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        store: &Store,
        reporter: &SharedReporter,
    ) -> Result<(), RegistryError> {
        if store.has(&blob.digest).is_some() {
            return Ok(());
        }
        let id = format!("pull {}", blob.digest.short());
        reporter.started(&id, format!("{} from {}", blob.digest.short(), reference.registry));
        self.ask_any(reference, async |place| self.fetch_from(place, reference, blob, (store, reporter, &id)).await)
            .await?;
        reporter.finished(&id, "pulled");
        Ok(())
    }

    async fn fetch_from(
        &self,
        place: &Place,
        reference: &Reference,
        blob: &Descriptor,
        (store, reporter, id): (&Store, &SharedReporter, &str),
    ) -> Result<(), RegistryError> {
        let name = reference.to_string();
        let purpose = self.pulling(place, &name);
        let url = place.url(&format!("blobs/{}", blob.digest));
        let mut writer = store.writer()?;
        let mut offset = 0_u64;
        let mut failures = 0;
        while offset < blob.size {
            let request = |client: &reqwest::Client| match offset {
                0 => client.get(url.clone()),
                from => client.get(url.clone()).header(RANGE, format!("bytes={from}-")),
            };
            let answer = self.exchange(place, &purpose, request).await?;
            let mut answer = self.success(place, &purpose, answer).await?;
            // A server that does not know ranges begins anew; so do we.
            if offset > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
                writer = store.writer()?;
                offset = 0;
            }
            loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => {
                        offset += chunk.len() as u64;
                        if offset > blob.size {
                            let detail = format!("blob {} is longer than {} bytes", blob.digest, blob.size);
                            return Err(RegistryError::Document { reference: name, detail });
                        }
                        writer.write_all(&chunk).map_err(|source| RegistryError::File {
                            action: format!("write blob {}", blob.digest),
                            source,
                        })?;
                        reporter.progress(id, offset, Some(blob.size));
                    }
                    Ok(None) if offset == blob.size => break,
                    Ok(None) if failures >= RESUMES => {
                        let detail = format!("blob {} ends after {offset} of {} bytes", blob.digest, blob.size);
                        return Err(RegistryError::Document { reference: name, detail });
                    }
                    Err(error) if failures >= RESUMES => {
                        return Err(HttpError::from_reqwest(error, Some(&url)).into());
                    }
                    Ok(None) | Err(_) => {
                        failures += 1;
                        tokio::time::sleep(Retry::SHORT.pause_after(failures)).await;
                        break;
                    }
                }
            }
        }
        match writer.commit_verified(&blob.digest) {
            Ok(_) => Ok(()),
            Err(StoreError::Mismatch { expected, found }) => {
                Err(RegistryError::Mismatch { reference: name, expected, found })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn manifest_bytes(
        &self,
        place: &Place,
        purpose: &Purpose<'_>,
        identifier: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = place.url(&format!("manifests/{identifier}"));
        let answer = self.exchange(place, purpose, |it| it.get(url.clone()).header(ACCEPT, accepted())).await?;
        let mut answer = self.success(place, purpose, answer).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|it| HttpError::from_reqwest(it, Some(&url)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST_MANIFEST {
                let detail = format!("its manifest is larger than {LARGEST_MANIFEST} bytes");
                return Err(RegistryError::Document { reference: place.registry.clone(), detail });
            }
        }
        Ok(bytes)
    }

    /// Asks the mirrors, then the registry itself, whose error counts.
    async fn ask_any<T>(
        &self,
        reference: &Reference,
        ask: impl AsyncFn(&Place) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let places = self.places(reference).await?;
        let (own, mirrors) = places.split_last().ok_or_else(|| RegistryError::Document {
            reference: reference.to_string(),
            detail: "nowhere to be found".to_owned(),
        })?;
        for mirror in mirrors {
            if let Ok(found) = ask(mirror).await {
                return Ok(found);
            }
        }
        ask(own).await
    }

    fn pulling<'a>(&self, place: &Place, reference: &'a str) -> Purpose<'a> {
        Purpose {
            action: format!("pull `{reference}`"),
            scope: place.pull(),
            retry: self.patience,
            reference: Some(reference),
            watch: None,
        }
    }
}

fn accepted() -> String {
    [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST].join(", ")
}

fn media_type_of(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    value.get("mediaType")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> (Descriptor, Option<Platform>) {
        let mut parts = text.split('/').map(str::to_owned);
        let platform =
            Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() };
        let media_type = media::MANIFEST.to_owned();
        (Descriptor { media_type, digest: Digest::of(text), size: 1 }, Some(platform))
    }

    #[test]
    fn a_platform_is_chosen_exactly_before_loosely() {
        let entries = ["unknown/unknown", "linux/arm64/v8", "linux/amd64", "linux/arm/v6", "linux/arm/v7"].map(entry);
        let pick = |text: &str| choose(&entries, &entry(text).1.unwrap()).map(|it| it.digest);
        assert_eq!(pick("linux/amd64"), Ok(Digest::of("linux/amd64")));
        assert_eq!(pick("linux/arm64"), Ok(Digest::of("linux/arm64/v8")));
        assert_eq!(pick("linux/arm/v7"), Ok(Digest::of("linux/arm/v7")));
        let available = ["linux/arm64/v8", "linux/amd64", "linux/arm/v6", "linux/arm/v7"].map(str::to_owned);
        assert_eq!(pick("linux/s390x"), Err(available.to_vec()));
    }

    #[test]
    fn dockers_media_types_come_out_as_ocis() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{d}","size":2}},
            "layers":[{{"mediaType":"{}","digest":"{d}","size":3}}]}}"#,
            media::DOCKER_MANIFEST,
            media::DOCKER_CONFIG,
            media::DOCKER_LAYER_GZIP,
            d = Digest::of("")
        );
        let Ok(Document::Image { config, layers }) = parse_manifest(text.as_bytes()) else { panic!() };
        assert_eq!((config.media_type.as_str(), layers[0].media_type.as_str()), (media::CONFIG, media::LAYER_GZIP));
        assert!(parse_manifest(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err().contains("schema 1"));
    }

    proptest::proptest! {
        /// Registries answer whatever they like.
        #[test]
        fn no_manifest_makes_it_panic(bytes in crate::testing::mangled(&[
            r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}"#,
        ], "{}[]:,\"-19e.null")) {
            if let Ok(Document::Index(entries)) = parse_manifest(&bytes) {
                let _ = choose(&entries, &Platform::host());
            }
        }
    }
}

//! The wheels of a part, into the store: from the addresses the lock has, or found again at this machine's indexes.

use url::Url;

use super::PythonError;
use crate::lock::{Distribution, PythonPart};
use crate::python::fetch::{self, FetchError, Wanted};
use crate::python::indexes::Indexes;
use crate::python::pylock;
use crate::python::resolve::{self, NO_HASHES, Request, ResolveError};
use crate::python::tags::Libc;
use crate::python::uv::Uv;
use crate::report::SharedReporter;
use crate::store::Store;

/// Puts the wheels of a part into the store, checked; what is there already is not asked for, nor what was built: no
/// index has that, whatever it has under such a name.
///
/// # Errors
/// [`PythonError`]
pub async fn fetch_wheels(
    store: &Store,
    part: &PythonPart,
    (indexes, architecture): (&Indexes, &str),
    reporter: &SharedReporter,
) -> Result<(), PythonError> {
    let absent: Vec<Distribution> = part
        .distributions
        .iter()
        .filter(|it| store.has(&it.sha256).is_none() || !fetch::is_checked(store, &it.sha256))
        .filter(|it| it.built_from.is_none() || store.has(&it.sha256).is_some())
        .cloned()
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let (nameless, mut wanted) = split(&absent, store);
    if !nameless.is_empty() {
        let (store, part, indexes, architecture, reporter) =
            (store.clone(), part.clone(), indexes.clone(), architecture.to_owned(), reporter.clone());
        let locating =
            tokio::task::spawn_blocking(move || locate(&store, &part, &nameless, (&indexes, &architecture), &reporter));
        let located = locating.await.map_err(|error| PythonError::Runtime(std::io::Error::other(error)))?;
        wanted.extend(located?);
    }
    fetch::fetch(store, indexes, wanted, reporter).await?;
    Ok(())
}

/// What has no address and what has.
fn split(absent: &[Distribution], store: &Store) -> (Vec<Distribution>, Vec<Wanted>) {
    let mut nameless = Vec::new();
    let mut wanted = Vec::new();
    for it in absent {
        // One that is in the store and only unchecked needs no address that answers.
        let local = store.has(&it.sha256).and_then(|_| Url::from_file_path(store.blob_path(&it.sha256)).ok());
        // A lock may come from anywhere, and no file of this machine is an address that it may name.
        let url = it.url.as_deref().and_then(|it| Url::parse(it).ok()).filter(|it| it.scheme() != "file").or(local);
        match url {
            Some(url) => {
                wanted.push(Wanted { file: it.file.clone(), url, sha256: Some(it.sha256), size: Some(it.size) });
            }
            None => nameless.push(it.clone()),
        }
    }
    (nameless, wanted)
}

/// Finds wheels without an address at this machine's indexes, by name and version first and by digest then.
fn locate(
    store: &Store,
    part: &PythonPart,
    nameless: &[Distribution],
    (indexes, architecture): (&Indexes, &str),
    reporter: &SharedReporter,
) -> Result<Vec<Wanted>, PythonError> {
    let nowhere = |it: &Distribution| FetchError::Nowhere { file: it.file.clone(), sha256: it.sha256 };
    let uv = Uv::find(store, reporter)?;
    let requirements: Vec<String> = nameless.iter().map(|it| format!("{}=={}", it.name, it.version)).collect();
    let request = Request {
        requirements: &requirements,
        constraints: &[],
        python: &part.version,
        libc: Libc::parse(&part.libc).ok_or_else(|| PythonError::Libc(part.libc.clone()))?,
        architecture,
        base: &[],
        indexes,
        links: None,
        no_deps: true,
        hashes: &NO_HASHES,
        source: None,
        torch: None,
    };
    let packages = match resolve::packages(&uv, store, &request) {
        Ok(packages) => packages,
        Err(ResolveError::Unsatisfiable { .. }) => return Err(nowhere(&nameless[0]).into()),
        Err(error) => return Err(error.into()),
    };
    let mut wanted = Vec::new();
    for it in nameless {
        let files = packages.iter().filter(|package| package.name == it.name).flat_map(|package| &package.wheels);
        let same =
            |file: &&pylock::File| file.sha256 == Some(it.sha256) || (file.sha256.is_none() && file.name == it.file);
        let file = files.clone().find(same).ok_or_else(|| nowhere(it))?;
        wanted.push(Wanted {
            file: it.file.clone(),
            url: file.url.clone(),
            sha256: Some(it.sha256),
            size: Some(it.size),
        });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_file_of_this_machine_is_no_address_that_a_lock_may_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let at = |url: &str| Distribution {
            name: "x".to_owned(),
            version: "1".to_owned(),
            file: "x-1-py3-none-any.whl".to_owned(),
            sha256: Digest::of("x"),
            size: 1,
            url: Some(url.to_owned()),
            direct: false,
            built_from: None,
            path: None,
        };
        let (nameless, wanted) = split(&[at("file:///etc/hostname"), at("https://h.example/x-1.whl")], &store);
        assert_eq!((nameless.len(), wanted.len()), (1, 1));
        assert_eq!(wanted[0].url.scheme(), "https");
    }
}

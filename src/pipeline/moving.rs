//! What moves, an image's tag and a repository's branch: asked anew at each lock, and what the answer was is kept, so that
//! `--locked` asks nobody for what was asked before.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Workshop;
use crate::base::Request;
use crate::digest::{Digest, Hasher};
use crate::error::Failure;
use crate::git::Wanted;
use crate::lock::asked::is_local;
use crate::lock::{BasePart, CodePart, code};
use crate::oci::Platform;
use crate::secret::strip_userinfo;
use crate::store::Table;
use crate::task::Script;

/// What an image's name stood for when it was asked last; only where nothing is to be asked anew. Files of this machine
/// are read all the same.
pub(super) fn known_base(shop: &Workshop, request: &Request, platform: &Platform) -> Option<BasePart> {
    let asks = !shop.locked || is_local(request);
    if asks { None } else { shop.around.store.record(Table::Bases, &base_key(request, platform)) }
}

/// Keeps what an image's name stands for.
pub(super) fn keep_base(
    shop: &Workshop,
    request: &Request,
    platform: &Platform,
    part: &BasePart,
) -> Result<(), Failure> {
    if is_local(request) { Ok(()) } else { keep(shop, Table::Bases, &base_key(request, platform), part) }
}

/// Writes an answer down, unless it is the one that stands there.
fn keep<T: Serialize + DeserializeOwned + PartialEq>(
    shop: &Workshop,
    table: Table,
    key: &Digest,
    answer: &T,
) -> Result<(), Failure> {
    let store = &shop.around.store;
    let same = store.record::<T>(table, key).is_some_and(|it| it == *answer);
    if same { Ok(()) } else { Ok(store.remember(table, key, answer)?) }
}

fn base_key(request: &Request, platform: &Platform) -> Digest {
    let mut key = Hasher::new();
    key.field("found base 1").field(request.to_string()).field(platform.to_string());
    key.finish()
}

/// A script at the commit that its branch, tag or shortened commit stood for when it was asked last; only where nothing is
/// to be asked anew.
pub(super) fn known_revision(shop: &Workshop, script: &Script) -> Option<Script> {
    let commit = shop.around.store.record::<String>(Table::Resolutions, &revision_key(shop, script));
    let commit = commit.filter(|_| shop.locked)?;
    Some(Script { commit: Some(commit), ..script.clone() })
}

/// Keeps the commit of a script.
pub(super) fn keep_revision(shop: &Workshop, script: &Script, part: Option<&CodePart>) -> Result<(), Failure> {
    let Some(git) = part.and_then(|it| it.git.as_ref()) else { return Ok(()) };
    if code::wanted(script) == Wanted::Commit(git.commit.clone()) {
        return Ok(());
    }
    keep(shop, Table::Resolutions, &revision_key(shop, script), &git.commit)
}

fn revision_key(shop: &Workshop, script: &Script) -> Digest {
    let repository = strip_userinfo(script.repository.as_deref().unwrap_or_default().trim());
    let directory = shop.directory.as_deref().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    let mut key = Hasher::new();
    key.field("found revision 1").field(repository).field(directory).field(format!("{:?}", code::wanted(script)));
    key.finish()
}

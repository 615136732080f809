//! The base: found or made by a recipe, pinned, and its bytes at hand when somebody stands on it.

use serde_json::Value;

use super::{Workshop, moving};
use crate::base::{self, Base, BaseError, Request};
use crate::error::{During, Failure};
use crate::lock::{BaseLayer, BasePart};
use crate::oci::Platform;
use crate::sandbox::LayerBlob;
use crate::system::recipe;

/// Finds what is asked for and pins it.
pub(super) fn lock(shop: &Workshop, request: &Request, platform: &Platform) -> Result<(BasePart, Base), Failure> {
    let step = || format!("cannot use base image `{request}`");
    let Request::Recipe(name) = request else {
        if let Some(part) = moving::known_base(shop, request, platform) {
            let base = open(shop, &part)?;
            return Ok((part, base));
        }
        let found = shop.wait(crate::lock::base::lock(&shop.around, request, platform)).during(step)?;
        moving::keep_base(shop, request, platform, &found.0)?;
        return Ok(found);
    };
    let resolve = || {
        let (store, reporter) = (&shop.around.store, &shop.around.reporter);
        let text = recipe::text(name)?;
        crate::lock::recipe::resolve(store, (name.as_str(), text), &shop.indexes, shop.max_age, reporter)
    };
    made(shop, &resolve().during(step)?, platform).during(step)
}

/// What is known of a base that is still to be made: a recipe says what its configuration will say.
pub(super) fn foretold(request: &Request) -> Result<Option<Value>, Failure> {
    let Request::Recipe(name) = request else { return Ok(None) };
    let told = recipe::text(name).and_then(|text| recipe::configuration(name, text));
    told.map(Some).during(|| format!("cannot use base image `{request}`"))
}

/// The base a lock pins.
pub(super) fn open(shop: &Workshop, part: &BasePart) -> Result<Base, Failure> {
    let Some(pinned) = &part.recipe else { return reopen(shop, part) };
    let name = part.name.as_deref().unwrap_or_default();
    let resolved = crate::lock::system::recipe(name.trim_start_matches("recipe:"), pinned);
    let (again, base) = made(shop, &resolved, &part.platform).during(|| format!("cannot make base image `{name}`"))?;
    if again.config == part.config {
        return Ok(base);
    }
    Err(BaseError::Document {
        origin: name.to_owned(),
        detail: format!("the recipe gives {}, the lock pins {}", again.config, part.config),
    }
    .into())
}

/// A base that is no recipe's: where the lock says, else where we are told it lies.
fn reopen(shop: &Workshop, part: &BasePart) -> Result<Base, Failure> {
    // What the command line names comes before an engine that happens to have an image of the same configuration.
    let Some(request) =
        shop.base.as_ref().filter(|_| part.source.is_none() && shop.around.store.has(&part.config).is_none())
    else {
        return shop
            .wait(crate::lock::base::open(&shop.around, part))
            .during(|| "cannot open the base image".to_owned());
    };
    let (found, base) = lock(shop, request, &part.platform)?;
    if found.config == part.config {
        return Ok(base);
    }
    let detail = format!("its configuration is {}, the lock pins {}", found.config, part.config);
    Err(BaseError::Document { origin: request.to_string(), detail }.into())
}

/// Its layers, their blobs in the store.
pub(super) fn blobs(shop: &Workshop, base: &Base) -> Result<Vec<LayerBlob>, Failure> {
    shop.wait(base::fetch(&shop.around, &base.pin)).during(|| "cannot fetch the base image".to_owned())?;
    Ok(base.pin.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.blob.digest }).collect())
}

fn made(shop: &Workshop, resolved: &recipe::Resolved, platform: &Platform) -> Result<(BasePart, Base), Failure> {
    let store = &shop.around.store;
    if !recipe::is_made(store, resolved) {
        // The way to make it is tried before anything is fetched.
        crate::sandbox::choose(store)?;
        shop.wait(crate::lock::recipe::fetch(store, resolved, &shop.indexes, &shop.around.reporter))?;
    }
    let made = recipe::build(store, resolved, &*shop.around.reporter)?;
    let part = BasePart {
        name: Some(format!("recipe:{}", resolved.name)),
        source: None,
        manifest: Some(made.manifest.digest),
        config: made.config.digest,
        platform: platform.clone(),
        layers: made.layers().map(|it| BaseLayer { diff_id: it.diff_id, blob: Some(it.descriptor.clone()) }).collect(),
        recipe: Some(resolved.clone().into()),
    };
    let config: Value = serde_json::from_slice(&store.read_blob(&made.config.digest)?).map_err(|error| {
        BaseError::Document { origin: format!("recipe:{}", resolved.name), detail: error.to_string() }
    })?;
    let base = Base { pin: crate::lock::base::pin(&part)?, config };
    Ok((part, base))
}

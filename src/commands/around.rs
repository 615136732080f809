//! What work with images takes: the store, registries, the local engine.

use super::{Context, blocking};
use crate::base::Around;
use crate::engine::Docker;
use crate::error::Failure;
use crate::registry;
use crate::store::Store;

/// Opens the store and makes clients; nothing is asked yet. A Docker engine that cannot even be named is none.
pub(super) async fn around(context: &Context, insecure: &[String]) -> Result<Around, Failure> {
    let root = Store::default_path();
    let store = blocking(move || Ok(Store::open(&root)?)).await?;
    let settings = registry::Settings {
        insecure: insecure.to_vec(),
        credentials: registry::auth::Sources::of_process(),
        ..registry::Settings::default()
    };
    Ok(Around {
        store,
        registry: registry::Client::new(settings)?,
        docker: Docker::connect_default().ok(),
        reporter: context.ui.reporter(),
    })
}

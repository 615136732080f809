//! `agent verify`: an image built again from the lock inside it, and compared layer by layer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::inspect::lock_of;
use super::workshop::workshop;
use super::{Context, blocking};
use crate::base::Request;
use crate::cli::verify::VerifyArgs;
use crate::digest::Digest;
use crate::error::{During, Failure};
use crate::image::read::{self, Found};
use crate::launch;
use crate::oci::Platform;
use crate::pipeline::{self, Built};
use crate::settings::TaskSettings;
use crate::ui::{Align, Style, Table};

/// Rebuilds an image and compares.
pub(super) async fn run(args: VerifyArgs, context: &Context) -> Result<u8, Failure> {
    let settings = TaskSettings::of_image(args.repository.clone(), args.insecure_registries.clone(), &context.session)?;
    let (mut shop, _stop) = workshop(&settings, context).await?;
    let request: Request = args.image.parse()?;
    let found = read::read(&shop.around, &request, &Platform::host()).await?;
    let lock = lock_of(&found)?;
    let other_guest = Digest::of(launch::guest_binary()) != lock.guest;
    if other_guest {
        shop.guest = Cow::Owned(found.files.get(launch::BINARY).cloned().unwrap_or_default());
        context.ui.reporter().note("the in-image binary is another program version's: the image's own is used");
    }
    if !args.cached {
        shop.around.store = shop.around.store.forgetful();
    }
    let labels = labels(&found.config);
    let shop = Arc::new(shop);
    let built =
        blocking(move || pipeline::build(&shop, &lock, &labels).during(|| "cannot build the image again".to_owned()))
            .await?;
    let differences = compare(&found, &built);
    report(context, &found, &built, &differences)?;
    Ok(u8::from(!differences.is_empty()))
}

/// The image's labels; those of its base are among them and come out the same.
fn labels(config: &Value) -> BTreeMap<String, String> {
    let labels = config.pointer("/config/Labels").and_then(Value::as_object);
    labels.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// One layer or document that is not what it was.
struct Difference {
    what: String,
    image: Option<Digest>,
    built: Option<Digest>,
}

fn compare(found: &Found, built: &Built) -> Vec<Difference> {
    let mut differences = Vec::new();
    let layers = &built.image.layers;
    for index in 0..found.layers.len().max(layers.len()) {
        let (image, again) = (found.layers.get(index), layers.get(index));
        let what = again.map_or_else(|| "more".to_owned(), |it| format!("{} {}", it.kind.as_str(), it.title));
        // Blobs where the image's place keeps them: two blobs of one content are two images.
        let (image, again) = match (image, again) {
            (Some((_, Some(blob))), Some(again)) => (Some(blob.digest), Some(again.descriptor.digest)),
            (image, again) => (image.map(|it| it.0), again.map(|it| it.diff_id)),
        };
        if image != again {
            differences.push(Difference { what: format!("layer {}: {}", index + 1, what.trim()), image, built: again });
        }
    }
    let (config, manifest) = (built.image.config.digest(), built.image.manifest.digest());
    // A containerd store tells a manifest's digest as the image's identity.
    if found.config_digest != config && found.config_digest != manifest {
        differences.push(Difference {
            what: "configuration".to_owned(),
            image: Some(found.config_digest),
            built: Some(config),
        });
    }
    if let Some(image) = found.manifest.filter(|it| *it != manifest) {
        differences.push(Difference { what: "manifest".to_owned(), image: Some(image), built: Some(manifest) });
    }
    differences
}

fn report(context: &Context, found: &Found, built: &Built, differences: &[Difference]) -> Result<(), Failure> {
    let ui = &context.ui;
    if ui.is_json() {
        let differences: Vec<Value> =
            differences.iter().map(|it| json!({"what": it.what, "image": it.image, "built": it.built})).collect();
        ui.print_json(&json!({
            "image": found.origin, "same": differences.is_empty(), "differences": differences,
            "manifest": built.image.manifest.digest(), "config": built.image.config.digest(),
        }))?;
        return Ok(());
    }
    if differences.is_empty() {
        let same = ui.paint().paint(Style::Good, "the same");
        let digest = built.image.manifest.digest();
        ui.print(&format!("{}: {same}, {} layers, manifest {digest}", found.origin, found.layers.len()))?;
        return Ok(());
    }
    let mut table =
        Table::new([("what differs", Align::Left), ("in the image", Align::Left), ("built again", Align::Left)]);
    let digest = |it: Option<Digest>| it.map_or_else(|| "nothing".to_owned(), |it| it.to_string());
    for difference in differences {
        table.row([difference.what.clone(), digest(difference.image), digest(difference.built)]);
    }
    let differs = ui.paint().paint(Style::Bad, "not the same");
    ui.print(&format!("{}: {differs}\n{}", found.origin, table.render(ui.paint())))?;
    Ok(())
}

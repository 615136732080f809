//! Running images: in an engine, natively, with a server and without.

mod docker;
mod job;
mod offline;
mod podman;
mod sample;
mod server;
mod settings;

use agent::base::{Request, find};
use agent::image::Image;
use agent::oci::Platform;

use crate::support::TestContext;
use crate::support::images::{around, layer, on_base, unique};

/// An image of the tests' base whose entry point is `sh -c`; no other test, and no other run of this one, has it.
pub(crate) async fn shell(context: &TestContext) -> (agent::base::Around, Image) {
    let around = around(context, "store");
    let request = Request::Layout { directory: crate::support::base(), tag: Some("latest".to_owned()) };
    let base = find(&around, &request, &Platform::host()).await.unwrap();
    let image = on_base(&base, &[layer(&around.store, &[("opt/data", unique("run").as_bytes())])]);
    (around, image)
}

/// A name that no other run of the tests has.
pub(crate) fn name(of: &str) -> String {
    format!("agent-test-{of}-{}:1", std::process::id())
}

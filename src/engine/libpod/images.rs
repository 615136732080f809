//! Images of Podman.

use serde_json::{Value, json};

use super::{Libpod, Listed, gone_is_done};
use crate::digest::Digest;
use crate::engine::EngineError;
use crate::oci::Reference;
use crate::registry::auth::Login;

impl Libpod {
    /// Whether an image is there, by its config digest: Podman names images so.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn has_image(&self, config: &Digest) -> Result<bool, EngineError> {
        let path = format!("images/{}/json", config.hex());
        match self.call(reqwest::Method::GET, &path, None, "inspect the image").await {
            Ok(_) => Ok(true),
            Err(EngineError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches an image from its registry (`podman pull`).
    ///
    /// # Errors
    /// [`EngineError::Refused`] with Podman's own words.
    pub async fn pull(&self, image: &Reference, login: Option<&Login>) -> Result<(), EngineError> {
        let (name, action) = (image.to_string(), format!("pull `{}`", image.familiar()));
        let named = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        // Plain HTTP is the rule on this machine itself.
        let plain = if image.is_loopback() { "&tlsVerify=false" } else { "" };
        let login = login.map(|it| match it {
            Login::Password(it) => json!({ "username": it.user, "password": it.password.reveal() }),
            Login::IdentityToken(it) => json!({ "identitytoken": it.reveal() }),
        });
        let path = format!("images/pull?reference={named}&quiet=true{plain}");
        let answer = self.call_as(reqwest::Method::POST, &path, None, (&action, login.as_ref())).await?;
        // What goes wrong on the way stands in the answer, which is a good one then: a document a line.
        let lines = String::from_utf8_lossy(&answer).into_owned();
        let error = lines.lines().find_map(|it| {
            let said: Value = serde_json::from_str(it).ok()?;
            Some(said.get("error")?.as_str()?.to_owned())
        });
        match error.filter(|it| !it.is_empty()) {
            Some(message) => Err(EngineError::Refused { endpoint: self.endpoint.clone(), action, status: 0, message }),
            None => Ok(()),
        }
    }

    /// What an image's name means: its config digest; `None` where it means nothing.
    ///
    /// # Errors
    /// [`EngineError`] when it does not answer.
    pub async fn image_id(&self, name: &str) -> Result<Option<Digest>, EngineError> {
        match self.call(reqwest::Method::GET, &format!("images/{name}/json"), None, "inspect the image").await {
            Ok(answer) => Ok(Digest::from_hex(&self.parse::<Listed>("inspect", &answer)?.id).ok()),
            Err(EngineError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a name of an image, and the image with its last one; one that is gone already is no error.
    ///
    /// # Errors
    /// [`EngineError::Refused`] while a container uses it.
    pub async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("images/{name}");
        gone_is_done(self.call(reqwest::Method::DELETE, &path, None, "remove the image").await)
    }
}

//! Images of Podman.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Api, Libpod, Listed, gone_is_done};
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

    /// Fetches an image from its registry (`podman pull`), which may show no progress for `silence`.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with Podman's own words; [`EngineError::Stalled`].
    pub async fn pull(&self, image: &Reference, login: Option<&Login>, silence: Duration) -> Result<(), EngineError> {
        let (name, action) = (image.to_string(), format!("pull `{}`", image.familiar()));
        let named = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        let login = login.map(|it| match it {
            Login::Password(it) => json!({ "username": it.user, "password": it.password.reveal() }),
            Login::IdentityToken(it) => json!({ "identitytoken": it.reveal() }),
        });
        // Docker's way tells of every part how much of it is there, the other when it begins a layer. That alone takes plain
        // HTTP, which is the rule on this machine itself.
        let (api, path) = if image.is_loopback() {
            (Api::Libpod, format!("images/pull?reference={named}&tlsVerify=false"))
        } else {
            (Api::Docker, format!("images/create?fromImage={named}"))
        };
        let stalled = || EngineError::Stalled { endpoint: self.endpoint.clone(), action: action.clone(), silence };
        let answer = self.ask((api, reqwest::Method::POST), &path, None, (&action, login.as_ref()));
        let mut answer = timeout(silence, answer).await.map_err(|_| stalled())??;
        let mut said = Vec::new();
        loop {
            let piece = timeout(silence, answer.chunk()).await.map_err(|_| stalled())?;
            let piece = piece.map_err(|error| self.unreachable(error))?;
            said.extend_from_slice(piece.as_deref().unwrap_or_default());
            let whole =
                if piece.is_none() { said.len() } else { said.iter().rposition(|it| *it == b'\n').unwrap_or(0) };
            // What goes wrong on the way stands in the answer, which is a good one then: a document a line.
            if let Some(message) = said.drain(..whole).collect::<Vec<u8>>().split(|it| *it == b'\n').find_map(trouble) {
                return Err(EngineError::Refused { endpoint: self.endpoint.clone(), action, status: 0, message });
            }
            if piece.is_none() {
                return Ok(());
            }
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

/// What a line of a pull's answer says went wrong.
fn trouble(line: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(line).ok()?;
    Some(said.get("error")?.as_str()?.to_owned()).filter(|it| !it.is_empty())
}

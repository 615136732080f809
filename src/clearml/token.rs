//! The token a server gives: a JWT, read without checking its signature (the server does that).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::secret::Secret;

/// How long before its end a token is replaced, in seconds, unless it lives less than twice as long.
const EARLY: i64 = 12 * 3600;

/// A token and what it says about server and user.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: Secret,
    pub(super) claims: Claims,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    exp: Option<i64>,
    iat: Option<i64>,
    api_version: Option<String>,
}

impl Token {
    /// Any text; one that is no JWT counts as a token that never ends and tells nothing.
    pub(super) fn read(text: &str) -> Self {
        let payload = text.split('.').nth(1).unwrap_or_default().trim_end_matches('=');
        let claims =
            URL_SAFE_NO_PAD.decode(payload).ok().and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default();
        Self { text: Secret::new(text), claims }
    }

    /// Whether it should be replaced at `now` (seconds since the epoch).
    pub(super) fn is_stale(&self, now: i64) -> bool {
        let Some(end) = self.claims.exp else { return false };
        let life = self.claims.iat.map_or(EARLY * 2, |it| end - it);
        now >= end - EARLY.min(life / 2)
    }

    /// The newest version of the API that the server has.
    pub(super) fn api_version(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.claims.api_version.as_deref()?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_its_end_and_the_servers_version() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600,"api_version":"2.34","identity":{}}"#);
        let token = Token::read(&format!("e30.{payload}.sig"));
        assert_eq!(token.api_version(), Some((2, 34)));
        assert!(!token.is_stale(2000) && token.is_stale(2800));
        assert!(!Token::read("opaque").is_stale(i64::MAX));
    }
}

//! Who asks: Basic credentials or a bearer token, in the header or the cookie; the tokens themselves.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::call::{API_VERSION, SERVER_VERSION};
use super::clock::Moment;
use super::error::ApiError;
use super::site::{COMPANY, COMPANY_NAME, Site, USER, new_id};
use crate::digest::Digest;

/// How long a token is good for when the client does not say: 30 days, in seconds.
const LIFETIME: i64 = 30 * 24 * 3600;
/// The longest a client may ask for: a year, in seconds.
pub(super) const LONGEST_LIFETIME: i64 = 31_536_000;
/// The cookie of `auth.login`.
pub(super) const COOKIE_NAME: &str = "clearml_token_basic";

/// Who a call is made as.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Identity {
    pub user: String,
    pub company: String,
    pub role: String,
    pub user_name: String,
    pub company_name: String,
}

impl Identity {
    /// The identity of a user.
    pub(super) fn of(user: &str) -> Self {
        Self {
            user: user.into(),
            company: COMPANY.into(),
            role: "user".into(),
            user_name: user.into(),
            company_name: COMPANY_NAME.into(),
        }
    }
}

/// What a token says; clients read the versions from it.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    identity: Identity,
    #[serde(default)]
    session_id: String,
    iat: i64,
    exp: i64,
    auth_type: String,
    api_version: String,
    server_version: String,
    server_build: String,
    feature_set: String,
    env: String,
}

/// A new token for an identity, good for `lifetime` seconds.
pub(super) fn issue(site: &Site, identity: &Identity, now: Moment, lifetime: Option<i64>) -> Result<String, ApiError> {
    let claims = Claims {
        identity: identity.clone(),
        session_id: new_id()?,
        iat: now.seconds(),
        exp: now.seconds() + lifetime.unwrap_or(LIFETIME),
        auth_type: "Bearer".into(),
        api_version: API_VERSION.to_string(),
        server_version: SERVER_VERSION.into(),
        server_build: String::new(),
        feature_set: "basic".into(),
        env: "<unknown>".into(),
    };
    let key = EncodingKey::from_secret(site.token_key.reveal().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|error| ApiError::internal(&error))
}

/// The identity a token was issued to.
pub(super) fn verify(site: &Site, token: &str) -> Result<Identity, ApiError> {
    let key = DecodingKey::from_secret(site.token_key.reveal().as_bytes());
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    let invalid = |reason: &str| ApiError::new(401, 30, format!("Invalid token (invalid jwt token): reason={reason}"));
    if token.split('.').count() != 3 {
        return Err(invalid("Not enough segments"));
    }
    match jsonwebtoken::decode::<Claims>(token, &key, &validation) {
        Ok(token) => Ok(token.claims.identity),
        Err(error) => Err(match error.kind() {
            ErrorKind::ExpiredSignature => invalid("Signature has expired"),
            ErrorKind::InvalidSignature => invalid("Signature verification failed"),
            _ => invalid("Invalid token"),
        }),
    }
}

fn unknown() -> ApiError {
    let why = "Unauthorized (invalid credentials) (failed to locate provided credentials)";
    ApiError::new(401, 22, why)
}

/// The identity behind a request's `Authorization` header, else its cookie.
pub(super) fn identify(site: &Site, db: &Connection, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    match header.map(|it| it.split_once(' ').unwrap_or((it, ""))) {
        Some(("Basic", credentials)) => basic(site, db, credentials),
        Some(("Bearer", token)) => verify(site, token.trim()),
        Some(_) => Err(ApiError::new(401, 10, "Unauthorized (bad authentication header type)")),
        None => match cookie(headers) {
            Some(token) => verify(site, token),
            None => Err(ApiError::new(401, 20, "Unauthorized (missing credentials)")),
        },
    }
}

/// The token in a request's cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok());
    cookies.flat_map(|it| it.split(';')).find_map(|it| it.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

fn basic(site: &Site, db: &Connection, encoded: &str) -> Result<Identity, ApiError> {
    let bytes = STANDARD.decode(encoded.trim()).map_err(|_| unknown())?;
    let text = String::from_utf8(bytes).map_err(|_| unknown())?;
    let (access, secret) = text.split_once(':').ok_or_else(unknown)?;
    let offered = digest(secret);
    if access == site.credentials.user {
        // Digests are compared, so that the time it takes tells nothing about the secret.
        let matches = offered == digest(site.credentials.password.reveal());
        return if matches { Ok(Identity::of(USER)) } else { Err(unknown()) };
    }
    let mut query = db.prepare_cached("SELECT secret_digest, user FROM credentials WHERE access_key = ?")?;
    let found: Option<(String, String)> = query.query_row([access], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((kept, user)) if kept == offered => {
            let used = Moment::now().stored();
            db.execute("UPDATE credentials SET last_used = ? WHERE access_key = ?", params![used, access])?;
            Ok(Identity::of(&user))
        }
        _ => Err(unknown()),
    }
}

/// What is kept of a secret.
pub(super) fn digest(secret: &str) -> String {
    Digest::of(secret.as_bytes()).to_string()
}

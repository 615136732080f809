//! `auth.*`: tokens and credentials.

use rusqlite::params;
use serde_json::{Value, json};

use crate::server::auth::{LONGEST_LIFETIME, digest, issue};
use crate::server::call::{Access, Call, Endpoint, Reply, Type, Version, endpoint, may, must};
use crate::server::error::ApiError;
use crate::server::site::new_credentials;

const V1: Version = Version(1, 0);

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("auth.login", V1, &[may("expiration_sec", Type::Integer)], login),
    endpoint("auth.logout", Version(2, 13), &[], logout),
    endpoint("auth.create_credentials", V1, &[may("label", Type::Text)], create_credentials),
    endpoint("auth.get_credentials", V1, &[], get_credentials),
    endpoint(
        "auth.edit_credentials",
        Version(2, 19),
        &[must("access_key", Type::Text), may("label", Type::Text)],
        edit_credentials,
    ),
    endpoint("auth.revoke_credentials", V1, &[must("access_key", Type::Text)], revoke_credentials),
    Endpoint {
        name: "auth.validate_token",
        since: V1,
        access: Access::Roles("system, root"),
        fields: &[],
        handler: logout,
    },
];

fn login(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let lifetime = call.integer("expiration_sec").filter(|it| *it > 0);
    if let Some(asked) = lifetime.filter(|it| *it > LONGEST_LIFETIME) {
        let why = format!("'{asked}' is bigger than maximum ('{LONGEST_LIFETIME}').");
        return Err(ApiError::field_invalid("expiration_sec", &why));
    }
    Ok(Reply::Token(issue(call.site, &call.identity, call.now, lifetime)?))
}

/// Tokens are not kept, so there is nothing to forget here: the client forgets its own.
fn logout(_: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({}).into())
}

fn create_credentials(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (access, secret) = new_credentials()?;
    let label = call.text("label");
    call.db.execute(
        "INSERT INTO credentials (access_key, secret_digest, label, user) VALUES (?, ?, ?, ?)",
        params![access, digest(&secret), label, call.identity.user],
    )?;
    Ok(json!({"credentials": {"access_key": access, "secret_key": secret, "label": label}}).into())
}

fn get_credentials(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut query =
        call.db.prepare_cached("SELECT access_key, label, last_used FROM credentials WHERE user = ? ORDER BY rowid")?;
    let rows = query.query_map([&call.identity.user], |row| {
        let (key, label, used): (String, Option<String>, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(json!({"access_key": key, "label": label, "last_used": used}))
    })?;
    let mut credentials = vec![json!({"access_key": call.site.credentials.user})];
    credentials.extend(rows.collect::<Result<Vec<Value>, _>>()?);
    Ok(json!({"credentials": credentials}).into())
}

fn edit_credentials(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (key, label) = (call.required("access_key")?, call.text("label"));
    let updated = call.db.execute(
        "UPDATE credentials SET label = ? WHERE access_key = ? AND user = ?",
        params![label, key, call.identity.user],
    )?;
    Ok(json!({"updated": updated}).into())
}

fn revoke_credentials(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let key = call.required("access_key")?;
    let revoked = call
        .db
        .execute("DELETE FROM credentials WHERE access_key = ? AND user = ?", params![key, call.identity.user])?;
    Ok(json!({"revoked": revoked}).into())
}

//! `users.*`: the users there are; the open-source server has no vaults.

use serde_json::{Value, json};

use crate::server::call::{Call, Endpoint, Reply, Type, Version, endpoint, may, must};
use crate::server::document::{Document, object};
use crate::server::error::ApiError;
use crate::server::query::{Spec, get_all as query};
use crate::server::site::{COMPANY_NAME, USER};
use crate::server::storage::{Kind, load, save};

const V1: Version = Version(1, 0);

const SPEC: Spec = Spec {
    kind: Kind::User,
    fields: &["id", "name", "company", "given_name", "family_name", "avatar", "created", "role", "preferences"],
    narrow: &["id"],
    lists: &["id"],
    equal: &[],
    ranges: &[],
    dates: &["created"],
    patterns: &["name"],
};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("users.get_current_user", V1, &[], get_current_user),
    endpoint("users.get_by_id", V1, &[must("user", Type::Text)], get_by_id),
    endpoint("users.get_all", V1, &[], get_all),
    endpoint("users.get_all_ex", V1, &[], get_all),
    endpoint("users.get_preferences", V1, &[], get_preferences),
    endpoint("users.set_preferences", V1, &[may("preferences", Type::Object)], set_preferences),
];

fn current(call: &Call<'_>) -> Result<Document, ApiError> {
    let user = &call.identity.user;
    load(call.db, Kind::User, user)?.ok_or_else(|| ApiError::user_id(user))
}

fn shown(mut user: Document, company: &str) -> Value {
    user.remove("preferences");
    user.insert("company".into(), json!({"id": company, "name": COMPANY_NAME}));
    Value::Object(user)
}

fn get_current_user(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let user = shown(current(call)?, call.company());
    Ok(json!({"user": user, "getting_started": {}, "settings": {}}).into())
}

fn get_by_id(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let id = call.required("user")?;
    let mut user = load(call.db, Kind::User, id)?.ok_or_else(|| ApiError::user_id(id))?;
    user.remove("preferences");
    Ok(json!({"user": user}).into())
}

fn get_all(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut found = query(call, &SPEC)?;
    for user in &mut found.documents {
        user.remove("preferences");
    }
    Ok(found.reply("users"))
}

fn get_preferences(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut user = if call.identity.user == USER { current(call)? } else { Document::new() };
    Ok(json!({"preferences": object(&mut user, "preferences")}).into())
}

fn set_preferences(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut user = current(call)?;
    if let Some(preferences) = call.object("preferences") {
        object(&mut user, "preferences").extend(preferences.clone());
    }
    save(call.db, Kind::User, &user)?;
    Ok(json!({"updated": 1, "fields": {"preferences": object(&mut user, "preferences")}}).into())
}

//! `organization.*`: the tags of everything.

use std::collections::BTreeSet;

use serde_json::json;

use crate::server::call::{Call, Endpoint, Reply, Type, Version, endpoint, may};
use crate::server::document::texts;
use crate::server::error::ApiError;
use crate::server::storage::{self, Kind};

const V1: Version = Version(1, 0);

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("organization.get_tags", V1, &[may("include_system", Type::Flag)], get_tags),
    endpoint("organization.get_user_companies", V1, &[], get_user_companies),
    endpoint("organization.get_entities_count", V1, &[], get_entities_count),
];

fn get_tags(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (mut plain, mut system) = (BTreeSet::new(), BTreeSet::new());
    for kind in [Kind::Task, Kind::Model, Kind::Project, Kind::Queue] {
        for item in storage::list(call.db, kind, &[])? {
            plain.extend(texts(&item, "tags").into_iter().map(str::to_owned));
            system.extend(texts(&item, "system_tags").into_iter().map(str::to_owned));
        }
    }
    let mut answer = json!({"tags": plain});
    if call.flag("include_system") {
        answer["system_tags"] = json!(system);
    }
    Ok(answer.into())
}

fn get_user_companies(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let users = storage::list(call.db, Kind::User, &[])?;
    let owners: Vec<_> = users.iter().map(|it| json!({"id": it["id"], "name": it["name"]})).collect();
    let company = json!({"id": call.company(), "name": call.identity.company_name, "allocated": owners.len(),
        "owners": owners});
    Ok(json!({"companies": [company]}).into())
}

fn get_entities_count(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut counts = json!({});
    for (name, kind) in [("tasks", Kind::Task), ("models", Kind::Model), ("projects", Kind::Project)] {
        if call.body.contains_key(name) {
            counts[name] = json!(storage::list(call.db, kind, &[])?.len());
        }
    }
    Ok(counts.into())
}

//! `debug.ping`, `server.*` and `login.*`: what clients ask before they know anything.

use serde_json::json;

use crate::server::call::{API_VERSION, Access, Call, Endpoint, Reply, SERVER_VERSION, Version, endpoint};
use crate::server::error::ApiError;

const V1: Version = Version(1, 0);

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { name: "debug.ping", since: V1, access: Access::Anybody, fields: &[], handler: ping },
    Endpoint {
        name: "login.supported_modes",
        since: V1,
        access: Access::Anybody,
        fields: &[],
        handler: supported_modes,
    },
    endpoint("server.info", Version(2, 12), &[], info),
    Endpoint { name: "server.config", since: V1, access: Access::Roles("root, system"), fields: &[], handler: info },
];

fn ping(_: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({"msg": "ClearML server"}).into())
}

fn info(_: &mut Call<'_>) -> Result<Reply, ApiError> {
    let version = API_VERSION.to_string();
    Ok(json!({"version": SERVER_VERSION, "build": "", "commit": "", "api_version": version}).into())
}

fn supported_modes(_: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(json!({
        "authenticated": false,
        "basic": {"enabled": false, "guest": {"enabled": false}},
        "server_errors": {"es_connection_error": false, "missed_es_upgrade": false},
        "sso": {},
        "sso_providers": [],
    })
    .into())
}

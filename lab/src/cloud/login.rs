//! Entra's token endpoint, what describes it, and the keys with which the tenant signs (cloud.md 1.5, 3.6).

use chrono::{DateTime, Utc};
use hyper::{Method, StatusCode};
use serde_json::json;

use super::{Ask, Reply};
use crate::{
    tenant::{Tenant, TokenError, TokenRequest},
    world::World,
};

pub(super) fn answer(world: &mut World, ask: &Ask) -> Reply {
    let now = world.now();
    let Some(cloud) = &mut world.cloud else { return Reply::not_found() };
    let path = ask.path.trim_start_matches('/');
    let (tenant, rest) = path.split_once('/').unwrap_or((path, ""));
    match (&ask.method, rest) {
        (&Method::POST, "oauth2/v2.0/token") => token(&mut cloud.tenant, tenant, ask, now),
        (_, "v2.0/.well-known/openid-configuration" | "discovery/v2.0/keys" | "metadata/json/1")
            if !cloud.tenant.is_named(tenant) =>
        {
            refused(&TokenError::of(90_002), now)
        }
        (&Method::GET, "v2.0/.well-known/openid-configuration") => {
            Reply::json(StatusCode::OK, &configuration(&cloud.tenant, &ask.base))
        }
        (&Method::GET, "discovery/v2.0/keys") => Reply::json(StatusCode::OK, &cloud.tenant.signing_keys()),
        (&Method::GET, "metadata/json/1") => Reply::json(StatusCode::OK, &cloud.tenant.metadata(&ask.base)),
        _ => Reply::not_found(),
    }
}

pub(super) fn refused(error: &TokenError, now: DateTime<Utc>) -> Reply {
    let answer = crate::http::json(super::status_of(error.status()), &error.json(now));
    Reply::refusal(answer, format!("AADSTS{}", error.code)).with_header("cache-control", "no-store, no-cache")
}

pub(super) fn unavailable(status: StatusCode, now: DateTime<Utc>) -> Reply {
    let answer = crate::http::json(status, &TokenError::of(90_033).json(now));
    Reply::refusal(answer, "AADSTS90033")
}

/// The application that signs in, for the journal.
pub(super) fn client(body: &[u8]) -> String {
    form_urlencoded::parse(body)
        .find(|(name, _)| name == "client_id")
        .map(|(_, id)| id.into_owned())
        .unwrap_or_default()
}

fn token(tenant: &mut Tenant, name: &str, ask: &Ask, now: DateTime<Utc>) -> Reply {
    let form = form_urlencoded::parse(&ask.body).into_owned().collect();
    let endpoint = format!("{}{}", ask.base, ask.path);
    match tenant.token(&TokenRequest { tenant: name, endpoint: &endpoint, form }, now) {
        Ok(token) => Reply::json(StatusCode::OK, &token).with_header("cache-control", "no-store, no-cache"),
        Err(error) => refused(&error, now),
    }
}

fn configuration(tenant: &Tenant, base: &str) -> serde_json::Value {
    let place = format!("{base}/{}", tenant.spec.tenant_id);
    json!({
        "token_endpoint": format!("{place}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{place}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{place}/v2.0"),
        "request_uri_parameter_supported": false,
        "authorization_endpoint": format!("{place}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{place}/oauth2/v2.0/devicecode"),
        "tenant_region_scope": "EU",
    })
}

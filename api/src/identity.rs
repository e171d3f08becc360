//! `/v1/whoami`: what the service makes of a token.

use actix_web::{get, web::Json};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Role, caller::Caller};

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    /// The subject of the token: the name in decisions and in the audit.
    #[schema(example = "bob@contoso.example")]
    subject: String,
    /// What they may do.
    #[schema(example = json!(["approver"]))]
    roles: Vec<Role>,
    /// The groups that they belong to.
    #[schema(example = json!(["mail-team"]))]
    groups: Vec<String>,
    /// When the token ends.
    #[schema(example = "2026-11-23T18:00:00Z")]
    expires_at: DateTime<Utc>,
}

/// Tell who the caller is.
#[utoipa::path(tag = "service", responses((status = 200, body = Identity)))]
#[get("/v1/whoami")]
pub(crate) async fn show_identity(caller: Caller) -> Json<Identity> {
    let claims = caller.claims;
    let expires_at = DateTime::from_timestamp(claims.exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    Json(Identity { subject: claims.sub, roles: claims.roles, groups: claims.groups, expires_at })
}

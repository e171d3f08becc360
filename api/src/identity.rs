//! `/v1/whoami`: what the service makes of a credential.

use std::collections::BTreeSet;

use actix_web::{get, web::Json};
use chrono::{DateTime, Utc};
use domain::OrganizationId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Role,
    caller::{Caller, Credential},
};

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    /// The name in decisions and in the audit.
    #[schema(example = "bob@contoso.example")]
    subject: String,
    /// What they have shown.
    credential: Credential,
    /// What they may do.
    #[schema(example = json!(["approver"]))]
    roles: Vec<Role>,
    /// The groups that they belong to.
    #[schema(example = json!(["mail-team"]))]
    groups: Vec<String>,
    /// The only organizations that they reach; absent when they reach all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["contoso"]))]
    organizations: Option<BTreeSet<OrganizationId>>,
    /// When the credential ends; absent when it has no end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-23T18:00:00Z")]
    expires_at: Option<DateTime<Utc>>,
    /// What is missing in the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Your token does not hold your groups")]
    notice: Option<&'static str>,
}

/// Tell who the caller is.
#[utoipa::path(tag = "service", responses((status = 200, body = Identity)))]
#[get("/v1/whoami")]
pub(crate) async fn show_identity(caller: Caller) -> Json<Identity> {
    let Caller { subject, grants, credential, expires_at, notice } = caller;
    let (roles, groups, organizations) = (grants.roles, grants.groups, grants.organizations);
    Json(Identity { subject, credential, roles, groups, organizations, expires_at, notice })
}

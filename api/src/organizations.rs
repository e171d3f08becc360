//! `/v1/organizations`: what is configured, and what discovery saw last.

use actix_web::{
    get,
    web::{Data, Json, Path},
};
use chrono::{DateTime, Utc};
use domain::{
    Digest, HybridObjects, Organization, OrganizationId, Policy, Snapshot, Tenant,
    plan::Finding,
    snapshot::{AuthConfig, Server},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Problem, State,
    caller::{May, Read},
    certificates::{CertificateRow, matrix},
    page::List,
};

/// List the configured organizations.
#[utoipa::path(tag = "organizations", responses((status = 200, body = List<Organization>)))]
#[get("/v1/organizations")]
pub(crate) async fn list_organizations(caller: May<Read>, state: Data<State>) -> Json<List<Organization>> {
    Json(List { items: state.organizations_of(caller.caller()).cloned().collect() })
}

/// Show a configured organization.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses((status = 200, body = Organization)))]
#[get("/v1/organizations/{id}")]
pub(crate) async fn show_organization(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<Organization>, Problem> {
    state.organization(&id).cloned().map(Json)
}

/// The rules of an organization with their version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyVersion {
    /// As it stands in plans: a plan made under other rules has another digest.
    digest: Digest,
    /// The rules.
    policy: Policy,
}

/// Show the policy that the renewals of an organization obey.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses((status = 200, body = PolicyVersion)))]
#[get("/v1/organizations/{id}/policy")]
pub(crate) async fn show_policy(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<PolicyVersion>, Problem> {
    let policy = state.organization(&id)?.policy.clone();
    Ok(Json(PolicyVersion { digest: policy.digest(), policy }))
}

/// The Exchange servers of an organization.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Servers {
    /// When they were seen.
    #[schema(example = "2026-11-23T10:00:00Z")]
    taken_at: DateTime<Utc>,
    /// Every server, also those that take no part.
    items: Vec<Server>,
}

/// List the servers of an organization as they were seen last.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses(
    (status = 200, body = Servers),
    (status = 404, description = "There is no such organization, or nobody has looked at it (`not_discovered_yet`)")
))]
#[get("/v1/organizations/{id}/servers")]
pub(crate) async fn list_servers(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<Servers>, Problem> {
    let seen = seen_last(&state, &id).await?;
    Ok(Json(Servers { taken_at: seen.taken_at, items: seen.servers }))
}

/// Which server has which certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Certificates {
    /// When they were seen.
    #[schema(example = "2026-11-23T10:00:00Z")]
    taken_at: DateTime<Utc>,
    /// One row for each Auth certificate, current first.
    items: Vec<CertificateRow>,
}

/// Show which server has which Auth certificate: the thumbprint matrix.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses(
    (status = 200, body = Certificates),
    (status = 404, description = "There is no such organization, or nobody has looked at it (`not_discovered_yet`)")
))]
#[get("/v1/organizations/{id}/certificates")]
pub(crate) async fn list_certificates(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<Certificates>, Problem> {
    let seen = seen_last(&state, &id).await?;
    Ok(Json(Certificates { taken_at: seen.taken_at, items: matrix(&seen) }))
}

/// `AuthConfig` on every domain controller that was asked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthConfigs {
    /// When they were seen.
    #[schema(example = "2026-11-23T10:00:00Z")]
    taken_at: DateTime<Utc>,
    /// Whether all of them name the same certificates.
    #[schema(example = true)]
    agreed: bool,
    /// What each of them says.
    items: Vec<AuthConfig>,
}

/// Show `AuthConfig` of an organization as each domain controller told it last.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses(
    (status = 200, body = AuthConfigs),
    (status = 404, description = "There is no such organization, or nobody has looked at it (`not_discovered_yet`)")
))]
#[get("/v1/organizations/{id}/auth-config")]
pub(crate) async fn show_auth_config(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<AuthConfigs>, Problem> {
    let seen = seen_last(&state, &id).await?;
    let agreed = seen.agreed_auth_config().is_some();
    Ok(Json(AuthConfigs { taken_at: seen.taken_at, agreed, items: seen.auth_config }))
}

/// The cloud half of an organization.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hybrid {
    /// When it was seen.
    #[schema(example = "2026-11-23T10:00:00Z")]
    taken_at: DateTime<Utc>,
    /// Whether it is a hybrid organization at all.
    #[schema(example = true)]
    hybrid: bool,
    /// What is not as it should be, with the cmdlet that puts it right.
    #[schema(example = json!([]))]
    drift: Vec<Finding>,
    /// What the servers say.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_premises: Option<HybridObjects>,
    /// What the tenant says; absent when no credentials for it are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Tenant>,
}

/// Show what joins an organization to the cloud, as it was seen last, and what is wrong with it.
#[utoipa::path(tag = "organizations", params(("id" = OrganizationId, Path)), responses(
    (status = 200, body = Hybrid),
    (status = 404, description = "There is no such organization, or nobody has looked at it (`not_discovered_yet`)")
))]
#[get("/v1/organizations/{id}/hybrid")]
pub(crate) async fn show_hybrid(
    _: May<Read>,
    state: Data<State>,
    id: Path<OrganizationId>,
) -> Result<Json<Hybrid>, Problem> {
    let seen = seen_last(&state, &id).await?;
    let cloud = state.organization(&id)?.cloud.as_ref();
    let drift = seen.hybrid_drift(cloud);
    Ok(Json(Hybrid {
        taken_at: seen.taken_at,
        hybrid: seen.hybrid,
        drift,
        on_premises: seen.on_premises_hybrid,
        tenant: seen.tenant,
    }))
}

async fn seen_last(state: &State, id: &OrganizationId) -> Result<Snapshot, Problem> {
    state.organization(id)?;
    let seen = state.db.read(async |tx| tx.latest_snapshot(id).await).await?;
    seen.ok_or_else(|| Problem::not_discovered_yet(id.as_str()))
}

//! `/v1/api-keys`: what programs call the API with.

use std::collections::BTreeSet;

use actix_web::{
    HttpResponse, delete, get,
    http::header,
    post,
    web::{Data, Json, Path},
};
use chrono::{DateTime, TimeDelta, Utc};
use db::{ApiKey, Grants};
use domain::{OrganizationId, timeline::micros};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    Problem, Role, State,
    caller::{Administer, May},
    credentials::IssuedKey,
    input::{Body, Params},
    page::{Cursor, Limit, Page},
    problem::FieldError,
    tokens::check_subject,
};

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "servicenow", "roles": ["requester"], "organizations": ["contoso"], "expires_in_days": 90}))]
pub(crate) struct NewApiKey {
    /// What to call it: `api_key:` and this name stand in the record of what it does. A key that takes the place of another may have its name.
    name: String,
    /// What it may do: `requester`, `operator` or `auditor`. Decisions are people's, and a key makes no keys.
    roles: Vec<Role>,
    /// The groups that it counts as a member of.
    #[serde(default)]
    groups: Vec<String>,
    /// The only organizations that it reaches; all when left out.
    #[serde(default)]
    organizations: Option<BTreeSet<OrganizationId>>,
    /// How long it is good, 1 to 3650 days.
    #[serde(default)]
    #[schema(value_type = u16, minimum = 1, maximum = 3650, default = 365)]
    expires_in_days: Days,
}

/// How long a key is good.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Days(i64);

impl Default for Days {
    fn default() -> Self {
        Self(365)
    }
}

impl TryFrom<i64> for Days {
    type Error = &'static str;
    fn try_from(days: i64) -> Result<Self, Self::Error> {
        if (1..=3650).contains(&days) { Ok(Self(days)) } else { Err("a key is good for 1 to 3650 days") }
    }
}

/// A key, without its secret. Times are real ones, also when a lab runs faster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShownApiKey {
    /// Its id; it stands in the key, too.
    #[schema(example = "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1")]
    id: Uuid,
    /// What people call it.
    #[schema(example = "servicenow")]
    name: String,
    /// What it may do.
    #[schema(example = json!(["requester"]))]
    roles: Vec<String>,
    /// The groups that it counts as a member of.
    #[schema(example = json!([]))]
    groups: Vec<String>,
    /// The only organizations that it reaches; absent when it reaches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["contoso"]))]
    organizations: Option<BTreeSet<OrganizationId>>,
    /// Who made it.
    #[schema(example = "root@contoso.example")]
    created_by: String,
    /// When.
    #[schema(example = "2026-11-23T10:00:00Z")]
    created_at: DateTime<Utc>,
    /// Not accepted from then on.
    #[schema(example = "2027-02-21T10:00:00Z")]
    expires_at: DateTime<Utc>,
    /// When it was used last, to the minute; absent when it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-24T08:15:00Z")]
    last_used_at: Option<DateTime<Utc>>,
    /// Who revoked it; absent while it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "root@contoso.example")]
    revoked_by: Option<String>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T10:00:00Z")]
    revoked_at: Option<DateTime<Utc>>,
}

/// A new key with its secret, which is told this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeApiKey {
    /// Send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`. Nobody can read it again.
    #[schema(
        example = "rk_019361b27f3a7c619a550c7be3b0f4d1_2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    )]
    key: String,
    #[serde(flatten)]
    shown: ShownApiKey,
}

impl ShownApiKey {
    fn of(key: ApiKey) -> Self {
        let Grants { roles, groups, organizations } = key.grants;
        Self {
            id: key.id,
            name: key.name,
            roles,
            groups,
            organizations,
            created_by: key.created_by,
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            revoked_by: key.revoked_by,
            revoked_at: key.revoked_at,
        }
    }
}

/// Make an API key.
///
/// The answer holds the key, this once: only a hash of it is kept.
#[utoipa::path(tag = "service", request_body = NewApiKey, responses(
    (status = 201, body = MadeApiKey),
    (status = 422, description = "Members of the body are wrong")
))]
#[post("/v1/api-keys")]
pub(crate) async fn create_api_key(
    caller: May<Administer>,
    state: Data<State>,
    Body(new): Body<NewApiKey>,
) -> Result<HttpResponse, Problem> {
    let faults = new.faults(&state);
    if !faults.is_empty() {
        return Err(Problem::invalid_request(faults));
    }
    let issued = IssuedKey::new().ok_or_else(|| Problem::not_ready("The system has no random numbers."))?;
    let (key, text) = new.issued(issued, caller.subject(), micros(Utc::now()));
    let at = state.now();
    state.db.write(async |tx| tx.insert_api_key(&key, at).await).await?;
    Ok(HttpResponse::Created().json(MadeApiKey { key: text, shown: ShownApiKey::of(key) }))
}

/// What a key may be allowed.
const ROLES_OF_KEYS: [Role; 3] = [Role::Requester, Role::Operator, Role::Auditor];

impl NewApiKey {
    fn faults(&self, state: &State) -> Vec<FieldError> {
        let fault = |pointer: &str, detail: String| FieldError { pointer: pointer.to_owned(), detail };
        let mut faults = Vec::new();
        if check_subject(&self.name).is_err() || self.name.chars().count() > 100 {
            faults.push(fault("/name", "a name has 1 to 100 characters and no control characters".to_owned()));
        }
        if self.roles.is_empty() {
            faults.push(fault("/roles", "a key without a role can do nothing: name one".to_owned()));
        }
        for (index, role) in self.roles.iter().enumerate().filter(|(_, role)| !ROLES_OF_KEYS.contains(role)) {
            let detail = format!(
                "a key cannot be {role}: decisions and keys are made by people; use requester, operator or auditor"
            );
            faults.push(fault(&format!("/roles/{index}"), detail));
        }
        if self.groups.len() > 100 || self.groups.iter().any(|group| check_subject(group).is_err()) {
            faults.push(fault("/groups", "up to 100 groups of 1 to 200 characters".to_owned()));
        }
        match &self.organizations {
            Some(named) if named.is_empty() => {
                faults.push(fault("/organizations", "name at least one, or leave it out for all".to_owned()));
            }
            Some(named) => faults.extend(named.iter().filter(|id| !state.organizations.contains_key(*id)).map(|id| {
                fault("/organizations", format!("unknown organization `{id}`: GET /v1/organizations lists them"))
            })),
            None => {}
        }
        faults
    }

    fn issued(self, issued: IssuedKey, by: &str, now: DateTime<Utc>) -> (ApiKey, String) {
        let roles = self.roles.iter().map(Role::to_string).collect();
        let key = ApiKey {
            id: issued.id,
            name: self.name,
            secret_hash: issued.secret_hash,
            grants: Grants { roles, groups: self.groups, organizations: self.organizations },
            created_by: by.to_owned(),
            created_at: now,
            expires_at: now + TimeDelta::days(self.expires_in_days.0),
            last_used_at: None,
            revoked_by: None,
            revoked_at: None,
        };
        (key, issued.text)
    }
}

/// Which keys to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// List the API keys, newest first, also those that are revoked. Their secrets are not known here.
#[utoipa::path(tag = "service", params(ApiKeyQuery), responses((status = 200, body = Page<ShownApiKey>)))]
#[get("/v1/api-keys")]
pub(crate) async fn list_api_keys(
    _: May<Administer>,
    state: Data<State>,
    Params(query): Params<ApiKeyQuery>,
) -> Result<Json<Page<ShownApiKey>>, Problem> {
    let page = query.limit.after(query.cursor);
    let rows = state.db.read(async |tx| tx.api_keys(page).await).await?;
    let rows = rows.into_iter().map(ShownApiKey::of).collect();
    Ok(Json(Page::of(rows, query.limit, |key: &ShownApiKey| key.id)))
}

/// Revoke an API key: it is not accepted from the next request on.
///
/// It stays in the list. Revoking it again changes nothing.
#[utoipa::path(tag = "service", params(("id" = Uuid, Path)), responses(
    (status = 204, description = "It is revoked"),
    (status = 404, description = "There is no such key")
))]
#[delete("/v1/api-keys/{id}")]
pub(crate) async fn revoke_api_key(
    caller: May<Administer>,
    state: Data<State>,
    id: Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    let (by, now, at) = (caller.subject(), micros(Utc::now()), state.now());
    state.db.write(async |tx| tx.revoke_api_key(*id, by, now, at).await).await?;
    Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish())
}

//! Audit entries: the append-only record of who and what changed anything.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{OrganizationId, RenewalId};

/// One record, as it is stored and as it is shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct AuditEntry {
    /// UUIDv7.
    pub id: Uuid,
    /// The renewal, if it belongs to one.
    pub renewal_id: Option<RenewalId>,
    /// The organization, if it belongs to one.
    pub organization_id: Option<OrganizationId>,
    /// Counts 1, 2, 3 … without gaps within its renewal (or within everything that belongs to none).
    #[schema(example = 7)]
    pub sequence: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: the subject of a token, or `worker:<instance>`.
    #[schema(example = "bob@contoso.example")]
    pub actor: String,
    /// What, in snake_case with a noun first.
    #[schema(example = "decision.approved")]
    pub action: String,
    /// The particulars. Never a secret.
    #[sqlx(json)]
    #[schema(value_type = Object, example = json!({"gate": "execute", "reason": "Reviewed the plan with the mail team"}))]
    pub detail: serde_json::Value,
}

/// A record that is about to be written: what the caller knows.
#[derive(Clone, Debug)]
pub struct NewAudit {
    /// Who.
    pub actor: String,
    /// What, in snake_case with a noun first, e.g. `cmdlet.intended`.
    pub action: &'static str,
    /// The particulars, a JSON object. Never a secret.
    pub detail: serde_json::Value,
}

impl NewAudit {
    /// A record by `actor`. `detail` must be a JSON object.
    #[must_use]
    pub fn new(actor: impl Into<String>, action: &'static str, detail: serde_json::Value) -> Self {
        debug_assert!(detail.is_object(), "JSON columns hold objects only");
        Self { actor: actor.into(), action, detail }
    }
}

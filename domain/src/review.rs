//! Reviews: what an auditor thinks of a gate that was broken.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Gate, RenewalId};

/// A broken gate that an auditor has to look at.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
#[schema(example = json!({
    "id": "019361b2-7f3a-7c61-9a55-0c7be3b0f4d2", "renewal_id": "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1",
    "decision_id": "019361b2-7f3a-7c61-9a55-0c7be3b0f4d3", "gate": "execute", "broken_by": "eve@contoso.example",
    "reason": "The key was published; nobody of the approvers can be reached", "broken_at": "2026-11-23T10:00:00Z"
}))]
pub struct Review {
    /// UUIDv7.
    pub id: Uuid,
    /// The renewal.
    pub renewal_id: RenewalId,
    /// The decision that broke the glass.
    pub decision_id: Uuid,
    /// The gate.
    pub gate: Gate,
    /// Who broke it. Does not review it.
    #[schema(example = "eve@contoso.example")]
    pub broken_by: String,
    /// Why.
    #[schema(example = "The key was published; nobody of the approvers can be reached")]
    pub reason: String,
    /// When.
    pub broken_at: DateTime<Utc>,
    /// What the auditor thinks of it; open without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ReviewVerdict>,
    /// In their words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// Who has reviewed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewed_by: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewed_at: Option<DateTime<Utc>>,
}

/// What an auditor thinks of a broken gate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// It could not wait.
    Justified,
    /// It could have.
    NotJustified,
}

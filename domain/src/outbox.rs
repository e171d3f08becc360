//! Messages to the outside, as they are kept until they have arrived or are given up.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{OrganizationId, RenewalId};

/// Where a message stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OutboxStatus {
    /// To be delivered, or to be tried again.
    Pending,
    /// Its target has it.
    Delivered,
    /// Given up: refused by its target, or tried for days.
    Dead,
    /// Given up by an operator.
    Dropped,
}

impl OutboxStatus {
    /// The word used in JSON and SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }
}

/// A message as it is listed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct OutboxMessage {
    /// UUIDv7; what its target knows it by (`webhook-id`, `Message-ID`).
    pub id: Uuid,
    /// The target's id in the configuration.
    #[schema(example = "chat")]
    pub target: String,
    /// What it is ordered by.
    #[schema(example = "chat/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1")]
    pub lane: String,
    /// What happened.
    #[schema(example = "renewal.awaiting_approval")]
    pub event: String,
    /// The organization, if it belongs to one.
    pub organization_id: Option<OrganizationId>,
    /// The renewal, if it is about one.
    pub renewal_id: Option<RenewalId>,
    /// The sequence number of the audit entry that it tells of.
    #[schema(example = 7)]
    pub sequence: i64,
    /// Where it stands.
    pub status: OutboxStatus,
    /// Tries that have failed.
    #[schema(example = 2)]
    pub failures: i32,
    /// Why the last one failed.
    #[schema(example = "receiver.example answers 503 Service Unavailable")]
    pub last_error: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
}

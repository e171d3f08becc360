//! What the ticket system says of a renewal's ticket, and what that means for the run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the ticket system last said of a renewal's ticket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({"word": "ready", "detail": "state Implement (-1), approval approved", "read_at": "2026-11-23T10:00:00Z"}))]
pub struct TicketStanding {
    /// What it means for the run.
    pub word: TicketWord,
    /// In the words of the ticket system.
    #[schema(example = "state Implement (-1), approval approved")]
    pub detail: String,
    /// When it was read there.
    pub read_at: DateTime<Utc>,
}

/// What the standing of a ticket means for its renewal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TicketWord {
    /// The change may be carried out.
    Ready,
    /// Not yet: nothing is changed.
    NotReady,
    /// Somebody holds it: nothing is changed until they let go.
    OnHold,
    /// It is called off: before the publication the run takes back what it did, after it a person decides.
    Cancelled,
    /// Its approvals are void: so are those of the plan.
    ApprovalVoided,
    /// It is over, although the run is not: a person decides.
    Closed,
}

impl TicketWord {
    /// The word used in JSON and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::OnHold => "on_hold",
            Self::Cancelled => "cancelled",
            Self::ApprovalVoided => "approval_voided",
            Self::Closed => "closed",
        }
    }
}

impl std::fmt::Display for TicketWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TicketStanding {
    /// Whether the ticket system says the same as before, whenever it was read.
    #[must_use]
    pub fn says_as(&self, before: &Self) -> bool {
        self.word == before.word && self.detail == before.detail
    }
}

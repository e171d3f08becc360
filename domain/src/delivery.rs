//! Deliveries: what sources have sent, and what became of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeliveryId, RenewalId};

/// What became of a delivery.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryVerdict {
    /// It raised a renewal, or told how the ticket of one stands.
    Accepted,
    /// It had come before: it got the answer that it got then.
    Duplicate,
    /// It is kept and changes nothing.
    Ignored,
    /// It was not taken.
    Refused,
}

impl DeliveryVerdict {
    /// The word used in JSON, SQL and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

/// Something that a source has sent, as it is stored and as it is shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
#[schema(example = json!({
    "id": "019361b2-8b1d-7c44-b0f2-5d3c1a9e7f60", "source": "acme", "delivery_id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
    "received_at": "2026-11-23T10:00:00Z", "sender": "signature", "retry": null, "verdict": "accepted", "status": 202, "problem": null, "detail": null,
    "size": 1840, "ticket_number": "CHG0030022", "ticket_key": "0f4ac6c4b750230096c3e4f6ee11a9fe", "mod_count": 7,
    "renewal_id": "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1", "repeats": null
}))]
pub struct Delivery {
    /// UUIDv7.
    pub id: DeliveryId,
    /// The source in whose name it came.
    #[schema(example = "acme")]
    pub source: String,
    /// What its sender calls it: `webhook-id`, `X-Atlassian-Webhook-Identifier`, or `id` of a CloudEvent.
    #[schema(example = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W")]
    pub delivery_id: Option<String>,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// How its sender has shown who they are: `signature`, or the subject of their credential. Absent when they have not.
    #[schema(example = "signature")]
    pub sender: Option<String>,
    /// How often its sender had sent it before, if they say so.
    #[schema(example = 0)]
    pub retry: Option<i32>,
    /// What became of it.
    pub verdict: DeliveryVerdict,
    /// The HTTP status of the answer.
    #[schema(example = 202)]
    pub status: i32,
    /// Why it was refused or ignored, a word for programs.
    #[schema(example = "out_of_order")]
    pub problem: Option<String>,
    /// What was wrong, for people.
    #[schema(example = "The record has changed since: 6 is before 7")]
    pub detail: Option<String>,
    /// How many bytes came.
    #[schema(example = 1840)]
    pub size: i64,
    /// The ticket that it was about.
    #[schema(example = "CHG0030022")]
    pub ticket_number: Option<String>,
    /// The stable key of that ticket in its system.
    #[schema(example = "0f4ac6c4b750230096c3e4f6ee11a9fe")]
    pub ticket_key: Option<String>,
    /// How often the record had been changed.
    #[schema(example = 7)]
    pub mod_count: Option<i64>,
    /// The renewal that it raised or was about.
    pub renewal_id: Option<RenewalId>,
    /// The delivery that it repeats: as a duplicate, or because an operator replayed that one.
    pub repeats: Option<DeliveryId>,
}

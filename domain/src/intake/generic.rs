//! JSON of any sender, and CloudEvents 1.0 in structured mode.

use chrono::DateTime;
use serde_json::Value;

use super::{Envelope, Name};
use crate::TicketWord;

/// The whole body, or `data` of a CloudEvent.
pub(super) fn envelope(body: &Value) -> Envelope<'_> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    match (text("specversion"), body.get("data")) {
        (Some(_), Some(data)) => {
            let at = text("time").and_then(|time| DateTime::parse_from_rfc3339(time).ok()).map(|at| at.to_utc());
            Envelope { record: data, place: "/data".to_owned(), event: text("type"), at, deleted: false }
        }
        _ => Envelope { record: body, place: String::new(), event: None, at: None, deleted: false },
    }
}

pub(super) fn places(name: Name) -> &'static [&'static str] {
    match name {
        Name::Approval => &["/approval"],
        Name::ChangeType => &["/change_type"],
        Name::Event => &["/event"],
        Name::Instance => &[],
        Name::Key => &["/key", "/number"],
        Name::ModCount => &["/mod_count"],
        Name::Note => &["/note"],
        Name::Number => &["/number"],
        Name::OnHold => &["/on_hold"],
        Name::Organization => &["/organization"],
        Name::Reason => &["/reason"],
        Name::RequestedBy => &["/requested_by"],
        Name::Risk => &["/risk"],
        Name::Start => &["/start"],
        Name::State => &["/state"],
        Name::UpdatedAt => &["/updated_at"],
        Name::Url => &["/url"],
    }
}

/// Our own words.
pub(super) fn usual(state: &str) -> Option<TicketWord> {
    [
        TicketWord::Ready,
        TicketWord::NotReady,
        TicketWord::OnHold,
        TicketWord::Cancelled,
        TicketWord::ApprovalVoided,
        TicketWord::Closed,
    ]
    .into_iter()
    .find(|word| word.as_str() == state)
}

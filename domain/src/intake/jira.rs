//! Issues of Jira: webhooks of Jira Cloud, "Send web request" of its automation, and the webhook of Data Center (itsm.md 5.6).

use chrono::DateTime;
use serde_json::Value;

use super::{Envelope, Fault, Name};
use crate::TicketWord;

/// The issue under `issue`, or at the top as automation sends it.
pub(super) fn envelope(body: &Value) -> Result<Envelope<'_>, Fault> {
    let event = body.get("webhookEvent").or_else(|| body.get("event")).and_then(Value::as_str);
    let (place, record) = match body.get("issue") {
        Some(issue) => ("/issue".to_owned(), issue),
        None => (String::new(), body),
    };
    if record.get("fields").is_none() && record.get("key").is_none() {
        return Err(Fault::new(format!("{place}/key"), "there is no issue, neither in `issue` nor at the top"));
    }
    let at = body.get("timestamp").and_then(Value::as_i64).and_then(DateTime::from_timestamp_millis);
    Ok(Envelope { record, place, event, at, deleted: event == Some("jira:issue_deleted") })
}

pub(super) fn places(name: Name) -> &'static [&'static str] {
    match name {
        Name::Key => &["/id", "/key"],
        Name::Note => &["/fields/summary"],
        Name::Number => &["/key"],
        Name::RequestedBy => &["/fields/reporter/emailAddress", "/fields/reporter/accountId", "/fields/reporter/name"],
        Name::State => &["/fields/status/name"],
        Name::UpdatedAt => &["/fields/updated"],
        Name::Url => &["/self"],
        Name::Approval
        | Name::ChangeType
        | Name::Event
        | Name::Instance
        | Name::ModCount
        | Name::OnHold
        | Name::Organization
        | Name::Reason
        | Name::Risk
        | Name::Start => &[],
    }
}

/// The statuses of Jira Service Management's change workflow.
pub(super) fn usual(state: &str) -> Option<TicketWord> {
    Some(match state {
        // Approvals lead to the first, and whoever carries it out to the second.
        "awaiting implementation" | "implementing" => TicketWord::Ready,
        "completed" | "closed" | "done" | "failed" | "resolved" => TicketWord::Closed,
        "canceled" | "cancelled" => TicketWord::Cancelled,
        "declined" => TicketWord::ApprovalVoided,
        "on hold" => TicketWord::OnHold,
        _ => return None,
    })
}

/// Where people read the issue: `self` is where programs do.
pub(super) fn url(own: &str, key: &str) -> Option<String> {
    let (site, _) = own.split_once("/rest/").unwrap_or((own, ""));
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (own.contains("/rest/") && plain).then(|| format!("{site}/browse/{key}")).or_else(|| Some(own.to_owned()))
}

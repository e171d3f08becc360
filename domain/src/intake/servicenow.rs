//! Change records of ServiceNow (itsm.md 5.1 and 5.2).

use serde_json::Value;

use super::{Envelope, Fault, Name, field::Record};
use crate::TicketWord;

/// The record itself, out of `result` (Table API) or `records` (JSONv2), alone or as the only one of a list.
pub(super) fn envelope(body: &Value) -> Result<Envelope<'_>, Fault> {
    let inner = ["result", "records"].into_iter().find_map(|name| Some((format!("/{name}"), body.get(name)?)));
    let (place, record) = match inner {
        None => (String::new(), body),
        Some((place, Value::Array(records))) => match records.as_slice() {
            [only] => (format!("{place}/0"), only),
            several => {
                let detail = format!("{} records: send one at a time", several.len());
                return Err(Fault::new(place, detail));
            }
        },
        Some(inner) => inner,
    };
    Ok(Envelope { record, place, event: None, at: None, deleted: false })
}

pub(super) fn places(name: Name) -> &'static [&'static str] {
    match name {
        Name::Approval => &["/approval"],
        Name::ChangeType => &["/type"],
        Name::Event => &["/event"],
        Name::Instance => &["/instance"],
        Name::Key => &["/sys_id"],
        Name::ModCount => &["/sys_mod_count"],
        Name::Note => &["/short_description"],
        Name::Number => &["/number"],
        Name::OnHold => &["/on_hold"],
        Name::Organization => &["/inputs/organization", "/u_organization"],
        Name::Reason => &["/inputs/reason", "/u_reason"],
        Name::RequestedBy => &["/requested_by_email", "/requested_by"],
        Name::Risk => &["/risk"],
        Name::Start => &["/start_date"],
        Name::State => &["/state"],
        Name::UpdatedAt => &["/sys_updated_on"],
        Name::Url => &[],
    }
}

/// The states of a change as it is delivered, and what each means. A change that is scheduled waits for the one who carries it out: moving it to Implement
/// is a part of beginning.
const STATES: [(&str, &str, TicketWord); 8] = [
    ("-5", "New", TicketWord::NotReady),
    ("-4", "Assess", TicketWord::NotReady),
    ("-3", "Authorize", TicketWord::NotReady),
    ("-2", "Scheduled", TicketWord::Ready),
    ("-1", "Implement", TicketWord::Ready),
    ("0", "Review", TicketWord::NotReady),
    ("3", "Closed", TicketWord::Closed),
    ("4", "Canceled", TicketWord::Cancelled),
];

pub(super) fn usual(state: &str) -> Option<TicketWord> {
    let found = STATES.iter().find(|(number, name, _)| *number == state || name.eq_ignore_ascii_case(state));
    found.map(|(_, _, word)| *word)
}

/// Whether a state lets a run begin only where the record says that the change is approved: until then an instance may have it scheduled by hand.
pub(super) fn needs_approval(state: &str) -> bool {
    state == "-2" || state.eq_ignore_ascii_case("scheduled")
}

/// A state for people.
pub(super) fn told(state: &str) -> String {
    match STATES.iter().find(|(number, ..)| *number == state) {
        Some((number, name, _)) => format!("state {name} ({number})"),
        None => format!("state {state}"),
    }
}

pub(super) fn sys_id(record: &mut Record<'_>, text: &str) -> Option<String> {
    if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some(text.to_ascii_lowercase());
    }
    record.complain(Name::Key, "a sys_id has 32 hexadecimal digits");
    None
}

/// Where people read the record: `acme` is short for `acme.service-now.com`.
pub(super) fn url(record: &mut Record<'_>, sys_id: &str) -> Option<String> {
    let instance = record.text(Name::Instance)?;
    let plain = instance.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if !plain || instance.len() > 253 {
        record.complain(Name::Instance, "send the name of the instance or its host name");
        return None;
    }
    let host = if instance.contains('.') { instance } else { format!("{instance}.service-now.com") };
    Some(format!("https://{host}/change_request.do?sys_id={sys_id}"))
}

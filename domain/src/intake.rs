//! Records of ticket systems, as hooks bring them and pollers read them: what they ask for, and what they say of their ticket.
//!
//! ServiceNow, Jira and others write the same things at different places and in different shapes. A [`Source`] knows the places; what it reads is an
//! [`Intake`], which says the same whoever sent it.

mod field;
mod generic;
mod jira;
mod servicenow;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::IntoDeserializer};
use serde_json::Value;

use crate::{
    OrganizationId, Reason, Request, Ticket, TicketStanding, TicketWord,
    intake::field::Record,
    request::{ChangeType, Risk},
    storable::storable,
};

/// What a source sends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// JSON whose members are named by the configuration, or a CloudEvent.
    Generic,
    /// Issues of Jira.
    Jira,
    /// Change records of ServiceNow.
    ServiceNow,
}

/// Something that a record tells, and that the configuration may find at another place.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// `approved`, `rejected`, `requested`, `not requested`.
    Approval,
    /// `normal`, `standard` or `emergency`; other types choose nothing.
    ChangeType,
    /// What happened to the record, in the sender's words.
    Event,
    /// The name of the ServiceNow instance, or its host name.
    Instance,
    /// The stable key of the record.
    Key,
    /// Counts the changes of the record.
    ModCount,
    /// A remark for approvers.
    Note,
    /// What people call the record.
    Number,
    /// Whether somebody holds it.
    OnHold,
    /// Which organization is to be renewed.
    Organization,
    /// Why.
    Reason,
    /// Who asked for the change.
    RequestedBy,
    /// `1` or `high`, `2` or `moderate`, `3` or `low`; others choose nothing.
    Risk,
    /// Planned start.
    Start,
    /// Where the record stands.
    State,
    /// When the record was last changed.
    UpdatedAt,
    /// Where people read it.
    Url,
}

/// Where records come from, and how they are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Its id in the configuration: stands in URLs, in the audit and with each delivery.
    pub id: String,
    /// What it sends.
    pub kind: SourceKind,
    /// The organization of records that name none.
    pub organization: Option<OrganizationId>,
    /// What `ticket.system` of its renewals is.
    pub ticket_system: String,
    /// JSON Pointers (RFC 6901) into the record, for what stands at another place than usual.
    pub fields: BTreeMap<Name, String>,
    /// What states mean, by their values in lower case; those that are missing mean what they usually do.
    pub states: BTreeMap<String, TicketWord>,
}

/// A member that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// JSON Pointer (RFC 6901) into what was sent.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Fault {
    fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// What a record said.
#[derive(Clone, Debug, PartialEq)]
pub struct Intake {
    /// The record. Its `sys_id` is there: the stable key.
    pub ticket: Ticket,
    /// How new it is.
    pub revision: Revision,
    /// What happened to it, in the sender's words.
    pub event: Option<String>,
    /// Who asked for the change.
    pub requested_by: Option<String>,
    /// The renewal that it asks for, or why it cannot be raised.
    pub request: Result<Request, Vec<Fault>>,
    /// The approval of the change in the words of ServiceNow, in lower case.
    pub approval: Option<String>,
    standing: Option<TicketStanding>,
}

/// How new a record is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Revision {
    /// Counts the changes of the record, where its system counts them.
    pub mod_count: Option<i64>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Revision {
    /// Whether the record has changed since: a delivery that came late.
    #[must_use]
    pub fn is_before(self, seen: Self) -> bool {
        match (self.mod_count, seen.mod_count) {
            (Some(count), Some(seen)) => count < seen,
            _ => matches!((self.updated_at, seen.updated_at), (Some(at), Some(seen)) if at < seen),
        }
    }

    /// The newest that is known of both.
    #[must_use]
    pub fn newest(self, other: Self) -> Self {
        Self { mod_count: self.mod_count.max(other.mod_count), updated_at: self.updated_at.max(other.updated_at) }
    }
}

impl Intake {
    /// The stable key of the record in its system.
    #[must_use]
    pub fn key(&self) -> &str {
        self.ticket.sys_id.as_deref().unwrap_or(&self.ticket.number)
    }

    /// What the record says of its ticket; `before` is the approval that it told the last time. "Revert to New" takes all approvals of a change back and
    /// says so only by the word (itsm.md 5.2).
    #[must_use]
    pub fn standing(&self, before: Option<&str>) -> Option<TicketStanding> {
        let standing = self.standing.clone()?;
        let over = matches!(standing.word, TicketWord::Cancelled | TicketWord::Closed);
        let reverted =
            self.approval.as_deref() == Some("not requested") && matches!(before, Some("requested" | "approved"));
        let word = if reverted && !over { TicketWord::ApprovalVoided } else { standing.word };
        Some(TicketStanding { word, ..standing })
    }

    /// Why nothing begins because of this record, if so: it is called off, over, or held.
    #[must_use]
    pub fn not_begun(&self) -> Option<TicketWord> {
        let word = self.standing.as_ref()?.word;
        let begins = matches!(word, TicketWord::Ready | TicketWord::NotReady);
        (!begins).then_some(word)
    }
}

impl Source {
    /// ServiceNow records that come without a configured source.
    #[must_use]
    pub fn servicenow() -> Self {
        Self {
            id: "servicenow".to_owned(),
            kind: SourceKind::ServiceNow,
            organization: None,
            ticket_system: "servicenow".to_owned(),
            fields: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Who raises what names nobody, and who speaks where the sender is not a person.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("source:{}", self.id)
    }

    /// Reads what was sent, for one of these organizations. Fails when it cannot be said which record it is, or how it stands.
    pub fn read(
        &self,
        body: &Value,
        organizations: &[&OrganizationId],
        now: DateTime<Utc>,
    ) -> Result<Intake, Vec<Fault>> {
        let envelope = self.envelope(body).map_err(|fault| vec![fault])?;
        let mut record = Record::new(self, &envelope);
        let ticket = self.ticket(&mut record);
        let revision = Revision {
            mod_count: record.number(Name::ModCount),
            updated_at: record.time(Name::UpdatedAt).or(envelope.at),
        };
        let event = record.text(Name::Event).or_else(|| envelope.event.map(storable));
        let requested_by = record.text(Name::RequestedBy);
        let approval = record.text(Name::Approval).map(|word| word.to_lowercase());
        let standing = self.standing(&mut record, approval.as_deref(), envelope.deleted, now);
        let faults = record.faults_so_far();
        let Some(ticket) = ticket.filter(|_| faults.is_empty()) else { return Err(faults) };
        let request = self.request(&mut record, &ticket, organizations);
        Ok(Intake { ticket, revision, event, requested_by, request, approval, standing })
    }

    fn envelope<'a>(&self, body: &'a Value) -> Result<Envelope<'a>, Fault> {
        let envelope = match self.kind {
            SourceKind::Generic => generic::envelope(body),
            SourceKind::Jira => jira::envelope(body)?,
            SourceKind::ServiceNow => servicenow::envelope(body)?,
        };
        if envelope.record.is_object() {
            return Ok(envelope);
        }
        Err(Fault::new(envelope.place, "expected an object: the record"))
    }

    /// Where something usually stands in the record, in the order in which the places are looked at.
    fn places(&self, name: Name) -> &'static [&'static str] {
        match self.kind {
            SourceKind::Generic => generic::places(name),
            SourceKind::Jira => jira::places(name),
            SourceKind::ServiceNow => servicenow::places(name),
        }
    }

    fn ticket(&self, record: &mut Record<'_>) -> Option<Ticket> {
        let key = record.required(Name::Key, "the key of the record is empty");
        let number = record.required(Name::Number, "the number of the record is empty");
        let key = match self.kind {
            SourceKind::ServiceNow => key.and_then(|key| servicenow::sys_id(record, &key)),
            SourceKind::Generic | SourceKind::Jira => key,
        };
        let key = key?;
        let url = record.text(Name::Url);
        let url = match self.kind {
            SourceKind::ServiceNow => url.or_else(|| servicenow::url(record, &key)),
            SourceKind::Jira => url.and_then(|own| jira::url(&own, number.as_deref()?)),
            SourceKind::Generic => url,
        };
        Some(Ticket { system: self.ticket_system.clone(), number: number?, sys_id: Some(key), url })
    }

    /// A state that nobody has explained holds everything: whoever configures the source says what it means.
    fn standing(
        &self,
        record: &mut Record<'_>,
        approval: Option<&str>,
        deleted: bool,
        now: DateTime<Utc>,
    ) -> Option<TicketStanding> {
        let state = record.text(Name::State);
        let held = record.flag(Name::OnHold);
        let of_state = if deleted {
            Some(TicketWord::Cancelled)
        } else {
            state.as_deref().map(|state| self.means(&state.to_lowercase()))
        };
        let word = match (of_state, approval) {
            (Some(over @ (TicketWord::Cancelled | TicketWord::Closed)), _) => over,
            (_, Some("rejected")) => TicketWord::ApprovalVoided,
            _ if held => TicketWord::OnHold,
            (Some(TicketWord::Ready), Some("requested")) => TicketWord::NotReady,
            (Some(TicketWord::Ready), said) if said != Some("approved") && self.needs_approval(state.as_deref()) => {
                TicketWord::NotReady
            }
            (Some(word), _) => word,
            (None, Some("approved")) => TicketWord::Ready,
            (None, Some(_)) => TicketWord::NotReady,
            (None, None) => return None,
        };
        let mut told = Vec::new();
        told.extend(deleted.then(|| "deleted".to_owned()));
        told.extend(state.map(|state| match self.kind {
            SourceKind::ServiceNow => servicenow::told(&state),
            SourceKind::Generic | SourceKind::Jira => format!("state {state}"),
        }));
        told.extend(approval.map(|approval| format!("approval {approval}")));
        told.extend(held.then(|| "on hold".to_owned()));
        Some(TicketStanding { word, detail: shortened(&told.join(", ")), read_at: now })
    }

    /// Whether a state that the configuration does not explain lets a run begin only with an approval in the record.
    fn needs_approval(&self, state: Option<&str>) -> bool {
        let usual = state.filter(|state| !self.states.contains_key(&state.to_lowercase()));
        self.kind == SourceKind::ServiceNow && usual.is_some_and(servicenow::needs_approval)
    }

    fn means(&self, state: &str) -> TicketWord {
        let usual = || match self.kind {
            SourceKind::Generic => generic::usual(state),
            SourceKind::Jira => jira::usual(state),
            SourceKind::ServiceNow => servicenow::usual(state),
        };
        self.states.get(state).copied().or_else(usual).unwrap_or(TicketWord::NotReady)
    }

    fn request(
        &self,
        record: &mut Record<'_>,
        ticket: &Ticket,
        organizations: &[&OrganizationId],
    ) -> Result<Request, Vec<Fault>> {
        let organization = self.organization_of(record, organizations);
        let reason = reason_of(record);
        let request = organization.map(|organization| Request {
            reason,
            change_type: record.text(Name::ChangeType).and_then(|word| change_type(&word.to_lowercase())),
            risk: record.text(Name::Risk).and_then(|word| risk(&word.to_lowercase())),
            ticket: Some(ticket.clone()),
            not_before: record.time(Name::Start),
            note: record.text(Name::Note),
            ..Request::of(organization)
        });
        let unusable = request.iter().flat_map(Request::faults).collect::<Vec<_>>();
        for (member, detail) in unusable {
            record.complain(place_of(member), detail);
        }
        let faults = record.faults_so_far();
        request.filter(|_| faults.is_empty()).ok_or(faults)
    }

    fn organization_of(&self, record: &mut Record<'_>, organizations: &[&OrganizationId]) -> Option<OrganizationId> {
        let Some(text) = record.text(Name::Organization) else {
            let only = match organizations {
                [only] => Some(*only),
                _ => None,
            };
            let found = self.organization.as_ref().or(only).cloned();
            if found.is_none() {
                record.complain(Name::Organization, "more than one organization is configured: name one");
            }
            return found;
        };
        let read = OrganizationId::parse(&text).map_err(|error| error.to_string()).and_then(|id| {
            let known = organizations.contains(&&id);
            known
                .then_some(id)
                .ok_or_else(|| format!("unknown organization `{text}`: GET /v1/organizations lists them"))
        });
        read.map_err(|detail| record.complain(Name::Organization, detail)).ok()
    }
}

fn reason_of(record: &mut Record<'_>) -> Reason {
    let Some(word) = record.text(Name::Reason) else { return Reason::default() };
    let word: serde::de::value::StringDeserializer<serde::de::value::Error> = word.to_lowercase().into_deserializer();
    read_word(word).unwrap_or_else(|error| {
        record.complain(Name::Reason, error.to_string());
        Reason::default()
    })
}

fn change_type(word: &str) -> Option<ChangeType> {
    Some(match word {
        "normal" => ChangeType::Normal,
        "standard" => ChangeType::Standard,
        "emergency" => ChangeType::Emergency,
        _ => return None,
    })
}

fn risk(word: &str) -> Option<Risk> {
    Some(match word {
        "1" | "high" => Risk::High,
        "2" | "moderate" | "medium" => Risk::Moderate,
        "3" | "low" => Risk::Low,
        _ => return None,
    })
}

fn read_word<'de, D: Deserializer<'de>>(word: D) -> Result<Reason, D::Error> {
    Reason::deserialize(word)
}

/// What a member of the request was read from.
fn place_of(member: &str) -> Name {
    match member {
        "/note" => Name::Note,
        "/ticket/sys_id" => Name::Key,
        "/ticket/url" => Name::Url,
        _ => Name::Number,
    }
}

/// Enough for people: the record itself is kept.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// A record within what was sent.
#[derive(Debug)]
struct Envelope<'a> {
    record: &'a Value,
    /// JSON Pointer of the record.
    place: String,
    event: Option<&'a str>,
    /// When it was sent, where that says how new it is.
    at: Option<DateTime<Utc>>,
    /// The record is no more.
    deleted: bool,
}

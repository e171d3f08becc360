//! `/v1/renewals/from-servicenow`: a change record, as a ServiceNow REST message sends it, becomes a request.

use actix_web::{HttpResponse, post, web::Data};
use chrono::{DateTime, NaiveDateTime, Utc};
use domain::{Digest, OrganizationId, Reason, Request, Ticket};
use serde::{Deserialize, Deserializer, de::IntoDeserializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    Problem, State,
    caller::{Caller, May, Raise},
    idempotency::CallerKey,
    input::{Body, read_value},
    problem::FieldError,
    renewals::raise,
};

/// A ServiceNow change record: flat strings, as RESTMessageV2 scripts and the Table API send them.
///
/// Each field may also be an object with `value`, as the Table API sends with `sysparm_display_value=all`; empty strings count as left out. The
/// record may stand in `result` or in `records`. Fields that are not listed here are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "sys_id": "0f4ac6c4b750230096c3e4f6ee11a9fe",
    "number": "CHG0030022",
    "instance": "acme",
    "short_description": "Renew the Exchange Auth certificate",
    "start_date": "2026-12-01 20:00:00",
    "on_hold": "false",
    "inputs": {"organization": "contoso", "reason": "expiring"}
}))]
pub(crate) struct ServiceNowChange {
    /// Becomes `ticket.sys_id`: 32 hexadecimal digits. One renewal is made of a record, however often it is sent.
    #[schema(value_type = String, example = "0f4ac6c4b750230096c3e4f6ee11a9fe")]
    sys_id: Field,
    /// Becomes `ticket.number`.
    #[schema(value_type = String, example = "CHG0030022")]
    number: Field,
    /// The name of the instance, or its host name: becomes part of `ticket.url`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "acme")]
    instance: Field,
    /// Becomes the `note`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "Renew the Exchange Auth certificate")]
    short_description: Field,
    /// Planned start, becomes `not_before`: `yyyy-MM-dd HH:mm:ss` in UTC, as ServiceNow stores it, or RFC 3339.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "2026-12-01 20:00:00")]
    start_date: Field,
    /// A change that is on hold is refused.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "false")]
    on_hold: Field,
    /// The organization, for instances that send a field of their own instead of `inputs`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "contoso")]
    u_organization: Field,
    /// The reason, for instances that send a field of their own instead of `inputs`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "expiring")]
    u_reason: Field,
    /// What the change asks of this service.
    #[serde(default)]
    inputs: Inputs,
}

/// What a change asks of this service.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Inputs {
    /// Becomes `organization`; may be left out where only one is configured.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "contoso")]
    organization: Field,
    /// Becomes `reason`: `expiring` (the default), `expired` or `compromised`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "expiring")]
    reason: Field,
}

/// Raise a renewal from a ServiceNow change record.
///
/// `sys_id`, `number` and `instance` become the ticket, `short_description` the note, `start_date` the earliest start, `inputs.organization` the
/// organization, `inputs.reason` the reason. Approvals in the record are not taken over: people approve the plan here. Sending a record again gets the
/// answer that it got before (`Idempotency-Replayed: true`), also when other fields of it have changed; a new renewal needs a new change.
#[utoipa::path(tag = "renewals", request_body = ServiceNowChange, responses(
    (status = 202, description = "Accepted", body = domain::Renewal, headers(
        ("Location" = String, description = "The URL of the renewal"),
        ("ETag" = String, description = "Its version"),
        ("Idempotency-Replayed" = String, description = "`true` when this record was sent before")
    )),
    (status = 409, description = "Another renewal of the organization is live (`holder` names it), or the change is on hold"),
    (status = 422, description = "Fields of the record are wrong")
))]
#[post("/v1/renewals/from-servicenow")]
pub(crate) async fn create_renewal_from_servicenow(
    caller: May<Raise>,
    state: Data<State>,
    Body(record): Body<Value>,
) -> Result<HttpResponse, Problem> {
    let change: ServiceNowChange = read_value(unwrapped(record))?;
    let sys_id = change.sys_id()?;
    let request = change.request(&state, caller.caller())?;
    let key = CallerKey::of_record("servicenow", &sys_id).answering(&Digest::of(sys_id.as_bytes()));
    raise(&state, caller.caller(), request, Some(key)).await
}

/// The record itself, out of `result` (Table API) or `records` (JSONv2), alone or as the only one of a list.
fn unwrapped(record: Value) -> Value {
    let inner = ["result", "records"].iter().find_map(|name| record.get(name)).cloned().unwrap_or(record);
    match inner {
        Value::Array(mut records) if records.len() == 1 => records.remove(0),
        other => other,
    }
}

impl ServiceNowChange {
    fn sys_id(&self) -> Result<String, Problem> {
        let id = self.sys_id.text().unwrap_or_default();
        if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(id.to_ascii_lowercase());
        }
        Err(wrong("/sys_id", "a sys_id has 32 hexadecimal digits"))
    }

    fn request(&self, state: &State, caller: &Caller) -> Result<Request, Problem> {
        let number = self.number.text().ok_or_else(|| wrong("/number", "the number of the change is empty"))?;
        if self.on_hold.text() == Some("true") {
            return Err(Problem::change_on_hold(number));
        }
        let sys_id = self.sys_id()?;
        let url = self.instance.text().map(|instance| record_url(instance, &sys_id)).transpose()?;
        let ticket = Ticket { system: "servicenow".to_owned(), number: number.to_owned(), sys_id: Some(sys_id), url };
        Ok(Request {
            organization: self.organization(state, caller)?,
            reason: self.reason()?,
            change_type: None,
            risk: None,
            ticket: Some(ticket),
            not_before: self.start()?,
            allow_absent: Vec::new(),
            note: self.short_description.text().map(str::to_owned),
        })
    }

    fn organization(&self, state: &State, caller: &Caller) -> Result<OrganizationId, Problem> {
        if let Some(name) = self.inputs.organization.text().or_else(|| self.u_organization.text()) {
            return OrganizationId::parse(name).map_err(|error| wrong("/inputs/organization", &error.to_string()));
        }
        let mut configured = state.organizations_of(caller).map(|organization| &organization.id);
        match (configured.next(), configured.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(wrong("/inputs/organization", "more than one organization is configured: name one")),
        }
    }

    fn reason(&self) -> Result<Reason, Problem> {
        let Some(word) = self.inputs.reason.text().or_else(|| self.u_reason.text()) else {
            return Ok(Reason::default());
        };
        let read: Result<Reason, serde::de::value::Error> = Reason::deserialize(word.into_deserializer());
        read.map_err(|error| wrong("/inputs/reason", &error.to_string()))
    }

    /// Naive times are UTC in `value`; what is formatted for display is in the zone of some user (itsm.md 5.2).
    fn start(&self) -> Result<Option<DateTime<Utc>>, Problem> {
        let refused = |detail| Err(wrong("/start_date", detail));
        match &self.start_date {
            Field::Empty => Ok(None),
            Field::DisplayOnly => {
                refused("only the display value was sent, which has no time zone: send `value`, which is UTC")
            }
            Field::Text(text) => match NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S") {
                Ok(utc) => Ok(Some(utc.and_utc())),
                Err(_) => match DateTime::parse_from_rfc3339(text) {
                    Ok(at) => Ok(Some(at.to_utc())),
                    Err(_) => refused("send yyyy-MM-dd HH:mm:ss in UTC, or RFC 3339 with a time zone"),
                },
            },
        }
    }
}

/// Where people read the record: `acme` is short for `acme.service-now.com`.
fn record_url(instance: &str, sys_id: &str) -> Result<String, Problem> {
    let plain = instance.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if !plain || instance.len() > 253 {
        return Err(wrong("/instance", "send the name of the instance or its host name"));
    }
    let host = if instance.contains('.') { instance.to_owned() } else { format!("{instance}.service-now.com") };
    Ok(format!("https://{host}/change_request.do?sys_id={sys_id}"))
}

fn wrong(pointer: &str, detail: &str) -> Problem {
    Problem::invalid_request(vec![FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() }])
}

/// A field of a record: ServiceNow sends strings, numbers, booleans or objects with `value` for the same thing (itsm.md 5.1).
#[derive(Debug, Default)]
enum Field {
    /// Left out, null or an empty string.
    #[default]
    Empty,
    /// Its value.
    Text(String),
    /// Only how it is shown to somebody.
    DisplayOnly,
}

impl Field {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Empty | Self::DisplayOnly => None,
        }
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (value, display) = match Value::deserialize(deserializer)? {
            Value::Object(object) => (object.get("value").cloned(), object.get("display_value").cloned()),
            value => (Some(value), None),
        };
        match value {
            Some(Value::String(text)) if text.trim().is_empty() => Ok(Self::Empty),
            Some(Value::String(text)) => Ok(Self::Text(text.trim().to_owned())),
            Some(Value::Number(number)) => Ok(Self::Text(number.to_string())),
            Some(Value::Bool(yes)) => Ok(Self::Text(yes.to_string())),
            None if display.is_some() => Ok(Self::DisplayOnly),
            None | Some(Value::Null) => Ok(Self::Empty),
            Some(_) => {
                Err(serde::de::Error::custom("expected a string, a number, a boolean or an object with `value`"))
            }
        }
    }
}

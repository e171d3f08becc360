//! `/v1/renewals/from-servicenow`: a change record, as a ServiceNow REST message sends it, becomes a request.

use actix_web::{HttpResponse, post, web::Data};
use domain::{Digest, TicketWord, intake::Source};
use utoipa::ToSchema;

use crate::{
    Problem, State,
    caller::{May, Raise},
    hooks::unusable,
    idempotency::CallerKey,
    input::ForeignRecord,
    renewals::raise,
};

/// A ServiceNow change record: flat strings, as RESTMessageV2 scripts and the Table API send them.
///
/// Each field may also be an object with `value`, as the Table API sends with `sysparm_display_value=all`; empty strings count as left out. The
/// record may stand in `result` or in `records`. Fields that are not listed here are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes what domain::intake reads")]
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
    #[schema(example = "0f4ac6c4b750230096c3e4f6ee11a9fe")]
    sys_id: String,
    /// Becomes `ticket.number`.
    #[schema(example = "CHG0030022")]
    number: String,
    /// The name of the instance, or its host name: becomes part of `ticket.url`.
    #[schema(example = "acme")]
    instance: Option<String>,
    /// Becomes the `note`.
    #[schema(example = "Renew the Exchange Auth certificate")]
    short_description: Option<String>,
    /// Planned start, becomes `not_before`: `yyyy-MM-dd HH:mm:ss` in UTC, as ServiceNow stores it, or RFC 3339.
    #[schema(example = "2026-12-01 20:00:00")]
    start_date: Option<String>,
    /// Counts the changes of the record. To hooks the same record in the same count is a copy, and one with a lower count came late.
    #[schema(example = "7")]
    sys_mod_count: Option<String>,
    /// When the record was last changed, in UTC.
    #[schema(example = "2026-11-23 09:15:02")]
    sys_updated_on: Option<String>,
    /// What happened, in your words: stands in the audit.
    #[schema(example = "change.approved")]
    event: Option<String>,
    /// `normal`, `standard` or `emergency`: chooses among the rules of the policy.
    #[schema(example = "normal")]
    r#type: Option<String>,
    /// `1` high, `2` moderate, `3` low: the same.
    #[schema(example = "3")]
    risk: Option<String>,
    /// Where the change stands: to hooks, the standing of the ticket. `-1` (Implement) means ready, unless the source is configured otherwise.
    #[schema(example = "-1")]
    state: Option<String>,
    /// `not requested`, `requested`, `approved` or `rejected`: the same.
    #[schema(example = "approved")]
    approval: Option<String>,
    /// Who asked for the change: to hooks, who never approves the renewal. `requested_by` is taken when it is missing.
    #[schema(example = "dana.fox@acme.example")]
    requested_by_email: Option<String>,
    /// Who asked for the change, where there is no address.
    #[schema(example = "5137153cc611227c000bbd1bd8cd2007")]
    requested_by: Option<String>,
    /// A change that is on hold raises nothing.
    #[schema(example = "false")]
    on_hold: Option<String>,
    /// The organization, for instances that send a field of their own instead of `inputs`.
    #[schema(example = "contoso")]
    u_organization: Option<String>,
    /// The reason, for instances that send a field of their own instead of `inputs`.
    #[schema(example = "expiring")]
    u_reason: Option<String>,
    /// What the change asks of this service.
    inputs: Option<Inputs>,
}

/// What a change asks of this service.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes what domain::intake reads")]
pub(crate) struct Inputs {
    /// Becomes `organization`; may be left out where only one is configured.
    #[schema(example = "contoso")]
    organization: Option<String>,
    /// Becomes `reason`: `expiring` (the default), `expired` or `compromised`.
    #[schema(example = "expiring")]
    reason: Option<String>,
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
    ForeignRecord(record): ForeignRecord,
) -> Result<HttpResponse, Problem> {
    let organizations: Vec<_> = state.organizations_of(caller.caller()).map(|organization| &organization.id).collect();
    let read = Source::servicenow().read(&record, &organizations, state.now());
    let intake = read.map_err(|faults| unusable(&faults))?;
    if intake.not_begun() == Some(TicketWord::OnHold) {
        return Err(Problem::change_on_hold(&intake.ticket.number));
    }
    let key = CallerKey::of_record("servicenow", intake.key()).answering(&Digest::of(intake.key().as_bytes()));
    let request = intake.request.map_err(|faults| unusable(&faults))?;
    raise(&state, caller.caller(), request, Some(key)).await
}

//! `/v1/renewals/{id}/cancel`, `/pause`, `/resume`, `/retry`, `/skip`, `/rollback`: the verbs of an operator.

use actix_web::{
    HttpResponse, post,
    web::{Data, Path},
};
use chrono::{DateTime, Utc};
use domain::{Renewal, RenewalId, audit::NewAudit};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    Problem, State,
    caller::{Control, May, Replan},
    input::{Body, IfMatch, IfMatchHeader, OptionalBody, Why},
    renewals::shown,
};

/// Why an operator does this.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "The change window was withdrawn"}))]
pub(crate) struct Reasoned {
    /// Why; it stands in the audit.
    reason: Why,
}

impl Reasoned {
    pub(crate) fn why(&self) -> &str {
        self.reason.as_str()
    }
}

/// Why an operator does this, if there is something to say.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "ex03 is back"}))]
pub(crate) struct Remark {
    /// A remark for the audit.
    #[serde(default)]
    reason: Option<Why>,
}

impl Remark {
    /// The remark; empty without one.
    pub(crate) fn why(&self) -> &str {
        self.reason.as_ref().map(Why::as_str).unwrap_or_default()
    }
}

/// What an operator gives up, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "ex03 was scrapped", "steps": [14]}))]
pub(crate) struct Skip {
    /// Why; it stands in the record of each step.
    reason: Why,
    /// The ordinals of the steps; without it every step that has failed and may be skipped.
    #[serde(default)]
    #[schema(example = json!([14]))]
    steps: Option<Vec<i32>>,
}

/// Stop a renewal before its certificate is published, and take back what was done.
///
/// Takes effect at the next safe point: a step in the hands of a worker is finished first.
#[utoipa::path(tag = "control", request_body = Reasoned, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "Published already (use rollback), or over"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/cancel")]
pub(crate) async fn cancel_renewal(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(body): Body<Reasoned>,
) -> Result<HttpResponse, Problem> {
    let (by, why, now) = (caller.subject(), body.reason.as_str(), state.now());
    let renewal = state.db.write(async |tx| tx.cancel(*id, expected.0, by, why, now).await).await?;
    Ok(shown(&renewal))
}

/// Hold a renewal.
///
/// A staged certificate is kept from being published by Exchange itself for as long as it is held.
#[utoipa::path(tag = "control", request_body = Reasoned, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "Held already, or over"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/pause")]
pub(crate) async fn pause_renewal(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(body): Body<Reasoned>,
) -> Result<HttpResponse, Problem> {
    let (by, why, now) = (caller.subject(), body.reason.as_str(), state.now());
    let renewal = state.db.write(async |tx| tx.pause(*id, expected.0, by, why, now).await).await?;
    Ok(shown(&renewal))
}

/// Make the plan of a renewal anew, before it begins.
///
/// The preflight looks at everything again. An identical plan keeps its digest and its approvals; a changed one needs new ones.
#[utoipa::path(tag = "control", request_body = Reasoned, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "It has begun (`already_begun`), is being planned, or is over"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/replan")]
pub(crate) async fn replan_renewal(
    caller: May<Replan>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(body): Body<Reasoned>,
) -> Result<HttpResponse, Problem> {
    let (by, why, now) = (caller.subject(), body.reason.as_str(), state.now());
    let renewal = state.db.write(async |tx| tx.replan(*id, expected.0, by, why, now).await).await?;
    Ok(shown(&renewal))
}

/// Let a held renewal go on.
#[utoipa::path(tag = "control", request_body = Option<Remark>, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "Not held"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/resume")]
pub(crate) async fn resume_renewal(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    OptionalBody(body): OptionalBody<Remark>,
) -> Result<HttpResponse, Problem> {
    let (by, now) = (caller.subject(), state.now());
    let resume = async |tx: &mut db::Tx| {
        let renewal = tx.resume(*id, expected.0, by, now).await?;
        remark(tx, &renewal, by, "resume", &body, now).await?;
        Ok::<_, db::Error>(renewal)
    };
    Ok(shown(&state.db.write(resume).await?))
}

/// Try the failed steps of a renewal again now.
#[utoipa::path(tag = "control", request_body = Option<Remark>, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "No step has failed (`nothing_to_retry`)"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/retry")]
pub(crate) async fn retry_renewal(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    OptionalBody(body): OptionalBody<Remark>,
) -> Result<HttpResponse, Problem> {
    let (by, now) = (caller.subject(), state.now());
    let retry = async |tx: &mut db::Tx| {
        let renewal = tx.retry(*id, expected.0, by, now).await?;
        remark(tx, &renewal, by, "retry", &body, now).await?;
        Ok::<_, db::Error>(renewal)
    };
    Ok(shown(&state.db.write(retry).await?))
}

/// Go on without steps that fail.
///
/// Only removing a certificate from a server can be skipped: `prune` at the end of a run, `remove_certificate` when it is taken back. The certificate
/// stays there, and the step says who skipped it and why. All else is what trust depends on; the answer says what to do instead.
#[utoipa::path(tag = "control", request_body = Skip, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "Not possible for such a step (`not_skippable`), nothing has failed (`nothing_to_skip`, `step_not_failed`), or there is no step of that ordinal (`no_such_step`)"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/skip")]
pub(crate) async fn skip_steps(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(body): Body<Skip>,
) -> Result<HttpResponse, Problem> {
    let (by, why, now) = (caller.subject(), body.reason.as_str(), state.now());
    let steps = body.steps.as_deref();
    let renewal = state.db.write(async |tx| tx.skip(*id, expected.0, by, why, steps, now).await).await?;
    Ok(shown(&renewal))
}

/// Make the old certificate sign again, after publication.
///
/// Possible until the previous certificate is given up (`clear_previous`).
#[utoipa::path(tag = "control", request_body = Reasoned, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 200, body = Renewal, headers(("ETag" = String, description = "Its version"))),
    (status = 409, description = "Not published (`not_published`: use cancel), past the point of no return, or over"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/rollback")]
pub(crate) async fn roll_back_renewal(
    caller: May<Control>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(body): Body<Reasoned>,
) -> Result<HttpResponse, Problem> {
    let (by, why, now) = (caller.subject(), body.reason.as_str(), state.now());
    let renewal = state.db.write(async |tx| tx.roll_back(*id, expected.0, by, why, now).await).await?;
    Ok(shown(&renewal))
}

async fn remark(
    tx: &mut db::Tx,
    renewal: &Renewal,
    by: &str,
    verb: &str,
    remark: &Remark,
    now: DateTime<Utc>,
) -> db::Result<()> {
    let Some(reason) = &remark.reason else { return Ok(()) };
    let detail = json!({ "verb": verb, "reason": reason.as_str() });
    tx.audit(renewal, NewAudit::new(by, "renewal.remarked", detail), now).await
}

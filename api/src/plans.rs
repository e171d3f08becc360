//! `/v1/renewals/{id}/plan` and `/runbook`: exactly what people approve.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header,
    web::{Data, Path},
};
use domain::{Digest, Plan, Renewal, RenewalId};

use crate::{
    Problem, State,
    caller::{May, Read},
    input::none_match_names,
    runbook,
};

/// Show the plan of a renewal.
///
/// The body is the plan as RFC 8785 canonical JSON, byte for byte: its SHA-256 is the digest that people approve, here as `ETag` and `Plan-Digest`.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path)), responses(
    (status = 200, body = Plan, headers(
        ("ETag" = String, description = "The digest"),
        ("Plan-Digest" = String, description = "The digest: `sha256:` and the SHA-256 of the body in hexadecimal digits")
    )),
    (status = 304, description = "It is still this plan"),
    (status = 404, description = "There is no such renewal, or it has no plan so far (`plan_not_ready`)")
))]
#[get("/v1/renewals/{id}/plan")]
pub(crate) async fn show_plan(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let planned = planned(&state, *id).await?;
    let etag = format!("\"{}\"", planned.digest);
    if none_match_names(request.headers(), &etag) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag)).finish());
    }
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((header::ETAG, etag))
        .insert_header(("Plan-Digest", planned.digest.as_str()))
        .body(planned.text))
}

/// Show the plan as a runbook: what a person would do by hand, in order, with gates and waits.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path)), responses(
    (status = 200, body = String, content_type = "text/markdown", example = "# Runbook: renew the Auth certificate of contoso"),
    (status = 404, description = "There is no such renewal, or it has no plan so far (`plan_not_ready`)")
))]
#[get("/v1/renewals/{id}/runbook")]
pub(crate) async fn show_runbook(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<HttpResponse, Problem> {
    let planned = planned(&state, *id).await?;
    let plan: Plan = serde_json::from_str(&planned.text).map_err(db::Error::from)?;
    let text = runbook::markdown(&planned.renewal, &plan);
    Ok(HttpResponse::Ok().content_type("text/markdown; charset=utf-8").body(text))
}

/// A renewal that has a plan.
struct Planned {
    renewal: Renewal,
    digest: Digest,
    /// The bytes that the digest covers.
    text: String,
}

async fn planned(state: &State, id: RenewalId) -> Result<Planned, Problem> {
    let found = state.db.read(async |tx| {
        let renewal = tx.renewal(id).await?;
        let text = match &renewal.plan_digest {
            Some(digest) => tx.plan_text(id, digest).await?,
            None => None,
        };
        db::Result::Ok((renewal, text))
    });
    let (renewal, text) = found.await?;
    match (renewal.plan_digest.clone(), text) {
        (Some(digest), Some(text)) => Ok(Planned { renewal, digest, text }),
        _ => Err(Problem::plan_not_ready(renewal.state.status())),
    }
}

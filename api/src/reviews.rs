//! `/v1/renewals/{id}/reviews`: what auditors think of gates that were broken.

use actix_web::{
    get, post,
    web::{Data, Json, Path},
};
use domain::{
    RenewalId,
    review::{Review, ReviewVerdict},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Problem, State,
    caller::{Audit, May, Read},
    input::{Body, Why},
    page::List,
};

/// What an auditor thinks of a broken gate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"verdict": "justified", "finding": "Two approvers were on the same plane; both have read the plan since"}))]
pub(crate) struct NewFinding {
    /// Whether it could not wait.
    verdict: ReviewVerdict,
    /// In their words.
    finding: Why,
}

/// List the broken gates of a renewal, with what auditors think of them.
#[utoipa::path(tag = "decisions", params(("id" = RenewalId, Path)), responses((status = 200, body = List<Review>)))]
#[get("/v1/renewals/{id}/reviews")]
pub(crate) async fn list_reviews(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<Json<List<Review>>, Problem> {
    let read = async |tx: &mut db::Tx| {
        tx.renewal(*id).await?;
        tx.reviews(*id).await
    };
    Ok(Json(List { items: state.db.read(read).await? }))
}

/// Review a broken gate.
#[utoipa::path(tag = "decisions", request_body = NewFinding, params(("id" = RenewalId, Path), ("review" = Uuid, Path)), responses(
    (status = 200, body = Review),
    (status = 403, description = "You broke the glass yourself (`own_review`), or lack the role"),
    (status = 409, description = "It is reviewed (`already_reviewed`)")
))]
#[post("/v1/renewals/{id}/reviews/{review}")]
pub(crate) async fn review_broken_gate(
    caller: May<Audit>,
    state: Data<State>,
    ids: Path<(RenewalId, Uuid)>,
    Body(new): Body<NewFinding>,
) -> Result<Json<Review>, Problem> {
    let (by, now, finding) = (caller.subject(), state.now(), new.finding.as_str());
    Ok(Json(state.db.write(async |tx| tx.review(*ids, new.verdict, finding, by, now).await).await?))
}

//! `/v1/renewals/{id}/steps`.

use actix_web::{
    get,
    web::{Data, Json, Path},
};
use domain::{RenewalId, Step};

use crate::{
    Problem, State,
    caller::{May, Read},
    page::List,
};

/// List the steps of a renewal in order, with what each of them did.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path)), responses((status = 200, body = List<Step>)))]
#[get("/v1/renewals/{id}/steps")]
pub(crate) async fn list_steps(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<Json<List<Step>>, Problem> {
    let steps = state.db.read(async |tx| {
        tx.renewal(*id).await?;
        tx.steps(*id).await
    });
    Ok(Json(List { items: steps.await? }))
}

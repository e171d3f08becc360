//! `/v1/audit` and `/v1/renewals/{id}/audit`: who did what.

use actix_web::{
    get,
    web::{Data, Json, Path},
};
use domain::{RenewalId, audit::AuditEntry};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    Problem, State,
    caller::{Audit, May, Read},
    input::Params,
    page::{Cursor, Limit, List, Page},
};

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// List every audit entry, newest first.
///
/// Also those that belong to no renewal, such as refused requests.
#[utoipa::path(tag = "audit", params(AuditQuery), responses((status = 200, body = Page<AuditEntry>)))]
#[get("/v1/audit")]
pub(crate) async fn list_audit(
    _: May<Audit>,
    state: Data<State>,
    Params(query): Params<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let page = query.limit.after(query.cursor);
    let rows = state.db.read(async |tx| tx.audit_page(page).await).await?;
    Ok(Json(Page::of(rows, query.limit, |entry| entry.id)))
}

/// Which entries of a renewal to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AfterQuery {
    /// Only entries after this sequence number.
    #[serde(default)]
    #[param(default = 0, minimum = 0, required = false)]
    after: i64,
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

/// List the audit entries of a renewal, oldest first.
///
/// Their sequence numbers have no gaps: send the last one as `after` to go on.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path), AfterQuery), responses(
    (status = 200, body = List<AuditEntry>)
))]
#[get("/v1/renewals/{id}/audit")]
pub(crate) async fn list_renewal_audit(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
    Params(query): Params<AfterQuery>,
) -> Result<Json<List<AuditEntry>>, Problem> {
    let entries = state.db.read(async |tx| {
        tx.renewal(*id).await?;
        tx.audit_of(*id, query.after, query.limit.rows()).await
    });
    Ok(Json(List { items: entries.await? }))
}

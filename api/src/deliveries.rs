//! `/v1/deliveries`: what sources have sent, and what became of it.

use actix_web::{
    HttpResponse, get, post,
    web::{Data, Json, Path},
};
use db::{Arrival, DeliveryFilter};
use domain::{Delivery, DeliveryId, DeliveryVerdict};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    Problem, State,
    caller::{Control, May, Permission},
    hooks::{self, HookAnswer},
    input::Params,
    page::{Cursor, Limit, Page},
    tokens::Role,
};

/// To read what sources have sent.
#[derive(Debug)]
pub(crate) enum SeeDeliveries {}
impl Permission for SeeDeliveries {
    const ROLES: &'static [Role] = &[Role::Auditor, Role::Operator];
}

/// Which deliveries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveryQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only of this source.
    source: Option<String>,
    /// Only with this verdict.
    verdict: Option<DeliveryVerdict>,
    /// Only about the ticket of this number; not together with `source` or `verdict`.
    ticket: Option<String>,
}

impl DeliveryQuery {
    fn filter(&self) -> Result<DeliveryFilter<'_>, Problem> {
        let (source, verdict) = (self.source.as_deref(), self.verdict);
        match self.ticket.as_deref() {
            None => Ok(DeliveryFilter::Of { source, verdict }),
            Some(number) if source.is_none() && verdict.is_none() => Ok(DeliveryFilter::Ticket(number)),
            Some(_) => Err(Problem::invalid_parameter("`ticket` is not used together with `source` or `verdict`.")),
        }
    }
}

/// List deliveries, newest first.
///
/// Also those that were refused; of those whose senders could not show who they are, only the newest are kept.
#[utoipa::path(tag = "hooks", params(DeliveryQuery), responses((status = 200, body = Page<Delivery>)))]
#[get("/v1/deliveries")]
pub(crate) async fn list_deliveries(
    _: May<SeeDeliveries>,
    state: Data<State>,
    Params(query): Params<DeliveryQuery>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let (page, filter) = (query.limit.after(query.cursor), query.filter()?);
    let rows = state.db.read(async |tx| tx.deliveries(filter, page).await).await?;
    Ok(Json(Page::of(rows, query.limit, |delivery| delivery.id.0)))
}

/// A delivery, with what came and what was answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "019361b2-8b1d-7c44-b0f2-5d3c1a9e7f60", "source": "acme", "delivery_id": null, "received_at": "2026-11-23T10:00:00Z", "sender": "signature",
    "retry": null, "verdict": "ignored", "status": 202, "problem": "change_on_hold",
    "detail": "The change is on hold: it raises a renewal when it is sent again after that.", "size": 92, "ticket_number": "CHG0030022",
    "ticket_key": "0f4ac6c4b750230096c3e4f6ee11a9fe", "mod_count": 7, "renewal_id": null, "repeats": null,
    "body": "{\"sys_id\": \"0f4ac6c4b750230096c3e4f6ee11a9fe\", \"number\": \"CHG0030022\", \"on_hold\": \"true\"}",
    "answer": {"delivery": "019361b2-8b1d-7c44-b0f2-5d3c1a9e7f60", "verdict": "ignored", "ticket": "CHG0030022", "problem": "change_on_hold"}
}))]
pub(crate) struct DeliveryWithContent {
    #[serde(flatten)]
    delivery: Delivery,
    /// What came: the beginning of it where the sender could not show who they are, nothing for a duplicate. Headers are not kept.
    #[schema(example = "{\"sys_id\": \"0f4ac6c4b750230096c3e4f6ee11a9fe\", \"number\": \"CHG0030022\"}")]
    body: Option<String>,
    /// What was answered.
    #[schema(value_type = Object, example = json!({"verdict": "accepted", "ticket": "CHG0030022"}))]
    answer: serde_json::Value,
}

/// Show a delivery, with what came and what was answered.
#[utoipa::path(tag = "hooks", params(("id" = DeliveryId, Path)), responses((status = 200, body = DeliveryWithContent)))]
#[get("/v1/deliveries/{id}")]
pub(crate) async fn show_delivery(
    _: May<SeeDeliveries>,
    state: Data<State>,
    id: Path<DeliveryId>,
) -> Result<Json<DeliveryWithContent>, Problem> {
    let found = state.db.read(async |tx| db::Result::Ok((tx.delivery(*id).await?, tx.delivery_content(*id).await?)));
    let (delivery, (body, answer)) = found.await?;
    let body = body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let answer = serde_json::from_str(&answer).map_err(db::Error::from)?;
    Ok(Json(DeliveryWithContent { delivery, body, answer }))
}

/// Take a delivery in again.
///
/// As if it had come now, whether or not it came before, and without its signature: that an operator did it is recorded. For what was refused for a
/// reason that is no more: another renewal was live, the configuration did not know the organization.
#[utoipa::path(tag = "hooks", params(("id" = DeliveryId, Path)), responses(
    (status = 202, description = "Taken; `verdict` says what became of it", body = HookAnswer),
    (status = 409, description = "Its body is not kept whole, or its source is not configured any more"),
    (status = 422, description = "Members of the body cannot be used; `errors` names them")
))]
#[post("/v1/deliveries/{id}/replay")]
pub(crate) async fn replay_delivery(
    operator: May<Control>,
    state: Data<State>,
    id: Path<DeliveryId>,
) -> Result<HttpResponse, Problem> {
    let found = state.db.read(async |tx| db::Result::Ok((tx.delivery(*id).await?, tx.delivery_content(*id).await?.0)));
    let (delivery, body) = found.await?;
    let whole = body.filter(|body| i64::try_from(body.len()).is_ok_and(|length| length == delivery.size));
    let Some(body) = whole else { return Err(Problem::not_replayable(&delivery)) };
    let source = state.sources.get(&delivery.source).ok_or_else(|| Problem::source_gone(&delivery.source))?;
    let arrival = Arrival {
        id: DeliveryId(Uuid::now_v7()),
        source: delivery.source,
        delivery_id: delivery.delivery_id,
        received_at: state.now(),
        sender: Some(operator.subject().to_owned()),
        retry: None,
        size: delivery.size,
        body,
        natural_key: None,
        replays: Some(delivery.id),
    };
    hooks::process(&state, source, arrival, None).await
}

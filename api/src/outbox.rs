//! `/v1/outbox`: messages to ticket systems, mail, chats and webhooks; what did not arrive, and sending it again.

use actix_web::{
    get, post,
    web::{Data, Json, Path},
};
use chrono::{DateTime, Utc};
use domain::{
    announcing::News,
    outbox::{OutboxMessage, OutboxStatus},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    Problem, State,
    caller::{Control, May, Read},
    control::{Reasoned, Remark},
    input::{Body, OptionalBody, Params},
    page::{Cursor, Limit, Page},
};

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutboxQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only in this status: `dead` lists what did not arrive.
    status: Option<OutboxStatus>,
    /// Only for this target.
    target: Option<String>,
}

/// List messages to the outside, newest first.
#[utoipa::path(tag = "outbox", params(OutboxQuery), responses((status = 200, body = Page<OutboxMessage>)))]
#[get("/v1/outbox")]
pub(crate) async fn list_outbox(
    _: May<Read>,
    state: Data<State>,
    Params(query): Params<OutboxQuery>,
) -> Result<Json<Page<OutboxMessage>>, Problem> {
    let page = query.limit.after(query.cursor);
    let rows = state.db.read(async |tx| tx.outbox(query.status, query.target.as_deref(), page).await).await?;
    Ok(Json(Page::of(rows, query.limit, |message| message.id)))
}

/// A message with what it tells.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutboxMessageWithNews {
    #[serde(flatten)]
    message: OutboxMessage,
    /// What it tells.
    news: News,
    /// When the next message of its lane is tried: this one, if it is the first that is pending there. None when nothing is left to do.
    lane_due_at: Option<DateTime<Utc>>,
    /// Why nothing leaves on its lane any more; `replay` opens it again.
    lane_closed: Option<String>,
}

/// Show a message to the outside, with what it tells and when it is tried next.
#[utoipa::path(tag = "outbox", params(("id" = Uuid, Path)), responses((status = 200, body = OutboxMessageWithNews)))]
#[get("/v1/outbox/{id}")]
pub(crate) async fn show_outbox_message(
    _: May<Read>,
    state: Data<State>,
    id: Path<Uuid>,
) -> Result<Json<OutboxMessageWithNews>, Problem> {
    let shown = state.db.read(async |tx| {
        let message = tx.outbox_message(*id).await?;
        let news = tx.outbox_news(*id).await?;
        let (lane_due_at, lane_closed) = tx.outbox_lane(&message.lane).await?;
        db::Result::Ok(OutboxMessageWithNews { message, news, lane_due_at, lane_closed })
    });
    Ok(Json(shown.await?))
}

/// Send a message again.
///
/// Whatever became of it: one that is dead or dropped is tried from the beginning of its schedule, one that is still pending is tried now, one that was
/// delivered is sent once more. It keeps its id, by which the receiver can tell that it had it. A lane that its target closed is opened again.
#[utoipa::path(tag = "outbox", request_body = Option<Remark>, params(("id" = Uuid, Path)), responses(
    (status = 200, body = OutboxMessage)
))]
#[post("/v1/outbox/{id}/replay")]
pub(crate) async fn replay_outbox_message(
    caller: May<Control>,
    state: Data<State>,
    id: Path<Uuid>,
    OptionalBody(body): OptionalBody<Remark>,
) -> Result<Json<OutboxMessage>, Problem> {
    let (by, why, now) = (caller.subject(), body.why(), state.now());
    Ok(Json(state.db.write(async |tx| tx.replay_message(*id, by, why, now).await).await?))
}

/// Give a message up.
///
/// What waits behind it in its lane goes on. A try that is under way may arrive all the same.
#[utoipa::path(tag = "outbox", request_body = Reasoned, params(("id" = Uuid, Path)), responses(
    (status = 200, body = OutboxMessage),
    (status = 409, description = "Delivered or dropped already (`message_is_over`)")
))]
#[post("/v1/outbox/{id}/drop")]
pub(crate) async fn drop_outbox_message(
    caller: May<Control>,
    state: Data<State>,
    id: Path<Uuid>,
    Body(body): Body<Reasoned>,
) -> Result<Json<OutboxMessage>, Problem> {
    let (by, why, now) = (caller.subject(), body.why(), state.now());
    Ok(Json(state.db.write(async |tx| tx.drop_message(*id, by, why, now).await).await?))
}

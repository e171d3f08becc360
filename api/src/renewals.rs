//! `/v1/renewals`: raise, list, show.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{StatusCode, header},
    post,
    web::{Data, Path},
};
use db::{Raise, Raised};
use domain::{
    Digest, OrganizationId, Renewal, RenewalId, Request, plan::canonical_json, progress::PhaseProgress, renewal::AtRisk,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    Problem, State,
    caller::{self, Caller, May, Read},
    idempotency::{CallerKey, IdempotencyHeader},
    input::{Body, Params, none_match_names},
    page::{Cursor, Limit, Page},
    problem::FieldError,
};

/// Raise a renewal.
///
/// Answers at once; a preflight then looks at every server and makes the plan. Nothing is changed before people have approved that plan. One renewal
/// of an organization can be live at a time. With an `Idempotency-Key` the request may be sent again safely: the same body gets the stored answer.
#[utoipa::path(tag = "renewals", request_body = Request, params(IdempotencyHeader), responses(
    (status = 202, description = "Accepted", body = Renewal, headers(
        ("Location" = String, description = "The URL of the renewal"),
        ("ETag" = String, description = "Its version"),
        ("Idempotency-Replayed" = String, description = "`true` when this is the stored answer")
    )),
    (status = 409, description = "Another renewal of the organization is live (`holder` names it), or the same request is being answered"),
    (status = 422, description = "Members of the body are wrong, the idempotency key stands for another body, or with this start time the old certificate expires too early (`not_feasible`)")
))]
#[post("/v1/renewals")]
pub(crate) async fn create_renewal(
    caller: May<caller::Raise>,
    state: Data<State>,
    key: IdempotencyHeader,
    Body(request): Body<Request>,
) -> Result<HttpResponse, Problem> {
    let hash = Digest::of(canonical_json(&request).as_bytes());
    let key = key.0.map(|key| CallerKey::of_token(caller.subject(), &key).answering(&hash));
    raise(&state, caller.caller(), request, key).await
}

/// Raises a renewal, or answers what its key got before.
pub(crate) async fn raise(
    state: &State,
    caller: &Caller,
    request: Request,
    key: Option<db::IdempotencyKey>,
) -> Result<HttpResponse, Problem> {
    check(state, caller, &request)?;
    let at_risk = feasible(state, &request).await?;
    let renewal = Renewal { at_risk, ..requested(state, caller.subject(), request) };
    let (id, body) = (renewal.id, serde_json::to_string(&renewal).map_err(db::Error::from)?);
    let keyed = key.map(|key| {
        let status = i32::from(StatusCode::ACCEPTED.as_u16());
        let request_hash = key.request_hash.clone();
        (key, db::Answer { request_hash, renewal_id: id, status, body: body.clone() })
    });
    match state.db.raise(Raise { renewal, keyed }).await {
        Ok(Raised::New) => Ok(accepted(id, StatusCode::ACCEPTED).body(body)),
        Ok(Raised::Before(answer)) => {
            let status = u16::try_from(answer.status).ok().and_then(|code| StatusCode::from_u16(code).ok());
            let mut response = accepted(answer.renewal_id, status.unwrap_or(StatusCode::ACCEPTED));
            Ok(response.insert_header(("Idempotency-Replayed", "true")).body(answer.body))
        }
        Ok(Raised::OtherRequest) => Err(Problem::idempotency_key_reused()),
        Err(error) if error.is_unique_violation() => Err(Problem::request_in_flight()),
        Err(error) => Err(error.into()),
    }
}

fn check(state: &State, caller: &Caller, request: &Request) -> Result<(), Problem> {
    let mut errors: Vec<FieldError> = request
        .faults()
        .into_iter()
        .map(|(pointer, detail)| FieldError { pointer: pointer.to_owned(), detail })
        .collect();
    let known = state.organizations.contains_key(&request.organization);
    if !known || !caller.reaches(&request.organization) {
        let detail = format!("unknown organization `{}`: GET /v1/organizations lists them", request.organization);
        errors.push(FieldError { pointer: "/organization".to_owned(), detail });
    }
    if errors.is_empty() {
        return Ok(());
    }
    let problem = Problem::invalid_request(errors);
    Err(if caller.reaches(&request.organization) { problem } else { problem.concealing() })
}

/// What is known of the old certificate's end says about the start time. Nothing is known before somebody has looked; the preflight looks again.
async fn feasible(state: &State, request: &Request) -> Result<Option<AtRisk>, Problem> {
    let (organization, now) = (state.organization(&request.organization)?, state.now());
    let feasible = state.db.feasible(request, &organization.policy, now).await?;
    feasible.map_err(|late| Problem::too_late(&late))
}

fn requested(state: &State, requested_by: &str, request: Request) -> Renewal {
    Renewal::requested(RenewalId(Uuid::now_v7()), requested_by, request, state.now())
}

fn accepted(id: RenewalId, status: StatusCode) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .content_type("application/json")
        .insert_header((header::LOCATION, format!("/v1/renewals/{id}")))
        .insert_header((header::ETAG, etag(1)));
    response
}

/// Which renewals to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewalQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = i64, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only of this organization.
    organization_id: Option<OrganizationId>,
    /// Only in this status.
    status: Option<Status>,
}

/// The word for where a renewal stands.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "awaiting_approval")]
pub(crate) enum Status {
    Requested,
    Planning,
    AwaitingApproval,
    Scheduled,
    Running,
    Waiting,
    Soaking,
    Paused,
    Succeeded,
    Rejected,
    Expired,
    Cancelled,
    Failed,
    RolledBack,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Planning => "planning",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Soaking => "soaking",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// List renewals, newest first.
#[utoipa::path(tag = "renewals", params(RenewalQuery), responses((status = 200, body = Page<Renewal>)))]
#[get("/v1/renewals")]
pub(crate) async fn list_renewals(
    caller: May<Read>,
    state: Data<State>,
    Params(query): Params<RenewalQuery>,
) -> Result<actix_web::web::Json<Page<Renewal>>, Problem> {
    let page = query.limit.after(query.cursor);
    let status = query.status.map(Status::as_str);
    let organizations = listed(caller.caller(), query.organization_id.as_ref());
    let found = state.db.read(async |tx| {
        let mut rows = Vec::new();
        for organization in &organizations {
            rows.extend(tx.renewals(*organization, status, page).await?);
        }
        db::Result::Ok(rows)
    });
    let mut rows = found.await?;
    rows.sort_by_key(|renewal| std::cmp::Reverse(renewal.id));
    Ok(actix_web::web::Json(Page::of(rows, query.limit, |renewal| renewal.id.0)))
}

/// Whose renewals are listed: of one organization, of each that the caller reaches, or of all. Each is a list of its own, which an index holds.
fn listed<'a>(caller: &'a Caller, asked: Option<&'a OrganizationId>) -> Vec<Option<&'a OrganizationId>> {
    match (&caller.grants.organizations, asked) {
        (None, asked) => vec![asked],
        (Some(reached), None) => reached.iter().map(Some).collect(),
        (Some(reached), Some(asked)) => reached.get(asked).into_iter().map(Some).collect(),
    }
}

/// A renewal, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RenewalWithProgress {
    #[serde(flatten)]
    renewal: Renewal,
    /// Its phases in order, with how many of their steps are where. A fan-out over many servers shows here how far it is.
    progress: Vec<PhaseProgress>,
}

/// Show a renewal, and how far it is.
///
/// Its `ETag` is its version: send it as `If-None-Match` to hear only of changes, and as `If-Match` with a decision or a verb.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path)), responses(
    (status = 200, body = RenewalWithProgress, headers(("ETag" = String, description = "Its version"))),
    (status = 304, description = "It has not changed")
))]
#[get("/v1/renewals/{id}")]
pub(crate) async fn show_renewal(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let renewal = state.db.read(async |tx| tx.renewal(*id).await).await?;
    if none_match_names(request.headers(), &etag(renewal.version)) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag(renewal.version))).finish());
    }
    // In a transaction of its own: a count may be newer than the version, and then the version changes too.
    let progress = state.db.read(async |tx| tx.progress(*id).await).await?;
    let etag = etag(renewal.version);
    Ok(HttpResponse::Ok().insert_header((header::ETAG, etag)).json(RenewalWithProgress { renewal, progress }))
}

/// A renewal with its version as entity tag.
pub(crate) fn shown(renewal: &Renewal) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::ETAG, etag(renewal.version))).json(renewal)
}

/// The version of a renewal as entity tag.
pub(crate) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

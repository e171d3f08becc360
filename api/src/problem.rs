//! The one error type of the API: RFC 9457 problem details that say what to do next.

use std::{borrow::Cow, fmt, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web::Data,
};
use chrono::{DateTime, Utc};
use domain::{
    Delivery, DeliveryVerdict, OrganizationId, RenewalId, Trouble, audit::AuditEntry, feasibility::Feasibility,
    planning::in_time::TooLate,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;

/// Why a request was not carried out. The frame around every handler turns it into a [`ProblemDetails`] body.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) slug: Cow<'static, str>,
    pub(crate) status: StatusCode,
    /// Whether it says less than it is: something is there that the caller may not know of. Recorded as a refusal.
    pub(crate) concealed: bool,
    told: Box<Told>,
}

/// The words of a problem. Apart and boxed, because most results are not problems.
#[derive(Clone, Debug)]
struct Told {
    title: &'static str,
    detail: String,
    action: Cow<'static, str>,
    errors: Vec<FieldError>,
    holder: Option<RenewalId>,
    headers: Vec<(HeaderName, String)>,
    won_by: Option<Winner>,
    slots: Option<Slots>,
}

/// A problem as it is sent (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:rekey:problem:stale_digest",
    "title": "The plan has changed",
    "status": 409,
    "detail": "The current plan is sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "instance": "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1/decisions",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "action": "Read the current plan and decide on its digest"
}))]
pub(crate) struct ProblemDetails<'a> {
    /// `urn:rekey:problem:<slug>`: stable, for programs.
    #[serde(rename = "type")]
    #[schema(example = "urn:rekey:problem:organization_busy")]
    kind: String,
    /// The kind of problem, for people.
    #[schema(example = "The organization is busy")]
    title: &'a str,
    /// HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// What happened this time.
    #[schema(example = "A renewal of this organization is still live")]
    detail: &'a str,
    /// The path that was asked for.
    #[schema(example = "/v1/renewals")]
    instance: &'a str,
    /// Finds the request in the log; also in the `Trace-Id` header.
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    trace_id: &'a str,
    /// What to do next.
    #[schema(example = "Follow the renewal that holds it, or cancel that one first")]
    action: &'a str,
    /// Which members of the body are wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    /// The URL of the renewal that holds the organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1")]
    holder: Option<String>,
    /// Who was faster, where two could not both win.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    won_by: Option<&'a Winner>,
    /// The first time at which the renewal may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-28T20:00:00Z")]
    first_feasible_slot: Option<DateTime<Utc>>,
    /// The last time at which it may start and be over before the old certificate expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2027-01-03T20:00:00Z")]
    latest_safe_start: Option<DateTime<Utc>>,
}

/// Who was faster.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({"actor": "carol@contoso.example", "action": "decision.rejected", "at": "2026-11-23T10:00:00Z"}))]
pub(crate) struct Winner {
    /// Who, or which process: a timer is one of its worker.
    actor: String,
    /// What, as in the audit.
    action: String,
    /// When.
    at: DateTime<Utc>,
}

/// When a renewal can be done.
#[derive(Clone, Copy, Debug)]
struct Slots {
    first_feasible_slot: Option<DateTime<Utc>>,
    latest_safe_start: Option<DateTime<Utc>>,
}

/// A member of the body that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// JSON Pointer (RFC 6901) into the body.
    #[schema(example = "/organization")]
    pub(crate) pointer: String,
    /// What is wrong with it.
    #[schema(example = "unknown organization `fabrikam`")]
    pub(crate) detail: String,
}

impl Problem {
    fn new(
        status: StatusCode,
        slug: impl Into<Cow<'static, str>>,
        title: &'static str,
        detail: impl Into<String>,
        action: impl Into<Cow<'static, str>>,
    ) -> Self {
        let told = Told {
            title,
            detail: detail.into(),
            action: action.into(),
            errors: Vec::new(),
            holder: None,
            headers: Vec::new(),
            won_by: None,
            slots: None,
        };
        Self { slug: slug.into(), status, concealed: false, told: Box::new(told) }
    }

    /// 401: who calls is not known.
    pub(crate) fn unauthenticated(detail: impl Into<String>) -> Self {
        let action = "Send a token of `rekey token` or of your identity provider as `Authorization: Bearer <token>`, or an API key as `X-API-Key`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "A valid credential is needed", detail, action)
    }

    /// 401: a delivery is not signed as its source wants it.
    pub(crate) fn bad_signature(detail: impl Into<String>) -> Self {
        let action = "Sign the bytes of the body with the secret of the source, as docs/integrations/ shows it";
        Self::new(StatusCode::UNAUTHORIZED, "bad_signature", "A valid signature is needed", detail, action)
    }

    /// 401: a signed delivery is so old that it may be a copy that somebody kept.
    pub(crate) fn replay_too_old(detail: impl Into<String>) -> Self {
        let action = "Sign it again with the time of now; check the clock of the sender, or raise `tolerance_seconds`";
        Self::new(StatusCode::UNAUTHORIZED, "replay_too_old", "The message is too old", detail, action)
    }

    /// 401: the clock of the sender of a signed delivery is ahead.
    pub(crate) fn timestamp_ahead(detail: impl Into<String>) -> Self {
        let action = "Check the clock of the sender and that of this service";
        Self::new(StatusCode::UNAUTHORIZED, "timestamp_ahead", "The message is from the future", detail, action)
    }

    /// 409: of a delivery not enough is kept.
    pub(crate) fn not_replayable(delivery: &Delivery) -> Self {
        let detail = match delivery.repeats {
            Some(first) if delivery.verdict == DeliveryVerdict::Duplicate => {
                format!("It is a copy of delivery {first}, which holds the body.")
            }
            _ => "Its body is not kept whole.".to_owned(),
        };
        let action = "Replay the delivery that it is a copy of, or let the sender send it again";
        Self::new(StatusCode::CONFLICT, "not_replayable", "This delivery cannot be replayed", detail, action)
    }

    /// 409: the source of a delivery is not configured any more.
    pub(crate) fn source_gone(source: &str) -> Self {
        let detail = format!("The source `{source}` is not configured any more.");
        let action = "Configure it again, or raise the renewal with POST /v1/renewals";
        Self::new(StatusCode::CONFLICT, "source_gone", "Nobody can read this delivery", detail, action)
    }

    /// 403: the caller lacks a role.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        let action = "Ask somebody who has the role, or ask for a token that carries it";
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Your roles do not allow this", detail, action)
    }

    /// 403: the caller's credential reaches some organizations only, and this is about all.
    pub(crate) fn beyond_organizations() -> Self {
        let detail = "Your credential is limited to some organizations, and this is about all of them.";
        let action = "Ask for what belongs to one organization or renewal, or use a credential without such a limit";
        Self::new(StatusCode::FORBIDDEN, "beyond_organizations", "Your credential does not reach this", detail, action)
    }

    /// 403: the record is about an organization that the caller's credential does not reach.
    pub(crate) fn beyond_reach() -> Self {
        let detail = "Your credential does not reach the organization that the record is about.";
        let action = "Use a credential that reaches it, or name an organization that yours reaches";
        Self::new(StatusCode::FORBIDDEN, "beyond_organizations", "Your credential does not reach this", detail, action)
    }

    /// 429: the credential is used too often.
    pub(crate) fn too_many_requests(wait: Duration) -> Self {
        let action = "Wait as long as `Retry-After` says; follow a renewal's events instead of asking again and again";
        let detail = "Your credential has sent more requests than `[limits]` of the configuration allows.";
        Self::limited("too_many_requests", "Too many requests", detail, action).after(wait)
    }

    /// 429: too many requests of this address were refused.
    pub(crate) fn too_many_failures(wait: Duration) -> Self {
        let detail = "Too many requests from your address carried no valid credential.";
        let action = "Correct the credential first, then wait as long as `Retry-After` says";
        Self::limited("too_many_failures", "Too many failed requests", detail, action).after(wait)
    }

    /// 429: the credential follows too much at the same time.
    pub(crate) fn too_many_streams(most: u32) -> Self {
        let detail = format!("Your credential waits for events in {most} requests already.");
        let action = "End one of them, or raise `streams` in `[limits]` of the configuration";
        Self::limited("too_many_streams", "Too many event streams", detail, action).after(Duration::from_secs(1))
    }

    fn limited(slug: &'static str, title: &'static str, detail: impl Into<String>, action: &'static str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, slug, title, detail, action)
    }

    /// 503: the issuer of a token cannot be asked for its keys.
    pub(crate) fn issuer_unavailable(detail: impl Into<String>) -> Self {
        let action = "Send it again; if it stays so, look at the service's log for why the issuer does not answer";
        let title = "The issuer of the token does not answer";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "issuer_unavailable", title, detail, action)
    }

    /// 405: the path takes other methods.
    pub(crate) fn method_not_allowed(method: &str, allowed: &str) -> Self {
        let detail = format!("This path does not take {method}, but {allowed}.");
        let action = "Use one of the methods in `Allow`";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut problem = Self::new(status, "method_not_allowed", "The path takes other methods", detail, action);
        problem.told.headers.push((header::ALLOW, allowed.to_owned()));
        problem
    }

    fn after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.told.headers.push((header::RETRY_AFTER, seconds.max(1).to_string()));
        self
    }

    /// The same words, but a refusal: what is there belongs to others.
    pub(crate) fn concealing(mut self) -> Self {
        self.concealed = true;
        self
    }

    /// 404: there is no such thing.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        let action = "Check the URL against /openapi.json";
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail, action)
    }

    /// 404: there is no such organization.
    pub(crate) fn no_organization(id: &OrganizationId) -> Self {
        Self::not_found(format!("There is no organization `{id}`: GET /v1/organizations lists them."))
    }

    /// 404: the renewal has no plan so far.
    pub(crate) fn plan_not_ready(status: &str) -> Self {
        let detail = format!("The renewal has no plan; it is {status}.");
        let action =
            "Wait for the plan: follow the renewal's events. A failed renewal says in its state why there is none";
        Self::new(StatusCode::NOT_FOUND, "plan_not_ready", "There is no plan", detail, action)
    }

    /// 404: the renewal has made no certificate so far.
    pub(crate) fn certificate_not_ready(status: &str) -> Self {
        let detail = format!("The renewal has made no certificate; it is {status}.");
        let action = "Wait until the step `generate` has succeeded: follow the renewal's events";
        Self::new(StatusCode::NOT_FOUND, "certificate_not_ready", "There is no certificate", detail, action)
    }

    /// 404: nobody has looked at the organization.
    pub(crate) fn not_discovered_yet(organization: &str) -> Self {
        let detail = format!("Nothing is known of the servers of `{organization}` so far.");
        let action = "Raise a renewal: its preflight looks at every server and changes nothing";
        Self::new(StatusCode::NOT_FOUND, "not_discovered_yet", "The organization was not looked at yet", detail, action)
    }

    /// 400: a query parameter, a header or the path cannot be read.
    pub(crate) fn invalid_parameter(detail: impl Into<String>) -> Self {
        let action = "Correct it; /openapi.json tells what is accepted";
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", "A parameter cannot be read", detail, action)
    }

    /// 400: the body is not JSON.
    pub(crate) fn malformed_json(detail: impl Into<String>) -> Self {
        let action = "Send one complete JSON object";
        Self::new(StatusCode::BAD_REQUEST, "malformed_json", "The body is not JSON", detail, action)
    }

    /// 422: the body is JSON, but members of it are wrong.
    pub(crate) fn invalid_request(errors: Vec<FieldError>) -> Self {
        let told: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect();
        let action = "Correct the members that `errors` names and send it again";
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request",
            "Members of the body are wrong",
            told.join("; "),
            action,
        );
        problem.told.errors = errors;
        problem
    }

    /// 413: the body is too long.
    pub(crate) fn payload_too_large(limit: usize) -> Self {
        let detail = format!("The body is longer than {limit} bytes.");
        let action = "Send only the members that the operation names";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "The body is too long", detail, action)
    }

    /// 415: the body is not declared as JSON.
    pub(crate) fn unsupported_media_type() -> Self {
        let detail = "The body is not declared as JSON.";
        let action = "Send `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "JSON is expected", detail, action)
    }

    /// 408: the body did not arrive.
    pub(crate) fn request_timeout() -> Self {
        let detail = "The body did not arrive in time.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request took too long", detail, "Send it again")
    }

    /// 422: the idempotency key stands for another request.
    pub(crate) fn idempotency_key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "The idempotency key stands for another request",
            "This Idempotency-Key came with another body before.",
            "Use a new key for a new request; send the same body to get the stored answer",
        )
    }

    /// 409: the request with this idempotency key is being answered right now.
    pub(crate) fn request_in_flight() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "request_in_flight",
            "The same request is being answered",
            "A request with this Idempotency-Key is being answered at this moment.",
            "Send it again in a second to get its answer",
        )
    }

    /// 409: the ticket does not let anything begin.
    pub(crate) fn change_on_hold(number: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "change_on_hold",
            "The change is on hold",
            format!("{number} is on hold."),
            "Send the record again when it is no longer on hold",
        )
    }

    /// 503: not ready to serve.
    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        let action = "Run `rekey migrate`, check the database, then ask again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "The service is not ready", detail, action)
    }

    /// 503: the database cannot be reached. What happened stands in the log only.
    pub(crate) fn database_unavailable(error: &dyn std::error::Error) -> Self {
        log(error);
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "The database does not answer",
            "The service cannot reach its database, or was cut off from it. Whether a change was made is not known.",
            "Send it again after as long as `Retry-After` says; with its Idempotency-Key nothing is done twice",
        )
    }

    /// 500: our fault. What happened stands in the log only.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        log(error);
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong here",
            "The request failed for a reason that is not yours.",
            "Look for the trace id in the log of the service",
        )
    }

    /// A failure of actix itself, by its status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let action = "Check the request against /openapi.json";
        let title = status.canonical_reason().unwrap_or("The request failed");
        Self::new(status, format!("http_{}", status.as_u16()), title, title, action)
    }

    fn stale(version: i64) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "stale_version",
            "The renewal has changed",
            format!("The renewal's ETag is \"{version}\" now."),
            "Read the renewal again, then decide whether you still want this",
        )
    }

    fn organization_busy(holder: RenewalId) -> Self {
        let mut problem = Self::new(
            StatusCode::CONFLICT,
            "organization_busy",
            "The organization is busy",
            format!("Renewal {holder} of this organization is still live."),
            "Follow the renewal that `holder` names, or cancel it first",
        );
        problem.told.holder = Some(holder);
        problem
    }

    /// 422: the start time is too late for the old certificate.
    pub(crate) fn too_late(late: &TooLate) -> Self {
        let mut problem = Self::refused(late.trouble());
        let Feasibility { starts_at, latest_safe_start, .. } = late.at_once;
        problem.told.slots = Some(Slots { first_feasible_slot: starts_at, latest_safe_start });
        problem
    }

    /// 409: somebody was faster.
    fn overtaken(trouble: Trouble, by: AuditEntry) -> Self {
        let mut problem = Self::refused(trouble);
        problem.told.won_by = Some(Winner { actor: by.actor, action: by.action, at: by.at });
        problem
    }

    /// What the run itself says against it.
    fn refused(trouble: Trouble) -> Self {
        let (status, title) = match trouble.code.as_str() {
            "excluded" => (StatusCode::FORBIDDEN, "You had a hand in this renewal"),
            "own_review" => (StatusCode::FORBIDDEN, "You broke the glass yourself"),
            "break_glass_off" => (StatusCode::FORBIDDEN, "The glass cannot be broken here"),
            "not_feasible" | "reason_too_short" => (StatusCode::UNPROCESSABLE_ENTITY, "It cannot be done like this"),
            "self_approval" => (StatusCode::FORBIDDEN, "You asked for this renewal yourself"),
            "stale_digest" => (StatusCode::CONFLICT, "The plan has changed"),
            "gate_not_open" => (StatusCode::CONFLICT, "There is nothing to decide"),
            "not_skippable" => (StatusCode::CONFLICT, "This step cannot be skipped"),
            "gate_passed" => (StatusCode::CONFLICT, "The gate is passed"),
            _ => (StatusCode::CONFLICT, "Not possible as things stand"),
        };
        Self::new(status, trouble.code, title, trouble.message, trouble.action)
    }

    /// What happened this time.
    pub(crate) fn detail(&self) -> &str {
        &self.told.detail
    }

    /// The body, with what only the frame around the handler knows.
    pub(crate) fn respond(&self, request: &HttpRequest, trace_id: &str) -> HttpResponse {
        let told = &self.told;
        let holder = told.holder.map(|id| format!("/v1/renewals/{id}"));
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        if self.status == StatusCode::UNAUTHORIZED {
            response.append_header((header::WWW_AUTHENTICATE, bearer_challenge(request)));
            let state = request.app_data::<Data<State>>();
            if state.is_some_and(|state| state.credentials.takes_basic()) {
                response.append_header((header::WWW_AUTHENTICATE, "Basic realm=\"rekey\", charset=\"UTF-8\""));
            }
        }
        for (name, value) in &told.headers {
            response.insert_header((name.clone(), value.as_str()));
        }
        if let Some(holder) = &holder {
            response.insert_header((header::LOCATION, holder.as_str()));
            response.insert_header((header::LINK, format!("<{holder}>; rel=\"related\"")));
        }
        if self.slug == "request_in_flight" || self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, "1"));
        }
        let details = ProblemDetails {
            kind: format!("urn:rekey:problem:{}", self.slug),
            title: told.title,
            status: self.status.as_u16(),
            detail: &told.detail,
            instance: request.path(),
            trace_id,
            action: &told.action,
            errors: &told.errors,
            holder,
            won_by: told.won_by.as_ref(),
            first_feasible_slot: told.slots.and_then(|slots| slots.first_feasible_slot),
            latest_safe_start: told.slots.and_then(|slots| slots.latest_safe_start),
        };
        response.body(serde_json::to_string(&details).expect("strings and numbers are JSON"))
    }
}

fn log(error: &dyn std::error::Error) {
    let cause = std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>();
    tracing::error!(%error, cause = cause.join(": "), "Request failed: {error}");
}

/// What a caller may send to be known (RFC 6750, 3). Where no token came, none is called invalid (3.1).
fn bearer_challenge(request: &HttpRequest) -> &'static str {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if given.is_some_and(|given| given.len() > 6 && given[..6].eq_ignore_ascii_case(b"bearer")) {
        "Bearer realm=\"rekey\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"rekey\""
    }
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::OrganizationBusy { holder } => Self::organization_busy(holder),
            db::Error::Stale { version } => Self::stale(version),
            db::Error::NotFound(what) => Self::not_found(format!("There is no such {what}.")),
            db::Error::Overtaken { trouble, by } => Self::overtaken(trouble, *by),
            db::Error::Refused(trouble) | db::Error::GateClosed(trouble) => Self::refused(trouble),
            db::Error::Illegal(illegal) => Self::new(
                StatusCode::CONFLICT,
                "not_possible_now",
                "Not possible as things stand",
                illegal.to_string(),
                "Read the renewal's state: it says what can be done",
            ),
            error if error.is_unavailable() => Self::database_unavailable(&error),
            error => Self::internal(&error),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.slug, self.told.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Without a body: the frame knows the request and writes it.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status)
    }
}

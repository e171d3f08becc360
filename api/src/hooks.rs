//! `/v1/hooks/…`: what ticket systems send by themselves. Everything that comes is kept, whatever becomes of it.
//!
//! Senders repeat themselves, come late and in any order, and cannot set headers: a delivery is known by what it is, not by what its sender calls it.

mod answer;
pub(crate) mod signature;
pub(crate) mod source;

use std::collections::BTreeSet;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderMap},
    post,
    web::{Data, Path, Payload},
};
use chrono::{DateTime, Utc};
use db::{Arrival, Delivered, Taker};
use domain::{
    DeliveryId, Digest, OrganizationId,
    intake::{Fault, Intake, SourceKind},
    storable::storable,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use uuid::Uuid;

pub(crate) use answer::HookAnswer;

use crate::{
    Problem, State,
    caller::{Caller, Credential, Permission as _, Raise},
    hooks::{
        signature::Unsigned,
        source::{Accept, Source},
    },
    input::BODY_TIMEOUT,
    problem::FieldError,
    servicenow::ServiceNowChange,
};

/// Longer bodies are refused: itsm.md 5.1.
pub(crate) const HOOK_LIMIT: usize = 1024 * 1024;

/// So much is kept of a body whose sender nobody knows.
const STRANGER_LIMIT: usize = 4 * 1024;

/// Take a change record from ServiceNow.
///
/// Any of the shapes that scripts, the Table API and flows send. A record that has not raised a renewal raises one, unless it is on hold, called off or
/// over; a later one says how the ticket stands. The same record (`sys_id` and `sys_mod_count`) gets the same answer, however often it is sent.
/// Signed as Standard Webhooks has it, or with a credential that the source accepts.
#[utoipa::path(tag = "hooks", request_body = ServiceNowChange, params(("source" = String, Path, description = "The id of the source", example = "acme")), responses(
    (status = 202, description = "Taken; `verdict` says what became of it", body = HookAnswer, headers(
        ("Location" = String, description = "The URL of the renewal, if there is one"),
        ("Idempotency-Replayed" = String, description = "`true` when this is the answer that the delivery got before")
    )),
    (status = 400, description = "The body is not JSON"),
    (status = 404, description = "There is no such source"),
    (status = 409, description = "Another renewal of the organization is live: send it again when that one is over"),
    (status = 413, description = "The body is longer than a megabyte"),
    (status = 422, description = "Members of the body cannot be used (`errors` names them), or with this start time the old certificate expires too early (`not_feasible`)")
))]
#[post("/v1/hooks/servicenow/{source}")]
pub(crate) async fn receive_from_servicenow(
    state: Data<State>,
    source: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    receive(&state, SourceKind::ServiceNow, &source, &request, payload).await
}

/// Take an issue from Jira.
///
/// As Jira's webhooks, its automation and those of Data Center send it. Signed with `X-Hub-Signature`, or with a credential that the source accepts.
/// What cannot be taken now is kept and answered with 200 all the same, because Jira would send it again and again: `verdict` says what became of it.
#[utoipa::path(tag = "hooks", request_body = Object, params(("source" = String, Path, description = "The id of the source", example = "acme-jira")), responses(
    (status = 200, description = "Kept, but not taken; `detail` says why", body = HookAnswer),
    (status = 202, description = "Taken; `verdict` says what became of it", body = HookAnswer, headers(
        ("Location" = String, description = "The URL of the renewal, if there is one"),
        ("Idempotency-Replayed" = String, description = "`true` when this is the answer that the delivery got before")
    )),
    (status = 400, description = "The body is not JSON"),
    (status = 404, description = "There is no such source"),
    (status = 413, description = "The body is longer than a megabyte"),
    (status = 422, description = "Members of the body cannot be used (`errors` names them), or with this start time the old certificate expires too early (`not_feasible`)")
))]
#[post("/v1/hooks/jira/{source}")]
pub(crate) async fn receive_from_jira(
    state: Data<State>,
    source: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    receive(&state, SourceKind::Jira, &source, &request, payload).await
}

/// Take JSON from any sender.
///
/// The configuration of the source says where what stands; without it the members are called `number`, `key`, `organization`, `reason`, `start`, `note`,
/// `url`, `requested_by`, `state`, `approval`, `on_hold`, `mod_count` and `updated_at`. CloudEvents carry them in `data`. Signed as Standard Webhooks
/// has it, or with a credential that the source accepts.
#[utoipa::path(tag = "hooks", request_body = Object, params(("source" = String, Path, description = "The id of the source", example = "scripts")), responses(
    (status = 202, description = "Taken; `verdict` says what became of it", body = HookAnswer, headers(
        ("Location" = String, description = "The URL of the renewal, if there is one"),
        ("Idempotency-Replayed" = String, description = "`true` when this is the answer that the delivery got before")
    )),
    (status = 400, description = "The body is not JSON"),
    (status = 404, description = "There is no such source"),
    (status = 409, description = "Another renewal of the organization is live: send it again when that one is over"),
    (status = 413, description = "The body is longer than a megabyte"),
    (status = 422, description = "Members of the body cannot be used (`errors` names them), or with this start time the old certificate expires too early (`not_feasible`)")
))]
#[post("/v1/hooks/generic/{source}")]
pub(crate) async fn receive_from_anybody(
    state: Data<State>,
    source: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    receive(&state, SourceKind::Generic, &source, &request, payload).await
}

async fn receive(
    state: &State,
    kind: SourceKind,
    id: &str,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let source = state.sources.get(id).filter(|source| source.reading.kind == kind);
    // Not told from a source of another kind: a stranger learns nothing of what is configured.
    let source = source.ok_or_else(|| Problem::not_found("There is no such source."))?;
    let came = Came::read(payload).await;
    let mut arrival = came.arrival(source, request.headers(), state.now());
    let checked = match came.problem() {
        Some(problem) => Err(problem),
        None => sender(source, request, &came.body, state.db.now()).await,
    };
    let sender = match checked {
        Ok(sender) => sender,
        Err(problem) => {
            arrival.body.truncate(STRANGER_LIMIT);
            return Err(refuse(state, &arrival, problem).await);
        }
    };
    arrival.sender = Some(sender.name);
    if !declares_json(request.headers(), kind) {
        return Err(refuse(state, &arrival, Problem::unsupported_media_type()).await);
    }
    process(state, source, arrival, sender.organizations.as_ref()).await
}

/// What came as a body.
#[derive(Debug)]
struct Came {
    body: Vec<u8>,
    size: usize,
    end: End,
}

/// How a body ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    TooLong,
    TooSlow,
    Broken,
}

impl Came {
    async fn read(mut payload: Payload) -> Self {
        let mut came = Self { body: Vec::new(), size: 0, end: End::Whole };
        let reading = async {
            while let Some(chunk) = payload.next().await {
                let Ok(chunk) = chunk else { return End::Broken };
                came.size += chunk.len();
                let room = HOOK_LIMIT - came.body.len();
                came.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if came.size > HOOK_LIMIT {
                    return End::TooLong;
                }
            }
            End::Whole
        };
        came.end = tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(End::TooSlow);
        came
    }

    fn problem(&self) -> Option<Problem> {
        match self.end {
            End::Whole => None,
            End::TooLong => Some(Problem::payload_too_large(HOOK_LIMIT)),
            End::TooSlow => Some(Problem::request_timeout()),
            End::Broken => Some(Problem::malformed_json("The body could not be read to its end.")),
        }
    }

    fn arrival(&self, source: &Source, headers: &HeaderMap, now: DateTime<Utc>) -> Arrival {
        let named = match source.reading.kind {
            SourceKind::Jira => "x-atlassian-webhook-identifier",
            SourceKind::Generic | SourceKind::ServiceNow => "webhook-id",
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let short = |text: &str| text.chars().take(255).collect::<String>();
        Arrival {
            id: DeliveryId(Uuid::now_v7()),
            source: source.reading.id.clone(),
            delivery_id: text(named).filter(|id| !id.is_empty()).map(short),
            received_at: now,
            sender: None,
            retry: text("x-atlassian-webhook-retry").and_then(|count| count.parse().ok()),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            body: self.body.clone(),
            natural_key: None,
            replays: None,
        }
    }
}

/// Who has shown that they may send.
#[derive(Debug)]
struct Sender {
    /// As it is kept with the delivery.
    name: String,
    /// The only organizations that they reach; all when absent.
    organizations: Option<BTreeSet<OrganizationId>>,
}

/// How the sender has shown who they are. Whatever is shown must be right; a signature goes before a credential.
async fn sender(source: &Source, request: &HttpRequest, body: &[u8], now: DateTime<Utc>) -> Result<Sender, Problem> {
    let headers = request.headers();
    let signed = match source.reading.kind {
        SourceKind::Jira => signature::is_hub(headers),
        SourceKind::Generic | SourceKind::ServiceNow => signature::is_standard(headers),
    };
    let signature_wanted = source.accept.contains(&Accept::Signature);
    if signed && signature_wanted {
        let checked = match source.reading.kind {
            SourceKind::Jira => signature::hub(headers, body, &source.keys),
            SourceKind::Generic | SourceKind::ServiceNow => {
                signature::standard(headers, body, &source.keys, source.tolerance, now)
            }
        };
        let signer = || Sender { name: "signature".to_owned(), organizations: None };
        return checked.map(|()| signer()).map_err(|why| unsigned(why, source));
    }
    let unwanted = |why: &str| {
        if signature_wanted {
            Problem::bad_signature("The request is not signed.")
        } else {
            Problem::unauthenticated(why)
        }
    };
    let Some(caller) = Caller::offered(request)? else { return Err(unwanted("The request carries no credential.")) };
    if !source.accept.contains(&accepting(caller.credential)) {
        return Err(unwanted("This source does not accept the kind of credential that the request carries."));
    }
    let caller = caller.holding_any(Raise::ROLES)?;
    Ok(Sender { name: caller.subject, organizations: caller.grants.organizations })
}

/// What a source must accept for a kind of credential.
fn accepting(credential: Credential) -> Accept {
    match credential {
        Credential::ApiKey => Accept::ApiKey,
        Credential::Basic => Accept::Basic,
        Credential::ClientCertificate => Accept::Certificate,
        Credential::Oidc | Credential::Token => Accept::Bearer,
    }
}

fn unsigned(why: Unsigned, source: &Source) -> Problem {
    let seconds = source.tolerance.num_seconds();
    match why {
        Unsigned::Header(name) => Problem::bad_signature(format!("The header {name} is missing or cannot be read.")),
        Unsigned::Wrong => {
            Problem::bad_signature("The signature was not made over this body with a secret of the source.")
        }
        Unsigned::TooOld => Problem::replay_too_old(format!("The message is older than {seconds} seconds.")),
        Unsigned::Ahead => {
            Problem::timestamp_ahead(format!("The time of the message is more than {seconds} seconds ahead."))
        }
    }
}

fn declares_json(headers: &HeaderMap, kind: SourceKind) -> bool {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let declared = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let event = kind == SourceKind::Generic && declared == "application/cloudevents+json";
    declared == "application/json" || event
}

/// Reads what came and lets everything follow; what cannot be read is kept too. `within` are the only organizations that its sender reaches.
pub(crate) async fn process(
    state: &State,
    source: &Source,
    mut arrival: Arrival,
    within: Option<&BTreeSet<OrganizationId>>,
) -> Result<HttpResponse, Problem> {
    let intake = match understood(state, source, &arrival, within) {
        Ok((intake, event_id)) => {
            arrival.delivery_id = arrival.delivery_id.or(event_id);
            intake
        }
        Err(problem) => return Err(refuse(state, &arrival, problem).await),
    };
    if arrival.replays.is_none() {
        arrival.natural_key = Some(natural_key(source, &intake, &arrival.body));
    }
    let answering = |taken: &db::Taken| answer::of(source.reading.kind, &arrival, &intake, taken);
    let actor = source.reading.actor();
    let asked = intake.request.as_ref().ok().and_then(|request| state.organizations.get(&request.organization));
    let taker = Taker {
        by: &actor,
        requester: &actor,
        organizations: within,
        policy: asked.map(|organization| &organization.policy),
    };
    match state.db.deliver(&arrival, &intake, taker, answering).await? {
        Delivered::Now(taken) => answer::respond(source.reading.kind, &arrival, &intake, &taken),
        Delivered::Before { status, body, renewal } => Ok(answer::again(status, body, renewal)),
    }
}

fn understood(
    state: &State,
    source: &Source,
    arrival: &Arrival,
    within: Option<&BTreeSet<OrganizationId>>,
) -> Result<(Intake, Option<String>), Problem> {
    let value: Value =
        serde_json::from_slice(&arrival.body).map_err(|error| Problem::malformed_json(format!("{error}.")))?;
    // What is beyond their reach looks like what does not exist.
    let organizations = state.organizations.keys().filter(|id| within.is_none_or(|within| within.contains(*id)));
    let organizations: Vec<_> = organizations.collect();
    let intake = source.reading.read(&value, &organizations, state.now()).map_err(|faults| unusable(&faults))?;
    let event = value.get("specversion").and_then(|_| value.get("id")).and_then(Value::as_str);
    Ok((intake, event.map(|id| storable(id).chars().take(255).collect())))
}

/// What cannot be used, named in the body.
pub(crate) fn unusable(faults: &[Fault]) -> Problem {
    let errors = faults.iter().map(|fault| FieldError { pointer: fault.pointer.clone(), detail: fault.detail.clone() });
    Problem::invalid_request(errors.collect())
}

/// What a delivery is by itself: the record and how often it was changed, where its system counts that.
fn natural_key(source: &Source, intake: &Intake, body: &[u8]) -> String {
    match (source.reading.kind, intake.revision.mod_count) {
        (SourceKind::Generic | SourceKind::ServiceNow, Some(count)) => format!("{}:{count}", intake.key()),
        _ => Digest::of(body).to_string(),
    }
}

/// Keeps what was refused. When that fails its sender hears that, so that they send it again.
async fn refuse(state: &State, arrival: &Arrival, problem: Problem) -> Problem {
    let told = answer::refusal(&problem);
    match state.db.write_silently(async |tx| tx.keep_refused(arrival, &told).await).await {
        Ok(()) => problem,
        Err(error) => error.into(),
    }
}

//! What senders are answered: small and plain, because scripts log it.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use db::{Arrival, DeliveryAnswer, Taken};
use domain::{
    DeliveryId, DeliveryVerdict, RenewalId,
    intake::{Intake, SourceKind},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{Problem, hooks::unusable};

/// What became of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "delivery": "019361b2-8b1d-7c44-b0f2-5d3c1a9e7f60",
    "verdict": "accepted",
    "ticket": "CHG0030022",
    "renewal": "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1"
}))]
pub(crate) struct HookAnswer {
    /// `/v1/deliveries/{id}` shows it.
    delivery: DeliveryId,
    /// What became of it. A copy gets the answer of the first one.
    verdict: DeliveryVerdict,
    /// The number of the ticket.
    #[schema(example = "CHG0030022")]
    ticket: String,
    /// The URL of the renewal that it raised or was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1")]
    renewal: Option<String>,
    /// Why nothing followed, a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "out_of_order")]
    problem: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "The record has changed since: a newer delivery about it was here before.")]
    detail: Option<String>,
}

/// What a delivery is answered, and what is kept of that.
pub(crate) fn of(kind: SourceKind, arrival: &Arrival, intake: &Intake, taken: &Taken) -> DeliveryAnswer {
    let (verdict, status, why) = match problem_of(taken) {
        Some(problem) if answered_as_taken(kind, &problem) => {
            let why = (problem.slug.to_string(), problem.detail().to_owned());
            (DeliveryVerdict::Refused, StatusCode::OK, Some(why))
        }
        Some(problem) => return refusal(&problem),
        None => match taken {
            Taken::Ignored { why, .. } => {
                let why = (why.as_str().to_owned(), why.detail());
                (DeliveryVerdict::Ignored, StatusCode::ACCEPTED, Some(why))
            }
            _ => (DeliveryVerdict::Accepted, StatusCode::ACCEPTED, None),
        },
    };
    let (problem, detail) = why.unzip();
    let renewal = taken.renewal().map(path_of);
    let body =
        HookAnswer { delivery: arrival.id, verdict, ticket: intake.ticket.number.clone(), renewal, problem, detail };
    let text = serde_json::to_string(&body).expect("strings are JSON");
    DeliveryAnswer { verdict, status: status.as_u16().into(), problem: body.problem, detail: body.detail, body: text }
}

/// Jira sends what is answered with 409 again and again, and would go on for hours. A date that is too late is wrong in the issue, not in what was sent:
/// whoever reads the log of deliveries there sees why.
fn answered_as_taken(kind: SourceKind, problem: &Problem) -> bool {
    kind == SourceKind::Jira && (problem.status == StatusCode::CONFLICT || problem.slug == "not_feasible")
}

fn problem_of(taken: &Taken) -> Option<Problem> {
    match taken {
        Taken::Busy { holder } => Some(db::Error::OrganizationBusy { holder: *holder }.into()),
        Taken::Unusable(faults) => Some(unusable(faults)),
        Taken::Beyond => Some(Problem::beyond_reach()),
        Taken::TooLate(late) => Some(Problem::too_late(late)),
        Taken::Raised(_) | Taken::Said(_) | Taken::Ignored { .. } => None,
    }
}

/// What is kept of the answer to a delivery that was refused.
pub(crate) fn refusal(problem: &Problem) -> DeliveryAnswer {
    let body = json!({
        "type": format!("urn:rekey:problem:{}", problem.slug), "status": problem.status.as_u16(), "detail": problem.detail()
    });
    DeliveryAnswer {
        verdict: DeliveryVerdict::Refused,
        status: problem.status.as_u16().into(),
        problem: Some(problem.slug.to_string()),
        detail: Some(problem.detail().to_owned()),
        body: body.to_string(),
    }
}

/// The response to a delivery that was taken in.
pub(crate) fn respond(
    kind: SourceKind,
    arrival: &Arrival,
    intake: &Intake,
    taken: &Taken,
) -> Result<HttpResponse, Problem> {
    if let Some(problem) = problem_of(taken).filter(|problem| !answered_as_taken(kind, problem)) {
        return Err(problem);
    }
    let told = of(kind, arrival, intake, taken);
    Ok(response(told.status, taken.renewal()).body(told.body))
}

/// The response to a delivery that had come before.
pub(crate) fn again(status: i32, body: String, renewal: Option<RenewalId>) -> HttpResponse {
    response(status, renewal).insert_header(("Idempotency-Replayed", "true")).body(body)
}

fn response(status: i32, renewal: Option<RenewalId>) -> actix_web::HttpResponseBuilder {
    let status = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let mut response = HttpResponse::build(status.unwrap_or(StatusCode::ACCEPTED));
    response.content_type("application/json");
    if let Some(id) = renewal {
        response.insert_header((header::LOCATION, path_of(id)));
    }
    response
}

fn path_of(id: RenewalId) -> String {
    format!("/v1/renewals/{id}")
}

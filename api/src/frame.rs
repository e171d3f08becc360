//! What surrounds every request: its trace id, its log line, problem bodies, security headers, and the record of refusals.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use actix_web::{
    Error, HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::{Bytes, Data},
};
use domain::RenewalId;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    Problem, State,
    caller::{Authenticated, KnownSubject},
    credentials::Rejected,
    limits::{Address, Standing},
    refusals::{self, Asked, Refusal},
};

/// Finds a request in the log: 32 hexadecimal digits, from `traceparent` (W3C Trace Context) or made here.
#[derive(Clone, Debug)]
pub(crate) struct TraceId(pub(crate) String);

/// The frame around every handler.
pub(crate) async fn frame(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let trace_id = TraceId::of(request.headers());
    request.extensions_mut().insert(trace_id.clone());
    let span =
        tracing::info_span!("request", trace_id = %trace_id.0, method = %request.method(), path = %request.path());
    async {
        let mut request = request;
        let is_head = as_get(&mut request);
        let response = match admit(&mut request).await {
            Ok(()) => next.call(request).await?.map_into_boxed_body(),
            Err(problem) => request.error_response(problem),
        };
        let response = told(response, &trace_id).await;
        let status = response.status().as_u16();
        tracing::info!(status, "Answered {status}");
        let response = with_headers(response, &trace_id);
        Ok(if is_head { response.map_body(|_, body| BoxBody::new(Unsent(body.size()))) } else { response })
    }
    .instrument(span)
    .await
}

/// What takes GET takes HEAD (RFC 9110, 9.3.2). Returns whether it was one.
fn as_get(request: &mut ServiceRequest) -> bool {
    let is_head = request.method() == Method::HEAD;
    if is_head {
        request.head_mut().method = Method::GET;
    }
    is_head
}

/// The body of an answer to HEAD: its length is told, nothing is made of it.
struct Unsent(BodySize);

impl MessageBody for Unsent {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}

/// Finds out who sends a request, once for all who ask, and whether they may send another one.
async fn admit(request: &mut ServiceRequest) -> Result<(), Problem> {
    if !request.path().starts_with("/v1/") {
        return Ok(());
    }
    let state = request.app_data::<Data<State>>().expect("the state is registered with the application").clone();
    let address = Address::of(state.credentials.client(request.request()));
    let blocked = state.meters.blocked(address);
    let found = state.credentials.caller(&state.db, request.request(), blocked).await;
    let (found, subject) = match found {
        Ok(Some(caller)) => {
            let subject = caller.subject.clone();
            (Ok(Some(caller)), Some(subject))
        }
        Ok(None) => (Ok(None), None),
        Err(Rejected { cause, subject }) => (Err(Problem::from(cause)), subject),
    };
    for name in state.credentials.proxy.iter().flat_map(|proxy| proxy.own_headers()) {
        request.headers_mut().remove(name);
    }
    let taken = match &found {
        Ok(Some(caller)) => Some(state.meters.request(&caller.counted_as())),
        _ => None,
    };
    let mut kept = request.extensions_mut();
    if let Some(subject) = subject {
        kept.insert(KnownSubject(subject));
    }
    kept.insert(Authenticated(found));
    match taken {
        None => Ok(()),
        Some(Ok(standing)) => {
            kept.insert(standing);
            Ok(())
        }
        Some(Err(wait)) => {
            kept.insert(state.meters.exhausted(wait));
            Err(Problem::too_many_requests(wait))
        }
    }
}

/// Writes the problem body, and records a refusal.
async fn told(response: ServiceResponse, trace_id: &TraceId) -> ServiceResponse {
    let Some(mut problem) = problem_of(&response) else { return response };
    let state = response.request().app_data::<Data<State>>().expect("the state is registered with the application");
    let address = Address::of(state.credentials.client(response.request()));
    if problem.status == StatusCode::UNAUTHORIZED
        && let Err(wait) = state.meters.failure(address)
    {
        problem = Problem::too_many_failures(wait);
    }
    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
    if refused.contains(&problem.status) || problem.concealed {
        refusals::record(state, refusal(&response, &problem, address), &trace_id.0).await;
    }
    let body = problem.respond(response.request(), &trace_id.0);
    response.into_response(body)
}

fn problem_of(response: &ServiceResponse) -> Option<Problem> {
    let error = response.response().error()?;
    Some(error.as_error::<Problem>().cloned().unwrap_or_else(|| Problem::of_status(response.status())))
}

fn refusal(response: &ServiceResponse, problem: &Problem, address: Address) -> Refusal {
    let request = response.request();
    let subject = request.extensions().get::<KnownSubject>().map(|known| known.0.clone());
    let asked = subject.as_ref().map(|_| Asked {
        method: request.method().as_str().to_owned(),
        path: request.match_pattern(),
        renewal: request.match_info().get("id").and_then(|id| id.parse::<RenewalId>().ok()),
    });
    let problem = if problem.concealed { "beyond_organizations".to_owned() } else { problem.slug.to_string() };
    Refusal { subject, address, problem, asked }
}

impl TraceId {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(parent_trace_id);
        Self(given.map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned))
    }
}

/// The trace id of `version-trace_id-parent_id-flags`, all lower-case hexadecimal (W3C Trace Context, 3.2).
fn parent_trace_id(header: &str) -> Option<&str> {
    let parts: Vec<&str> = header.split('-').collect();
    let hex = |part: &&str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    match parts.as_slice() {
        [version, trace_id, parent, flags, more @ ..]
            if hex(version, 2)
                && *version != "ff"
                && (*version != "00" || more.is_empty())
                && hex(trace_id, 32)
                && hex(parent, 16)
                && hex(flags, 2)
                && !zero(trace_id)
                && !zero(parent) =>
        {
            Some(trace_id)
        }
        _ => None,
    }
}

fn with_headers(mut response: ServiceResponse, trace_id: &TraceId) -> ServiceResponse {
    let page = response.request().path().starts_with("/swagger-ui");
    let standing = response.request().extensions().get::<Standing>().copied();
    let headers = response.headers_mut();
    if let Some(standing) = standing {
        standing.tell(headers);
    }
    let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CONTENT_SECURITY_POLICY, if page { PAGE_POLICY } else { DATA_POLICY });
    if !page {
        set(header::CACHE_CONTROL, "no-store");
    }
    let trace_id = HeaderValue::from_str(&trace_id.0).expect("hexadecimal digits are a header value");
    headers.insert(HeaderName::from_static("trace-id"), trace_id);
    response
}

const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Swagger UI styles its elements inline and draws icons from data URLs.
const PAGE_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_gives_its_trace_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        assert_eq!(parent_trace_id(&format!("00-{id}-{parent}-01")), Some(id));
        assert_eq!(parent_trace_id(&format!("cc-{id}-{parent}-01-what-comes-later")), Some(id));
        let upper = id.to_uppercase();
        for bad in [
            String::new(),
            id.to_owned(),
            format!("ff-{id}-{parent}-01"),
            format!("00-{id}-{parent}-01-more"),
            format!("00-{upper}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
        ] {
            assert_eq!(parent_trace_id(&bad), None, "{bad}");
        }
    }
}

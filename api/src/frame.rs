//! What surrounds every request: its trace id, its log line, problem bodies, security headers, and the record of refusals.

use actix_web::{
    Error, HttpMessage,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use domain::{RenewalId, audit::NewAudit};
use serde_json::json;
use tracing::Instrument;
use uuid::Uuid;

use crate::{Problem, State, caller::KnownSubject};

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
        let response = next.call(request).await?.map_into_boxed_body();
        let response = told(response, &trace_id).await;
        let status = response.status().as_u16();
        tracing::info!(status, "Answered {status}");
        Ok(with_headers(response, &trace_id))
    }
    .instrument(span)
    .await
}

/// Writes the problem body, and records a refusal of somebody who is known.
async fn told(response: ServiceResponse, trace_id: &TraceId) -> ServiceResponse {
    let Some(problem) = problem_of(&response) else { return response };
    if matches!(problem.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        record_refusal(&response, &problem, trace_id).await;
    }
    let body = problem.respond(response.request(), &trace_id.0);
    response.into_response(body)
}

fn problem_of(response: &ServiceResponse) -> Option<Problem> {
    let error = response.response().error()?;
    Some(error.as_error::<Problem>().cloned().unwrap_or_else(|| Problem::of_status(response.status())))
}

async fn record_refusal(response: &ServiceResponse, problem: &Problem, trace_id: &TraceId) {
    let request = response.request();
    let Some(KnownSubject(subject)) = request.extensions().get::<KnownSubject>().cloned() else { return };
    let state = request.app_data::<Data<State>>().expect("the state is registered with the application");
    // The pattern, not the path: what a caller puts into a URL does not belong into the record.
    let renewal = request.match_info().get("id").and_then(|id| id.parse::<RenewalId>().ok());
    let detail = json!({
        "method": request.method().as_str(),
        "path": request.match_pattern(),
        "renewal": renewal,
        "problem": problem.slug,
        "trace_id": trace_id.0,
    });
    let now = state.now();
    let written = state
        .db
        .write(async |tx| tx.audit_outside(None, NewAudit::new(&subject, "access.refused", detail.clone()), now).await);
    if let Err(error) = written.await {
        tracing::error!(%error, "A refusal could not be recorded: {error}");
    }
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
    let headers = response.headers_mut();
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

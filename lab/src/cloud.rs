//! The cloud over HTTPS: Entra's token endpoint, Graph, Exchange Online's `InvokeCommand` and the tenant's metadata document, all on
//! one port. Paths tell them apart.

mod exchange_online;
mod graph;
mod login;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, RETRY_AFTER},
};
use uuid::Uuid;

use crate::{
    faults::cloud::{CloudDisturbance, CloudService},
    http::{Answer, Cut, Service, Transport, blocking, body, json, status},
    journal::CloudAsked,
    running::Running,
    tenant::{GraphError, TokenError, View},
    world::World,
};

/// The cloud of a lab, or one of its regions.
#[derive(Debug)]
pub(crate) struct CloudSite {
    pub(crate) running: Arc<Running>,
    /// Where the region is that callers of Exchange Online may be sent to; none if this is it.
    pub(crate) region: Option<String>,
}

/// A request, read.
pub(crate) struct Ask {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    service: CloudService,
    /// What the caller calls this place, `https://host:port`.
    base: String,
    region: Option<String>,
    /// Whether it reads what was there before the last write.
    stale: bool,
}

/// An answer, and the code of the error that it tells of.
pub(crate) struct Reply {
    answer: Answer,
    code: String,
}

/// Longer than any list of keys.
const LIMIT: usize = 1024 * 1024;

impl Service for CloudSite {
    type Memory = ();

    fn is_open(&self) -> bool {
        true
    }

    fn connected(&self, _: &Transport) {}

    async fn answer(&self, (): &mut (), request: Request<Incoming>) -> Result<Answer, Cut> {
        let (head, incoming) = request.into_parts();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let (base, path) = (format!("https://{host}"), head.uri.path().to_owned());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let body = match body(Request::from_parts(head.clone(), incoming), LIMIT).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        tokio::time::sleep(self.running.latency).await;
        let (service, region) = (service_of(&path), self.region.clone());
        let ask =
            Ask { method: head.method, headers: head.headers, stale: false, path, query, body, service, base, region };
        let (subject, running) = (ask.subject(), self.running.clone());
        let about = format!("{} {subject}", ask.path);
        let met = running.with(|world| world.cloud_disturbances.meet(ask.service, ask.method.as_str(), &about));
        if let Some(CloudDisturbance::Delay(milliseconds)) = met {
            tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
        }
        let (halve, hold) = (met == Some(CloudDisturbance::Malformed), met.as_ref().is_some_and(never_answers));
        let answer = blocking(move || running.with(|world| disturbed(world, ask, &subject, met))).await?;
        self.running.count_cloud(hold);
        match answer {
            _ if hold => std::future::pending().await,
            Ok(answer) if halve => halved(answer).await,
            answer => answer,
        }
    }
}

fn never_answers(met: &CloudDisturbance) -> bool {
    matches!(met, CloudDisturbance::Hold | CloudDisturbance::HoldAfter)
}

/// Carries a request out as far as what happens to it lets it, and writes it down.
fn disturbed(world: &mut World, mut ask: Ask, subject: &str, met: Option<CloudDisturbance>) -> Result<Answer, Cut> {
    ask.stale = met == Some(CloudDisturbance::Stale);
    let instead = met.as_ref().and_then(|met| instead(&ask, met, world));
    let reply = match (instead, &met) {
        (Some(reply), _) => Ok(reply),
        (None, Some(CloudDisturbance::Drop | CloudDisturbance::Hold)) => Err(Cut),
        (None, _) => Ok(carry_out(world, &ask)),
    };
    let (code, status) = reply.as_ref().map_or(("cut", 0), |reply| (&reply.code, reply.answer.status().as_u16()));
    world.journal.cloud.push(CloudAsked {
        at: world.now(),
        service: ask.service,
        method: ask.method.to_string(),
        path: ask.path_and_query(),
        subject: subject.to_owned(),
        status,
        code: code.to_owned(),
        disturbed: met.is_some(),
    });
    let answer = reply?.answer;
    if met == Some(CloudDisturbance::DropAfter) { Err(Cut) } else { Ok(answer) }
}

/// The answer of a request that is not carried out.
fn instead(ask: &Ask, met: &CloudDisturbance, world: &World) -> Option<Reply> {
    let now = world.now();
    Some(match met {
        CloudDisturbance::Aadsts(code) => login::refused(&TokenError::of(*code), now),
        CloudDisturbance::Conflict => graph::refused(ask, &GraphError::conflict(), now),
        CloudDisturbance::Exception { status, class, text } => {
            exchange_online::failed(status_of(*status), "", class, text)
        }
        CloudDisturbance::Graph { status, code, message } => {
            graph::refused(ask, &GraphError::new(status_of(*status), code, message.as_str()), now)
        }
        CloudDisturbance::NulBytes => exchange_online::nul_bytes(),
        CloudDisturbance::Status(code) => ask.unavailable(status_of(*code), world),
        CloudDisturbance::Throttle(seconds) => {
            let mut reply = match ask.service {
                CloudService::Graph => graph::refused(ask, &GraphError::throttled(*seconds), now),
                _ => ask.unavailable(StatusCode::TOO_MANY_REQUESTS, world),
            };
            reply.answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*seconds));
            reply
        }
        CloudDisturbance::Delay(_)
        | CloudDisturbance::Drop
        | CloudDisturbance::DropAfter
        | CloudDisturbance::Hold
        | CloudDisturbance::HoldAfter
        | CloudDisturbance::Malformed
        | CloudDisturbance::Stale => return None,
    })
}

fn carry_out(world: &mut World, ask: &Ask) -> Reply {
    match ask.service {
        CloudService::Token | CloudService::Metadata => login::answer(world, ask),
        CloudService::Graph => graph::answer(world, ask),
        CloudService::ExchangeOnline => exchange_online::answer(world, ask),
    }
}

fn service_of(path: &str) -> CloudService {
    let path = path.to_ascii_lowercase();
    if path.starts_with("/v1.0/") || path.starts_with("/beta/") {
        CloudService::Graph
    } else if path.starts_with("/adminapi/") {
        CloudService::ExchangeOnline
    } else if path.contains("/metadata/json/") {
        CloudService::Metadata
    } else {
        CloudService::Token
    }
}

fn status_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

async fn halved(answer: Answer) -> Result<Answer, Cut> {
    let (head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(|_| Cut)?.to_bytes();
    Ok(Answer::from_parts(head, Full::new(whole.slice(..whole.len() / 2))))
}

impl Ask {
    /// What the request is about, beside its path: the cmdlet, or the application that signs in.
    fn subject(&self) -> String {
        match self.service {
            CloudService::ExchangeOnline => exchange_online::cmdlet(&self.body),
            CloudService::Token => login::client(&self.body),
            CloudService::Graph | CloudService::Metadata => String::new(),
        }
    }

    fn path_and_query(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header(AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
    }

    /// A parameter of the query, decoded.
    fn query(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
    }

    /// What a read of the directory sees.
    fn view(&self, world: &mut World) -> View {
        match &mut world.cloud {
            Some(cloud) if !self.stale => View::Replica(cloud.tenant.next_replica()),
            _ => View::Stale,
        }
    }

    fn unavailable(&self, status: StatusCode, world: &World) -> Reply {
        match self.service {
            CloudService::Graph => graph::refused(self, &GraphError::unavailable(status), world.now()),
            CloudService::ExchangeOnline => exchange_online::unavailable(status),
            CloudService::Token => login::unavailable(status, world.now()),
            CloudService::Metadata => Reply::of(crate::http::status(status)),
        }
    }
}

impl Reply {
    fn of(answer: Answer) -> Self {
        Self { answer, code: String::new() }
    }

    fn refusal(answer: Answer, code: impl Into<String>) -> Self {
        Self { answer, code: code.into() }
    }

    fn json(code: StatusCode, value: &impl serde::Serialize) -> Self {
        Self::of(json(code, value))
    }

    fn not_found() -> Self {
        Self::refusal(status(StatusCode::NOT_FOUND), "not_found")
    }

    fn method_not_allowed() -> Self {
        Self::refusal(status(StatusCode::METHOD_NOT_ALLOWED), "method_not_allowed")
    }

    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.answer.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self
    }

    fn with_request_id(self) -> Self {
        self.with_header("request-id", &Uuid::new_v4().to_string())
    }
}

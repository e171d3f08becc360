//! Ticket systems over HTTPS: an instance of ServiceNow and a site of Jira Service Management, as far as changes need them (itsm.md 5), and the people who
//! work in them.

mod control;
mod faults;
mod hooks;
mod jira;
mod servicenow;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use psrp::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use control::route;
pub(crate) use faults::TicketDisturbances;
pub use faults::{TicketDisturbance, TicketRequests};
pub(crate) use hooks::pump;

use crate::{
    http::{Answer, Cut, Service, Transport, blocking, body, json, status, with_body},
    running::Running,
};
use hooks::Hooks;
use jira::Jira;
use servicenow::ServiceNow;

/// Larger than any attachment of a test.
const LIMIT: usize = 32 * 1024 * 1024;

/// A ticket system.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketSystem {
    /// Jira Service Management.
    Jira,
    /// ServiceNow.
    Servicenow,
}

/// Where the ticket systems of a lab are, and what rekey signs in with.
#[derive(Clone, Debug)]
pub struct LabTickets {
    /// The instance of ServiceNow, without a slash at the end.
    pub servicenow_url: String,
    /// The account of the integration there, and its client id for OAuth.
    pub servicenow_user: String,
    /// Its password, which is its client secret, too.
    pub servicenow_password: Secret,
    /// Its API key.
    pub servicenow_api_key: Secret,
    /// The site of Jira, without a slash at the end.
    pub jira_url: String,
    /// The mail address of the integration there.
    pub jira_user: String,
    /// Its API token.
    pub jira_token: Secret,
}

/// A request to a ticket system. What it carried is not in here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TicketAsked {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// Which system.
    pub system: TicketSystem,
    /// GET, POST, PATCH or PUT.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The names of the fields that it wrote.
    pub fields: Vec<String>,
    /// The HTTP status of the answer; 0 for none.
    pub status: u16,
    /// Whether it, or its answer, was disturbed on the way.
    pub disturbed: bool,
}

/// Both systems, and what leaves them.
#[derive(Debug)]
pub(crate) struct Tickets {
    pub(crate) servicenow: ServiceNow,
    pub(crate) jira: Jira,
    pub(crate) disturbances: TicketDisturbances,
    pub(crate) asked: Vec<TicketAsked>,
    pub(crate) hooks: Hooks,
}

impl Tickets {
    pub(crate) fn new() -> Self {
        Self {
            servicenow: ServiceNow::new(),
            jira: Jira::new(),
            disturbances: TicketDisturbances::default(),
            asked: Vec::new(),
            hooks: Hooks::default(),
        }
    }

    /// Where they are, and what to sign in with.
    pub(crate) fn found(&self, servicenow_url: String, jira_url: String) -> LabTickets {
        LabTickets {
            servicenow_url,
            servicenow_user: ServiceNow::USER.to_owned(),
            servicenow_password: Secret::new(self.servicenow.password.clone()),
            servicenow_api_key: Secret::new(self.servicenow.api_key.clone()),
            jira_url,
            jira_user: Jira::USER.to_owned(),
            jira_token: Secret::new(self.jira.token.clone()),
        }
    }

    fn carry_out(&mut self, system: TicketSystem, ask: &Ask) -> Reply {
        let reply = match system {
            TicketSystem::Servicenow => self.servicenow.answer(ask),
            TicketSystem::Jira => self.jira.answer(ask),
        };
        self.announce(ask.now);
        reply
    }

    /// Hands what has changed to the hooks.
    fn announce(&mut self, now: DateTime<Utc>) {
        for told in self.servicenow.changes() {
            self.hooks.tell(TicketSystem::Servicenow, &told);
        }
        for told in self.jira.changes(now) {
            self.hooks.tell(TicketSystem::Jira, &told);
        }
    }
}

/// One of the systems on its port.
#[derive(Debug)]
pub(crate) struct TicketSite {
    pub(crate) running: Arc<Running>,
    pub(crate) system: TicketSystem,
}

/// A request, read.
struct Ask {
    method: Method,
    /// Decoded.
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
    /// What the caller calls this place, `https://host:port`.
    base: String,
    /// Virtual time.
    now: DateTime<Utc>,
    /// Whether a change of state comes to nothing.
    aborts: bool,
}

/// An answer.
struct Reply {
    status: StatusCode,
    body: Option<Value>,
    raw: Option<(String, Bytes)>,
    headers: Vec<(&'static str, String)>,
}

impl Service for TicketSite {
    type Memory = ();

    fn is_open(&self) -> bool {
        true
    }

    fn connected(&self, _: &Transport) {}

    async fn answer(&self, (): &mut (), request: Request<Incoming>) -> Result<Answer, Cut> {
        let (head, incoming) = request.into_parts();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let base = format!("https://{host}");
        let body = match body(Request::from_parts(head.clone(), incoming), LIMIT).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        tokio::time::sleep(self.running.latency).await;
        let about = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let (system, running) = (self.system, self.running.clone());
        let met = running.with(|world| world.tickets.disturbances.meet(system, head.method.as_str(), &about));
        if let Some(TicketDisturbance::Delay(milliseconds)) = met {
            tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
        }
        if met == Some(TicketDisturbance::Hold) {
            return std::future::pending().await;
        }
        let work = move || {
            running.with(|world| {
                let now = world.now();
                let query = head.uri.query().unwrap_or_default().as_bytes();
                let ask = Ask {
                    path: decoded(head.uri.path()),
                    query: form_urlencoded::parse(query).into_owned().collect(),
                    aborts: met == Some(TicketDisturbance::Abort),
                    method: head.method,
                    headers: head.headers,
                    body,
                    base,
                    now,
                };
                disturbed(&mut world.tickets, system, &ask, about, met)
            })
        };
        blocking(work).await?
    }
}

/// Carries a request out as far as what happens to it lets it, and writes it down.
fn disturbed(
    tickets: &mut Tickets,
    system: TicketSystem,
    ask: &Ask,
    path: String,
    met: Option<TicketDisturbance>,
) -> Result<Answer, Cut> {
    let reply = match &met {
        Some(TicketDisturbance::Drop) => None,
        Some(TicketDisturbance::Status(code)) => Some(Reply::error(
            StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            "The lab was told so",
        )),
        Some(TicketDisturbance::Throttle(seconds)) => Some(throttled(*seconds)),
        Some(TicketDisturbance::SessionQueue) => Some(Reply::accepted()),
        _ => Some(tickets.carry_out(system, ask)),
    };
    tickets.asked.push(TicketAsked {
        at: ask.now,
        system,
        method: ask.method.to_string(),
        path,
        fields: ask.fields(),
        status: reply.as_ref().map_or(0, |reply| reply.status.as_u16()),
        disturbed: met.is_some(),
    });
    let answer = reply.ok_or(Cut)?.into_answer();
    if met == Some(TicketDisturbance::DropAfter) { Err(Cut) } else { Ok(answer) }
}

/// What both systems answer whoever asks too often; the headers are ServiceNow's.
fn throttled(seconds: u32) -> Reply {
    let reset = (Utc::now().timestamp() + i64::from(seconds)).to_string();
    Reply::error(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded")
        .with("retry-after", seconds)
        .with("x-ratelimit-limit", 5000)
        .with("x-ratelimit-reset", reset)
        .with("x-ratelimit-rule", "1f7ad01c47bb31109d1f86c2846d4399")
}

/// A part of a URL, without percent signs.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let coded = (byte == b'%').then(|| [rest.next(), rest.next()]);
        let digits = coded.map(|pair| pair.into_iter().flatten().map(char::from).collect::<String>());
        bytes.push(digits.and_then(|digits| u8::from_str_radix(&digits, 16).ok()).unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Something that nobody guesses, in 32 hexadecimal digits; also how ServiceNow names records.
fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

impl Ask {
    fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn authorization(&self, scheme: &str) -> Option<&str> {
        let (named, rest) = self.header(AUTHORIZATION)?.split_once(' ')?;
        named.eq_ignore_ascii_case(scheme).then_some(rest.trim())
    }

    /// Name and password of RFC 7617.
    fn basic(&self) -> Option<(String, String)> {
        let text = String::from_utf8(STANDARD.decode(self.authorization("Basic")?).ok()?).ok()?;
        text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
    }

    fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    fn content_type(&self) -> String {
        self.header(CONTENT_TYPE).unwrap_or("application/octet-stream").to_owned()
    }

    fn fields(&self) -> Vec<String> {
        match self.json() {
            Some(Value::Object(object)) => object.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

impl Reply {
    fn json(status: StatusCode, body: Value) -> Self {
        Self { status, body: Some(body), raw: None, headers: Vec::new() }
    }

    fn ok(body: Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    fn empty(status: StatusCode) -> Self {
        Self { status, body: None, raw: None, headers: Vec::new() }
    }

    fn file(content_type: &str, bytes: Bytes) -> Self {
        Self { status: StatusCode::OK, body: None, raw: Some((content_type.to_owned(), bytes)), headers: Vec::new() }
    }

    /// In the shape of ServiceNow.
    fn error(status: StatusCode, message: &str) -> Self {
        Self::detailed(status, message, None)
    }

    fn detailed(status: StatusCode, message: &str, detail: Option<&str>) -> Self {
        let told = serde_json::json!({ "error": { "message": message, "detail": detail }, "status": "failure" });
        Self::json(status, told)
    }

    /// "Session reuse queue overflow": taken note of, not carried out (KB3047080).
    fn accepted() -> Self {
        Self::detailed(StatusCode::ACCEPTED, "Session reuse queue overflow", None)
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn into_answer(self) -> Answer {
        let mut answer = match (&self.body, self.raw) {
            (Some(body), _) => json(self.status, body),
            (None, Some((content_type, bytes))) => {
                let mut answer = with_body(self.status, "application/octet-stream", bytes);
                if let Ok(kind) = HeaderValue::from_str(&content_type) {
                    answer.headers_mut().insert(CONTENT_TYPE, kind);
                }
                answer
            }
            (None, None) => status(self.status),
        };
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        answer
    }
}

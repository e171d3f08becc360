//! What ticket systems send by themselves: a business rule of ServiceNow with a signature of Standard Webhooks (itsm.md 5.3), webhooks of Jira with
//! `X-Hub-Signature` and its retries (5.6).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::Utc;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;

use super::{TicketSystem, random_id};
use crate::running::Running;

/// How often it is looked whether something is to be sent.
const PULSE: Duration = Duration::from_millis(20);
/// How often Jira tries.
const TRIES: u32 = 5;
/// How long Jira rests before it tries again; minutes in reality.
const REST: Duration = Duration::from_millis(250);

/// Where one of the systems sends what changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hook {
    system: TicketSystem,
    /// `http://…`.
    url: String,
    /// What signs: `whsec_` and base64 for ServiceNow, any text for Jira. Unsigned if none.
    #[serde(default)]
    secret: Option<String>,
    /// Sent along.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Something that was sent, and what came back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sent {
    system: TicketSystem,
    /// The same for all tries.
    id: String,
    /// From 1.
    attempt: u32,
    /// 0: nothing came back.
    status: u16,
    answer: String,
    body: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Hooks {
    targets: Vec<Hook>,
    queue: VecDeque<(Hook, Value)>,
    pub(super) sent: Vec<Sent>,
    /// How many are lost from now on.
    pub(crate) lose: u32,
}

impl Hooks {
    pub(super) fn add(&mut self, hook: Hook) {
        self.targets.push(hook);
    }

    pub(super) fn tell(&mut self, system: TicketSystem, body: &Value) {
        for hook in self.targets.iter().filter(|hook| hook.system == system) {
            if self.lose > 0 {
                self.lose -= 1;
            } else {
                self.queue.push_back((hook.clone(), body.clone()));
            }
        }
    }
}

/// Sends what is to be sent, one after the other, until the lab ends.
pub(crate) async fn pump(running: Arc<Running>) {
    let mut beat = tokio::time::interval(PULSE);
    loop {
        beat.tick().await;
        while let Some((hook, body)) = running.with(|world| world.tickets.hooks.queue.pop_front()) {
            deliver(&running, &hook, body).await;
        }
    }
}

async fn deliver(running: &Running, hook: &Hook, body: Value) {
    let id = random_id();
    let tries = if hook.system == TicketSystem::Jira { TRIES } else { 1 };
    for attempt in 1..=tries {
        let (status, answer) = send(hook, &id, attempt, &body).await.unwrap_or_else(|error| (0, format!("{error:#}")));
        let sent = Sent { system: hook.system, id: id.clone(), attempt, status, answer, body: body.clone() };
        running.with(|world| world.tickets.hooks.sent.push(sent));
        // What Jira tries again.
        if !matches!(status, 0 | 408 | 409 | 425 | 429 | 500..) {
            return;
        }
        if attempt < tries {
            tokio::time::sleep(REST).await;
        }
    }
}

async fn send(hook: &Hook, id: &str, attempt: u32, body: &Value) -> anyhow::Result<(u16, String)> {
    let uri: Uri = hook.url.parse()?;
    anyhow::ensure!(uri.scheme_str() == Some("http"), "the lab sends to http:// only");
    let place = uri.authority().context("the URL names no host")?.as_str();
    let text = serde_json::to_vec(body)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path).header(HOST, place).header(CONTENT_TYPE, "application/json; charset=utf-8");
    for (name, value) in headers(hook, id, attempt, &text)?.iter().chain(&hook.headers) {
        request = request.header(name, value);
    }
    let stream = TcpStream::connect(place).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let sending = async {
        let answer = sender.send_request(request.body(Full::new(Bytes::from(text)))?).await?;
        let status = answer.status().as_u16();
        let told = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&told).into_owned()))
    };
    tokio::pin!(sending);
    tokio::select! {
        biased;
        told = &mut sending => told,
        ended = connection => {
            ended?;
            sending.await
        }
    }
}

fn headers(hook: &Hook, id: &str, attempt: u32, body: &[u8]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    let mut add = |name: &str, value: String| headers.insert(name.to_owned(), value);
    match hook.system {
        TicketSystem::Servicenow => {
            add(USER_AGENT.as_str(), "ServiceNow/1.0".to_owned());
            let Some(secret) = &hook.secret else { return Ok(headers) };
            let key = STANDARD.decode(secret.trim_start_matches("whsec_")).context("the secret is no base64")?;
            let seconds = Utc::now().timestamp().to_string();
            let signed = [id.as_bytes(), b".", seconds.as_bytes(), b".", body].concat();
            add("webhook-id", id.to_owned());
            add("webhook-timestamp", seconds);
            add("webhook-signature", format!("v1,{}", STANDARD.encode(signature(&key, &signed))));
        }
        TicketSystem::Jira => {
            add(USER_AGENT.as_str(), "Atlassian HttpClient unknown / JIRA".to_owned());
            add("x-atlassian-webhook-identifier", id.to_owned());
            add("x-atlassian-webhook-flow", "Primary".to_owned());
            if attempt > 1 {
                add("x-atlassian-webhook-retry", (attempt - 1).to_string());
            }
            if let Some(secret) = &hook.secret {
                let digits: String =
                    signature(secret.as_bytes(), body).iter().map(|byte| format!("{byte:02x}")).collect();
                add("x-hub-signature", format!("sha256={digits}"));
            }
        }
    }
    Ok(headers)
}

fn signature(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

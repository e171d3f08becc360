//! One HTTPS request to a ticket system and its answer: tokens, pauses that are asked for, and what failures mean.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    Client, Method, RequestBuilder, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::{Mutex, Semaphore};

use super::{Failure, InvalidTicketWay, Result, TicketCredentials, TicketError, TicketPatience, TicketWay};
use crate::connectors::read_body;

/// The largest answer that is read.
const LARGEST: usize = 16 << 20;
/// Requests that are under way at the same time: instances queue what is more, and answer 202 when the queue is full (KB3047080).
const AT_ONCE: usize = 4;
/// A token is replaced this long before it ends.
const EARLY: TimeDelta = TimeDelta::seconds(60);
const JSON: &str = "application/json";

/// A ticket system that can be asked.
pub(super) struct Http {
    client: Client,
    base: Url,
    credentials: TicketCredentials,
    patience: TicketPatience,
    room: Semaphore,
    token: Mutex<Option<Token>>,
}

struct Token {
    value: SecretString,
    refresh_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: i64,
}

/// What came back.
pub(super) struct Reply {
    host: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What is asked, so that it can be asked again.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Segments of the path.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    None,
    Json(&'a serde_json::Value),
    /// Content type and content.
    Raw(&'a str, &'a [u8]),
}

impl<'a> Call<'a> {
    pub(super) fn get(path: &'a [&'a str], query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: Method::GET, path, query, body: Body::None }
    }

    pub(super) fn json(method: Method, path: &'a [&'a str], body: &'a serde_json::Value) -> Self {
        Self { method, path, query: &[], body: Body::Json(body) }
    }
}

impl Http {
    /// Nothing is sent yet.
    pub(super) fn new(way: TicketWay) -> std::result::Result<Self, InvalidTicketWay> {
        let TicketWay { mut url, credentials, trust, allow, patience } = way;
        let plain = url.scheme() == "https" && url.has_host() && url.username().is_empty() && url.password().is_none();
        if !plain || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidTicketWay::Url(without_secrets(&url)));
        }
        url.set_path(url.path().trim_end_matches('/').to_owned().as_str());
        let allow = allow.and_host_of(&url);
        allow.check_url(&url)?;
        let client = allow.client(&trust)?;
        Ok(Self { client, base: url, credentials, patience, room: Semaphore::new(AT_ONCE), token: Mutex::new(None) })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Asks something that may be asked any number of times.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Reply> {
        let mut tried = 0;
        loop {
            let error = match Box::pin(self.once(call)).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            tried += 1;
            let Some(pause) = self.pause(tried, &error) else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    fn pause(&self, tried: u32, error: &TicketError) -> Option<Duration> {
        let TicketPatience { tries, first, longest } = self.patience;
        if tried >= tries {
            return None;
        }
        match error.failure {
            Failure::Again { after: Some(after) } => (after <= longest).then_some(after),
            Failure::Again { after: None } | Failure::UnknownOutcome => {
                Some(first.saturating_mul(1 << (tried - 1).min(16)).min(longest))
            }
            Failure::NotFound | Failure::Refused => None,
        }
    }

    /// Asks once. A token that is not taken is replaced, and the question put again: nothing was done.
    pub(super) async fn once(&self, call: &Call<'_>) -> Result<Reply> {
        // The semaphore is never closed.
        let _room = self.room.acquire().await;
        let (reply, token) = Box::pin(self.send(call)).await?;
        let Some(token) = token.filter(|_| reply.status == StatusCode::UNAUTHORIZED) else { return reply.checked() };
        self.forget(&token).await;
        Box::pin(self.send(call)).await?.0.checked()
    }

    async fn send(&self, call: &Call<'_>) -> Result<(Reply, Option<SecretString>)> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| TicketError::unexpected(self.host(), "an address without a path"))?
            .pop_if_empty()
            .extend(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let request = self.client.request(call.method.clone(), url).header(ACCEPT, JSON);
        let (request, token) = self.signed(request).await?;
        let request = match &call.body {
            Body::None => request,
            Body::Json(body) => request.json(body),
            Body::Raw(kind, bytes) => {
                request.header(CONTENT_TYPE, *kind).header("x-atlassian-token", "no-check").body(bytes.to_vec())
            }
        };
        Ok((receive(&self.client, request).await?, token))
    }

    async fn signed(&self, request: RequestBuilder) -> Result<(RequestBuilder, Option<SecretString>)> {
        Ok(match &self.credentials {
            TicketCredentials::ApiKey(key) => (request.header("x-sn-apikey", sensitive(key)?), None),
            TicketCredentials::Basic { username, password } => {
                (request.basic_auth(username, Some(password.expose_secret())), None)
            }
            TicketCredentials::Bearer(token) => (request.bearer_auth(token.expose_secret()), None),
            TicketCredentials::ClientCredentials { client_id, client_secret } => {
                let token = self.token(client_id, client_secret).await?;
                (request.bearer_auth(token.expose_secret()), Some(token))
            }
        })
    }

    /// A token that stands long enough. Whoever asks while one is being fetched waits for that one.
    async fn token(&self, client_id: &str, client_secret: &SecretString) -> Result<SecretString> {
        let mut held = self.token.lock().await;
        let now = Utc::now();
        if let Some(token) = held.as_ref().filter(|token| now < token.refresh_at) {
            return Ok(token.value.clone());
        }
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", client_id)
            .append_pair("client_secret", client_secret.expose_secret())
            .finish();
        let mut url = self.base.clone();
        url.set_path(&format!("{}/oauth_token.do", self.base.path().trim_end_matches('/')));
        let request = self.client.post(url).header(ACCEPT, JSON);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let reply = receive(&self.client, request).await?;
        if matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN) {
            return Err(TicketError::refused(
                "ticket_sign_in_refused",
                format!("{} gives client {client_id} no token ({})", reply.host, reply.status),
                "Check client_id and client_secret, and that the OAuth application there allows client credentials",
            ));
        }
        let reply = reply.checked()?;
        // The reader's error could show a part of the token.
        let granted: Granted = serde_json::from_slice(&reply.body)
            .map_err(|_| TicketError::unexpected(&reply.host, "a token answer without access_token or expires_in"))?;
        let stands = TimeDelta::seconds(granted.expires_in.clamp(0, 24 * 3600));
        let token = Token { value: granted.access_token.into(), refresh_at: now + stands - EARLY.min(stands / 2) };
        Ok(held.insert(token).value.clone())
    }

    /// Forgets a token that was not taken.
    async fn forget(&self, refused: &SecretString) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|token| token.value.expose_secret() == refused.expose_secret()) {
            *held = None;
        }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

fn sensitive(key: &SecretString) -> Result<reqwest::header::HeaderValue> {
    let mut value = reqwest::header::HeaderValue::from_str(key.expose_secret()).map_err(|_| {
        TicketError::refused(
            "ticket_api_key_unusable",
            "The API key holds characters that no header takes",
            "Check api_key",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn without_secrets(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

async fn receive(client: &Client, request: RequestBuilder) -> Result<Reply> {
    let request = request.build().map_err(|error| TicketError::unexpected("The configuration", error.without_url()))?;
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let response = client.execute(request).await.map_err(|error| lost(&host, &error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read_body(response, LARGEST).await.map_err(|error| lost(&host, &error))?;
    let too_long = || TicketError::unexpected(&host, format_args!("an answer of more than {LARGEST} bytes"));
    let body = body.ok_or_else(too_long)?.into();
    Ok(Reply { host, status, headers, body })
}

impl Reply {
    /// The body of an answer that the system is known to give.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| TicketError::unexpected(&self.host, error))
    }

    /// What is asked for, or what its status means.
    fn checked(self) -> Result<Self> {
        let host = &self.host;
        let by_itself = "Nothing to do: it is tried again by itself";
        let after = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        let again = |code, message| Err(TicketError::new(Failure::Again { after }, code, message, by_itself));
        match self.status {
            // It was queued, or is lost: whether it is done is looked at later.
            StatusCode::ACCEPTED => again("ticket_queue_full", format!("{host} has no session free (202)")),
            status if status.is_success() => Ok(self),
            StatusCode::TOO_MANY_REQUESTS => {
                let rule = self.headers.get("x-ratelimit-rule").and_then(|value| value.to_str().ok());
                let rule = rule.map(|rule| format!(", rule {rule}")).unwrap_or_default();
                again("ticket_throttled", format!("{host} asks to wait (429{rule})"))
            }
            StatusCode::NOT_FOUND => Err(TicketError::new(
                Failure::NotFound,
                "ticket_not_found",
                format!("{host} has no such record, or does not show it: {}", self.said()),
                "Check that the ticket exists and that the account of rekey may read it",
            )),
            StatusCode::UNAUTHORIZED => Err(TicketError::refused(
                "ticket_sign_in_refused",
                format!("{host} does not take the credentials of rekey (401)"),
                "Check the credentials of the ticket system in the configuration",
            )),
            status if status.is_server_error() && after.is_none() => Err(TicketError::new(
                Failure::UnknownOutcome,
                "ticket_system_unavailable",
                format!("{host} answers {status}"),
                by_itself,
            )),
            status if status.is_server_error() => {
                again("ticket_system_unavailable", format!("{host} answers {status}"))
            }
            status if status.is_redirection() => Err(TicketError::refused(
                "ticket_redirect",
                format!("{host} sends elsewhere ({status}), where rekey does not follow"),
                "Write the address where the system really is as its url",
            )),
            status => Err(TicketError::refused(
                "ticket_refused",
                format!("{host} refuses ({status}): {}", self.said()),
                "Check what the account of rekey may do there, and what the record asks for",
            )),
        }
    }

    /// What an error says of itself, in the shape of either system.
    fn said(&self) -> String {
        let told: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let parts = [&told["error"]["message"], &told["error"]["detail"], &told["errorMessages"][0]];
        let said: Vec<_> = parts.into_iter().filter_map(|part| part.as_str()).collect();
        let errors = told["errors"].as_object().into_iter().flatten();
        let errors = errors.filter_map(|(name, text)| Some(format!("{name}: {}", text.as_str()?)));
        let all: Vec<_> = said.into_iter().map(str::to_owned).chain(errors).collect();
        let all = all.join("; ").replace('\n', " ");
        if all.is_empty() { "no reason given".to_owned() } else { all.chars().take(400).collect() }
    }
}

fn lost(host: &str, error: &reqwest::Error) -> TicketError {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let why = sources.last().map_or_else(|| error.to_string(), ToString::to_string);
    if error.is_connect() {
        return TicketError::again(
            "ticket_system_unreachable",
            format!("{host} cannot be reached: {why}"),
            "Let rekey reach it; if its certificate is not trusted, name its CA as ca_file. It is tried again by itself",
        );
    }
    TicketError::new(
        Failure::UnknownOutcome,
        "ticket_unknown_outcome",
        format!("{host} did not answer after the request was sent: {why}"),
        "Nothing to do: the ticket is looked at before anything is done again",
    )
}

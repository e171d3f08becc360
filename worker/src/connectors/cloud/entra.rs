//! Tokens of Entra by client credentials, and what its refusals mean (cloud.md 1.5).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Thumbprint, Trouble};
use reqwest::header::{ACCEPT, CONNECTION, CONTENT_TYPE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{
    Cloud, CloudError, Failure, Signer,
    assertion::redact,
    error::Result,
    http::{Reply, send},
};

/// A token is replaced this long before it ends, so that no request carries one that ends on the way.
const EARLY: TimeDelta = TimeDelta::minutes(5);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a token is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Microsoft Graph.
    Graph,
    /// Exchange Online.
    ExchangeOnline,
}

/// The tokens that are held, one for each scope.
#[derive(Default)]
pub(super) struct Tokens {
    graph: Slot,
    exchange_online: Slot,
}

/// One fetches a token. Whoever asks meanwhile waits for that one, unless the token that is held still stands.
#[derive(Default)]
struct Slot {
    held: Mutex<Option<Token>>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Token {
    value: SecretString,
    refresh_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
}

/// Whether Entra takes what a key has signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Acceptance {
    /// It issues tokens for it.
    Accepted,
    /// It does not know the key, or not yet: what Graph shows reaches the token service later.
    NotYet(Trouble),
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: i64,
}

#[derive(Deserialize)]
struct Denied {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
}

impl Tokens {
    fn of(&self, scope: Scope) -> &Slot {
        match scope {
            Scope::Graph => &self.graph,
            Scope::ExchangeOnline => &self.exchange_online,
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token that is held, if it stands as long as it is to.
    fn standing(&self, stands: impl Fn(&Token) -> bool) -> Option<SecretString> {
        self.lock().as_ref().filter(|token| stands(token)).map(|token| token.value.clone())
    }
}

impl Cloud {
    /// A token for one of the services, fetched when there is none that stands long enough.
    pub(super) async fn token(&self, scope: Scope) -> Result<SecretString> {
        let slot = self.shared.tokens.of(scope);
        if let Some(token) = slot.standing(|token| self.now() < token.refresh_at) {
            return Ok(token);
        }
        let _fetching = match slot.fetching.try_lock() {
            Ok(fetching) => fetching,
            Err(_) => {
                if let Some(token) = slot.standing(|token| self.now() < token.ends_at) {
                    return Ok(token);
                }
                slot.fetching.lock().await
            }
        };
        if let Some(token) = slot.standing(|token| self.now() < token.refresh_at) {
            return Ok(token);
        }
        let credentials = &self.shared.credentials;
        let fetched = self
            .patiently(async || self.request_token(&credentials.client_id, &credentials.signer, scope, false).await)
            .await;
        match fetched {
            Ok(token) => Ok(slot.lock().insert(token).value.clone()),
            // Early is early: what stands still is used while the service has trouble.
            Err(error) if error.may_pass() => slot.standing(|token| self.now() < token.ends_at).ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Forgets a token that a service did not take.
    pub(super) fn forget_token(&self, scope: Scope, refused: &SecretString) {
        let mut held = self.shared.tokens.of(scope).lock();
        if held.as_ref().is_some_and(|token| token.value.expose_secret() == refused.expose_secret()) {
            *held = None;
        }
    }

    /// Asks whether Entra gives `client_id` a token for what `signer` signs, once. This is how a new key is known to have arrived: by its use, not by
    /// what Graph shows (cloud.md 2.4). Each question has a connection of its own, so that not the same machine answers all of them.
    pub async fn accepts(&self, client_id: &str, signer: &Signer) -> Result<Acceptance> {
        match self.request_token(client_id, signer, Scope::ExchangeOnline, true).await {
            Ok(_) => Ok(Acceptance::Accepted),
            Err(error) if error.trouble.code == KEY_NOT_REGISTERED => Ok(Acceptance::NotYet(error.trouble)),
            Err(error) => Err(error),
        }
    }

    async fn request_token(&self, client_id: &str, signer: &Signer, scope: Scope, alone: bool) -> Result<Token> {
        let endpoint = self.token_endpoint();
        let asked = self.now();
        let assertion = signer.sign(client_id, endpoint.as_str(), asked).map_err(|error| {
            CloudError::refused(
                "assertion_not_signed",
                error.to_string(),
                "Check the certificate and key of the tenant's application",
            )
        })?;
        let resource = match scope {
            Scope::Graph => &self.shared.endpoints.graph_resource,
            Scope::ExchangeOnline => &self.shared.endpoints.exchange_online_resource,
        };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", client_id)
            .append_pair("scope", &format!("{resource}/.default"))
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_assertion_type", ASSERTION_TYPE)
            .append_pair("client_assertion", assertion.expose_secret())
            .finish();
        let request = self.shared.http.post(endpoint).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = if alone { request.header(CONNECTION, "close") } else { request };
        let reply = send(request.header(ACCEPT, "application/json").body(form)).await?;
        if !reply.status.is_success() {
            return Err(denied(&reply, client_id, signer.thumbprint(), assertion.expose_secret()));
        }
        // The reader's error could show a part of the token.
        let granted: Granted = serde_json::from_slice(&reply.body)
            .map_err(|_| CloudError::unexpected(&reply.host, "a token answer without access_token or expires_in"))?;
        let ends_at = asked + TimeDelta::seconds(granted.expires_in.clamp(0, 7 * 24 * 3600));
        // Half of a token that is shorter than the margin.
        let early = EARLY.min((ends_at - asked) / 2);
        Ok(Token { value: SecretString::from(granted.access_token), refresh_at: ends_at - early, ends_at })
    }
}

/// The code of a trouble that says that Entra does not know a key.
pub(crate) const KEY_NOT_REGISTERED: &str = "key_not_registered";

fn denied(reply: &Reply, client_id: &str, key: &Thumbprint, assertion: &str) -> CloudError {
    let read: Option<Denied> = serde_json::from_slice(&reply.body).ok();
    let Some(denied) = read.filter(|denied| !denied.error.is_empty()) else {
        return reply.overload().unwrap_or_else(|| {
            CloudError::unexpected(&reply.host, format_args!("{} without an OAuth error", reply.status))
        });
    };
    let passing = matches!(denied.error.as_str(), "temporarily_unavailable" | "server_error");
    if let Some(error) = reply.overload().filter(|_| denied.error_codes.is_empty() || passing) {
        return error;
    }
    let codes = codes(&denied);
    let (code, action) = explain(&codes, &denied.error_description, client_id, key);
    let said = redact(first_line(&denied.error_description), Some(assertion));
    let said = if said.is_empty() { denied.error } else { said };
    // A key that was registered a moment ago is not known to every machine of the token service yet (cloud.md 2.4).
    let passing = passing || code == KEY_NOT_REGISTERED;
    let failure = if passing { Failure::Again { after: reply.retry_after() } } else { Failure::Refused };
    let trouble = Trouble::new(code, format!("Entra gives {client_id} no token: {said}"), action);
    CloudError { failure, trouble }
}

/// `error_codes`, or else the code that the description begins with.
fn codes(denied: &Denied) -> Vec<u32> {
    if !denied.error_codes.is_empty() {
        return denied.error_codes.clone();
    }
    let digits = denied.error_description.strip_prefix("AADSTS").unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().into_iter().collect()
}

/// What the administrator must do, by what Entra's code says (cloud.md 1.5). What is not known here is permanent.
fn explain(codes: &[u32], description: &str, client_id: &str, key: &Thumbprint) -> (&'static str, String) {
    let has = |code: u32| codes.contains(&code);
    if has(700_027) {
        return if description.contains("The key used is expired") {
            (
                "key_expired",
                format!(
                    "The certificate {key} of application {client_id} has ended: register a new one with the application, and configure it here"
                ),
            )
        } else {
            (
                KEY_NOT_REGISTERED,
                format!(
                    "Register the public certificate {key} with application {client_id}; if that was done, wait: it takes from seconds to minutes until tokens are issued for it"
                ),
            )
        };
    }
    if has(700_024) {
        return (
            "assertion_out_of_time",
            "Set this machine's clock: Entra takes assertions of the last and the next few minutes only".to_owned(),
        );
    }
    if has(700_016) {
        return (
            "application_unknown",
            format!(
                "There is no application {client_id} in this tenant: check client id and tenant id, or let an administrator of the tenant consent to it"
            ),
        );
    }
    if has(90_002) {
        return ("tenant_unknown", "Check the tenant id and the name of the cloud".to_owned());
    }
    if has(70_011) {
        return (
            "scope_invalid",
            "Check the name of the cloud: what tokens are asked for belongs to another one".to_owned(),
        );
    }
    if has(7_000_215) || has(7_000_222) {
        return (
            "secret_refused",
            format!(
                "Entra looked for a client secret, and the one of {client_id} is wrong or has ended: register a certificate with the application, which is what rekey logs on with"
            ),
        );
    }
    (
        "token_refused",
        "Look the AADSTS code up at https://login.microsoftonline.com/error, repair what it says, then retry"
            .to_owned(),
    )
}

/// Without trace id, correlation id and time, which are told on lines of their own.
fn first_line(description: &str) -> &str {
    let line = description.lines().next().unwrap_or_default();
    line.split(" Trace ID:").next().unwrap_or_default().trim_end()
}

/// How long a person would wait at least before the next look at whether a key is accepted.
pub(crate) const ACCEPTANCE_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
impl Cloud {
    /// Holds a token that was fetched earlier.
    pub(super) fn hold(&self, scope: Scope, value: &str, refresh_at: DateTime<Utc>, ends_at: DateTime<Utc>) {
        *self.shared.tokens.of(scope).lock() = Some(Token { value: value.into(), refresh_at, ends_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_the_list_or_from_the_text() {
        let denied = |description: &str, error_codes: &[u32]| Denied {
            error: "invalid_client".to_owned(),
            error_description: description.to_owned(),
            error_codes: error_codes.to_vec(),
        };
        assert_eq!(codes(&denied("AADSTS1: x", &[700_027])), [700_027]);
        assert_eq!(codes(&denied("AADSTS90002: Tenant 'x' not found.", &[])), [90_002]);
        assert_eq!(codes(&denied("nothing", &[])), [0; 0]);
    }

    #[test]
    fn a_description_is_told_without_what_only_support_needs() {
        let said = "AADSTS700016: Application was not found.\r\nTrace ID: a\r\nCorrelation ID: b";
        assert_eq!(first_line(said), "AADSTS700016: Application was not found.");
        assert_eq!(first_line("AADSTS7: x. Trace ID: a Correlation ID: b"), "AADSTS7: x.");
    }
}

//! The generic webhook: a CloudEvent (1.0, JSON, structured mode), signed as Standard Webhooks v1 says.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{SecondsFormat, Utc};
use domain::announcing::PublicUrl;
use futures_util::future::BoxFuture;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};

use super::{
    Delivered, Message, Target,
    http::{self, Post},
};

/// Text before a key of Standard Webhooks.
const PREFIX: &str = "whsec_";

/// A key that messages are signed with.
pub struct SigningKey(hmac::Key);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Text that is no key.
#[derive(Debug, thiserror::Error)]
#[error(
    "a signing key is whsec_ and 24 to 64 bytes in base64: printf 'whsec_%s' \"$(openssl rand -base64 32)\" makes one"
)]
pub struct InvalidSigningKey;

impl SigningKey {
    /// Reads `whsec_<base64>`.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSigningKey> {
        let key = text.expose_secret().strip_prefix(PREFIX).ok_or(InvalidSigningKey)?;
        let key = zeroize::Zeroizing::new(STANDARD.decode(key).map_err(|_| InvalidSigningKey)?);
        if !(24..=64).contains(&key.len()) {
            return Err(InvalidSigningKey);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    fn sign(&self, text: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0, text)))
    }
}

/// A receiver of webhooks.
pub struct Webhook {
    /// Connects to allowed places only.
    pub client: Client,
    /// Where to.
    pub url: Url,
    /// What to sign with: the newest first. While keys are changed there are several, and each signs.
    pub keys: Vec<SigningKey>,
    /// Where people reach the API: the source of events.
    pub public_url: PublicUrl,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path may be a secret.
        f.debug_struct("Webhook").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Target for Webhook {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Delivered> {
        Box::pin(async move {
            let body = self.event(message).to_string();
            // Receivers compare it with their own clock, whatever time the renewal lives in.
            let timestamp = Utc::now().timestamp().to_string();
            let headers = [
                ("content-type", "application/cloudevents+json; charset=utf-8".to_owned()),
                ("webhook-id", message.id.to_string()),
                ("webhook-signature", self.signatures(message, &timestamp, &body)),
                ("webhook-timestamp", timestamp),
            ];
            http::post(&self.client, Post { url: &self.url, headers: &headers, body }).await
        })
    }
}

impl Webhook {
    fn signatures(&self, message: &Message, timestamp: &str, body: &str) -> String {
        let signed = format!("{}.{timestamp}.{body}", message.id);
        self.keys.iter().map(|key| key.sign(signed.as_bytes())).collect::<Vec<_>>().join(" ")
    }

    fn event(&self, message: &Message) -> Json {
        let told = &message.announcement;
        let subject = match &told.renewal {
            Some(renewal) => format!("renewals/{}", renewal.id),
            None => "rekey".to_owned(),
        };
        json!({
            "specversion": "1.0",
            "id": message.id,
            "source": self.public_url.as_str(),
            "type": format!("rekey.{}", told.news.word()),
            "subject": subject,
            "time": told.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            // An extension of CloudEvents: events of a subject count up.
            "sequence": format!("{:010}", told.sequence),
            "datacontenttype": "application/json",
            "data": self.data(message),
        })
    }

    fn data(&self, message: &Message) -> Json {
        let told = &message.announcement;
        let mut data = json!(told.news);
        let Some(members) = data.as_object_mut() else { return data };
        let mut add = |name: &str, value: Json| drop(members.insert(name.to_owned(), value));
        add("organization_id", json!(told.organization_id));
        add("sequence", json!(told.sequence));
        add("actor", json!(told.actor));
        add("title", json!(message.text.title));
        add("message", json!(message.text.message));
        if let Some(action) = &message.text.action {
            add("action", json!(action));
        }
        if let Some(code) = told.news.close_code() {
            add("close_code", json!(code));
        }
        if let Some(renewal) = &told.renewal {
            let part = |part| self.public_url.of_renewal(renewal.id, part);
            add("renewal_id", json!(renewal.id));
            add("status", json!(renewal.state.status()));
            add("state", json!(renewal.state));
            add("plan_digest", json!(renewal.plan_digest));
            add("requested_by", json!(renewal.requested_by));
            add("reason", json!(renewal.request.reason));
            add("ticket", json!(renewal.request.ticket));
            add(
                "urls",
                json!({
                    "renewal": self.public_url.renewal(renewal.id), "plan": part("plan"), "runbook": part("runbook"),
                    "decisions": part("decisions"), "events": part("events"), "evidence": part("evidence"),
                }),
            );
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_signed_as_the_standard_says() {
        // The example of the specification's reference libraries.
        let key = SigningKey::parse(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(key.sign(signed.as_bytes()), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for bad in ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_!!!"] {
            let told = SigningKey::parse(&bad.into()).unwrap_err().to_string();
            assert!(!told.contains("hunter2"));
        }
    }
}

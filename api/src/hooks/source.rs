//! Sources as they are configured: how their records are read, and how their senders show who they are.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use domain::intake::{self, SourceKind};
use serde::Deserialize;

/// How a sender may show who they are. Any of those that a source accepts suffices; one that is shown must be right.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// An API key of this service in `X-API-Key`.
    ApiKey,
    /// A name and a password, over TLS.
    Basic,
    /// A bearer token.
    Bearer,
    /// A client certificate that the proxy in front of the service has checked.
    Certificate,
    /// A signature over the body: Standard Webhooks, or `X-Hub-Signature` from Jira.
    Signature,
}

/// A configured source.
#[derive(Clone, Debug)]
pub struct Source {
    pub(crate) reading: intake::Source,
    /// Any of them: a new one and the one before, while senders change over.
    pub(crate) keys: Vec<hmac::Key>,
    /// How far the clock of a sender may be away, in either direction, and how long its message may take.
    pub(crate) tolerance: TimeDelta,
    pub(crate) accept: BTreeSet<Accept>,
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nobody could sign.
    #[error("accept has \"signature\", but there are no secrets: name at least one")]
    NoSecret,
    /// Secrets that nobody may use.
    #[error("there are secrets, but accept has no \"signature\"")]
    Unused,
    /// Nobody could send anything.
    #[error("accept is empty: name at least one of signature, basic, api_key, bearer, certificate")]
    NobodyAccepted,
    /// Not a secret of Standard Webhooks. Never says which.
    #[error("a secret is not `whsec_` and base64 of 24 to 64 bytes, as Standard Webhooks wants it")]
    NotStandard,
    /// Too short to be a secret.
    #[error("a secret has less than 16 characters")]
    Short,
}

impl Source {
    /// A source whose messages are signed with any of these secrets: `whsec_` and base64 of the key (Standard Webhooks), for Jira any text.
    pub fn new<'s>(
        reading: intake::Source,
        secrets: impl IntoIterator<Item = &'s str>,
        tolerance: TimeDelta,
        accept: BTreeSet<Accept>,
    ) -> Result<Self, SourceError> {
        let key = |secret| key(reading.kind, secret);
        let keys: Vec<_> = secrets.into_iter().map(key).collect::<Result<_, _>>()?;
        match (accept.is_empty(), accept.contains(&Accept::Signature), keys.is_empty()) {
            (true, ..) => Err(SourceError::NobodyAccepted),
            (_, true, true) => Err(SourceError::NoSecret),
            (_, false, false) => Err(SourceError::Unused),
            _ => Ok(Self { reading, keys, tolerance, accept }),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.reading.id
    }
}

fn key(kind: SourceKind, secret: &str) -> Result<hmac::Key, SourceError> {
    let bytes = match kind {
        SourceKind::Jira if secret.len() < 16 => return Err(SourceError::Short),
        SourceKind::Jira => secret.as_bytes().to_vec(),
        SourceKind::Generic | SourceKind::ServiceNow => {
            let encoded = secret.strip_prefix("whsec_").ok_or(SourceError::NotStandard)?;
            let bytes = STANDARD.decode(encoded).map_err(|_| SourceError::NotStandard)?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(SourceError::NotStandard);
            }
            bytes
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

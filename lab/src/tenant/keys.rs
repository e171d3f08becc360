//! Key credentials of an application or principal, and what a write may do to them (cloud.md 2.2, domain.md 3.3).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Lifetime, ObjectKind, graph_error::GraphError};
use crate::certificate::Certificate;

/// One entry of `keyCredentials`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyCredential {
    /// Its id.
    pub key_id: Uuid,
    /// As a client gave it, else the thumbprint of the certificate.
    pub custom_key_identifier: String,
    /// As a client gave it.
    pub display_name: Option<String>,
    /// From when tokens that are signed with it are accepted.
    pub start: DateTime<Utc>,
    /// Until when.
    pub end: DateTime<Utc>,
    /// `Verify` or `Sign`.
    pub usage: String,
    /// The certificate; of its key the public half only.
    pub certificate: Arc<Certificate>,
}

impl KeyCredential {
    /// As the service stores it when only the certificate is given.
    #[must_use]
    pub fn of(certificate: Arc<Certificate>, display_name: &str) -> Self {
        Self {
            key_id: Uuid::new_v4(),
            custom_key_identifier: certificate.thumbprint.as_str().to_owned(),
            display_name: Some(display_name.to_owned()),
            start: certificate.not_before,
            end: certificate.not_after,
            usage: VERIFY.to_owned(),
            certificate,
        }
    }

    /// Whether a token may be signed with it now.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        self.start <= now && now <= self.end
    }

    /// How Graph shows it. The key itself is left out of lists.
    #[must_use]
    pub fn json(&self, shown: Shown) -> Value {
        let key = match shown {
            Shown::WithKey => Value::from(STANDARD.encode(&self.certificate.der)),
            Shown::WithoutKey => Value::Null,
        };
        json!({
            "customKeyIdentifier": self.custom_key_identifier,
            "displayName": self.display_name,
            "endDateTime": self.end.to_rfc3339_opts(SecondsFormat::Secs, true),
            "key": key,
            "keyId": self.key_id,
            "startDateTime": self.start.to_rfc3339_opts(SecondsFormat::Secs, true),
            "type": X509,
            "usage": self.usage,
        })
    }
}

/// Whether an answer holds the keys themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    /// It does: a single object, and its `keyCredentials` selected.
    WithKey,
    /// `key` is null.
    WithoutKey,
}

/// What a list of keys becomes when a client sends this one.
pub(super) fn replaced(
    kind: ObjectKind,
    existing: &[KeyCredential],
    wanted: &Value,
    limit: Option<&Lifetime>,
    now: DateTime<Utc>,
) -> Result<Vec<KeyCredential>, GraphError> {
    let Value::Array(wanted) = wanted else {
        return Err(GraphError::bad_request(
            "The value of keyCredentials is an object or a single value: a 'StartArray' node was expected.",
        ));
    };
    let mut kept: Vec<KeyCredential> = Vec::with_capacity(wanted.len());
    for entry in wanted {
        let key = entry_of(kind, existing, &Sent::read(entry)?, limit, now)?;
        if kept.iter().any(|other| other.key_id == key.key_id) {
            return Err(GraphError::bad_request(format!("KeyId '{}' is there twice.", key.key_id)));
        }
        kept.push(key);
    }
    Ok(kept)
}

/// A new entry from what a client sends to `addKey`.
pub(super) fn added(wanted: &Value, limit: Option<&Lifetime>, now: DateTime<Utc>) -> Result<KeyCredential, GraphError> {
    Sent::read(wanted)?.new_entry(limit, now)
}

fn entry_of(
    kind: ObjectKind,
    existing: &[KeyCredential],
    sent: &Sent<'_>,
    limit: Option<&Lifetime>,
    now: DateTime<Utc>,
) -> Result<KeyCredential, GraphError> {
    let known = sent.key_id.and_then(|id| existing.iter().find(|known| known.key_id == id));
    match (known, sent.key.is_some(), kind) {
        // Principals do not take entries back without their key (cloud.md 2.2).
        (Some(_), false, ObjectKind::ServicePrincipal) => Err(GraphError::bad_request(
            "A key credential of a service principal must be sent with its key, even one that is kept.",
        )),
        (Some(known), _, _) if sent.is_the_same_as(known) => Ok(known.clone()),
        (Some(known), _, _) => Err(GraphError::not_updatable(known.key_id)),
        (None, ..) => sent.new_entry(limit, now),
    }
}

/// An entry as a client sent it.
struct Sent<'a> {
    fields: &'a Map<String, Value>,
    key_id: Option<Uuid>,
    key: Option<Vec<u8>>,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
}

impl<'a> Sent<'a> {
    fn read(entry: &'a Value) -> Result<Self, GraphError> {
        let Value::Object(fields) = entry else {
            return Err(GraphError::bad_request("A key credential must be an object."));
        };
        if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(GraphError::bad_request(format!(
                "The property '{name}' does not exist on type 'microsoft.graph.keyCredential'."
            )));
        }
        let text = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let invalid = |name: &str| GraphError::bad_request(format!("Invalid value specified for property '{name}'."));
        let read = |name: &'static str| text(name).map(|value| value.as_str().ok_or_else(|| invalid(name)));
        let instant = |name: &'static str| -> Result<_, GraphError> {
            let Some(text) = read(name).transpose()? else { return Ok(None) };
            DateTime::parse_from_rfc3339(text).map(|at| Some(at.to_utc())).map_err(|_| invalid(name))
        };
        let key_id = match read("keyId").transpose()? {
            Some(text) => Some(Uuid::parse_str(text).map_err(|_| invalid("keyId"))?),
            None => None,
        };
        let key = match read("key").transpose()? {
            Some(text) => Some(STANDARD.decode(text).map_err(|_| invalid("key"))?),
            None => None,
        };
        Ok(Self { fields, key_id, key, start: instant("startDateTime")?, end: instant("endDateTime")? })
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// Whether what is given says nothing new. Fractions of a second do not count: clients write dates as they like.
    fn is_the_same_as(&self, known: &KeyCredential) -> bool {
        let same_time = |given: Option<DateTime<Utc>>, known: DateTime<Utc>| {
            given.is_none_or(|given| given.timestamp() == known.timestamp())
        };
        let same_text = |name, known: Option<&str>| self.text(name).is_none_or(|given| Some(given) == known);
        self.key.as_ref().is_none_or(|key| *key == known.certificate.der)
            && same_time(self.start, known.start)
            && same_time(self.end, known.end)
            && same_text("displayName", known.display_name.as_deref())
            && same_text("customKeyIdentifier", Some(&known.custom_key_identifier))
            && same_text("type", Some(X509))
            && same_text("usage", Some(&known.usage))
    }

    fn new_entry(&self, limit: Option<&Lifetime>, now: DateTime<Utc>) -> Result<KeyCredential, GraphError> {
        let der = self.key.as_ref().ok_or_else(|| GraphError::bad_request("New key credentials must have a key."))?;
        let certificate = Certificate::parse(der)
            .map_err(|_| GraphError::bad_request("Key credential value is no X.509 certificate."))?;
        if self.text("type") != Some(X509) {
            return Err(GraphError::bad_request("Key credential type is invalid: use AsymmetricX509Cert."));
        }
        let usage = self.text("usage").filter(|usage| [VERIFY, "Sign"].contains(usage));
        let usage = usage.ok_or_else(|| GraphError::bad_request("Key credential usage is invalid: use Verify."))?;
        let display_name = self.text("displayName").map(str::to_owned);
        if display_name.as_ref().is_some_and(|name| name.chars().count() > LONGEST_NAME) {
            return Err(GraphError::bad_request("Key credential displayName is longer than 90 characters."));
        }
        let (start, end) = self.period(&certificate, now)?;
        if let Some(limit) = limit.filter(|limit| end - start > limit.span()) {
            return Err(GraphError::lifetime(limit));
        }
        let identifier = self.text("customKeyIdentifier").unwrap_or(certificate.thumbprint.as_str());
        Ok(KeyCredential {
            key_id: self.key_id.unwrap_or_else(Uuid::new_v4),
            custom_key_identifier: identifier.to_owned(),
            display_name,
            start,
            end,
            usage: usage.to_owned(),
            certificate: Arc::new(certificate),
        })
    }

    /// What is given must lie inside the certificate's validity; what is not given is taken from there.
    fn period(
        &self,
        certificate: &Certificate,
        now: DateTime<Utc>,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), GraphError> {
        let (start, end) = (self.start.unwrap_or(certificate.not_before), self.end.unwrap_or(certificate.not_after));
        if end.timestamp() > certificate.not_after.timestamp() || end <= now || end <= start {
            return Err(GraphError::end_date());
        }
        if start.timestamp() < certificate.not_before.timestamp() {
            return Err(GraphError::start_date());
        }
        Ok((start, end))
    }
}

const X509: &str = "AsymmetricX509Cert";
const VERIFY: &str = "Verify";
/// Of `displayName` (domain.md 3.3).
const LONGEST_NAME: usize = 90;
const FIELDS: &[&str] = &[
    "@odata.type",
    "customKeyIdentifier",
    "displayName",
    "endDateTime",
    "key",
    "keyId",
    "startDateTime",
    "type",
    "usage",
];

//! Idempotency keys: the same request sent twice makes one renewal.

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use domain::Digest;
use utoipa::IntoParams;

use crate::Problem;

/// The `Idempotency-Key` header: a structured-header string as in the IETF draft; without quotes it is accepted as well, as many senders do.
#[derive(Clone, Debug, IntoParams)]
#[into_params(names("Idempotency-Key"), parameter_in = Header)]
pub(crate) struct IdempotencyHeader(
    /// Chosen by the caller, up to 255 visible ASCII characters. The same key with the same body gets the stored answer. Kept as long as the renewal.
    #[param(example = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"")]
    pub(crate) Option<String>,
);

impl FromRequest for IdempotencyHeader {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let key = match request.headers().get("idempotency-key") {
            None => Ok(Self(None)),
            Some(value) => read(value.as_bytes()).map(|key| Self(Some(key))),
        };
        std::future::ready(key)
    }
}

fn read(bytes: &[u8]) -> Result<String, Problem> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if !(1..=255).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        let detail = "Idempotency-Key has 1 to 255 visible ASCII characters, in double quotes or without.";
        return Err(Problem::invalid_parameter(detail));
    }
    Ok(key.to_owned())
}

/// A key within the keys of its sender.
#[derive(Clone, Debug)]
pub(crate) struct CallerKey {
    caller: String,
    key: String,
}

impl CallerKey {
    /// The key that the owner of a token chose.
    pub(crate) fn of_token(subject: &str, key: &str) -> Self {
        Self { caller: format!("token:{subject}"), key: key.to_owned() }
    }

    /// The key that a record of a ticket system is by itself, whoever sends it.
    pub(crate) fn of_record(system: &str, key: &str) -> Self {
        Self { caller: format!("record:{system}"), key: key.to_owned() }
    }

    /// The key together with the request that it came with.
    pub(crate) fn answering(self, request: &Digest) -> db::IdempotencyKey {
        db::IdempotencyKey { caller: self.caller, key: self.key, request_hash: request.to_string() }
    }
}

//! A token of the probe: really signed, really checked.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{certificate::Certificate, server::Entry};

/// A token as Exchange issues them, without a lifetime: the probe signs once per key.
pub(super) struct Token {
    text: String,
    signature: Vec<u8>,
}

/// Hand-written so that nobody replays what a test run printed.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Token {
    pub(super) fn sign(entry: &Entry) -> Option<Self> {
        let digits = entry.certificate.thumbprint.as_str();
        let header = serde_json::json!({ "alg": "RS256", "typ": "JWT", "x5t": x5t(digits) });
        let issuer = "00000002-0000-0ff1-ce00-000000000000@contoso.example";
        let claims = serde_json::json!({ "iss": issuer, "nameid": "00000002-0000-0ff1-ce00-000000000000" });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = entry.key.as_ref()?.key.sign(text.as_bytes())?;
        Some(Self { text, signature })
    }

    pub(super) fn is_signed_by(&self, certificate: &Certificate) -> bool {
        certificate.verifies(self.text.as_bytes(), &self.signature)
    }
}

/// A thumbprint as tokens and metadata documents write it: base64url of its bytes.
#[must_use]
pub(crate) fn x5t(thumbprint: &str) -> String {
    let bytes = crate::certificate::Thumbprint::parse(thumbprint).map(|thumbprint| thumbprint.bytes());
    URL_SAFE_NO_PAD.encode(bytes.unwrap_or_default())
}

//! The SHA-1 thumbprint by which Exchange and Windows name a certificate.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// 40 upper-case hexadecimal digits: the SHA-1 of the certificate's DER form.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, example = "9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223")]
pub struct Thumbprint(String);

impl Thumbprint {
    /// Reads 40 hexadecimal digits in either case; spaces and the invisible mark that the certificate dialog copies are dropped.
    pub fn parse(text: &str) -> Result<Self, InvalidThumbprint> {
        let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != '\u{200e}').collect();
        if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidThumbprint);
        }
        Ok(Self(digits.to_ascii_uppercase()))
    }

    /// What Exchange answers for "none": an empty string (domain.md 1.11).
    pub fn parse_optional(text: &str) -> Result<Option<Self>, InvalidThumbprint> {
        if text.trim().is_empty() { Ok(None) } else { Self::parse(text).map(Some) }
    }

    /// The thumbprint of a certificate in DER form.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
        Self(crate::ids::hex(hash.as_ref()).to_ascii_uppercase())
    }

    /// 40 upper-case hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight digits, for tables and messages.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Thumbprint {
    type Error = InvalidThumbprint;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Thumbprint> for String {
    fn from(thumbprint: Thumbprint) -> Self {
        thumbprint.0
    }
}

/// Text that is not a SHA-1 thumbprint.
#[derive(Debug, thiserror::Error)]
#[error("a thumbprint is 40 hexadecimal digits")]
pub struct InvalidThumbprint;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_copied_from_the_certificate_dialog_is_read() {
        let copied = "\u{200e}9f 3b 6c 1d 2e 4a 5b 60 71 82 93 a4 b5 c6 d7 e8 f9 01 12 23";
        assert_eq!(Thumbprint::parse(copied).unwrap().as_str(), "9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223");
        assert!(Thumbprint::parse("9f3b").is_err());
        assert!(Thumbprint::parse_optional("").unwrap().is_none());
    }
}

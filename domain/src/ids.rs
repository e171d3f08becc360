//! Names of things: each kind of id is a type of its own, so that they cannot be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One renewal: `/v1/renewals/{id}`. A UUIDv7, so ids sort by the time they were made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = Uuid, example = "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1")]
pub struct RenewalId(pub Uuid);

/// One durable step of a renewal. A UUIDv7.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = Uuid, example = "019361b2-80aa-7d02-8d3e-5f1f2d0c9b77")]
pub struct StepId(pub Uuid);

/// One delivery of a source: `/v1/deliveries/{id}`. A UUIDv7.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = Uuid, example = "019361b2-8b1d-7c44-b0f2-5d3c1a9e7f60")]
pub struct DeliveryId(pub Uuid);

macro_rules! display_uuid {
    ($($id:ident),*) => { $(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl FromStr for $id {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> { Uuid::parse_str(text).map(Self) }
        }
    )* };
}
display_uuid!(DeliveryId, RenewalId, StepId);

/// The short name of a configured organization: 1 to 63 of `a-z`, `0-9` and `-`, as in a DNS label.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, example = "contoso")]
pub struct OrganizationId(String);

impl OrganizationId {
    /// Accepts `contoso` or `contoso-eu`; refuses everything that is not a lower-case DNS label.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let edges = text.starts_with('-') || text.ends_with('-');
        if text.is_empty() || text.len() > 63 || !plain || edges {
            return Err(InvalidName(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for OrganizationId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<OrganizationId> for String {
    fn from(id: OrganizationId) -> Self {
        id.0
    }
}

/// An organization id that is not a DNS label.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an organization id: use 1 to 63 of a-z, 0-9 and -, not at the edges")]
pub struct InvalidName(String);

/// `sha256:` and 64 lower-case hexadecimal digits: what people approve.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, example = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        Self(format!("sha256:{}", hex(hash.as_ref())))
    }

    /// Reads `sha256:<64 hex digits>`, in either case.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidDigest);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// `sha256:…`
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Text that is not a plan digest.
#[derive(Debug, thiserror::Error)]
#[error("a digest is `sha256:` and 64 hexadecimal digits")]
pub struct InvalidDigest;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organization_ids_are_dns_labels() {
        for good in ["contoso", "contoso-eu", "a1"] {
            assert!(OrganizationId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Contoso", "con toso", "-a", "a-", "ä", &"a".repeat(64)] {
            assert!(OrganizationId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_the_sha256_of_its_bytes() {
        let digest = Digest::of(b"foo");
        assert_eq!(digest.as_str(), "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae");
        assert_eq!(Digest::parse(&digest.as_str().to_uppercase().replace("SHA256", "sha256")).unwrap(), digest);
        assert!(Digest::parse("sha256:abc").is_err());
    }
}

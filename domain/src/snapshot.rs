//! What discovery saw of an organization at one time.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{HybridObjects, OrganizationId, Tenant, Thumbprint, Trouble};

/// The observed state of an organization. Order of lists is by name, so that equal states compare equal.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Snapshot {
    /// Whose state this is.
    pub organization: OrganizationId,
    /// When discovery ended.
    pub taken_at: DateTime<Utc>,
    /// The server that answered organization-wide questions (FQDN).
    #[schema(example = "ex01.contoso.example")]
    pub answered_by: String,
    /// `AuthConfig` as each domain controller that an Exchange server uses tells it.
    pub auth_config: Vec<AuthConfig>,
    /// Every Exchange server, also those that take no part.
    pub servers: Vec<Server>,
    /// Whether `Get-HybridConfiguration` returned an object.
    pub hybrid: bool,
    /// What joins a hybrid organization to the cloud; absent when it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_premises_hybrid: Option<HybridObjects>,
    /// The tenant of a hybrid organization; absent when no credentials for it are configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
}

/// `AuthConfig` on one domain controller.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct AuthConfig {
    /// The domain controller asked (FQDN).
    #[schema(example = "dc01.contoso.example")]
    pub domain_controller: String,
    /// The certificate that signs today.
    pub current: Option<Thumbprint>,
    /// The certificate that signed before.
    pub previous: Option<Thumbprint>,
    /// The certificate that is staged.
    pub next: Option<Thumbprint>,
    /// When Exchange itself publishes the staged one; within 12 hours when that is over. Absent without a staged one, whatever date was left behind.
    pub next_effective_at: Option<DateTime<Utc>>,
    /// `WhenChangedUTC` of the object on that domain controller.
    pub changed_at: Option<DateTime<Utc>>,
}

impl AuthConfig {
    /// The three thumbprints, without the times that differ between replicas.
    #[must_use]
    pub fn thumbprints(&self) -> [Option<&Thumbprint>; 3] {
        [self.current.as_ref(), self.previous.as_ref(), self.next.as_ref()]
    }
}

/// One Exchange server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Server {
    /// Fully qualified name, lower case.
    #[schema(example = "ex01.contoso.example")]
    pub fqdn: String,
    /// Active Directory site.
    #[schema(example = "Hamburg")]
    pub site: String,
    /// `AdminDisplayVersion`.
    pub version: Version,
    /// Whether it takes part: mailbox or client access role, version 15, not Edge.
    pub takes_part: bool,
    /// The domain controller that it reads its configuration from.
    #[schema(example = "dc01.contoso.example")]
    pub domain_controller: Option<String>,
    /// What its certificate store answered.
    pub store: Store,
    /// How far its clock is ahead of this service's, in seconds; absent when it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 0)]
    pub clock_ahead_seconds: Option<i64>,
}

/// A version as Exchange gives it, e.g. 15.2.2562.17.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[schema(example = json!({"major": 15, "minor": 2, "build": 2562, "revision": 17}))]
pub struct Version {
    /// 15 for everything since 2013.
    pub major: u32,
    /// 0 = 2013, 1 = 2016, 2 = 2019 or Subscription Edition.
    pub minor: u32,
    /// Build number.
    pub build: u32,
    /// Revision.
    pub revision: u32,
}

impl Version {
    /// The product name that people use (domain.md 1.11).
    #[must_use]
    pub fn product(self) -> &'static str {
        match (self.major, self.minor, self.build) {
            (15, 0, _) => "Exchange Server 2013",
            (15, 1, _) => "Exchange Server 2016",
            (15, 2, ..2562) => "Exchange Server 2019",
            (15, 2, _) => "Exchange Server SE",
            _ => "Exchange",
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.major, self.minor, self.build, self.revision)
    }
}

/// What a server's certificate store answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "reach", rename_all = "snake_case")]
pub enum Store {
    /// Not asked: the server takes no part.
    NotAsked,
    /// The store answered.
    Read {
        /// Auth certificates and those that `AuthConfig` names.
        certificates: Vec<Certificate>,
    },
    /// The store did not answer.
    Unreachable {
        /// Why, and what to do.
        trouble: Trouble,
    },
}

impl Server {
    /// The certificates that its store told; none if it was not read.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        match &self.store {
            Store::Read { certificates } => certificates,
            Store::NotAsked | Store::Unreachable { .. } => &[],
        }
    }

    /// The certificate with this thumbprint, if the store was read and has it.
    #[must_use]
    pub fn certificate(&self, thumbprint: &Thumbprint) -> Option<&Certificate> {
        self.certificates().iter().find(|certificate| certificate.thumbprint == *thumbprint)
    }

    /// Whether the store answered.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        matches!(self.store, Store::Read { .. })
    }
}

/// A certificate in a server's store.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Certificate {
    /// SHA-1 of the certificate.
    pub thumbprint: Thumbprint,
    /// Start of validity.
    pub not_before: DateTime<Utc>,
    /// End of validity.
    pub not_after: DateTime<Utc>,
    /// What is known of its private key.
    pub key: Key,
    /// Departures from what Exchange needs of an Auth certificate (domain.md 2.1), in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

/// What is known of a private key on a server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Present, in a cryptographic service provider that Exchange can sign with.
    Csp,
    /// Present, in a key storage provider: Exchange accepts it and then fails at run time (domain.md 2.1).
    Ksp,
    /// The certificate has no private key.
    Missing,
    /// Not looked at: the server's Windows endpoint is not configured.
    NotChecked,
}

impl Key {
    /// Whether nothing speaks against signing with it.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Csp | Self::NotChecked)
    }
}

impl Snapshot {
    /// The servers that take part in a renewal.
    pub fn participants(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|s| s.takes_part)
    }

    /// `AuthConfig` if all domain controllers agree on the thumbprints.
    #[must_use]
    pub fn agreed_auth_config(&self) -> Option<&AuthConfig> {
        let (first, rest) = self.auth_config.split_first()?;
        rest.iter().all(|other| other.thumbprints() == first.thumbprints()).then_some(first)
    }
}

//! The hybrid side of an organization: its tenant, its Exchange Online, a partner, and how slow each of them is to learn.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The GUID of the organization, as `Get-OrganizationConfig` shows it and the name of the dedicated application holds it.
pub const ORGANIZATION_GUID: Uuid = Uuid::from_u128(0x0b7e_11aa_93c4_4c5e_8a77_20d6_c0c1_0001);

/// What makes an organization a hybrid one.
#[derive(Clone, Debug)]
pub struct Hybrid {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its first domain.
    pub tenant_domain: String,
    /// The application by which rekey signs in.
    pub client_id: Uuid,
    /// What rekey's application may do.
    pub permissions: BTreeSet<Permission>,
    /// By which application the servers go to the cloud.
    pub path: AppPath,
    /// Whether the shared principal still holds the current key, though the dedicated application is in use.
    pub leftover_keys: bool,
    /// Replicas of the directory; at least one. A write lands on the first.
    pub replicas: u16,
    /// How much later than the one before each replica takes in a write.
    pub replica_lag: TimeDelta,
    /// How long the token service beside each replica believes the keys that it read there.
    pub key_cache: TimeDelta,
    /// How soon after a write to an object another one is refused with `Directory_ConcurrencyViolation` (cloud.md 2.4).
    pub write_gap: TimeDelta,
    /// `maxLifetime` of `asymmetricKeyLifetime` in the tenant's default policy, an ISO-8601 duration; none: no such restriction.
    pub key_lifetime: Option<String>,
    /// Whether the front door of Exchange Online sends callers on to a region.
    pub region: Region,
    /// The mailbox of `Test-OAuthConnectivity` on-premises.
    pub test_mailbox: String,
    /// The mailbox of `Test-OAuthConnectivity` in the cloud.
    pub cloud_test_mailbox: String,
    /// The partner that reads the servers' metadata documents.
    pub partner: PartnerRules,
}

/// How a partner, such as SharePoint Server, learns the servers' keys from their metadata documents (cloud.md 3.5 leg D).
///
/// domain.md 3.6 believes, unconfirmed, that the documents show the current and the previous key but not the next one. A partner that
/// only re-read them on schedule would refuse every token between publication and its next look, whatever the order of a renewal: no
/// order survives that. Real partners fetch the document again when a token names a key that they do not know, so that is the default.
#[derive(Clone, Copy, Debug)]
pub struct PartnerRules {
    /// How often it reads the documents anyhow.
    pub refresh: TimeDelta,
    /// Whether it reads the signer's document again when a token names a key that it does not know.
    pub refetches: bool,
    /// Whether what it then reads may be the document as the pool built it up to twelve hours ago, though the pool has since begun to
    /// sign with another key: believed of Exchange (domain.md 3.6, unconfirmed). Otherwise the document says what the pool knows.
    pub sees_stale_documents: bool,
}

impl Default for PartnerRules {
    /// Reads every day, and whenever a key is new.
    fn default() -> Self {
        Self { refresh: TimeDelta::hours(24), refetches: true, sees_stale_documents: false }
    }
}

/// By which application servers go to the cloud (domain.md 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppPath {
    /// `ExchangeServerApp-<organization guid>`, as since 2025.
    Dedicated,
    /// The shared principal of Exchange Online: the classic wizard. There is no dedicated application.
    Shared,
}

/// Something that rekey's application may do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Graph: read applications, write those that it owns. It owns the dedicated one.
    ApplicationReadWriteOwnedBy,
    /// Graph: write any application and principal.
    ApplicationReadWriteAll,
    /// Graph: read policies.
    PolicyReadAll,
    /// Exchange Online: run cmdlets, as far as a role allows.
    ExchangeManageAsApp,
    /// The directory role whose template is [`EXCHANGE_ADMINISTRATOR`].
    ExchangeAdministrator,
}

/// The template of the directory role Exchange Administrator.
pub const EXCHANGE_ADMINISTRATOR: &str = "29232cdf-9323-42fd-ade2-1d097af3e4de";

impl Permission {
    /// How tokens name it, if they do.
    #[must_use]
    pub fn role(self) -> Option<&'static str> {
        match self {
            Self::ApplicationReadWriteOwnedBy => Some("Application.ReadWrite.OwnedBy"),
            Self::ApplicationReadWriteAll => Some("Application.ReadWrite.All"),
            Self::PolicyReadAll => Some("Policy.Read.All"),
            Self::ExchangeManageAsApp => Some("Exchange.ManageAsApp"),
            Self::ExchangeAdministrator => None,
        }
    }
}

/// Where the front door of Exchange Online sends callers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Nowhere: it answers itself.
    Here,
    /// To a region with a port of its own at the same host.
    Elsewhere,
    /// To another host, where a client must not show its token.
    Foreign,
    /// To itself, again and again.
    Loop,
}

impl Hybrid {
    /// Contoso's tenant, with the dedicated application in use.
    #[must_use]
    pub fn contoso() -> Self {
        Self {
            tenant_id: Uuid::from_u128(0x7a3f_0c52_1de4_4b0a_9c77_5f20_d1b8_0001),
            tenant_domain: "contoso.onmicrosoft.com".to_owned(),
            client_id: Uuid::from_u128(0x3c9e_6f10_84ab_4d2f_b5e1_0d94_77ac_0001),
            permissions: BTreeSet::from([
                Permission::ApplicationReadWriteOwnedBy,
                Permission::PolicyReadAll,
                Permission::ExchangeManageAsApp,
                Permission::ExchangeAdministrator,
            ]),
            path: AppPath::Dedicated,
            leftover_keys: false,
            replicas: 3,
            replica_lag: TimeDelta::minutes(3),
            key_cache: TimeDelta::minutes(5),
            write_gap: TimeDelta::seconds(1),
            key_lifetime: None,
            region: Region::Here,
            test_mailbox: "monitor@contoso.example".to_owned(),
            cloud_test_mailbox: "cloud.monitor@contoso.example".to_owned(),
            partner: PartnerRules::default(),
        }
    }

    /// The same with keys on the shared principal, and the right to take them away.
    #[must_use]
    pub fn with_leftover_keys(mut self) -> Self {
        self.leftover_keys = true;
        self.permissions.insert(Permission::ApplicationReadWriteAll);
        self
    }

    /// The name by which the dedicated application is found (domain.md 3.1).
    #[must_use]
    pub fn application_name(&self) -> String {
        format!("ExchangeServerApp-{ORGANIZATION_GUID}")
    }
}

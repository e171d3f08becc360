//! The cloud half of a hybrid organization: how its tenant is reached, and what was seen of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Thumbprint, Trouble,
    hybrid::{IntraOrganizationConnector, OrganizationRelationship},
    snapshot::Server,
};

/// The application id of Exchange Online in every tenant: the shared principal that the classic Hybrid Configuration Wizard registers keys with (domain.md 3.1).
pub const EXCHANGE_ONLINE: &str = "00000002-0000-0ff1-ce00-000000000000";

/// How the name of a key begins that is registered for an Auth certificate: by rekey, and by Exchange's own tools after the subject.
pub const AUTH_KEY_NAME: &str = "Microsoft Exchange Server Auth Certificate";

/// The display name of the dedicated application of an organization: Exchange's own tools find it by that alone (domain.md 3.1).
#[must_use]
pub fn application_name(organization_guid: &str) -> String {
    format!("ExchangeServerApp-{organization_guid}")
}

/// Which Microsoft cloud a tenant lives in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloudName {
    /// The worldwide one, GCC included.
    #[default]
    Global,
    /// US Government L4 (GCC High).
    UsGovL4,
    /// US Government L5 (DoD).
    UsGovL5,
    /// Operated by 21Vianet.
    China,
    /// Addresses of its own: national clouds that are not listed here, and labs.
    Custom,
}

impl CloudName {
    /// Where Microsoft Graph is, without a slash at the end; in a custom cloud the configuration says it (domain.md 3.2, Microsoft Graph national clouds).
    #[must_use]
    pub fn graph(self) -> &'static str {
        match self {
            Self::Global => "https://graph.microsoft.com",
            Self::UsGovL4 => "https://graph.microsoft.us",
            Self::UsGovL5 => "https://dod-graph.microsoft.us",
            Self::China => "https://microsoftgraph.chinacloudapi.cn",
            Self::Custom => "<graph_url>",
        }
    }
}

/// How the tenant of an organization is used. Present only when credentials for it are configured; they stay with the worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct CloudSettings {
    /// Which Microsoft cloud.
    #[serde(default)]
    pub cloud: CloudName,
    /// Where Microsoft Graph is in a custom cloud, without a slash at the end; absent for all others, whose address is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://graph.lab.example")]
    pub graph_url: Option<String>,
    /// The tenant: a GUID.
    #[schema(example = "7c9e6679-7425-40de-944b-e07fc1f90ae7")]
    pub tenant_id: String,
    /// The application (client) id of the dedicated application; without it it is found by its name, `ExchangeServerApp-<organization GUID>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3f2504e0-4f89-41d3-9a0c-0305e82c3301")]
    pub application_id: Option<String>,
    /// Whether Exchange Online is asked, over an interface that Microsoft does not support for that.
    #[serde(default)]
    pub exchange_online: bool,
    /// A mailbox on the servers, for tests towards the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "oauth-test@contoso.example")]
    pub test_mailbox: Option<String>,
    /// A mailbox in the cloud, for tests towards the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "oauth-test-cloud@contoso.example")]
    pub cloud_test_mailbox: Option<String>,
    /// Whether plans take the keys out of the shared principal of Exchange Online.
    #[serde(default)]
    pub purge_shared_principal: bool,
}

impl CloudSettings {
    /// Where Microsoft Graph is, without a slash at the end.
    #[must_use]
    pub fn graph(&self) -> &str {
        self.graph_url.as_deref().unwrap_or_else(|| self.cloud.graph())
    }
}

/// What was seen of the tenant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "reach", rename_all = "snake_case")]
pub enum Tenant {
    /// Entra answered.
    Read {
        /// The dedicated application, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        application: Option<Application>,
        /// The shared principal of Exchange Online; absent when it could not be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared_principal: Option<Principal>,
        /// The longest life, in days, that the tenant's app management policies allow a key; absent without such a policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = 1826)]
        max_key_lifetime_days: Option<u32>,
        /// Why those policies could not be read; absent when they were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "Graph refused: Insufficient privileges to complete the operation.")]
        key_lifetime_not_read: Option<String>,
        /// What Exchange Online says of its side.
        exchange_online: Checked,
    },
    /// It did not, or refused.
    Unreachable {
        /// Why, and what to do.
        trouble: Trouble,
        /// How long it asks to be left alone, in seconds; absent when it does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = 120)]
        retry_after_seconds: Option<u64>,
    },
}

/// What Exchange Online says. That it could not be asked never stops a renewal.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "checked", rename_all = "snake_case")]
pub enum Checked {
    /// It answered.
    Read {
        /// `Get-OrganizationRelationship` there.
        organization_relationships: Vec<OrganizationRelationship>,
        /// `Get-IntraOrganizationConnector` there.
        intra_organization_connectors: Vec<IntraOrganizationConnector>,
    },
    /// It was not asked, or did not answer.
    NotChecked {
        /// Why.
        #[schema(example = "exchange_online is not configured")]
        reason: String,
    },
}

/// The dedicated application of an organization in Entra.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Application {
    /// The object id: what Graph addresses it by.
    #[schema(example = "5b3c7a52-2f6e-4f0e-8a55-2d4f8f1f7b11")]
    pub object_id: String,
    /// The application (client) id: what tokens name it by.
    #[schema(example = "3f2504e0-4f89-41d3-9a0c-0305e82c3301")]
    pub app_id: String,
    /// What people see.
    #[schema(example = "ExchangeServerApp-8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub display_name: String,
    /// Its keys, in order of their ids.
    pub keys: Vec<CloudKey>,
}

/// A service principal in Entra.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Principal {
    /// The object id: what Graph addresses it by.
    #[schema(example = "c2f1c9d0-6d67-4c0e-9a7e-6a1b3c2d4e5f")]
    pub object_id: String,
    /// The application (client) id.
    #[schema(example = "00000002-0000-0ff1-ce00-000000000000")]
    pub app_id: String,
    /// Its keys, in order of their ids.
    pub keys: Vec<CloudKey>,
}

/// A public key that Entra accepts (a `keyCredential` of Graph, without the key).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct CloudKey {
    /// What Graph tells keys apart by.
    #[schema(example = "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d")]
    pub key_id: String,
    /// SHA-1 of the certificate; absent when the entry does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<Thumbprint>,
    /// What people see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Microsoft Exchange Server Auth Certificate")]
    pub display_name: Option<String>,
    /// Accepted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// Accepted until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
}

impl CloudKey {
    /// Whether it is the key of this certificate.
    #[must_use]
    pub fn is_of(&self, thumbprint: &Thumbprint) -> bool {
        self.thumbprint.as_ref() == Some(thumbprint)
    }

    /// Whether Entra accepts it at that time. An entry without dates is taken to be accepted.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.not_after.is_none_or(|until| now < until)
    }

    /// Its certificate's thumbprint, or its id where the entry does not tell that one.
    #[must_use]
    pub fn told(&self) -> String {
        self.thumbprint.as_ref().map_or_else(|| format!("with id {}", self.key_id), Thumbprint::to_string)
    }

    /// How long it is accepted in all; unknown without both dates.
    #[must_use]
    pub fn lifetime(&self) -> Option<TimeDelta> {
        Some(self.not_after? - self.not_before?)
    }
}

impl Application {
    /// Its key of this certificate.
    #[must_use]
    pub fn key_of(&self, thumbprint: &Thumbprint) -> Option<&CloudKey> {
        self.keys.iter().find(|key| key.is_of(thumbprint))
    }

    /// The keys of Auth certificates before the current one, which an earlier run has left: it was skipped, or done by another tool. `named` is what
    /// `AuthConfig` names as current, previous and next. What cannot be told apart from the key of something else is not among them.
    pub fn given_up<'a>(
        &'a self,
        named: [Option<&'a Thumbprint>; 3],
        servers: &'a [Server],
    ) -> impl Iterator<Item = &'a CloudKey> {
        let current = named[0].and_then(|current| self.key_of(current));
        self.keys.iter().filter(move |key| {
            let Some(thumbprint) = &key.thumbprint else { return false };
            let of_exchange = key.display_name.as_ref().is_some_and(|name| name.starts_with(AUTH_KEY_NAME))
                || servers.iter().any(|server| server.certificate(thumbprint).is_some());
            let older = matches!(
                (key.not_before, current.and_then(|current| current.not_before)),
                (Some(this), Some(current)) if this < current
            );
            !named.contains(&Some(thumbprint)) && of_exchange && older
        })
    }
}

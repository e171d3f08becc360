//! The cloud half of a plan.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Thumbprint;

/// What the run, or a person, does in the tenant of a hybrid organization.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedCloud {
    /// Who does it.
    #[serde(flatten)]
    pub how: How,
    /// What is corrected on the servers before trust is tested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<Correction>,
}

/// Who does the cloud half of a run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "how", rename_all = "snake_case")]
#[schema(as = CloudHow)]
pub enum How {
    /// The run, with the credentials that are configured.
    Automatic {
        /// The tenant.
        #[schema(example = "7c9e6679-7425-40de-944b-e07fc1f90ae7")]
        tenant_id: String,
        /// The dedicated application that gets the new key.
        application: PlannedApplication,
        /// Every key that the application has: none of them changes when the new one is added.
        keys_kept: Vec<PlannedKey>,
        /// Those of them that are taken out when the old certificate is given up.
        keys_removed: Vec<PlannedKey>,
        /// The keys that are taken out of the shared principal of Exchange Online, if that is planned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared_principal: Option<PlannedPurge>,
        /// Whether Exchange Online is asked for what it sees.
        #[serde(default)]
        exchange_online: bool,
        /// The mailbox on the servers that trust is tested with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "oauth-test@contoso.example")]
        test_mailbox: Option<String>,
        /// The mailbox in the cloud that the other direction is tested with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "oauth-test-cloud@contoso.example")]
        cloud_test_mailbox: Option<String>,
    },
    /// A person: no credentials for the tenant are configured.
    ByHand {
        /// The tenant, as far as the servers know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "7c9e6679-7425-40de-944b-e07fc1f90ae7")]
        tenant_id: Option<String>,
        /// The application (client) id, as far as the servers know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "3f2504e0-4f89-41d3-9a0c-0305e82c3301")]
        app_id: Option<String>,
        /// The name of the dedicated application.
        #[schema(example = "ExchangeServerApp-8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
        display_name: String,
        /// The mailbox on the servers that trust is tested with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "oauth-test@contoso.example")]
        test_mailbox: Option<String>,
    },
}

/// The dedicated application, as the plan found it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedApplication {
    /// The object id: what Graph addresses it by.
    #[schema(example = "5b3c7a52-2f6e-4f0e-8a55-2d4f8f1f7b11")]
    pub object_id: String,
    /// The application (client) id: what tokens name it by.
    #[schema(example = "3f2504e0-4f89-41d3-9a0c-0305e82c3301")]
    pub app_id: String,
    /// What people see.
    #[schema(example = "ExchangeServerApp-8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub display_name: String,
}

/// The shared principal, and the keys that are taken out of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedPurge {
    /// Its object id.
    #[schema(example = "c2f1c9d0-6d67-4c0e-9a7e-6a1b3c2d4e5f")]
    pub object_id: String,
    /// The keys.
    pub keys: Vec<PlannedKey>,
}

/// A key in Entra, as the plan found it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedKey {
    /// What Graph tells keys apart by.
    #[schema(example = "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d")]
    pub key_id: String,
    /// SHA-1 of the certificate; absent when the entry does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<Thumbprint>,
}

/// Something on the servers that a run puts right by itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "correction", rename_all = "snake_case")]
pub enum Correction {
    /// An organization relationship does not say where Exchange Online takes requests of the dedicated application (domain.md 3.4).
    TargetSharingEpr {
        /// `Name` of the relationship.
        #[schema(example = "On-premises to O365 - 8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
        relationship: String,
        /// The address that it gets.
        #[schema(example = "https://outlook.office365.com/EWS/Exchange.asmx")]
        target_sharing_epr: String,
    },
}

impl Correction {
    /// The cmdlet as an administrator would type it.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::TargetSharingEpr { relationship, target_sharing_epr } => format!(
                "Set-OrganizationRelationship -Identity {} -TargetSharingEpr {target_sharing_epr}",
                quoted(relationship)
            ),
        }
    }
}

/// A text as one word of a PowerShell line.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl PlannedCloud {
    /// Whether a person does it.
    #[must_use]
    pub fn is_by_hand(&self) -> bool {
        matches!(self.how, How::ByHand { .. })
    }
}

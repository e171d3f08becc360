//! What a requester asks for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::OrganizationId;

/// A change request: renew the Auth certificate of one organization.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Request {
    /// The organization to renew.
    pub organization: OrganizationId,
    /// Why: an expired or compromised certificate gives an emergency plan.
    #[serde(default)]
    pub reason: Reason,
    /// The ITSM record that this renewal belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Not to be started earlier than this, even when approved (start of the change window).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// Servers (FQDN) that may be unreachable without blocking the publication. Becomes part of the plan that people approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!([]))]
    pub allow_absent: Vec<String>,
    /// A remark for approvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Auth certificate expires on 2027-01-07")]
    pub note: Option<String>,
}

/// Why a certificate is renewed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The private key may be known to others: emergency plan.
    Compromised,
    /// It has expired: emergency plan.
    Expired,
    /// It will expire: the normal plan.
    #[default]
    Expiring,
}

impl Reason {
    /// Whether the plan leaves out the wait between staging and publication.
    #[must_use]
    pub fn is_emergency(self) -> bool {
        matches!(self, Self::Compromised | Self::Expired)
    }
}

/// The ITSM record that a renewal belongs to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Ticket {
    /// The ticket system.
    #[schema(example = "servicenow")]
    pub system: String,
    /// What people call it.
    #[schema(example = "CHG0030022")]
    pub number: String,
    /// The stable key of the record in its system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0f4ac6c4b750230096c3e4f6ee11a9fe")]
    pub sys_id: Option<String>,
    /// Where people can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://acme.service-now.com/change_request.do?sys_id=0f4ac6c4b750230096c3e4f6ee11a9fe")]
    pub url: Option<String>,
}

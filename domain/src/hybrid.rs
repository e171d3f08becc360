//! The objects of an on-premises organization that join it to the cloud, and what is wrong with them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    cloud::{CloudSettings, EXCHANGE_ONLINE, Tenant},
    plan::{Correction, Finding},
};

pub(crate) mod drift;

/// What the hybrid objects of the servers say (domain.md 3.4). Lists are in order of names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct HybridObjects {
    /// `Guid` of `Get-OrganizationConfig`: part of the name of the dedicated application.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub organization_guid: Option<String>,
    /// `Realm` of `Get-AuthConfig`; empty as it should be.
    #[schema(example = "")]
    pub auth_config_realm: String,
    /// `ServiceName` of `Get-AuthConfig`.
    #[schema(example = "00000002-0000-0ff1-ce00-000000000000")]
    pub auth_config_service_name: String,
    /// `Get-AuthServer`.
    pub auth_servers: Vec<AuthServer>,
    /// `Get-PartnerApplication`.
    pub partner_applications: Vec<PartnerApplication>,
    /// `Get-IntraOrganizationConnector`.
    pub intra_organization_connectors: Vec<IntraOrganizationConnector>,
    /// `Get-OrganizationRelationship`.
    pub organization_relationships: Vec<OrganizationRelationship>,
    /// `Get-SettingOverride`: those of the section ExchangeOnpremAsThirdPartyAppId.
    pub setting_overrides: Vec<SettingOverride>,
}

/// Who issues tokens that the servers accept.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct AuthServer {
    /// `Name`.
    #[schema(example = "EvoSts - 8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub name: String,
    /// `Type`: `AzureAD`, `MicrosoftACS`, …
    #[schema(example = "AzureAD")]
    pub kind: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `Realm`: the tenant id.
    #[schema(example = "7c9e6679-7425-40de-944b-e07fc1f90ae7")]
    pub realm: String,
    /// `ApplicationIdentifier`: the dedicated application, if the servers are told of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "3f2504e0-4f89-41d3-9a0c-0305e82c3301")]
    pub application_id: Option<String>,
    /// `DomainName`.
    #[schema(example = json!(["contoso.mail.onmicrosoft.com"]))]
    pub domain_names: Vec<String>,
    /// `TokenIssuingEndpoint`.
    #[schema(example = "https://login.microsoftonline.com/7c9e6679-7425-40de-944b-e07fc1f90ae7/oauth2/v2.0/token")]
    pub token_issuing_endpoint: String,
    /// `AuthMetadataUrl`.
    #[schema(example = "https://login.windows.net/contoso.example/federationmetadata/2007-06/federationmetadata.xml")]
    pub auth_metadata_url: String,
}

impl AuthServer {
    /// Whether it is the one of Entra, over which the dedicated application gets its tokens.
    #[must_use]
    pub fn is_entra(&self) -> bool {
        self.kind.eq_ignore_ascii_case("AzureAD")
    }
}

/// An application whose tokens the servers accept.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PartnerApplication {
    /// `Name`.
    #[schema(example = "Exchange Online")]
    pub name: String,
    /// `ApplicationIdentifier`.
    #[schema(example = "00000002-0000-0ff1-ce00-000000000000")]
    pub application_id: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `Realm`.
    #[schema(example = "")]
    pub realm: String,
    /// `UseAuthServer`.
    pub use_auth_server: bool,
    /// `LinkedAccount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "contoso.example/Users/Exchange Online-ApplicationAccount")]
    pub linked_account: Option<String>,
}

/// The way to the other organization for requests that carry OAuth tokens.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct IntraOrganizationConnector {
    /// `Name`.
    #[schema(example = "HybridIOC - 8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub name: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `TargetAddressDomains`.
    #[schema(example = json!(["contoso.mail.onmicrosoft.com"]))]
    pub target_address_domains: Vec<String>,
    /// `DiscoveryEndpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc")]
    pub discovery_endpoint: Option<String>,
    /// `TargetSharingEpr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://outlook.office365.com/EWS/Exchange.asmx")]
    pub target_sharing_epr: Option<String>,
}

/// What two organizations share.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct OrganizationRelationship {
    /// `Name`.
    #[schema(example = "On-premises to O365 - 8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10")]
    pub name: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `DomainNames`.
    #[schema(example = json!(["contoso.mail.onmicrosoft.com"]))]
    pub domain_names: Vec<String>,
    /// `TargetApplicationUri`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "outlook.com")]
    pub target_application_uri: Option<String>,
    /// `TargetAutodiscoverEpr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc/WSSecurity")]
    pub target_autodiscover_epr: Option<String>,
    /// `TargetSharingEpr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://outlook.office365.com/EWS/Exchange.asmx")]
    pub target_sharing_epr: Option<String>,
}

/// A setting override of Exchange.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct SettingOverride {
    /// `Name`.
    #[schema(example = "EnableExchangeHybrid3PAppFeature")]
    pub name: String,
    /// Whether its parameters hold `Enabled=true`.
    pub enabled: bool,
}

impl HybridObjects {
    /// The enabled authorization server of Entra for this tenant; without one, or without knowing the tenant, the one that knows a dedicated
    /// application, else any enabled one. An organization that is joined to several tenants has one for each.
    #[must_use]
    pub fn entra(&self, tenant_id: Option<&str>) -> Option<&AuthServer> {
        let enabled = || self.auth_servers.iter().filter(|server| server.is_entra() && server.enabled);
        let of_tenant = tenant_id.and_then(|id| enabled().find(|server| server.realm.eq_ignore_ascii_case(id)));
        of_tenant.or_else(|| enabled().find(|server| server.application_id.is_some())).or_else(|| enabled().next())
    }

    /// The application id that the servers are told to use in place of the shared principal, override or not.
    #[must_use]
    pub fn dedicated_application(&self, tenant_id: Option<&str>) -> Option<&str> {
        self.entra(tenant_id)?.application_id.as_deref()
    }
}

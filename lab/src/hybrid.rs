//! The objects that join the two halves of a hybrid organization, on either side (domain.md 3.4, cloud.md 1.6).

pub mod connectivity;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::{
    certificate::Certificate,
    organization::{AppPath, Hybrid, ORGANIZATION_GUID},
    tenant::{EXCHANGE_ONLINE, Tenant, dedicated_app_id},
};

/// The cloud as a lab has it: the tenant, and the objects of both sides.
#[derive(Debug)]
pub struct Cloud {
    /// Entra.
    pub tenant: Tenant,
    /// What the servers' directory holds.
    pub on_premises: Things,
    /// What Exchange Online holds.
    pub exchange_online: Things,
}

impl Cloud {
    /// As a wizard leaves it that has just succeeded.
    pub fn new(spec: Hybrid, current: &Arc<Certificate>, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let (mut on_premises, exchange_online) = (on_premises(&spec), exchange_online(&spec));
        let tenant = Tenant::new(spec, current, now)?;
        on_premises.learn_key(tenant.signing_certificate().thumbprint.as_str());
        Ok(Self { tenant, on_premises, exchange_online })
    }

    /// The application by which the servers go to the cloud, as their objects say; none if the way is closed.
    ///
    /// The dedicated application is in use if the authentication server names it and the override is on (domain.md 3.1). Otherwise servers
    /// fall back to the shared principal, which Microsoft has closed to organizations that were not on it.
    #[must_use]
    pub fn path(&self) -> Option<AppPath> {
        let server = self.on_premises.auth_server()?;
        let named = server.text("ApplicationIdentifier").is_some_and(|id| id == dedicated_app_id().to_string());
        let switched_on = self.on_premises.of(Class::SettingOverride).any(|thing| {
            thing.text("SectionName") == Some("ExchangeOnpremAsThirdPartyAppId")
                && thing.says("Parameters", "Enabled=true")
        });
        match self.tenant.spec.path {
            _ if named && switched_on => Some(AppPath::Dedicated),
            AppPath::Shared => Some(AppPath::Shared),
            AppPath::Dedicated => None,
        }
    }

    /// Whether servers accept what the tenant issues: their authentication server stands and knows its key.
    #[must_use]
    pub fn servers_trust_the_tenant(&self) -> bool {
        self.on_premises.of(Class::AuthServer).any(|server| {
            server.flag("Enabled")
                && server.says("CertificateStrings", self.tenant.signing_certificate().thumbprint.as_str())
        })
    }
}

/// Objects of one side.
#[derive(Clone, Debug, Default)]
pub struct Things(pub Vec<Thing>);

/// One object: a name, and properties in the order in which they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// What it is.
    pub class: Class,
    /// Its properties.
    pub fields: Vec<(String, Field)>,
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Whose tokens are accepted.
    AuthServer,
    /// That there is a hybrid configuration at all.
    HybridConfiguration,
    /// Where the other side is found.
    IntraOrganizationConnector,
    /// What Exchange Online knows of the servers' addresses.
    IntraOrganizationConfiguration,
    /// What Exchange Online knows of the servers' organization.
    OnPremisesOrganization,
    /// What the other side may see.
    OrganizationRelationship,
    /// An application that acts for users.
    PartnerApplication,
    /// A switch of Exchange.
    SettingOverride,
}

impl Class {
    /// The .NET class.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::AuthServer => "Microsoft.Exchange.Data.Directory.SystemConfiguration.AuthServer",
            Self::HybridConfiguration => "Microsoft.Exchange.Data.Directory.SystemConfiguration.HybridConfiguration",
            Self::IntraOrganizationConnector => {
                "Microsoft.Exchange.Data.Directory.SystemConfiguration.IntraOrganizationConnector"
            }
            Self::IntraOrganizationConfiguration => {
                "Microsoft.Exchange.Management.SystemConfigurationTasks.IntraOrganizationConfiguration"
            }
            Self::OnPremisesOrganization => {
                "Microsoft.Exchange.Data.Directory.SystemConfiguration.OnPremisesOrganization"
            }
            Self::OrganizationRelationship => {
                "Microsoft.Exchange.Data.Directory.SystemConfiguration.OrganizationRelationship"
            }
            Self::PartnerApplication => "Microsoft.Exchange.Data.Directory.SystemConfiguration.PartnerApplication",
            Self::SettingOverride => "Microsoft.Exchange.Data.Directory.SystemConfiguration.SettingOverride",
        }
    }
}

/// The value of a property.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// A URL; shown as null if it is empty.
    Address(String),
    /// Yes or no.
    Flag(bool),
    /// A GUID.
    Id(Uuid),
    /// One text; enumerations are shown by name.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
}

impl Things {
    /// Those of a class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = &Thing> {
        self.0.iter().filter(move |thing| thing.class == class)
    }

    /// The one that a caller means by `-Identity`: by name, or by application id.
    pub fn find_mut(&mut self, class: Class, identity: &str) -> Option<&mut Thing> {
        self.0.iter_mut().find(|thing| thing.class == class && thing.is_called(identity))
    }

    /// The authentication server for the tenant, if it is there and enabled.
    fn auth_server(&self) -> Option<&Thing> {
        self.of(Class::AuthServer).find(|thing| thing.text("Type") == Some("AzureAD") && thing.flag("Enabled"))
    }
}

impl Thing {
    fn new(class: Class, name: &str) -> Self {
        Self { class, fields: Vec::new() }.with("Name", Field::Text(name.to_owned()))
    }

    fn with(mut self, name: &str, field: Field) -> Self {
        self.fields.push((name.to_owned(), field));
        self
    }

    fn flagged(self, name: &str, value: bool) -> Self {
        self.with(name, Field::Flag(value))
    }

    fn telling(self, name: &str, value: impl Into<String>) -> Self {
        self.with(name, Field::Text(value.into()))
    }

    /// An address; empty if there is none.
    fn at(self, name: &str, value: impl Into<String>) -> Self {
        self.with(name, Field::Address(value.into()))
    }

    fn listing(self, name: &str, values: &[&str]) -> Self {
        self.with(name, Field::Texts(values.iter().map(|value| (*value).to_owned()).collect()))
    }

    /// A property, whatever case its name is written in.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, field)| field)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("Name").unwrap_or_default()
    }

    /// A property that is one text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.field(name) {
            Some(Field::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether a property is yes.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.field(name) == Some(&Field::Flag(true))
    }

    /// Whether a list holds a text.
    #[must_use]
    pub fn says(&self, name: &str, text: &str) -> bool {
        matches!(self.field(name), Some(Field::Texts(texts)) if texts.iter().any(|held| held.eq_ignore_ascii_case(text)))
    }

    /// Whether it is meant by that name, part of a name with `*`, or application id.
    #[must_use]
    pub fn is_called(&self, identity: &str) -> bool {
        let name = self.name().to_ascii_lowercase();
        let wanted = identity.to_ascii_lowercase();
        let alike = match wanted.strip_suffix('*') {
            Some(start) => {
                name.starts_with(start.trim_start_matches('*'))
                    || (wanted.starts_with('*') && name.contains(start.trim_start_matches('*')))
            }
            None => name == wanted,
        };
        let by_id = |field| self.text(field).is_some_and(|id| id.eq_ignore_ascii_case(identity));
        alike || by_id("ApplicationIdentifier") || by_id("IssuerIdentifier")
    }

    /// Changes properties that it has. Tells whether anything is different; the error names a property that is not there or a value that
    /// does not fit.
    pub fn set(&mut self, changes: &Map<String, Json>) -> Result<bool, String> {
        let mut changed = self.clone();
        for (name, value) in changes {
            let field = changed.fields.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let (_, field) = field.ok_or_else(|| name.clone())?;
            *field = field.like(value).ok_or_else(|| name.clone())?;
        }
        let different = changed != *self;
        *self = changed;
        Ok(different)
    }
}

impl Field {
    /// A value of the same kind.
    fn like(&self, value: &Json) -> Option<Self> {
        match (self, value) {
            (Self::Flag(_), Json::Bool(value)) => Some(Self::Flag(*value)),
            (Self::Flag(_), Json::String(text)) => text.parse().ok().map(Self::Flag),
            (Self::Id(_), Json::String(text)) => text.parse().ok().map(Self::Id),
            (Self::Text(_), Json::String(text)) => Some(Self::Text(text.clone())),
            (Self::Address(_), Json::String(text)) => Some(Self::Address(text.clone())),
            (Self::Address(_), Json::Null) => Some(Self::Address(String::new())),
            (Self::Text(_), Json::Null) => Some(Self::Text(String::new())),
            (Self::Texts(_), Json::String(text)) => Some(Self::Texts(vec![text.clone()])),
            (Self::Texts(_), Json::Array(values)) => {
                values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<_>>().map(Self::Texts)
            }
            (Self::Texts(_), Json::Null) => Some(Self::Texts(Vec::new())),
            _ => None,
        }
    }
}

const TOKENS: &str = "https://accounts.accesscontrol.windows.net";
const EWS: &str = "https://outlook.office365.com/ews/exchange.asmx";
const DOMAIN: &str = "contoso.example";

fn on_premises(spec: &Hybrid) -> Things {
    let (tenant, domain) = (spec.tenant_id, spec.tenant_domain.as_str());
    let application = match spec.path {
        AppPath::Dedicated => dedicated_app_id().to_string(),
        AppPath::Shared => String::new(),
    };
    let mut things = vec![
        Thing::new(Class::HybridConfiguration, "Hybrid Configuration")
            .listing("ClientAccessServers", &[])
            .listing("Domains", &[DOMAIN])
            .listing("Features", &["FreeBusy", "MoveMailbox", "Mailtips", "OnlineArchive", "Photos"])
            .telling("OnPremisesSmartHost", "mail.contoso.example")
            .telling("ServiceInstance", "0"),
        Thing::new(Class::AuthServer, &format!("EvoSts - {tenant}"))
            .telling("Type", "AzureAD")
            .flagged("Enabled", true)
            .telling("IssuerIdentifier", format!("https://sts.windows.net/{tenant}/"))
            .telling("Realm", tenant.to_string())
            .telling("ApplicationIdentifier", application)
            .listing("DomainName", &[DOMAIN, domain])
            .at("TokenIssuingEndpoint", format!("https://login.windows.net/{tenant}/oauth2/token"))
            .at("AuthorizationEndpoint", format!("https://login.windows.net/{tenant}/oauth2/authorize"))
            .at(
                "AuthMetadataUrl",
                format!("https://login.windows.net/{tenant}/federationmetadata/2007-06/federationmetadata.xml"),
            )
            .flagged("IsDefaultAuthorizationEndpoint", true)
            .listing("CertificateStrings", &[]),
        Thing::new(Class::AuthServer, &format!("ACS - {tenant}"))
            .telling("Type", "MicrosoftACS")
            .flagged("Enabled", true)
            .telling("IssuerIdentifier", "00000001-0000-0000-c000-000000000000")
            .telling("Realm", tenant.to_string())
            .telling("ApplicationIdentifier", "")
            .listing("DomainName", &[domain])
            .at("TokenIssuingEndpoint", format!("{TOKENS}/{tenant}/tokens/OAuth/2"))
            .at("AuthorizationEndpoint", "")
            .at("AuthMetadataUrl", format!("{TOKENS}/{tenant}/metadata/json/1"))
            .flagged("IsDefaultAuthorizationEndpoint", false)
            .listing("CertificateStrings", &[]),
        Thing::new(Class::PartnerApplication, "Exchange Online")
            .flagged("Enabled", true)
            .telling("ApplicationIdentifier", EXCHANGE_ONLINE.to_string())
            .telling("Realm", "")
            .flagged("UseAuthServer", true)
            .flagged("AcceptSecurityIdentifierInformation", false)
            .telling("LinkedAccount", format!("{DOMAIN}/Users/Exchange Online-ApplicationAccount"))
            .listing("AppOnlyPermissions", &[])
            .listing("ActAsPermissions", &[]),
        Thing::new(Class::IntraOrganizationConnector, &format!("HybridIOC - {ORGANIZATION_GUID}"))
            .flagged("Enabled", true)
            .listing("TargetAddressDomains", &["contoso.mail.onmicrosoft.com"])
            .at("DiscoveryEndpoint", "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc")
            .at("TargetSharingEpr", ""),
        relationship(&format!("On-premises to O365 - {ORGANIZATION_GUID}"))
            .listing("DomainNames", &["contoso.mail.onmicrosoft.com", domain])
            .telling("TargetApplicationUri", "outlook.com")
            .at("TargetAutodiscoverEpr", "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc/WSSecurity")
            .at("TargetSharingEpr", EWS)
            .at("TargetOwaURL", "https://outlook.office.com/mail"),
    ];
    if spec.path == AppPath::Dedicated {
        things.push(
            Thing::new(Class::SettingOverride, "EnableExchangeHybrid3PAppFeature")
                .telling("ComponentName", "Global")
                .telling("SectionName", "ExchangeOnpremAsThirdPartyAppId")
                .listing("Parameters", &["Enabled=true"])
                .telling("Reason", "Dedicated Exchange hybrid application")
                .listing("Server", &[])
                .telling("MinVersion", "")
                .telling("MaxVersion", ""),
        );
    }
    Things(things)
}

fn exchange_online(spec: &Hybrid) -> Things {
    let own = "https://mail.contoso.example";
    Things(vec![
        Thing::new(Class::AuthServer, "ACS")
            .telling("Type", "MicrosoftACS")
            .flagged("Enabled", true)
            .telling("IssuerIdentifier", "00000001-0000-0000-c000-000000000000")
            .telling("Realm", spec.tenant_id.to_string())
            .telling("ApplicationIdentifier", "")
            .listing("DomainName", &[])
            .at("TokenIssuingEndpoint", format!("{TOKENS}/tokens/OAuth/2"))
            .at("AuthMetadataUrl", format!("{TOKENS}/metadata/json/1")),
        Thing::new(Class::IntraOrganizationConnector, &format!("HybridIOC - {ORGANIZATION_GUID}"))
            .flagged("Enabled", true)
            .listing("TargetAddressDomains", &[DOMAIN])
            .at("DiscoveryEndpoint", format!("{own}/autodiscover/autodiscover.svc"))
            .at("TargetSharingEpr", ""),
        Thing::new(Class::IntraOrganizationConfiguration, "IntraOrganizationConfiguration")
            .at("OnPremiseDiscoveryEndpoint", format!("{own}/autodiscover/autodiscover.svc"))
            .at("OnPremiseWebServiceEndpoint", format!("{own}/EWS/Exchange.asmx"))
            .listing("OnPremiseTargetAddresses", &[DOMAIN]),
        Thing::new(Class::OnPremisesOrganization, ORGANIZATION_GUID.to_string().as_str())
            .with("OrganizationGuid", Field::Id(ORGANIZATION_GUID))
            .telling("OrganizationName", "Contoso")
            .listing("HybridDomains", &[DOMAIN])
            .telling("OrganizationRelationship", format!("O365 to On-premises - {ORGANIZATION_GUID}")),
        relationship(&format!("O365 to On-premises - {ORGANIZATION_GUID}"))
            .listing("DomainNames", &[DOMAIN])
            .telling("TargetApplicationUri", "mail.contoso.example")
            .at("TargetAutodiscoverEpr", format!("{own}/autodiscover/autodiscover.svc/WSSecurity"))
            .at("TargetSharingEpr", "")
            .at("TargetOwaURL", format!("{own}/owa")),
    ])
}

fn relationship(name: &str) -> Thing {
    Thing::new(Class::OrganizationRelationship, name)
        .flagged("Enabled", true)
        .flagged("FreeBusyAccessEnabled", true)
        .telling("FreeBusyAccessLevel", "LimitedDetails")
        .flagged("MailTipsAccessEnabled", true)
        .telling("MailTipsAccessLevel", "All")
        .flagged("PhotosEnabled", true)
        .telling("OAuthApplicationId", "")
}

impl Things {
    /// Puts the key of the tenant under every authentication server: what AuthAdmin reads from its metadata.
    pub(crate) fn learn_key(&mut self, thumbprint: &str) {
        for server in self.0.iter_mut().filter(|thing| thing.class == Class::AuthServer) {
            let key = server.fields.iter_mut().find(|(name, _)| name == "CertificateStrings");
            key.into_iter().for_each(|(_, field)| *field = Field::Texts(vec![thumbprint.to_owned()]));
        }
    }
}

//! What joins an organization to its tenant, on both sides: read here, judged in `domain`. Also `Test-OAuthConnectivity` on the servers.
//!
//! Cmdlets and the shapes of what they write: domain.md 1.10, 3.4 and 3.6.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{
    CloudSettings, HybridObjects, Tenant,
    cloud::{Application, Checked, CloudKey, Principal, application_name},
    hybrid::{AuthServer, IntraOrganizationConnector, OrganizationRelationship, PartnerApplication, SettingOverride},
};
use psrp::{Command, Value};

use crate::{
    connectivity::{self, Tested},
    connectors::{
        Session,
        cloud::{self, Cloud, CloudError, Credential, Failure, KeyLifetime, ServiceUnderTest},
    },
    exchange::{self, CommandError, Result, succeed},
};

/// The cmdlets that a hybrid organization needs besides [`exchange::NEEDED`].
pub(crate) const NEEDED: [&str; 8] = [
    "Get-AuthServer",
    "Get-IntraOrganizationConnector",
    "Get-OrganizationConfig",
    "Get-OrganizationRelationship",
    "Get-PartnerApplication",
    "Get-SettingOverride",
    "Set-OrganizationRelationship",
    "Test-OAuthConnectivity",
];

/// The section of setting overrides that turns the dedicated application on (domain.md 3.1).
const SECTION: &str = "ExchangeOnpremAsThirdPartyAppId";

/// Everything on the servers that joins the organization to the cloud.
pub(crate) async fn objects(session: &mut Session) -> Result<HybridObjects> {
    let config = one(session, "Get-OrganizationConfig").await?;
    let auth = one(session, "Get-AuthConfig").await?;
    let overrides = all(session, "Get-SettingOverride").await?;
    Ok(HybridObjects {
        organization_guid: config.as_ref().and_then(|config| optional(config, "Guid")),
        auth_config_realm: auth.as_ref().map(|auth| text(auth, "Realm")).unwrap_or_default(),
        auth_config_service_name: auth.as_ref().map(|auth| text(auth, "ServiceName")).unwrap_or_default(),
        auth_servers: by_name(all(session, "Get-AuthServer").await?.iter().map(auth_server), |one| &one.name),
        partner_applications: by_name(
            all(session, "Get-PartnerApplication").await?.iter().map(partner_application),
            |one| &one.name,
        ),
        intra_organization_connectors: by_name(
            all(session, "Get-IntraOrganizationConnector").await?.iter().map(connector),
            |one| &one.name,
        ),
        organization_relationships: relationships(session).await?,
        setting_overrides: by_name(overrides.iter().filter_map(setting_override), |one| &one.name),
    })
}

/// `Get-OrganizationRelationship`, in order of names.
pub(crate) async fn relationships(session: &mut Session) -> Result<Vec<OrganizationRelationship>> {
    let all = all(session, "Get-OrganizationRelationship").await?;
    Ok(by_name(all.iter().map(relationship), |one| &one.name))
}

/// `Set-OrganizationRelationship -TargetSharingEpr`.
pub(crate) fn set_sharing_epr(name: &str, target_sharing_epr: &str) -> Command {
    Command::new("Set-OrganizationRelationship").with("Identity", name).with("TargetSharingEpr", target_sharing_epr)
}

/// Whether the server that runs this session is let in by Exchange Online. `-ReloadConfig`: the process may know the old certificate only.
pub(crate) async fn test_to_cloud(session: &mut Session, target: &str, mailbox: &str) -> Result<Tested> {
    let command = Command::new("Test-OAuthConnectivity")
        .with("Service", ServiceUnderTest::Ews.as_str())
        .with("TargetUri", target)
        .with("Mailbox", mailbox)
        .switch("ReloadConfig");
    let answer = succeed("Test-OAuthConnectivity", session.invoke(command).await?)?;
    let tested = answer.output.first().and_then(connectivity::of_value);
    tested.ok_or_else(|| CommandError::Unexpected {
        cmdlet: "Test-OAuthConnectivity".to_owned(),
        what: "ResultType".to_owned(),
    })
}

async fn all(session: &mut Session, cmdlet: &str) -> Result<Vec<Value>> {
    Ok(exchange::run(session, Command::new(cmdlet)).await?.output)
}

async fn one(session: &mut Session, cmdlet: &str) -> Result<Option<Value>> {
    Ok(all(session, cmdlet).await?.into_iter().next())
}

fn by_name<T>(found: impl Iterator<Item = T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let mut found: Vec<T> = found.collect();
    found.sort_by(|a, b| name(a).cmp(name(b)));
    found
}

fn text(object: &Value, name: &str) -> String {
    object.property(name).map(Value::text).unwrap_or_default()
}

fn optional(object: &Value, name: &str) -> Option<String> {
    Some(text(object, name)).filter(|text| !text.is_empty())
}

fn flag(object: &Value, name: &str) -> bool {
    object.property(name).and_then(Value::as_bool).unwrap_or(false)
}

/// A multi-valued property; of one value some servers write that alone.
fn texts(object: &Value, name: &str) -> Vec<String> {
    let Some(value) = object.property(name) else { return Vec::new() };
    match value.as_list() {
        Some(list) => list.iter().map(Value::text).collect(),
        None => Some(value.text()).filter(|text| !text.is_empty()).into_iter().collect(),
    }
}

fn auth_server(object: &Value) -> AuthServer {
    AuthServer {
        name: text(object, "Name"),
        kind: text(object, "Type"),
        enabled: flag(object, "Enabled"),
        realm: text(object, "Realm"),
        application_id: optional(object, "ApplicationIdentifier"),
        domain_names: texts(object, "DomainName"),
        token_issuing_endpoint: text(object, "TokenIssuingEndpoint"),
        auth_metadata_url: text(object, "AuthMetadataUrl"),
    }
}

fn partner_application(object: &Value) -> PartnerApplication {
    PartnerApplication {
        name: text(object, "Name"),
        application_id: text(object, "ApplicationIdentifier"),
        enabled: flag(object, "Enabled"),
        realm: text(object, "Realm"),
        use_auth_server: flag(object, "UseAuthServer"),
        linked_account: optional(object, "LinkedAccount"),
    }
}

fn connector(object: &Value) -> IntraOrganizationConnector {
    IntraOrganizationConnector {
        name: text(object, "Name"),
        enabled: flag(object, "Enabled"),
        target_address_domains: texts(object, "TargetAddressDomains"),
        discovery_endpoint: optional(object, "DiscoveryEndpoint"),
        target_sharing_epr: optional(object, "TargetSharingEpr"),
    }
}

fn relationship(object: &Value) -> OrganizationRelationship {
    OrganizationRelationship {
        name: text(object, "Name"),
        enabled: flag(object, "Enabled"),
        domain_names: texts(object, "DomainNames"),
        target_application_uri: optional(object, "TargetApplicationUri"),
        target_autodiscover_epr: optional(object, "TargetAutodiscoverEpr"),
        target_sharing_epr: optional(object, "TargetSharingEpr"),
    }
}

/// Only those of the section that matters here.
fn setting_override(object: &Value) -> Option<SettingOverride> {
    text(object, "SectionName").eq_ignore_ascii_case(SECTION).then(|| SettingOverride {
        name: text(object, "Name"),
        enabled: texts(object, "Parameters")
            .iter()
            .any(|one| one.replace(' ', "").eq_ignore_ascii_case("Enabled=true")),
    })
}

/// How long Exchange Online is waited for, in real time: nothing depends on it, and whoever looks may be about to publish.
const ONLINE: Duration = Duration::from_secs(10);

/// What the tenant says. That it cannot be read is a part of what is seen.
pub(crate) async fn tenant(cloud: &Cloud, settings: &CloudSettings, objects: &HybridObjects) -> Tenant {
    match read_tenant(cloud, settings, objects).await {
        Ok(tenant) => tenant,
        Err(error) => Tenant::Unreachable {
            retry_after_seconds: match error.failure {
                Failure::Again { after } => after.map(|after| after.as_secs()),
                _ => None,
            },
            trouble: error.trouble,
        },
    }
}

async fn read_tenant(
    cloud: &Cloud,
    settings: &CloudSettings,
    objects: &HybridObjects,
) -> std::result::Result<Tenant, CloudError> {
    let found = match (&settings.application_id, &objects.organization_guid) {
        (Some(id), _) => cloud.application(id).await?,
        (None, Some(guid)) => cloud.application_named(&application_name(guid)).await?,
        (None, None) => None,
    };
    let lifetime = async {
        match &found {
            Some(application) => cloud.key_lifetime(application).await,
            None => Ok(KeyLifetime::Unlimited),
        }
    };
    let (lifetime, shared_principal, exchange_online) =
        tokio::join!(lifetime, shared_principal(cloud), exchange_online(cloud, settings));
    let lifetime = lifetime?;
    let (max_key_lifetime_days, key_lifetime_not_read) = match lifetime {
        KeyLifetime::Days(days) => (Some(days), None),
        KeyLifetime::Unlimited => (None, None),
        KeyLifetime::NotChecked(why) => {
            tracing::warn!("The policies of the tenant on keys were not read: {why}");
            (None, Some(why))
        }
    };
    Ok(Tenant::Read {
        application: found.map(application),
        shared_principal,
        max_key_lifetime_days,
        key_lifetime_not_read,
        exchange_online,
    })
}

/// The shared principal is told where it can be read; nothing depends on it.
async fn shared_principal(cloud: &Cloud) -> Option<Principal> {
    match cloud.shared_principal().await {
        Ok(found) => {
            found.map(|one| Principal { object_id: one.id, app_id: one.app_id, keys: keys(&one.key_credentials) })
        }
        Err(error) => {
            tracing::warn!("The shared principal of Exchange Online was not read: {error}");
            None
        }
    }
}

fn application(one: cloud::Application) -> Application {
    let keys = keys(&one.key_credentials);
    Application { object_id: one.id, app_id: one.app_id, display_name: one.display_name, keys }
}

/// In order of their ids, so that equal states compare equal.
fn keys(all: &[Credential]) -> Vec<CloudKey> {
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let mut keys: Vec<CloudKey> = all
        .iter()
        .map(|one| CloudKey {
            key_id: one.key_id().to_owned(),
            thumbprint: one.thumbprint(),
            display_name: named(one.display_name()),
            not_before: one.not_before(),
            not_after: one.not_after(),
        })
        .collect();
    keys.sort_by(|a, b| a.key_id.cmp(&b.key_id));
    keys
}

/// What Exchange Online has of its side. Its interface is not a supported one: whatever goes wrong is "not checked".
async fn exchange_online(cloud: &Cloud, settings: &CloudSettings) -> Checked {
    if !settings.exchange_online {
        return Checked::NotChecked { reason: "exchange_online is not configured".to_owned() };
    }
    let read = async {
        let relationships = cloud.online_relationships().await?;
        Ok::<_, CloudError>((relationships, cloud.online_connectors().await?))
    };
    match tokio::time::timeout(ONLINE, read).await {
        Err(_) => Checked::NotChecked { reason: format!("it did not answer within {} s", ONLINE.as_secs()) },
        Ok(Err(error)) => Checked::NotChecked { reason: error.to_string() },
        Ok(Ok((relationships, connectors))) => {
            let relationships = relationships.into_iter().map(|one| OrganizationRelationship {
                name: one.name,
                enabled: one.enabled,
                domain_names: one.domain_names,
                target_application_uri: set(one.target_application_uri),
                target_autodiscover_epr: set(one.target_autodiscover_epr),
                target_sharing_epr: set(one.target_sharing_epr),
            });
            let connectors = connectors.into_iter().map(|one| IntraOrganizationConnector {
                name: one.name,
                enabled: one.enabled,
                target_address_domains: one.target_address_domains,
                discovery_endpoint: set(one.discovery_endpoint),
                target_sharing_epr: set(one.target_sharing_epr),
            });
            Checked::Read {
                organization_relationships: by_name(relationships, |one| &one.name),
                intra_organization_connectors: by_name(connectors, |one| &one.name),
            }
        }
    }
}

/// What is not set is null or empty.
fn set(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// The name of a new key in Entra, by which people tell it from others.
pub(crate) fn key_name(now: DateTime<Utc>) -> String {
    format!("{} {}", crate::certificate::COMMON_NAME, now.format("%Y-%m-%d"))
}

#[cfg(test)]
mod tests {
    use psrp::Object;

    use super::*;

    #[test]
    fn objects_are_read_whatever_form_their_values_have() {
        let id = uuid::Uuid::new_v4();
        let server: Value = Object::default()
            .with("Name", "EvoSts - a")
            .with("Type", "AzureAD")
            .with("Enabled", true)
            .with("Realm", Value::Null)
            .with("ApplicationIdentifier", id)
            .with("DomainName", vec![Value::from("contoso.example"), Value::from("contoso.mail.onmicrosoft.com")])
            .into();
        let read = auth_server(&server);
        assert_eq!((read.realm.as_str(), read.application_id), ("", Some(id.to_string())));
        assert_eq!(read.domain_names.len(), 2);
        let connector =
            connector(&Object::default().with("Name", "c").with("TargetAddressDomains", "contoso.example").into());
        assert_eq!(connector.target_address_domains, ["contoso.example"]);
        assert_eq!((connector.enabled, connector.discovery_endpoint), (false, None));
    }

    #[test]
    fn only_overrides_for_the_dedicated_application_count() {
        let one = |section: &str, parameter: &str| {
            let object = Object::default().with("Name", "x").with("SectionName", section);
            setting_override(&object.with("Parameters", vec![Value::from(parameter)]).into())
        };
        assert_eq!(one("Other", "Enabled=true"), None);
        assert!(one(SECTION, "Enabled = True").unwrap().enabled);
        assert!(!one(SECTION, "Enabled=false").unwrap().enabled);
    }
}

//! Departures of the hybrid objects from what the dedicated application needs, each with the cmdlet that puts it right (domain.md 3.1, 3.4).

use super::{
    AuthServer, CloudSettings, Correction, EXCHANGE_ONLINE, Finding, HybridObjects, OrganizationRelationship, Tenant,
};
use crate::{
    Snapshot,
    cloud::{Checked, CloudKey},
    plan::quoted,
};

/// What the override is called by Microsoft's own tools.
const OVERRIDE: &str = "EnableExchangeHybrid3PAppFeature";

impl Snapshot {
    /// What is not as it should be of what joins the organization to the cloud: what [`HybridObjects::drift`] finds, and keys in Entra that are left over.
    #[must_use]
    pub fn hybrid_drift(&self, cloud: Option<&CloudSettings>) -> Vec<Finding> {
        let objects = self.on_premises_hybrid.iter();
        objects.flat_map(|objects| objects.drift(cloud, self.tenant.as_ref())).chain(self.given_up_keys()).collect()
    }

    /// Keys of Auth certificates that nothing names any more. Without an agreed `AuthConfig` nobody knows.
    fn given_up_keys(&self) -> Vec<Finding> {
        let (Some(Tenant::Read { application: Some(application), .. }), Some(auth_config)) =
            (&self.tenant, self.agreed_auth_config())
        else {
            return Vec::new();
        };
        let told = |key: &CloudKey| Finding {
            code: "cloud_key_given_up".to_owned(),
            target: application.display_name.clone(),
            message: format!(
                "The key {} is of a certificate that was given up and is registered still: whoever has its private key can sign in as the servers. A renewal takes it out at its end. Earlier, if nothing else uses it: Entra admin center > App registrations > {} > Certificates & secrets.",
                key.told(),
                application.display_name
            ),
            fix: None,
        };
        application.given_up(auth_config.thumbprints(), &self.servers).map(told).collect()
    }
}

impl HybridObjects {
    /// What is not as it should be, with its fix. `cloud` and `tenant` are absent where no credentials are configured: less can be compared then.
    #[must_use]
    pub fn drift(&self, cloud: Option<&CloudSettings>, tenant: Option<&Tenant>) -> Vec<Finding> {
        let mut found = Vec::new();
        self.auth_config(&mut found);
        self.auth_server(cloud, tenant, &mut found);
        self.setting_override(&mut found);
        self.partner_application(&mut found);
        self.ways_to_the_cloud(&mut found);
        if let Some(tenant) = tenant {
            exchange_online(tenant, &mut found);
        }
        found
    }

    /// What a run puts right by itself: the app path of an organization relationship (domain.md 3.4).
    #[must_use]
    pub fn corrections(&self) -> Vec<Correction> {
        self.organization_relationships.iter().filter_map(missing_sharing_epr).collect()
    }

    /// Where the Exchange Online of this organization takes requests of servers, as far as its objects say; that of the worldwide cloud otherwise.
    #[must_use]
    pub fn exchange_online_address(&self) -> String {
        let relationships = self.organization_relationships.iter().filter(|one| one.enabled);
        let connectors = self.intra_organization_connectors.iter().filter(|one| one.enabled);
        let mut known = relationships
            .filter_map(|one| one.target_autodiscover_epr.as_deref())
            .chain(connectors.filter_map(|one| one.discovery_endpoint.as_deref()))
            .filter_map(sharing_epr);
        known.next().unwrap_or_else(|| "https://outlook.office365.com/EWS/Exchange.asmx".to_owned())
    }

    fn auth_config(&self, found: &mut Vec<Finding>) {
        if !self.auth_config_realm.is_empty() {
            found.push(finding(
                "auth_config_realm",
                "",
                format!("AuthConfig has the realm {}; a hybrid organization has none: Entra refuses tokens of another realm.", self.auth_config_realm),
                "Set-AuthConfig -Realm ''",
            ));
        }
        let name = &self.auth_config_service_name;
        if !name.is_empty() && !name.eq_ignore_ascii_case(EXCHANGE_ONLINE) {
            found.push(finding(
                "auth_config_service_name",
                "",
                format!("AuthConfig names the service {name} and not {EXCHANGE_ONLINE}: tokens between Exchange organizations are refused."),
                format!("Set-AuthConfig -ServiceName {EXCHANGE_ONLINE}"),
            ));
        }
    }

    fn auth_server(&self, cloud: Option<&CloudSettings>, tenant: Option<&Tenant>, found: &mut Vec<Finding>) {
        let tenant_id = cloud.map(|cloud| cloud.tenant_id.as_str());
        let Some(entra) = self.entra(tenant_id) else {
            found.push(self.no_auth_server());
            return;
        };
        let target = entra.name.as_str();
        // What is configured may be mistyped: a cmdlet is offered only with what the tenant itself has confirmed.
        let confirmed = matches!(tenant, Some(Tenant::Read { application: Some(_), .. }));
        match tenant_id {
            Some(id) if !confirmed && !entra.realm.eq_ignore_ascii_case(id) => found.push(Finding {
                fix: None,
                ..finding(
                    "auth_server_realm",
                    target,
                    format!("The authorization server has the realm \"{}\", and the configuration of rekey names the tenant {id}, which has not confirmed it: check tenant_id first.", entra.realm),
                    "",
                )
            }),
            Some(id) if !entra.realm.eq_ignore_ascii_case(id) => found.push(finding(
                "auth_server_realm",
                target,
                format!("The authorization server has the realm \"{}\" and not the tenant {id}: tokens are asked for elsewhere.", entra.realm),
                format!("Set-AuthServer -Identity {} -Realm {id}", quoted(target)),
            )),
            None if entra.realm.is_empty() => found.push(finding(
                "auth_server_realm",
                target,
                "The authorization server has no realm: the dedicated application cannot be used.",
                format!("Set-AuthServer -Identity {} -Realm <tenant id>", quoted(target)),
            )),
            _ => {}
        }
        found.extend(application_of(entra, cloud, tenant));
    }

    fn no_auth_server(&self) -> Finding {
        let message =
            "No enabled authorization server of Entra: servers cannot get tokens as the dedicated application.";
        let disabled = self.auth_servers.iter().find(|server| server.is_entra());
        let target = disabled.map_or("", |server| server.name.as_str());
        let fix = match disabled {
            Some(server) => format!("Set-AuthServer -Identity {} -Enabled $true", quoted(&server.name)),
            None => "New-AuthServer -Name EvoSTS -Type AzureAD -AuthMetadataUrl https://login.windows.net/<tenant domain>/federationmetadata/2007-06/federationmetadata.xml".to_owned(),
        };
        finding("auth_server_missing", target, message, fix)
    }

    fn setting_override(&self, found: &mut Vec<Finding>) {
        let refresh = "Get-ExchangeDiagnosticInfo -Process Microsoft.Exchange.Directory.TopologyService -Component VariantConfiguration -Argument Refresh";
        match self.setting_overrides.as_slice() {
            [] => found.push(finding(
                "setting_override_missing",
                "",
                "No setting override makes the servers use the dedicated application: they sign in as the shared principal, which Exchange Online refuses since October 2025.",
                format!("New-SettingOverride -Name {OVERRIDE} -Component Global -Section ExchangeOnpremAsThirdPartyAppId -Parameters @('Enabled=true') -Reason 'Dedicated hybrid application'; {refresh}"),
            )),
            [one] if one.enabled => {}
            [one] => found.push(finding(
                "setting_override_disabled",
                &one.name,
                "The setting override for the dedicated application is not Enabled=true: servers sign in as the shared principal.",
                format!("Set-SettingOverride -Identity {} -Parameters @('Enabled=true'); {refresh}", quoted(&one.name)),
            )),
            [first, rest @ ..] => found.extend(rest.iter().map(|other| {
                finding(
                    "setting_override_several",
                    &other.name,
                    format!("Several setting overrides concern the dedicated application, {} among them: which one counts is not certain.", first.name),
                    format!("Remove-SettingOverride -Identity {} -Confirm:$false; {refresh}", quoted(&other.name)),
                )
            })),
        }
    }

    fn partner_application(&self, found: &mut Vec<Finding>) {
        let mut online = self
            .partner_applications
            .iter()
            .filter(|partner| partner.application_id.eq_ignore_ascii_case(EXCHANGE_ONLINE));
        let Some(partner) = online.next() else {
            found.push(finding(
                "partner_application_missing",
                "",
                "Exchange Online is not a partner application: the servers refuse its tokens.",
                format!("New-PartnerApplication -Name 'Exchange Online' -ApplicationIdentifier {EXCHANGE_ONLINE} -Enabled $true -UseAuthServer $true"),
            ));
            return;
        };
        let (target, identity) = (partner.name.as_str(), quoted(&partner.name));
        let mut about = |code, wrong: bool, message: &str, parameters: &str| {
            if wrong {
                found.push(finding(
                    code,
                    target,
                    message,
                    format!("Set-PartnerApplication -Identity {identity} {parameters}"),
                ));
            }
        };
        about(
            "partner_application_disabled",
            !partner.enabled,
            "The partner application is disabled: the servers refuse tokens of Exchange Online.",
            "-Enabled $true",
        );
        about(
            "partner_application_realm",
            !partner.realm.is_empty(),
            "The partner application has a realm and should have none.",
            "-Realm ''",
        );
        about(
            "partner_application_auth_server",
            !partner.use_auth_server,
            "The partner application does not use the authorization servers: the servers refuse tokens of Exchange Online.",
            "-UseAuthServer $true",
        );
        about(
            "partner_application_account",
            partner.linked_account.is_none(),
            "The partner application has no linked account: requests of Exchange Online without a user get no rights.",
            "-LinkedAccount '<domain>/Users/Exchange Online-ApplicationAccount'",
        );
    }

    fn ways_to_the_cloud(&self, found: &mut Vec<Finding>) {
        let mut open = false;
        for connector in &self.intra_organization_connectors {
            let (target, identity) = (connector.name.as_str(), quoted(&connector.name));
            let mut about = |code, message: &str, parameters: &str| {
                found.push(finding(
                    code,
                    target,
                    message,
                    format!("Set-IntraOrganizationConnector -Identity {identity} {parameters}"),
                ));
            };
            if !connector.enabled {
                about(
                    "connector_disabled",
                    "The connector is disabled: free/busy falls back to the older federation, or fails.",
                    "-Enabled $true",
                );
                continue;
            }
            open = true;
            if connector.discovery_endpoint.is_none() && connector.target_sharing_epr.is_none() {
                about(
                    "connector_endpoint",
                    "The connector has neither a discovery endpoint nor a sharing address: Exchange Online is not found.",
                    "-DiscoveryEndpoint https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc",
                );
            }
            if connector.target_address_domains.is_empty() {
                about(
                    "connector_domains",
                    "The connector names no domains: it is never used.",
                    "-TargetAddressDomains <tenant>.mail.onmicrosoft.com",
                );
            }
        }
        for relationship in &self.organization_relationships {
            found.extend(wrong_relationship(relationship, open));
        }
        if !open && !self.organization_relationships.iter().any(|relationship| relationship.enabled) {
            found.push(finding(
                "no_way_to_the_cloud",
                "",
                "Neither a connector nor an organization relationship is enabled: free/busy with Exchange Online does not work today.",
                "New-IntraOrganizationConnector -Name 'HybridIOC' -DiscoveryEndpoint https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc -TargetAddressDomains <tenant>.mail.onmicrosoft.com -Enabled $true",
            ));
        }
    }
}

/// The application that the authorization server names is not the one in the tenant.
fn application_of(entra: &AuthServer, cloud: Option<&CloudSettings>, tenant: Option<&Tenant>) -> Option<Finding> {
    let there = match tenant {
        Some(Tenant::Read { application: Some(application), .. }) => Some(application.app_id.as_str()),
        _ => None,
    };
    let configured = cloud.and_then(|cloud| cloud.application_id.as_deref());
    let here = entra.application_id.as_deref();
    let identity = quoted(&entra.name);
    let domains = if entra.domain_names.is_empty() {
        "<tenant>.mail.onmicrosoft.com".to_owned()
    } else {
        entra.domain_names.join(",")
    };
    let fix =
        |id: &str| format!("Set-AuthServer -Identity {identity} -ApplicationIdentifier {id} -DomainName {domains}");
    match (here, there) {
        (None, there) => Some(finding(
            "auth_server_application_missing",
            &entra.name,
            "The authorization server names no dedicated application: servers sign in as the shared principal.",
            fix(there.unwrap_or("<application id>")),
        )),
        (Some(here), Some(there)) if !here.eq_ignore_ascii_case(there) => Some(finding(
            "auth_server_application",
            &entra.name,
            format!(
                "The authorization server names the application {here}, the tenant has {there}: tokens are asked for as one that does not get the key."
            ),
            fix(there),
        )),
        (Some(here), None) if configured.is_some_and(|id| !here.eq_ignore_ascii_case(id)) => Some(Finding {
            fix: None,
            ..finding(
                "auth_server_application",
                &entra.name,
                format!(
                    "The authorization server names the application {here}, and the configuration of rekey {}, which the tenant has not confirmed: check application_id first.",
                    configured.unwrap_or_default()
                ),
                "",
            )
        }),
        _ => None,
    }
}

fn wrong_relationship(relationship: &OrganizationRelationship, has_connector: bool) -> Option<Finding> {
    let (target, identity) = (relationship.name.as_str(), quoted(&relationship.name));
    if let Some(correction) = missing_sharing_epr(relationship) {
        let message = "The relationship does not say where Exchange Online takes requests: the dedicated application does not find it. The run sets it after publication.";
        return Some(finding("relationship_sharing_epr", target, message, correction.line()));
    }
    (!relationship.enabled && !has_connector).then(|| {
        let message =
            "The relationship is disabled, and there is no connector in its place: free/busy with it does not work.";
        finding(
            "relationship_disabled",
            target,
            message,
            format!("Set-OrganizationRelationship -Identity {identity} -Enabled $true"),
        )
    })
}

fn missing_sharing_epr(relationship: &OrganizationRelationship) -> Option<Correction> {
    let autodiscover = relationship.target_autodiscover_epr.as_deref().filter(|_| relationship.enabled)?;
    let address = sharing_epr(autodiscover).filter(|_| relationship.target_sharing_epr.is_none())?;
    Some(Correction::TargetSharingEpr { relationship: relationship.name.clone(), target_sharing_epr: address })
}

/// Where the Exchange Online of an autodiscover address takes requests (cloud.md 1.1); unknown for organizations that are none.
fn sharing_epr(autodiscover: &str) -> Option<String> {
    let host = autodiscover.split("://").nth(1)?.split(['/', ':']).next()?.to_ascii_lowercase();
    let online = match host.as_str() {
        host if host.ends_with("-dod.office365.us") => "outlook-dod.office365.us",
        host if host.ends_with(".office365.us") => "outlook.office365.us",
        host if host.ends_with("outlook.cn") || host.ends_with(".office365.cn") => "outlook.office365.cn",
        host if host.ends_with("outlook.com") || host.ends_with("office365.com") => "outlook.office365.com",
        _ => return None,
    };
    Some(format!("https://{online}/EWS/Exchange.asmx"))
}

/// What Exchange Online says of its own side.
fn exchange_online(tenant: &Tenant, found: &mut Vec<Finding>) {
    let Tenant::Read {
        exchange_online: Checked::Read { intra_organization_connectors, organization_relationships },
        ..
    } = tenant
    else {
        return;
    };
    let connected = intra_organization_connectors.iter().any(|connector| connector.enabled);
    for connector in intra_organization_connectors.iter().filter(|connector| !connector.enabled) {
        found.push(finding(
            "cloud_connector_disabled",
            &connector.name,
            "In Exchange Online the connector to the servers is disabled: free/busy from the cloud does not use OAuth.",
            format!(
                "In Exchange Online: Set-IntraOrganizationConnector -Identity {} -Enabled $true",
                quoted(&connector.name)
            ),
        ));
    }
    for relationship in organization_relationships.iter().filter(|relationship| !relationship.enabled && !connected) {
        found.push(finding(
            "cloud_relationship_disabled",
            &relationship.name,
            "In Exchange Online the organization relationship is disabled, and there is no connector in its place.",
            format!(
                "In Exchange Online: Set-OrganizationRelationship -Identity {} -Enabled $true",
                quoted(&relationship.name)
            ),
        ));
    }
}

fn finding(code: &str, target: &str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { code: code.to_owned(), target: target.to_owned(), message: message.into(), fix: Some(fix.into()) }
}

#[cfg(test)]
pub(crate) mod tests;

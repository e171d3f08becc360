use super::*;
use crate::hybrid::{AuthServer, IntraOrganizationConnector, PartnerApplication, SettingOverride};

pub(crate) const TENANT: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
pub(crate) const APPLICATION: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

/// A hybrid organization as the dedicated application needs it.
pub(crate) fn healthy() -> HybridObjects {
    HybridObjects {
        organization_guid: Some("8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10".to_owned()),
        auth_config_realm: String::new(),
        auth_config_service_name: EXCHANGE_ONLINE.to_owned(),
        auth_servers: vec![AuthServer {
            name: "EvoSts".to_owned(),
            kind: "AzureAD".to_owned(),
            enabled: true,
            realm: TENANT.to_owned(),
            application_id: Some(APPLICATION.to_owned()),
            domain_names: vec!["contoso.mail.onmicrosoft.com".to_owned()],
            ..AuthServer::default()
        }],
        partner_applications: vec![PartnerApplication {
            name: "Exchange Online".to_owned(),
            application_id: EXCHANGE_ONLINE.to_owned(),
            enabled: true,
            use_auth_server: true,
            linked_account: Some("contoso.example/Users/Exchange Online-ApplicationAccount".to_owned()),
            ..PartnerApplication::default()
        }],
        intra_organization_connectors: vec![IntraOrganizationConnector {
            name: "HybridIOC".to_owned(),
            enabled: true,
            target_address_domains: vec!["contoso.mail.onmicrosoft.com".to_owned()],
            discovery_endpoint: Some("https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc".to_owned()),
            target_sharing_epr: None,
        }],
        organization_relationships: vec![OrganizationRelationship {
            name: "On-premises to O365".to_owned(),
            enabled: true,
            target_autodiscover_epr: Some(
                "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc/WSSecurity".to_owned(),
            ),
            target_sharing_epr: Some("https://outlook.office365.com/EWS/Exchange.asmx".to_owned()),
            ..OrganizationRelationship::default()
        }],
        setting_overrides: vec![SettingOverride { name: OVERRIDE.to_owned(), enabled: true }],
    }
}

pub(crate) fn settings() -> CloudSettings {
    CloudSettings {
        cloud: crate::cloud::CloudName::Global,
        graph_url: None,
        tenant_id: TENANT.to_owned(),
        application_id: Some(APPLICATION.to_owned()),
        exchange_online: true,
        test_mailbox: None,
        cloud_test_mailbox: None,
        purge_shared_principal: false,
    }
}

#[test]
fn what_is_as_it_should_be_is_not_mentioned() {
    assert_eq!(healthy().drift(Some(&settings()), None), []);
    assert_eq!(healthy().drift(None, None), []);
    assert_eq!(healthy().corrections(), []);
}

#[test]
fn each_departure_is_named_with_the_cmdlet_that_puts_it_right() {
    type Change = fn(&mut HybridObjects);
    let cases: [(&str, Change, &str); 20] = [
        ("auth_config_realm", |o| o.auth_config_realm = "contoso.example".to_owned(), "Set-AuthConfig -Realm ''"),
        (
            "auth_config_service_name",
            |o| o.auth_config_service_name = "00000004-0000-0ff1-ce00-000000000000".to_owned(),
            "Set-AuthConfig -ServiceName 00000002-0000-0ff1-ce00-000000000000",
        ),
        (
            "auth_server_missing",
            |o| o.auth_servers[0].enabled = false,
            "Set-AuthServer -Identity 'EvoSts' -Enabled $true",
        ),
        ("auth_server_missing", |o| o.auth_servers.clear(), "New-AuthServer -Name EvoSTS"),
        (
            "auth_server_realm",
            |o| o.auth_servers[0].realm.clear(),
            "Set-AuthServer -Identity 'EvoSts' -Realm 7c9e6679-",
        ),
        (
            "auth_server_application_missing",
            |o| o.auth_servers[0].application_id = None,
            "-ApplicationIdentifier 3f2504e0-4f89-41d3-9a0c-0305e82c3301 -DomainName contoso.mail.onmicrosoft.com",
        ),
        (
            "auth_server_application",
            |o| o.auth_servers[0].application_id = Some("another".to_owned()),
            "-ApplicationIdentifier 3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        ),
        (
            "setting_override_missing",
            |o| o.setting_overrides.clear(),
            "New-SettingOverride -Name EnableExchangeHybrid3PAppFeature",
        ),
        ("setting_override_disabled", |o| o.setting_overrides[0].enabled = false, "Set-SettingOverride"),
        (
            "setting_override_several",
            |o| o.setting_overrides.push(SettingOverride { name: "It's mine".to_owned(), enabled: true }),
            "Remove-SettingOverride -Identity 'It''s mine'",
        ),
        ("partner_application_missing", |o| o.partner_applications.clear(), "New-PartnerApplication"),
        ("partner_application_disabled", |o| o.partner_applications[0].enabled = false, "-Enabled $true"),
        ("partner_application_realm", |o| o.partner_applications[0].realm = "x".to_owned(), "-Realm ''"),
        (
            "partner_application_auth_server",
            |o| o.partner_applications[0].use_auth_server = false,
            "-UseAuthServer $true",
        ),
        ("partner_application_account", |o| o.partner_applications[0].linked_account = None, "-LinkedAccount"),
        (
            "connector_disabled",
            |o| o.intra_organization_connectors[0].enabled = false,
            "Set-IntraOrganizationConnector -Identity 'HybridIOC' -Enabled $true",
        ),
        ("connector_endpoint", |o| o.intra_organization_connectors[0].discovery_endpoint = None, "-DiscoveryEndpoint"),
        (
            "connector_domains",
            |o| o.intra_organization_connectors[0].target_address_domains.clear(),
            "-TargetAddressDomains",
        ),
        (
            "relationship_sharing_epr",
            |o| o.organization_relationships[0].target_sharing_epr = None,
            "Set-OrganizationRelationship -Identity 'On-premises to O365' -TargetSharingEpr https://outlook.office365.com/EWS/Exchange.asmx",
        ),
        (
            "no_way_to_the_cloud",
            |o| {
                o.intra_organization_connectors.clear();
                o.organization_relationships.clear();
            },
            "New-IntraOrganizationConnector",
        ),
    ];
    for (code, change, fix) in cases {
        let mut objects = healthy();
        change(&mut objects);
        let found = objects.drift(Some(&settings()), Some(&crate::planning::hybrid::tests::tenant()));
        let codes: Vec<&str> = found.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, [code], "{found:?}");
        assert!(found[0].fix.as_ref().is_some_and(|found| found.contains(fix)), "{found:?}");
    }
}

#[test]
fn of_several_tenants_the_configured_one_is_looked_at() {
    let mut objects = healthy();
    let other = AuthServer {
        name: "EvoSts - another".to_owned(),
        realm: "another".to_owned(),
        application_id: Some("another".to_owned()),
        ..objects.auth_servers[0].clone()
    };
    objects.auth_servers.insert(0, other);
    assert_eq!(objects.drift(Some(&settings()), None), []);
    assert_eq!(objects.dedicated_application(Some(TENANT)), Some(APPLICATION));
}

#[test]
fn a_relationship_counts_only_where_there_is_no_connector() {
    let mut objects = healthy();
    objects.organization_relationships[0].enabled = false;
    assert_eq!(objects.drift(Some(&settings()), None), []);
    objects.intra_organization_connectors.clear();
    let codes: Vec<String> = objects.drift(None, None).into_iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["relationship_disabled", "no_way_to_the_cloud"]);
}

#[test]
fn the_address_of_exchange_online_is_that_of_its_cloud_and_a_partner_company_is_left_alone() {
    for (autodiscover, sharing) in [
        (
            "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc",
            Some("https://outlook.office365.com/EWS/Exchange.asmx"),
        ),
        (
            "https://autodiscover-s.office365.us/autodiscover/autodiscover.svc",
            Some("https://outlook.office365.us/EWS/Exchange.asmx"),
        ),
        (
            "https://autodiscover-s-dod.office365.us/autodiscover/autodiscover.svc",
            Some("https://outlook-dod.office365.us/EWS/Exchange.asmx"),
        ),
        (
            "https://autodiscover-s.partner.outlook.cn/autodiscover/autodiscover.svc",
            Some("https://outlook.office365.cn/EWS/Exchange.asmx"),
        ),
        ("https://autodiscover.fabrikam.example/autodiscover/autodiscover.svc", None),
        ("nonsense", None),
    ] {
        let mut objects = healthy();
        objects.organization_relationships[0].target_autodiscover_epr = Some(autodiscover.to_owned());
        objects.organization_relationships[0].target_sharing_epr = None;
        let corrections = objects.corrections();
        let set = corrections
            .first()
            .map(|Correction::TargetSharingEpr { target_sharing_epr, .. }| target_sharing_epr.as_str());
        assert_eq!(set, sharing, "{autodiscover}");
    }
}

#[test]
fn what_exchange_online_says_of_its_own_side_is_told_too() {
    let connector =
        IntraOrganizationConnector { name: "HybridIOC".to_owned(), ..IntraOrganizationConnector::default() };
    let tenant = Tenant::Read {
        application: None,
        shared_principal: None,
        max_key_lifetime_days: None,
        key_lifetime_not_read: None,
        exchange_online: Checked::Read {
            organization_relationships: Vec::new(),
            intra_organization_connectors: vec![connector],
        },
    };
    let found = healthy().drift(Some(&settings()), Some(&tenant));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].code, "cloud_connector_disabled");
}

#[test]
fn no_cmdlet_is_offered_with_what_only_the_configuration_says() {
    let mistyped = CloudSettings {
        tenant_id: "11111111-2222-4333-8444-555555555555".to_owned(),
        application_id: Some("11111111-2222-4333-8444-666666666666".to_owned()),
        ..settings()
    };
    let found = healthy().drift(Some(&mistyped), None);
    let codes: Vec<&str> = found.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, ["auth_server_realm", "auth_server_application"], "{found:?}");
    assert!(
        found.iter().all(|finding| finding.fix.is_none() && finding.message.contains("configuration")),
        "{found:?}"
    );
}

#[test]
fn a_key_in_entra_that_an_earlier_renewal_has_left_is_named_and_nobody_elses() {
    let (organization, _, snapshot) = crate::planning::hybrid::tests::automatic();
    let left = |digit: char, name: Option<&str>| {
        let mut snapshot = snapshot.clone();
        let Some(Tenant::Read { application: Some(application), .. }) = &mut snapshot.tenant else { panic!() };
        let current = application.keys[0].clone();
        application.keys.push(CloudKey {
            key_id: "left".to_owned(),
            thumbprint: Some(crate::planning::tests::thumbprint(digit)),
            display_name: name.map(str::to_owned),
            not_before: current.not_before.map(|from| from - chrono::TimeDelta::days(1800)),
            ..current
        });
        snapshot
    };
    let codes = |snapshot: &Snapshot| {
        let found = snapshot.hybrid_drift(organization.cloud.as_ref());
        found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&snapshot), [""; 0]);
    let of_exchange = Some("Microsoft Exchange Server Auth Certificate 2021-11-01");
    let mut seen = left('D', of_exchange);
    let found = seen.hybrid_drift(organization.cloud.as_ref());
    assert_eq!(codes(&seen), ["cloud_key_given_up"]);
    assert!(
        found[0].message.contains(&"D".repeat(40)) && found[0].target.starts_with("ExchangeServerApp-"),
        "{found:?}"
    );
    assert_eq!(codes(&left('D', Some("Mailbox migration"))), [""; 0], "nobody knows what it is for");
    // As long as it is the previous one it is a way back.
    seen.auth_config.iter_mut().for_each(|one| one.previous = Some(crate::planning::tests::thumbprint('D')));
    assert_eq!(codes(&seen), [""; 0]);
    // Nobody knows what is given up while domain controllers disagree.
    let mut seen = left('D', of_exchange);
    let other = crate::snapshot::AuthConfig { previous: None, current: None, ..seen.auth_config[0].clone() };
    seen.auth_config.push(other);
    assert_eq!(codes(&seen), [""; 0]);
}

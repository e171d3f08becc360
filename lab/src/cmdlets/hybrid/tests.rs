//! The objects that join the two halves, and the test of the way between them.

use psrp::{Command, Value};

use crate::{
    bench::{Bench, Made, assert_refused, values},
    faults::{
        Fault,
        cloud::{KeyChange, Side},
    },
    hybrid::Class,
    journal::EffectKind,
    organization::{AppPath, Hybrid},
    tenant::dedicated_app_id,
};

const READ: [&str; 6] = [
    "Get-AuthServer",
    "Get-HybridConfiguration",
    "Get-IntraOrganizationConnector",
    "Get-OrganizationRelationship",
    "Get-PartnerApplication",
    "Get-SettingOverride",
];

fn read(bench: &mut Bench, cmdlet: &str) -> Vec<Value> {
    values(&bench.exchange("EX01", Command::new(cmdlet)))
}

fn text(value: &Value, name: &str) -> String {
    value.property(name).unwrap_or_else(|| panic!("{name} is missing")).text()
}

fn change(bench: &mut Bench, class: Class, set: serde_json::Value) {
    let set = set.as_object().unwrap().clone();
    bench.world.apply(Fault::HybridObject { side: Side::OnPremises, class, name: None, set }).unwrap();
}

/// Verdict and log of the test from a server.
fn test(bench: &mut Bench, server: &str, mailbox: &str) -> (String, String) {
    let command = Command::new("Test-OAuthConnectivity")
        .with("Service", "EWS")
        .with("TargetUri", "https://outlook.office365.com/ews/exchange.asmx")
        .with("Mailbox", mailbox)
        .switch("ReloadConfig");
    let node = &values(&bench.exchange(server, command))[0];
    assert_eq!(
        (text(node, "Task"), node.property("IsValid")),
        ("Checking EWS API Call Under Oauth".to_owned(), Some(&Value::Bool(true)))
    );
    let detail = node.property("Detail").unwrap();
    assert_eq!(detail.text(), text(detail, "FullId"));
    (text(node, "ResultType"), detail.text())
}

const MAILBOX: &str = "monitor@contoso.example";

#[test]
fn an_organization_that_stands_alone_has_none_of_it() {
    let mut bench = Bench::new();
    for cmdlet in READ {
        assert!(read(&mut bench, cmdlet).is_empty(), "{cmdlet}");
    }
    let set = Command::new("Set-OrganizationRelationship").with("Identity", "x").with("Enabled", true);
    assert_refused(&bench.exchange("EX01", set), "couldn't be found");
    assert!(bench.world.apply(Fault::CloudKeys { change: KeyChange::Add }).is_err());
}

#[test]
fn a_hybrid_one_has_what_the_wizard_made() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    let servers = read(&mut bench, "Get-AuthServer");
    let azure = servers.iter().find(|server| text(server, "Type") == "AzureAD").unwrap();
    assert_eq!(text(azure, "ApplicationIdentifier"), dedicated_app_id().to_string());
    assert!(
        text(azure, "Name").starts_with("EvoSts - ")
            && text(azure, "Realm") == bench.tenant().spec.tenant_id.to_string()
    );
    let names = azure.property("DomainName").unwrap().as_list().unwrap();
    assert_eq!(names.iter().map(Value::text).collect::<Vec<_>>(), ["contoso.example", "contoso.onmicrosoft.com"]);
    let partner = &read(&mut bench, "Get-PartnerApplication")[0];
    assert_eq!(text(partner, "ApplicationIdentifier"), "00000002-0000-0ff1-ce00-000000000000");
    let switch = &read(&mut bench, "Get-SettingOverride")[0];
    assert_eq!(text(switch, "SectionName"), "ExchangeOnpremAsThirdPartyAppId");
    assert_eq!(read(&mut bench, "Get-HybridConfiguration").len(), 1);
    let by_name = Command::new("Get-AuthServer").with("Identity", "Nobody");
    assert_refused(&bench.exchange("EX01", by_name), "Nobody");
    let guid = text(&read(&mut bench, "Get-OrganizationConfig")[0], "Guid");
    assert_eq!(bench.tenant().spec.application_name(), format!("ExchangeServerApp-{guid}"));
}

#[test]
fn an_organization_relationship_is_changed_and_read_back() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    let name = text(&read(&mut bench, "Get-OrganizationRelationship")[0], "Name");
    let set = || Command::new("Set-OrganizationRelationship").with("Identity", name.as_str());
    values(&bench.exchange("EX01", set().with("TargetSharingEpr", "https://example.com/ews").with("Enabled", false)));
    let now = &read(&mut bench, "Get-OrganizationRelationship")[0];
    assert_eq!(
        (text(now, "TargetSharingEpr").as_str(), now.property("Enabled")),
        ("https://example.com/ews", Some(&Value::Bool(false)))
    );
    values(&bench.exchange("EX01", set().with("TargetSharingEpr", Value::Null)));
    assert_eq!(read(&mut bench, "Get-OrganizationRelationship")[0].property("TargetSharingEpr"), Some(&Value::Null));
    values(&bench.exchange("EX01", set().with("Enabled", false)));
    let count = bench.world.journal.counts()[&EffectKind::SetOrganizationRelationship];
    assert_eq!((count.total, count.changed), (3, 2));
    let wrong = bench.exchange("EX01", set().with("Enabled", "perhaps"));
    assert_refused(&wrong, "Enabled");
}

#[test]
fn the_way_to_the_cloud_is_tested_from_each_server() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    for server in ["EX01", "EX02", "EX03"] {
        let (verdict, detail) = test(&mut bench, server, MAILBOX);
        assert_eq!(verdict, "Success", "{detail}");
        assert!(detail.contains(&format!("L:{}-AS:", dedicated_app_id())), "{detail}");
    }
    let (verdict, detail) = test(&mut bench, "EX01", "somebody@contoso.example");
    assert!(verdict == "Error" && detail.contains("2000005") && detail.contains("invalid_user"), "{detail}");
}

#[test]
fn what_stands_in_the_way_is_told() {
    let disable = |bench: &mut Bench| change(bench, Class::AuthServer, serde_json::json!({ "Enabled": false }));
    let override_off = |bench: &mut Bench| {
        change(bench, Class::SettingOverride, serde_json::json!({ "Parameters": ["Enabled=false"] }));
    };
    let key_gone = |bench: &mut Bench| {
        bench.world.apply(Fault::CloudKeys { change: KeyChange::RemoveCurrent }).unwrap();
        bench.pass(chrono::TimeDelta::minutes(12));
    };
    let certificate_gone = |bench: &mut Bench| {
        let current = bench.config(0).current.clone().unwrap();
        bench.world.server_mut(0).store.remove(&current);
    };
    type Damage<'a> = &'a dyn Fn(&mut Bench);
    for (damage, told) in [
        (&disable as Damage<'_>, "01-01-0001"),
        (&override_off, "(403) Forbidden"),
        (&key_gone, "AADSTS700027"),
        (&certificate_gone, "is missing, has expired"),
    ] {
        let mut bench = Bench::hybrid(Hybrid::contoso());
        damage(&mut bench);
        let (verdict, detail) = test(&mut bench, "EX01", MAILBOX);
        assert!(verdict == "Error" && detail.contains(told), "{told}: {detail}");
    }
}

#[test]
fn a_server_that_publishes_too_early_fails_the_test_until_entra_has_the_key() {
    let (mut bench, made) = (Bench::hybrid(Hybrid::contoso()), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, chrono::TimeDelta::zero()));
    values(&bench.publish());
    assert!(test(&mut bench, "EX01", MAILBOX).1.contains("AADSTS700027"));
    let before = bench.cloud_keys();
    bench.write_cloud_keys(&before, Some(&made));
    bench.pass(chrono::TimeDelta::minutes(12));
    assert_eq!(test(&mut bench, "EX01", MAILBOX).0, "Success");
}

#[test]
fn the_classic_wizard_leaves_neither_application_nor_override() {
    let mut bench = Bench::hybrid(Hybrid { path: AppPath::Shared, ..Hybrid::contoso() });
    assert!(read(&mut bench, "Get-SettingOverride").is_empty());
    let (verdict, detail) = test(&mut bench, "EX01", MAILBOX);
    assert!(verdict == "Success" && detail.contains("L:00000002-0000-0ff1-ce00-000000000000-AS:"), "{detail}");
}

//! `rekey probe`: what an administrator runs first.

use lab::{
    Lab, Options,
    faults::Fault,
    organization::{Hybrid, Organization, Permission},
    server::Power,
};

use crate::support::Rekey;

/// What it prints, and its exit code.
async fn probe(config: &std::path::Path) -> (String, i32) {
    let output = Rekey::command(config, "probe").arg("contoso").output().await.unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_says_what_is_there_what_is_missing_and_how_to_mend_it() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 0, "{said}");
    for expected in
        ["Basic over https", "Exchange 15.1.2507.61", "Windows Server 2022", "clock agrees", "6 of 6 endpoints"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    lab.apply(Fault::Permission { cmdlet: "Set-AuthConfig".to_owned(), granted: false }).unwrap();
    lab.apply(Fault::Power { server: "EX03".to_owned(), power: Power::Down }).unwrap();
    lab.apply(Fault::ClockSkew { server: "EX02".to_owned(), seconds: 900 }).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 1, "{said}");
    for expected in [
        "may not run Set-AuthConfig",
        "Organization Client",
        "server_unreachable",
        "s ahead",
        "w32tm",
        "1 of 6 endpoints",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let text = std::fs::read_to_string(&files.config).unwrap().replace("file:lab-password", "env:PATH");
    std::fs::write(&files.config, text).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("[credentials_refused]") && said.contains("-> Correct username and password"), "{said}");
    assert!(!said.contains(&std::env::var("PATH").unwrap()), "the password is not repeated");
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_enters_the_tenant_of_a_hybrid_organization_and_says_what_its_administrator_must_do() {
    let organization = Organization { hybrid: Some(Hybrid::contoso().with_leftover_keys()), ..Organization::contoso() };
    let lab = Lab::start(Options { hybrid: true, organization, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 0, "{said}");
    for expected in [
        "ok   Tenant    Microsoft Entra and Graph",
        &lab.cloud().unwrap().client_id.to_string(),
        &Hybrid::contoso().application_name(),
        "not limited by a policy",
        "note Tenant    shared principal",
        "-ResetFirstPartyServicePrincipalKeyCredentials",
        "ok   Tenant    Exchange Online",
        "the tenant is good",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    for permission in [Permission::PolicyReadAll, Permission::ExchangeAdministrator] {
        lab.apply(Fault::CloudPermission { permission, granted: false }).unwrap();
    }
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 0, "a renewal can run without them: {said}");
    for expected in ["[key_lifetime_not_checked]", "Policy.Read.All", "note Tenant    Exchange Online"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    for permission in [Permission::ApplicationReadWriteOwnedBy, Permission::ApplicationReadWriteAll] {
        lab.apply(Fault::CloudPermission { permission, granted: false }).unwrap();
    }
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("BAD  Tenant    Microsoft Entra and Graph") && said.contains("Application.ReadWrite"),
        "{said}"
    );
    assert!(said.contains("would be refused") && !said.contains("eyJ") && !said.contains("PRIVATE KEY"), "{said}");
    lab.shutdown().await;
}

//! The way that most organizations use: Kerberos over plain HTTP, every message sealed, with tickets of a real KDC.

use lab::{Authentication, Lab, Options, Secret, journal::EffectKind};
use peers::Kdc;
use serde_json::json;

use crate::support::{Rekey, people};

const HOSTS: [&str; 3] = ["ex01.contoso.example", "ex02.contoso.example", "ex03.contoso.example"];

async fn lab(kdc: &Kdc, authentication: Authentication) -> Lab {
    let options = Options {
        scale: 14_400.0,
        authentication,
        username: Kdc::ACCOUNT.to_owned(),
        password: Some(Secret::new(Kdc::PASSWORD)),
        keytab: Some(kdc.keytab().to_owned()),
        kdc: Some(kdc.address()),
        ..Options::default()
    };
    Lab::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_renewal_runs_over_kerberos() {
    let kdc = Kdc::start(&HOSTS);
    let lab = lab(&kdc, Authentication::Kerberos).await;
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let mut rekey = Rekey::serve(&files.config).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap();
    bob.approve_all(&rekey, id).await;
    let report = lab.report();
    assert_eq!(report.trust.refused, 0, "{:#?}", report.trust.refusals);
    assert_eq!(report.counts[&EffectKind::Import].changed, 3);
    assert_eq!(report.counts[&EffectKind::Publish].changed, 1);
    rekey.stop().await;
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_says_how_it_logged_on() {
    let kdc = Kdc::start(&HOSTS);
    for (authentication, expected) in [
        (Authentication::Ntlm, "NTLM over http, messages sealed"),
        (Authentication::Negotiate, "Kerberos over http, messages sealed"),
        (Authentication::Kerberos, "Kerberos over http, messages sealed"),
    ] {
        let lab = lab(&kdc, authentication).await;
        let folder = tempfile::tempdir().unwrap();
        let files = lab.write_files(folder.path()).unwrap();
        let output = Rekey::command(&files.config, "probe").arg("contoso").output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(expected) && said.contains("6 of 6 endpoints"), "{said}");
        lab.shutdown().await;
    }
}

//! Hybrid organizations, from outside: the demo, and one whose cloud half is left to a person.

use std::{collections::BTreeMap, path::Path, time::Duration};

use chrono::Utc;
use domain::{Thumbprint, Timeline};
use lab::{Lab, LabCloud, Options, organization::Hybrid, trust::Leg};
use reqwest::{Method, StatusCode};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value as Json, json};
use worker::connectors::{
    Trust,
    cloud::{AppCredentials, Change, Cloud, CloudEndpoints, Holder, Patience, Signer, Way},
};

use crate::support::{Person, Rekey, people, until};

/// Four hours in a second.
const SCALE: f64 = 14_400.0;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_that_nobody_is_refused_on_any_leg() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_rekey"));
    let output = demo.args(["demo", "--hybrid"]).current_dir(folder.path()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for leg in [Leg::Dedicated, Leg::FromCloud, Leg::Servers, Leg::Partner] {
        let line = said.lines().find(|line| line.trim_start().starts_with(leg.name()) && line.contains(" checked, "));
        let line = line.unwrap_or_else(|| panic!("{} is not told of: {said}", leg.name()));
        assert!(line.ends_with(" checked, 0 refused") && !line.contains(" 0 checked"), "{line}");
    }
    assert!(said.contains("Renewal: succeeded"), "{said}");
}

/// The same configuration without the tenant.
fn leave_the_cloud_to_people(config: &Path) {
    let text = std::fs::read_to_string(config).unwrap();
    let (before, section) = text.split_once("[organization.cloud]").expect("the lab is hybrid");
    let (_, after) = section.split_once("[organization.policy]").expect("rules follow");
    std::fs::write(config, format!("{before}[organization.policy]{after}")).unwrap();
}

async fn state(person: &Person, rekey: &Rekey, id: &str) -> Json {
    person.get(rekey, &format!("/v1/renewals/{id}")).await["state"].clone()
}

/// Waits until a gate is open, and returns the state.
async fn gate(person: &Person, rekey: &Rekey, id: &str, gate: &str) -> Json {
    until(gate, async || {
        let state = state(person, rekey, id).await;
        assert!(!matches!(state["status"].as_str(), Some("failed" | "cancelled")), "{state:#}");
        state["gate"] == gate
    })
    .await;
    state(person, rekey, id).await
}

/// What somebody does in the Entra admin center: uploads the file, beside what is there.
async fn upload(lab: &Lab, pem: &str) {
    let LabCloud { url, tenant_id, client_id, certificate_pem, key_pem, .. } = lab.cloud().unwrap();
    let way = Way {
        endpoints: CloudEndpoints::custom(url, url, url).unwrap(),
        tenant: tenant_id.to_string(),
        credentials: AppCredentials {
            client_id: client_id.to_string(),
            signer: Signer::from_pem(certificate_pem.as_bytes(), key_pem.expose().as_bytes()).unwrap(),
        },
        tls: Trust::ca(lab.ca_pem().as_bytes()).build().unwrap(),
        connect_to: BTreeMap::new(),
        anchor: None,
        timeline: Timeline { real_origin: Utc::now(), virtual_origin: lab.now(), scale: SCALE },
        patience: Patience { first: Duration::from_millis(20), ..Patience::default() },
    };
    let cloud = Cloud::new(way).unwrap();
    let application = cloud.application_named(&Hybrid::contoso().application_name()).await.unwrap().unwrap();
    let certificate_der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let change = Change::Add { certificate_der, display_name: "by hand".to_owned(), beside: Vec::new() };
    let intend = async |_| Ok::<_, std::convert::Infallible>(());
    cloud.change(&Holder::Application(application.id), &change, intend).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_plan_says_what_a_person_does_and_the_run_waits_for_them() {
    let lab = Lab::start(Options { scale: SCALE, hybrid: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    leave_the_cloud_to_people(&files.config);
    let mut rekey = Rekey::serve(&files.config).await;
    let [alice, bob] = people(&files.config, [("alice", "administrator"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap();

    let execute = gate(&bob, &rekey, id, "execute").await;
    let plan = bob.get(&rekey, &format!("/v1/renewals/{id}/plan")).await;
    let trust = plan["steps"].as_array().unwrap().iter().find(|step| step["kind"] == "trust_cloud").unwrap();
    let lines: Vec<&str> =
        trust["cmdlets"].as_array().unwrap().iter().map(|line| line["line"].as_str().unwrap()).collect();
    assert!(trust["cmdlets"].as_array().unwrap().iter().all(|line| line["endpoint"] == "person"), "{trust:#}");
    for expected in ["/certificate", "Upload certificate", &Hybrid::contoso().application_name(), "gate trust_cloud"] {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
    }
    assert!(plan["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == "cloud_by_hand"));
    let (_, runbook) = bob.text(&rekey, &format!("/v1/renewals/{id}/runbook")).await;
    assert!(runbook.contains("Upload certificate"), "{runbook}");
    let path = format!("/v1/renewals/{id}/certificate");
    assert_eq!(bob.call(&rekey, Method::GET, &path, None).await.0, StatusCode::NOT_FOUND, "it is not made yet");
    bob.approve(&rekey, id, &execute).await;

    let trust_cloud = gate(&bob, &rekey, id, "trust_cloud").await;
    let (headers, pem) = bob.text(&rekey, &path).await;
    let thumbprint = Thumbprint::of_der(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    assert_eq!(headers["thumbprint"], thumbprint.as_str());
    assert!(!pem.contains("PRIVATE KEY"));
    let steps = bob.get(&rekey, &format!("/v1/renewals/{id}/steps")).await;
    let of = |kind: &str| {
        let step = steps["items"].as_array().unwrap().iter().find(|step| step["kind"] == kind);
        step.unwrap_or_else(|| panic!("{kind}: {steps:#}")).clone()
    };
    assert_eq!(of("generate")["outcome"]["thumbprint"], thumbprint.as_str());
    assert_eq!(of("stage")["status"], "pending", "nothing is announced before");
    let confirmation = json!({
        "gate": "trust_cloud", "verb": "approve", "plan_digest": trust_cloud["digest"], "reason": "I have uploaded it"
    });
    let decisions = format!("/v1/renewals/{id}/decisions");
    let (status, refused) = alice.call(&rekey, Method::POST, &decisions, Some(&confirmation)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{refused:#}");
    assert!(refused["type"].as_str().unwrap().ends_with("self_approval"), "{refused:#}");
    assert_eq!(state(&bob, &rekey, id).await["gate"], "trust_cloud");

    upload(&lab, &pem).await;
    bob.post(&rekey, &decisions, &confirmation).await;
    for next in ["publish", "clear_previous"] {
        let open = gate(&bob, &rekey, id, next).await;
        bob.approve(&rekey, id, &open).await;
    }
    until("it succeeds", async || state(&bob, &rekey, id).await["status"] == "succeeded").await;
    let trust = lab.report().trust;
    assert_eq!(trust.refused, 0, "{:#?}", trust.refusals);
    assert!(trust.legs[&Leg::Dedicated].checked > 0);
    rekey.stop().await;
    lab.shutdown().await;
}

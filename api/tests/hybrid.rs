//! Hybrid organizations: what a person who does the cloud half reads, fetches and confirms.

use chrono::TimeZone as _;
use db::StepEnd;
use domain::{
    Outcome, Snapshot, Tenant, Trouble,
    cloud::{Application, Checked, CloudKey},
    hybrid::{AuthServer, HybridObjects},
    plan::EndpointKind,
};
use serde_json::{Value, json};

use crate::support::{ALICE, BOB, NOBODY, Service, snapshot, thumbprint};

fn hybrid() -> Snapshot {
    let entra = AuthServer {
        name: "EvoSts".to_owned(),
        kind: "AzureAD".to_owned(),
        enabled: true,
        realm: "7c9e6679-7425-40de-944b-e07fc1f90ae7".to_owned(),
        application_id: Some("3f2504e0-4f89-41d3-9a0c-0305e82c3301".to_owned()),
        ..AuthServer::default()
    };
    let objects = HybridObjects {
        organization_guid: Some("8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10".to_owned()),
        auth_servers: vec![entra],
        ..HybridObjects::default()
    };
    Snapshot { hybrid: true, on_premises_hybrid: Some(objects), ..snapshot() }
}

fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let place = rest.find(part).unwrap_or_else(|| panic!("{part} is not in its place in\n{text}"));
        rest = &rest[place..];
    }
}

#[tokio::test]
async fn a_person_without_credentials_for_the_tenant_is_told_what_to_do_and_when() {
    let service = Service::start().await;
    let url = service.raise().await;
    let plan = service.plan_from(&url, hybrid()).await;
    assert!(plan.steps.iter().flat_map(|step| &step.cmdlets).any(|cmdlet| cmdlet.endpoint == EndpointKind::Person));
    let runbook = service.get(ALICE, &format!("{url}/runbook")).await;
    in_order(
        &runbook.text,
        &[
            "No credentials for the tenant are configured",
            "Put right by `New-SettingOverride",
            "## Bring it to every server",
            "Gate `trust_cloud`: one approval",
            "## Register its key in Microsoft Entra",
            "1. Fetch the new certificate, public part only: GET /v1/renewals/<this renewal>/certificate",
            "2. Microsoft Entra admin center, tenant 7c9e6679-7425-40de-944b-e07fc1f90ae7 > App registrations > ExchangeServerApp-8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10 (application id 3f2504e0-4f89-41d3-9a0c-0305e82c3301)",
            "**Wait until Entra accepts the new key**",
            "## Stage it",
            "## Test that the organization and the cloud trust each other",
            "Test-OAuthConnectivity",
            "Gate `clear_previous`",
            "## Take the old key out of Microsoft Entra",
            "### 12. prune_cloud",
            "delete AAAAAAAA",
            "The way back",
            "take the key of the new certificate out of the application",
        ],
    );
    service.stop().await;
}

#[tokio::test]
async fn the_public_part_of_the_new_certificate_can_be_fetched_when_it_is_made() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let certificate = format!("{url}/certificate");
    let problem = service.get(ALICE, &certificate).await.problem(404, "certificate_not_ready");
    assert!(problem["detail"].as_str().unwrap().contains("awaiting_approval"));
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    let answer = service.get(ALICE, &certificate).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/pem-certificate-chain"));
    assert_eq!(answer.header("thumbprint"), thumbprint('B').as_str());
    assert_eq!(answer.text, "-----BEGIN CERTIFICATE-----\nMIIBPUBLIC\n-----END CERTIFICATE-----\n");
    service.get(NOBODY, &certificate).await.problem(403, "forbidden");
    service.stop().await;
}

#[tokio::test]
async fn a_person_confirms_at_the_gate_that_only_plans_by_hand_have() {
    let service = Service::start().await;
    let decide = async |url: &str, gate: &str, digest: &str| {
        let body =
            json!({"gate": gate, "verb": "approve", "plan_digest": digest, "reason": "Registered in tenant contoso"});
        service.post(BOB, &format!("{url}/decisions"), body).await
    };
    let (plain, digest) = service.planned().await;
    decide(&plain, "trust_cloud", &digest).await.problem(409, "no_such_gate");
    let gates = service.get(ALICE, &format!("{plain}/decisions")).await.expect(200)["gates"].clone();
    let names = |gates: &Value| gates.as_array().unwrap().iter().map(|gate| gate["gate"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&gates), ["execute", "publish", "clear_previous"]);
    service.post(crate::support::OSCAR, &format!("{plain}/cancel"), json!({"reason": "Another one"})).await.expect(200);

    let url = service.raise().await;
    let digest = service.plan_from(&url, hybrid()).await.digest().to_string();
    decide(&url, "execute", &digest).await.expect(201);
    service.generate().await;
    for _ in 0..2 {
        let step = service.claim().await;
        service.finish(&step, StepEnd::Done(Outcome::not_done("played"))).await;
    }
    let state = service.get(ALICE, &url).await.expect(200)["state"].clone();
    assert_eq!((&state["status"], &state["gate"]), (&json!("awaiting_approval"), &json!("trust_cloud")));
    decide(&url, "trust_cloud", &digest).await.expect(201);
    let state = service.get(ALICE, &url).await.expect(200)["state"].clone();
    assert_eq!((&state["status"], &state["phase"]), (&json!("running"), &json!("trust_cloud")));
    service.stop().await;
}

#[tokio::test]
async fn what_joins_the_organization_to_the_cloud_is_shown_with_what_is_wrong() {
    let service = Service::start().await;
    service.get(ALICE, "/v1/organizations/contoso/hybrid").await.problem(404, "not_discovered_yet");
    let key = |id: &str, digit: char, year: i32| CloudKey {
        key_id: id.to_owned(),
        thumbprint: Some(thumbprint(digit)),
        display_name: Some("Microsoft Exchange Server Auth Certificate".to_owned()),
        not_before: chrono::Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).single(),
        not_after: None,
    };
    let application = Application {
        object_id: "object-1".to_owned(),
        app_id: "another-application".to_owned(),
        display_name: "ExchangeServerApp-1".to_owned(),
        keys: vec![key("key-of-a", 'A', 2024), key("left", 'D', 2019)],
    };
    let read = Tenant::Read {
        application: Some(application),
        shared_principal: None,
        max_key_lifetime_days: None,
        key_lifetime_not_read: None,
        exchange_online: Checked::NotChecked { reason: "not configured".to_owned() },
    };
    let down = Tenant::Unreachable {
        trouble: Trouble::new("cloud_unreachable", "No answer", "Open the way to it"),
        retry_after_seconds: None,
    };
    for (tenant, presence) in [(read, "present"), (down, "unknown")] {
        let seen = Snapshot { tenant: Some(tenant), ..hybrid() };
        service.db.write(async |tx| tx.insert_snapshot(None, db::Purpose::Check, &seen).await).await.unwrap();
        let rows = service.get(ALICE, "/v1/organizations/contoso/certificates").await.expect(200)["items"].clone();
        assert_eq!(rows[0]["entra"], presence);
        let shown = service.get(ALICE, "/v1/organizations/contoso/hybrid").await.expect(200);
        let left = shown["drift"].as_array().unwrap().iter().any(|one| one["code"] == "cloud_key_given_up");
        assert_eq!(left, presence == "present", "{shown}");
    }
    let shown = service.get(ALICE, "/v1/organizations/contoso/hybrid").await.expect(200);
    assert_eq!((&shown["hybrid"], &shown["tenant"]["reach"]), (&json!(true), &json!("unreachable")));
    let missing =
        shown["drift"].as_array().unwrap().iter().find(|one| one["code"] == "setting_override_missing").unwrap();
    assert!(missing["fix"].as_str().unwrap().starts_with("New-SettingOverride"));
    assert_eq!(shown["on_premises"]["auth_servers"][0]["name"], "EvoSts");
    service.stop().await;
}

//! What is configured, and what was seen of it.

use domain::{
    Trouble,
    snapshot::{Certificate, Key, Store},
};
use serde_json::json;

use crate::support::{ALICE, Service, snapshot, thumbprint};

#[tokio::test]
async fn organizations_are_shown_with_their_policy() {
    let service = Service::start().await;
    let list = service.get(ALICE, "/v1/organizations").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().iter().map(|o| &o["id"]).collect::<Vec<_>>(), ["contoso", "fabrikam"]);
    assert_eq!(service.get(ALICE, "/v1/organizations/contoso").await.expect(200), list["items"][0]);
    let policy = service.get(ALICE, "/v1/organizations/contoso/policy").await.expect(200);
    assert_eq!(policy["policy"], list["items"][0]["policy"]);
    // Also what nobody has configured.
    let usual = [
        ("blackout", json!([])),
        ("break_glass", json!("not_requester")),
        ("emergency", json!(null)),
        ("executors", json!([])),
        ("gates", json!({})),
        ("infeasible", json!("refuse")),
        ("precedence", json!("blackout")),
        ("soak_max_hours", json!(168)),
        ("standard", json!(null)),
        ("ticket", json!("optional")),
        ("time_zone", json!("UTC")),
        ("window", json!([])),
    ];
    for (member, value) in usual {
        assert_eq!(policy["policy"].get(member), Some(&value), "{member}");
    }
    let url = service.raise().await;
    assert_eq!(service.plan(&url).await.policy.as_str(), policy["digest"]);
    service.get(ALICE, "/v1/organizations/northwind").await.problem(404, "not_found");
    service.stop().await;
}

#[tokio::test]
async fn nothing_is_shown_of_servers_that_nobody_has_looked_at() {
    let service = Service::start().await;
    for what in ["servers", "certificates", "auth-config"] {
        let problem =
            service.get(ALICE, &format!("/v1/organizations/contoso/{what}")).await.problem(404, "not_discovered_yet");
        assert!(problem["action"].as_str().unwrap().contains("preflight"));
        service.get(ALICE, &format!("/v1/organizations/northwind/{what}")).await.problem(404, "not_found");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_certificate_matrix_tells_which_server_has_which_certificate() {
    let service = Service::start().await;
    let mut seen = snapshot();
    seen.auth_config[1].next = Some(thumbprint('C'));
    let staged = Certificate { thumbprint: thumbprint('C'), key: Key::Ksp, ..certificate(&seen.servers[0].store) };
    if let Store::Read { certificates } = &mut seen.servers[0].store {
        certificates.push(staged);
    }
    let mut down = seen.servers[1].clone();
    down.fqdn = "ex03.contoso.example".to_owned();
    down.store = Store::Unreachable { trouble: Trouble::new("server_unreachable", "No answer", "Start it") };
    seen.servers.push(down);
    service.db.write(async |tx| tx.insert_snapshot(None, db::Purpose::Check, &seen).await).await.unwrap();

    let rows = service.get(ALICE, "/v1/organizations/contoso/certificates").await.expect(200)["items"].clone();
    assert_eq!((&rows[0]["named"], &rows[1]["named"]), (&json!(["current"]), &json!(["next"])));
    let cells =
        |row: usize| rows[row]["servers"].as_array().unwrap().iter().map(|c| c["presence"].clone()).collect::<Vec<_>>();
    assert_eq!(cells(0), ["present", "present", "unknown"]);
    assert_eq!(cells(1), ["present", "absent", "unknown"]);
    assert_eq!(rows[1]["servers"][0]["key"], "ksp");

    let auth_config = service.get(ALICE, "/v1/organizations/contoso/auth-config").await.expect(200);
    assert_eq!((&auth_config["agreed"], auth_config["items"].as_array().unwrap().len()), (&json!(false), 2));
    let servers = service.get(ALICE, "/v1/organizations/contoso/servers").await.expect(200);
    assert_eq!(servers["items"][2]["store"]["trouble"]["action"], "Start it");
    service.stop().await;
}

fn certificate(store: &Store) -> Certificate {
    match store {
        Store::Read { certificates } => certificates[0].clone(),
        other => panic!("{other:?} has no certificates"),
    }
}

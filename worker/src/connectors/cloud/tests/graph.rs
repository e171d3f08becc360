use std::{cell::RefCell, convert::Infallible};

use serde_json::json;

use super::{super::*, peer::*};
use crate::sealing::KeyPair;

fn holder() -> Holder {
    Holder::Application(OBJECT.to_owned())
}

fn add(pair: &KeyPair, beside: &[&Credential]) -> Change {
    Change::Add {
        certificate_der: pair.certificate_der.clone(),
        display_name: "rekey".to_owned(),
        beside: beside.iter().map(|key| key.key_id().to_owned()).collect(),
    }
}

async fn change(cloud: &Cloud, change: &Change) -> Result<(Changed, Vec<String>), CloudError> {
    let intents = RefCell::new(Vec::new());
    let intend = async |line| {
        intents.borrow_mut().push(line);
        Ok::<_, Infallible>(())
    };
    match cloud.change(&holder(), change, intend).await {
        Ok(changed) => Ok((changed, intents.into_inner())),
        Err(ChangeError::Cloud(error) | ChangeError::Lost { error, .. }) => Err(error),
        Err(ChangeError::Intent(never)) => match never {},
    }
}

fn thumbprints(keys: &[Credential]) -> Vec<domain::Thumbprint> {
    keys.iter().map(|key| key.thumbprint().unwrap()).collect()
}

#[tokio::test]
async fn a_new_key_stands_beside_the_old_ones_which_stay_as_they_are() {
    let peer = Peer::start().await;
    let (old, older, new) = (pair(), pair(), pair());
    peer.application(&[&old, &older]).await;
    let cloud = peer.cloud();
    let found = cloud.application_named("ExchangeServerApp-a").await.unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.app_id.as_str()), (OBJECT, EXCHANGE_APP));
    assert_eq!(thumbprints(&found.key_credentials), [old.thumbprint(), older.thumbprint()]);
    let beside: Vec<&Credential> = found.key_credentials.iter().collect();
    let (changed, intents) = change(&cloud, &add(&new, &beside)).await.unwrap();
    assert!(!changed.already);
    assert_eq!(changed.before, found.key_credentials);
    assert_eq!(&changed.after[..2], &found.key_credentials[..], "the others are exactly as before");
    assert_eq!(changed.after[2].thumbprint(), Some(new.thumbprint()));
    let (_, parsed) = x509_parser::parse_x509_certificate(&new.certificate_der).unwrap();
    assert_eq!(changed.after[2].not_after().unwrap().timestamp(), parsed.validity().not_after.timestamp());
    let line =
        format!("PATCH {}/v1.0/applications/{OBJECT} keyCredentials: 2 kept + {}", peer.base(), new.thumbprint());
    assert_eq!(intents, [line]);
    let sent = &peer.asked("graph", "PATCH").await[0]["body"]["keyCredentials"];
    assert_eq!(sent[0].get("key"), None, "kept entries go without their keys");

    let (again, intents) = change(&cloud, &add(&new, &beside)).await.unwrap();
    assert!(again.already && intents.is_empty());
    assert_eq!(peer.asked("graph", "PATCH").await.len(), 1);
}

#[tokio::test]
async fn only_the_old_key_is_taken_out() {
    let peer = Peer::start().await;
    let (old, new) = (pair(), pair());
    peer.application(&[&old, &new]).await;
    let cloud = peer.cloud();
    let keys = cloud.keys(&holder()).await.unwrap();
    let remove = Change::Remove { key_ids: vec![keys[0].key_id().to_ascii_uppercase()], beside: Vec::new() };
    let (changed, _) = change(&cloud, &remove).await.unwrap();
    assert_eq!(changed.after, keys[1..]);
    assert!(change(&cloud, &remove).await.unwrap().0.already);
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for_and_the_keys_are_read_again_first() {
    let inner = json!({ "date": "2026-11-26T06:00:00", "request-id": "r", "client-request-id": "c" });
    let said = |code: &str, text: &str| json!({ "error": { "code": code, "message": text, "innerError": inner } });
    let update = "Update to existing credential with KeyId 'x' is not allowed.";
    for fault in [
        json!({ "status": 409, "body": said("Directory_ConcurrencyViolation", "Concurrent write") }),
        json!({ "status": 429, "headers": { "Retry-After": "1" }, "body": said("TooManyRequests", "Slow down") }),
        json!({ "status": 503, "body": said("ServiceUnavailable", "Later") }),
        json!({ "status": 404, "body": said("Request_ResourceNotFound", "Not yet") }),
        json!({ "status": 400, "body": said("KeyCredentialsInvalidEndDate", "Key credential end date is invalid.") }),
        json!({ "status": 400, "body": said("Request_BadRequest", update) }),
        json!({ "do": "drop" }),
        json!({ "do": "drop_after" }),
    ] {
        let peer = Peer::start().await;
        let (old, new) = (pair(), pair());
        peer.application(&[&old]).await;
        let mut fault = fault;
        fault["on"] = "graph".into();
        fault["method"] = "PATCH".into();
        peer.fault(fault.clone()).await;
        let (changed, intents) = change(&peer.cloud(), &add(&new, &[])).await.unwrap();
        assert_eq!(thumbprints(&changed.after), [old.thumbprint(), new.thumbprint()], "{fault}");
        let patches = peer.asked("graph", "PATCH").await;
        assert_eq!(intents.len(), patches.len(), "each is on record before it is sent");
        assert_eq!(patches.len(), if fault["do"] == "drop_after" { 1 } else { 2 }, "{fault}");
        if let [first, second] = patches.as_slice() {
            let read = peer.asked("graph", "GET").await;
            let between = |at: &serde_json::Value| {
                at["at"].as_f64() > first["at"].as_f64() && at["at"].as_f64() < second["at"].as_f64()
            };
            assert!(read.iter().any(between), "{fault}");
            let waited = second["at"].as_f64().unwrap() - first["at"].as_f64().unwrap();
            assert!(fault["status"] != 429 || waited >= 1.0, "{waited}");
        }
    }
}

#[tokio::test]
async fn a_stale_read_is_read_again_and_nothing_is_sent_twice() {
    let peer = Peer::start().await;
    let (old, new) = (pair(), pair());
    peer.application(&[&old]).await;
    let cloud = peer.cloud();
    // The read before comes from the past only when there is one: these two are the reads back.
    peer.tell("/stale", json!({ "reads": 2 })).await;
    let (changed, _) = change(&cloud, &add(&new, &[])).await.unwrap();
    assert_eq!(changed.after.len(), 2);
    assert_eq!(peer.asked("graph", "PATCH").await.len(), 1);
}

#[tokio::test]
async fn a_key_that_the_plan_saw_must_be_there_before_anything_is_sent() {
    let peer = Peer::start().await;
    let (old, second, new) = (pair(), pair(), pair());
    peer.application(&[&old]).await;
    let cloud = peer.cloud();
    let (changed, _) = change(&cloud, &add(&second, &[])).await.unwrap();
    let both: Vec<&Credential> = changed.after.iter().collect();
    // A replica that lacks the second one would have it erased.
    peer.tell("/stale", json!({ "reads": 1 })).await;
    let (changed, _) = change(&cloud, &add(&new, &both)).await.unwrap();
    assert_eq!(thumbprints(&changed.after), [old.thumbprint(), second.thumbprint(), new.thumbprint()]);

    peer.application(&[&old]).await;
    let error = change(&cloud, &add(&new, &both)).await.unwrap_err();
    assert_eq!(error.trouble.code, "cloud_keys_changed");
}

#[tokio::test]
async fn somebody_elses_change_at_the_same_time_stops_the_run() {
    let peer = Peer::start().await;
    let (old, new, rival) = (pair(), pair(), pair());
    peer.application(&[&old]).await;
    peer.tell("/rival", json!({ "certificate": certificate_pem(&rival) })).await;
    let error = change(&peer.cloud(), &add(&new, &[])).await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "cloud_keys_changed"));
}

#[tokio::test]
async fn a_refusal_says_which_permission_is_missing() {
    let peer = Peer::start().await;
    peer.application(&[&pair()]).await;
    let body = json!({ "error": {
        "code": "Authorization_RequestDenied", "message": "Insufficient privileges to complete the operation.",
        "innerError": { "date": "2026-11-26T06:00:00", "request-id": "the-request", "client-request-id": "c" }
    } });
    peer.fault(json!({ "on": "graph", "method": "PATCH", "status": 403, "body": body })).await;
    let error = change(&peer.cloud(), &add(&pair(), &[])).await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "cloud_permission_missing"));
    assert!(
        error.trouble.message.contains("the-request") && error.trouble.action.contains("Application.ReadWrite.OwnedBy")
    );
    assert_eq!(peer.asked("graph", "PATCH").await.len(), 1);
    let bad = json!({ "error": { "code": "Request_BadRequest", "message": "No.", "innerError": {} } });
    peer.fault(json!({ "on": "graph", "method": "PATCH", "status": 400, "body": bad })).await;
    let error = change(&peer.cloud(), &add(&pair(), &[])).await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "cloud_refused"));
}

#[tokio::test]
async fn an_application_is_found_by_id_or_name_and_two_of_a_name_are_not_guessed_at() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    assert!(cloud.application(EXCHANGE_APP).await.unwrap().is_none());
    peer.application(&[]).await;
    assert_eq!(cloud.application(EXCHANGE_APP).await.unwrap().unwrap().id, OBJECT);
    let twin = json!({ "id": CLIENT, "appId": CLIENT, "displayName": "ExchangeServerApp-a" });
    peer.tell("/objects", json!({ "kind": "applications", "object": twin })).await;
    let error = cloud.application_named("ExchangeServerApp-a").await.unwrap_err();
    assert_eq!(error.trouble.code, "application_ambiguous");
    // Just created: a replica knows it, another does not yet.
    let missing = json!({ "error": { "code": "Request_ResourceNotFound", "message": "x", "innerError": {} } });
    peer.fault(json!({ "on": "graph", "method": "GET", "skip": 1, "status": 404, "body": missing })).await;
    assert!(cloud.application(EXCHANGE_APP).await.unwrap().is_some());
}

#[tokio::test]
async fn a_token_that_graph_no_longer_takes_is_replaced() {
    let peer = Peer::start().await;
    peer.application(&[&pair()]).await;
    let cloud = peer.cloud();
    cloud.keys(&holder()).await.unwrap();
    peer.tell("/tokens", json!({})).await;
    cloud.keys(&holder()).await.unwrap();
    assert_eq!(peer.asked("token", "POST").await.len(), 2);
    let denied = json!({ "error": { "code": "InvalidAuthenticationToken", "message": "x" } });
    peer.fault(json!({ "on": "graph", "count": 2, "status": 401, "body": denied })).await;
    assert_eq!(cloud.keys(&holder()).await.unwrap_err().trouble.code, "cloud_token_refused");
}

#[tokio::test]
async fn the_policies_of_the_tenant_limit_a_keys_life() {
    let peer = Peer::start().await;
    peer.application(&[]).await;
    let cloud = peer.cloud();
    let application = cloud.application(EXCHANGE_APP).await.unwrap().unwrap();
    assert_eq!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::Unlimited);
    let restrictions = |max: &str| {
        json!({ "keyCredentials": [
        { "restrictionType": "asymmetricKeyLifetime", "state": "enabled", "maxLifetime": max, "restrictForAppsCreatedAfterDateTime": "2024-01-01T00:00:00Z" }
    ] })
    };
    let default = json!({ "isEnabled": true, "applicationRestrictions": restrictions("P180D") });
    peer.tell("/policies", json!({ "default": default, "own": [] })).await;
    assert_eq!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::Days(180));
    let own = json!([{ "id": "p", "displayName": "own", "isEnabled": true, "restrictions": restrictions("P2Y") }]);
    peer.tell("/policies", json!({ "default": default, "own": own })).await;
    assert_eq!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::Days(730));
    let denied = json!({ "error": { "code": "Authorization_RequestDenied", "message": "No." } });
    peer.fault(json!({ "on": "graph", "status": 403, "body": denied })).await;
    assert!(matches!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::NotChecked(_)));
}

#[tokio::test]
async fn the_shared_principal_gives_up_old_keys_and_keeps_the_others() {
    let peer = Peer::start().await;
    let (old, kept) = (pair(), pair());
    let object = json!({ "id": "sp", "appId": well_known::EXCHANGE, "displayName": "Office 365 Exchange Online" });
    let certificates = [certificate_pem(&old), certificate_pem(&kept)];
    peer.tell(
        "/objects",
        json!({ "kind": "servicePrincipals", "object": object, "certificates": certificates, "base64": true }),
    )
    .await;
    let cloud = peer.cloud();
    let principal = cloud.shared_principal().await.unwrap().unwrap();
    assert_eq!(thumbprints(&principal.key_credentials), [old.thumbprint(), kept.thumbprint()]);
    let holder = Holder::ServicePrincipal(principal.id);
    let intend = async |_| Ok::<_, Infallible>(());
    let remove = Change::Remove { key_ids: vec![principal.key_credentials[0].key_id().to_owned()], beside: Vec::new() };
    let changed = cloud.change(&holder, &remove, intend).await.unwrap();
    assert_eq!(thumbprints(&changed.after), [kept.thumbprint()]);
    let all = changed.after.iter().map(|key| key.key_id().to_owned()).collect();
    let changed = cloud.change(&holder, &Change::Remove { key_ids: all, beside: Vec::new() }, intend).await.unwrap();
    assert!(changed.after.is_empty());
}

#[tokio::test]
async fn a_new_key_is_accepted_only_when_the_token_service_knows_it() {
    let peer = Peer::start().await;
    let (old, new) = (pair(), pair());
    peer.application(&[&old]).await;
    peer.client(EXCHANGE_APP, &[&old]).await;
    let cloud = peer.cloud();
    change(&cloud, &add(&new, &[])).await.unwrap();
    let signer = Signer::from_pair(&new).unwrap();
    assert!(
        matches!(cloud.accepts(EXCHANGE_APP, &signer).await.unwrap(), Acceptance::NotYet(_)),
        "Graph shows it, and it is refused"
    );
    peer.client(EXCHANGE_APP, &[&old, &new]).await;
    assert_eq!(cloud.accepts(EXCHANGE_APP, &signer).await.unwrap(), Acceptance::Accepted);
}

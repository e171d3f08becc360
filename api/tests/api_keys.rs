//! Keys of programs: told once, kept as a hash, revoked at once.

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, ROOT, Service, VERA};

async fn make(service: &Service, body: Value) -> Value {
    service.post(ROOT, "/v1/api-keys", body).await.expect(201)
}

async fn revoke(service: &Service, id: &str) -> Answer {
    let request = service.request(ROOT, Method::DELETE, &format!("/v1/api-keys/{id}"));
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_key_is_told_once_and_used_in_either_header() {
    for service in Service::start_on_each().await {
        let made = make(&service, json!({"name": "servicenow", "roles": ["requester"], "groups": ["senders"]})).await;
        let key = made["key"].as_str().unwrap();
        for headers in [("x-api-key", key.to_owned()), ("authorization", format!("Bearer {key}"))] {
            let told = service.ask("/v1/whoami", &[(headers.0, &headers.1)]).await.expect(200);
            assert_eq!((&told["subject"], &told["credential"]), (&json!("api_key:servicenow"), &json!("api_key")));
            assert_eq!((&told["roles"], &told["groups"]), (&json!(["requester"]), &json!(["senders"])));
            assert_eq!(told["expires_at"], made["expires_at"]);
        }
        let list = service.get(ROOT, "/v1/api-keys").await;
        let secret = key.rsplit('_').next().unwrap();
        assert!(!list.text.contains(secret) && !list.text.contains("hash"), "{}", list.text);
        let shown = &list.expect(200)["items"][0];
        assert_eq!((&shown["name"], &shown["created_by"]), (&json!("servicenow"), &json!(ROOT.name)));
        assert!(shown["last_used_at"].is_string());
        let audit = service.get(VERA, "/v1/audit").await;
        assert!(audit.text.contains("api_key.created") && !audit.text.contains(secret), "{}", audit.text);
        service.stop().await;
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_the_next_request_on() {
    let service = Service::start().await;
    let made = make(&service, json!({"name": "ansible", "roles": ["requester"]})).await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    service.ask("/v1/renewals", &[("x-api-key", key)]).await.expect(200);
    for _ in 0..2 {
        assert_eq!(revoke(&service, id).await.status, 204);
    }
    let problem = service.ask("/v1/renewals", &[("x-api-key", key)]).await.problem(401, "unauthenticated");
    assert!(problem["detail"].as_str().unwrap().contains("was revoked at"), "{problem}");
    assert_eq!(service.get(ROOT, "/v1/api-keys").await.expect(200)["items"][0]["revoked_by"], ROOT.name);
    revoke(&service, "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1").await.problem(404, "not_found");
    revoke(&service, "42").await.problem(404, "not_found");
    let refused = &Service::recorded(&service.db).await;
    let refused = refused.iter().find(|entry| entry.action == "access.refused").unwrap();
    assert_eq!(refused.actor, "api_key:ansible", "whose key it was is known");
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_a_good_key_is_refused_without_saying_what_was_right() {
    let service = Service::start().await;
    let made = make(&service, json!({"name": "a", "roles": ["requester"]})).await;
    let key = made["key"].as_str().unwrap();
    let other = make(&service, json!({"name": "b", "roles": ["requester"]})).await["key"].as_str().unwrap().to_owned();
    let (id, secret) = key.rsplit_once('_').unwrap();
    let other_secret = other.rsplit('_').next().unwrap();
    let unknown = format!("rk_{}_{secret}", uuid::Uuid::now_v7().simple());
    for wrong in [&format!("{id}_{other_secret}"), &unknown, &format!("{key}0"), "rk_", "nonsense"] {
        let problem = service.ask("/v1/renewals", &[("x-api-key", wrong)]).await.problem(401, "unauthenticated");
        assert_eq!(problem["detail"], "The API key is not one of this service.", "{wrong}");
    }
    let both = [("x-api-key", key), ("authorization", "Bearer x")];
    let problem = service.ask("/v1/renewals", &both).await.problem(401, "unauthenticated");
    assert!(problem["detail"].as_str().unwrap().contains("send one"));
    service.stop().await;
}

#[tokio::test]
async fn a_key_ends_with_its_time() {
    let service = Service::start().await;
    let (id, secret) = (uuid::Uuid::now_v7(), "ab".repeat(32));
    let expires_at = Utc::now() - TimeDelta::seconds(1);
    let key = db::ApiKey {
        id,
        name: "late".to_owned(),
        secret_hash: aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref().to_vec(),
        grants: db::Grants { roles: vec!["requester".to_owned()], groups: Vec::new(), organizations: None },
        created_by: ROOT.name.to_owned(),
        created_at: expires_at - TimeDelta::days(1),
        expires_at,
        last_used_at: None,
        revoked_by: None,
        revoked_at: None,
    };
    service.db.write(async |tx| tx.insert_api_key(&key, Utc::now()).await).await.unwrap();
    let text = format!("rk_{}_{secret}", id.simple());
    let problem = service.ask("/v1/whoami", &[("x-api-key", &text)]).await.problem(401, "unauthenticated");
    assert!(problem["detail"].as_str().unwrap().contains("expired at"), "{problem}");
    service.stop().await;
}

#[tokio::test]
async fn a_key_neither_decides_nor_makes_keys() {
    let service = Service::start().await;
    let cases = [
        (json!({"name": "a", "roles": ["approver"]}), "/roles/0"),
        (json!({"name": "a", "roles": ["requester", "administrator"]}), "/roles/1"),
        (json!({"name": "a", "roles": ["break_glass"]}), "/roles/0"),
        (json!({"name": "a", "roles": []}), "/roles"),
        (json!({"name": "", "roles": ["requester"]}), "/name"),
        (json!({"name": "a\nb", "roles": ["requester"]}), "/name"),
        (json!({"name": "a", "roles": ["requester"], "organizations": []}), "/organizations"),
        (json!({"name": "a", "roles": ["requester"], "organizations": ["northwind"]}), "/organizations"),
        (json!({"name": "a", "roles": ["requester"], "expires_in_days": 0}), "/expires_in_days"),
        (json!({"name": "a", "roles": ["requester"], "created_by": "bob"}), "/created_by"),
        (json!({"name": "a", "roles": ["requester"], "secret_hash": "00"}), "/secret_hash"),
    ];
    for (body, pointer) in cases {
        let problem = service.post(ROOT, "/v1/api-keys", body.clone()).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let key = make(&service, json!({"name": "op", "roles": ["operator"]})).await["key"].as_str().unwrap().to_owned();
    service.ask("/v1/api-keys", &[("x-api-key", &key)]).await.problem(403, "forbidden");
    service.post(ALICE, "/v1/api-keys", json!({"name": "a", "roles": ["requester"]})).await.problem(403, "forbidden");
    assert_eq!(service.get(ROOT, "/v1/api-keys").await.expect(200)["items"].as_array().unwrap().len(), 1);
    service.stop().await;
}

//! What holds for every answer: headers, trace ids, health, and that no token ever comes back.

use reqwest::Method;
use serde_json::json;

use crate::support::{ALICE, Answer, BOB, ROOT, Service, VERA};

#[tokio::test]
async fn every_answer_has_a_trace_id_and_security_headers() {
    let service = Service::start().await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let paths = ["/v1/renewals", "/v1/renewals/42", "/nothing", "/healthz", "/swagger-ui/"];
    for path in paths {
        let request =
            service.request(ALICE, Method::GET, path).header("traceparent", format!("00-{id}-00f067aa0ba902b7-01"));
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.header("trace-id"), id, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("cache-control") == "no-store", path != "/swagger-ui/", "{path}");
    }
    let made = service.get(ALICE, "/v1/renewals").await;
    assert_eq!(made.header("trace-id").len(), 32);
    assert_ne!(made.header("trace-id"), service.get(ALICE, "/v1/renewals").await.header("trace-id"));
    service.stop().await;
}

#[tokio::test]
async fn the_service_is_ready_when_its_database_is_migrated() {
    let service = Service::start_unmigrated().await;
    let ask = async |path: &str| Answer::of(service.anonymous(Method::GET, path).send().await.unwrap()).await;
    ask("/healthz").await.expect(200);
    let problem = ask("/readyz").await.problem(503, "not_ready");
    assert!(problem["action"].as_str().unwrap().contains("rekey migrate"));
    service.db.migrate().await.unwrap();
    assert_eq!(ask("/readyz").await.expect(200)["status"], "ready");
    service.db.close().await;
    ask("/readyz").await.problem(503, "not_ready");
    ask("/healthz").await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_failure_of_the_database_is_told_without_its_particulars() {
    let service = Service::start().await;
    service.db.close().await;
    let problem = service.get(ALICE, "/v1/renewals").await.problem(500, "internal");
    let text = problem.to_string().to_lowercase();
    assert!(!text.contains("pool") && !text.contains("sql"), "{text}");
    service.stop().await;
}

#[tokio::test]
async fn a_token_never_appears_in_an_answer_or_in_the_audit() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let tokens = [ALICE, BOB, ROOT, VERA].map(|person| person.token());
    let mut texts = Vec::new();
    for token in &tokens {
        for (method, path) in [
            (Method::GET, "/v1/whoami".to_owned()),
            (Method::GET, url.clone()),
            (Method::GET, format!("/v1/audit?limit=200&access_token={token}")),
            (Method::GET, format!("/v1/nothing?token={token}")),
            (Method::POST, format!("{url}/decisions")),
            (Method::POST, format!("{url}/pause")),
        ] {
            let body = json!({"gate": "execute", "verb": "reject", "plan_digest": digest, "reason": "No"});
            let request = service.anonymous(method, &path).bearer_auth(token).json(&body);
            texts.push(Answer::of(request.send().await.unwrap()).await);
        }
        let broken = service.anonymous(Method::GET, "/v1/renewals").bearer_auth(format!("{token}x"));
        texts.push(Answer::of(broken.send().await.unwrap()).await);
    }
    texts.push(service.get(VERA, &format!("{url}/evidence")).await);
    let audit = service.get(VERA, "/v1/audit?limit=200").await;
    assert!(audit.text.contains("access.refused"));
    texts.push(audit);
    for answer in texts {
        for token in &tokens {
            let signature = token.rsplit('.').next().unwrap();
            let seen = format!("{:?}{}", answer.headers, answer.text);
            assert!(!seen.contains(signature), "{seen}");
        }
    }
    service.stop().await;
}

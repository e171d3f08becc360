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
    let problem = service.get(ALICE, "/v1/renewals").await.problem(503, "database_unavailable");
    let text = problem.to_string().to_lowercase();
    assert!(!text.contains("pool") && !text.contains("sql"), "{text}");
    let request = service.request(ALICE, Method::POST, "/v1/renewals").json(&json!({ "organization": "contoso" }));
    let answer = Answer::of(request.send().await.unwrap()).await;
    answer.problem(503, "database_unavailable");
    assert_eq!(answer.header("retry-after"), "1");
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

#[tokio::test]
async fn a_wrong_method_on_a_known_path_is_told_which_are_right() {
    let service = Service::start().await;
    let id = "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1";
    let cases = [
        (Method::DELETE, "/v1/renewals".to_owned(), "GET, HEAD, POST"),
        (Method::PUT, format!("/v1/renewals/{id}"), "GET, HEAD"),
        (Method::GET, format!("/v1/renewals/{id}/cancel"), "POST"),
        (Method::HEAD, "/v1/hooks/jira/main".to_owned(), "POST"),
        (Method::OPTIONS, "/v1/audit".to_owned(), "GET, HEAD"),
        (Method::POST, "/healthz".to_owned(), "GET, HEAD"),
        (Method::PATCH, format!("/v1/api-keys/{id}"), "DELETE"),
    ];
    for (method, path, allowed) in cases {
        let request = service.anonymous(method.clone(), &path);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allowed), "{method} {path}");
        if method != Method::HEAD {
            answer.problem(405, "method_not_allowed");
        }
    }
    Answer::of(service.anonymous(Method::POST, "/v1/nothing").send().await.unwrap()).await.problem(404, "not_found");
    service.stop().await;
}

#[tokio::test]
async fn head_tells_what_get_would_without_its_body() {
    let service = Service::start().await;
    let (url, _) = service.planned().await;
    for path in [url.as_str(), "/v1/renewals", "/v1/nothing", "/healthz", "/readyz", "/openapi.json"] {
        let get = Answer::of(service.request(ALICE, Method::GET, path).send().await.unwrap()).await;
        let head = Answer::of(service.request(ALICE, Method::HEAD, path).send().await.unwrap()).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        for name in ["content-type", "content-length", "etag", "cache-control"] {
            assert_eq!(head.headers.get(name), get.headers.get(name), "{path}: {name}");
        }
    }
    let stream = service.request(ALICE, Method::HEAD, &format!("{url}/events")).send().await.unwrap();
    assert_eq!(Answer::of(stream).await.header("content-type"), "text/event-stream");
    Answer::of(service.anonymous(Method::HEAD, "/v1/renewals").send().await.unwrap()).await.expect(401);
    service.stop().await;
}

#[tokio::test]
async fn no_other_origin_is_let_in_by_a_browser() {
    let service = Service::start().await;
    for method in [Method::GET, Method::OPTIONS] {
        let request = service.request(ALICE, method, "/v1/renewals").header("origin", "https://evil.example");
        let answer = Answer::of(request.header("access-control-request-method", "POST").send().await.unwrap()).await;
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{answer:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn mistakes_in_a_body_are_told_in_words_of_json() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let good = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Good"});
    let bad = [json!(7), json!("x"), json!(true), json!(null), json!([]), json!({}), json!(1.5)];
    let mut texts = Vec::new();
    for wrong in &bad {
        texts.push(service.post(BOB, &format!("{url}/decisions"), wrong.clone()).await.text);
        for member in ["gate", "verb", "plan_digest", "reason", "more"] {
            let mut body = good.clone();
            body[member] = wrong.clone();
            if (member, wrong) == ("reason", &json!("x")) {
                continue;
            }
            let answer = service.post(BOB, &format!("{url}/decisions"), body).await;
            assert_eq!(answer.problem(422, "invalid_request")["errors"][0]["pointer"], format!("/{member}"));
            texts.push(answer.text);
        }
        for member in ["organization", "reason", "ticket", "not_before", "allow_absent", "note"] {
            let answer = service.post(ALICE, "/v1/renewals", json!({"organization": "fabrikam", member: wrong})).await;
            texts.push(answer.text);
        }
        for member in ["roles", "groups", "organizations", "expires_in_days"] {
            let mut body = json!({"name": "a", "roles": ["requester"]});
            body[member] = wrong.clone();
            texts.push(service.post(ROOT, "/v1/api-keys", body).await.text);
        }
    }
    for name in ["limit=x", "limit=-1", "status=x", "cursor=x", "organization_id=X", "more=x"] {
        texts.push(service.get(ALICE, &format!("/v1/renewals?{name}")).await.text);
    }
    let of_rust = [
        "struct ",
        "enum ",
        "tuple",
        "variant index",
        "NewDecision",
        "u32",
        "i64",
        "u64",
        "sequence",
        "a map",
        "unit value",
        "Option",
    ];
    for text in texts {
        let found = of_rust.iter().find(|word| text.contains(**word));
        assert!(found.is_none(), "{found:?} in {text}");
    }
    service.stop().await;
}

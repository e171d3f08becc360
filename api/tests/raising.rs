//! Raising renewals.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, Service};

const RENEWALS: &str = "/v1/renewals";

#[tokio::test]
async fn a_renewal_is_accepted_with_its_url_and_version() {
    let service = Service::start().await;
    let body = json!({
        "organization": "contoso", "reason": "expiring", "not_before": "2026-12-01T21:00:00+01:00", "note": "before the holidays",
        "ticket": {"system": "jira", "number": "CHG-17"}
    });
    let answer = service.post(ALICE, RENEWALS, body).await;
    let renewal = answer.expect(202);
    assert_eq!(renewal["state"]["status"], "requested");
    assert_eq!(renewal["requested_by"], ALICE.name);
    assert_eq!(renewal["request"]["not_before"], "2026-12-01T20:00:00Z");
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(answer.header("location"), format!("/v1/renewals/{}", renewal["id"].as_str().unwrap()));
    let mut shown = service.get(ALICE, answer.header("location")).await.expect(200);
    assert_eq!(shown.as_object_mut().unwrap().remove("progress").unwrap()[0]["phase"], "preflight");
    assert_eq!(shown, renewal);
    service.stop().await;
}

#[tokio::test]
async fn each_wrong_member_is_named_by_its_pointer() {
    let service = Service::start().await;
    let cases = [
        (json!({"organization": "contoso", "dry_run": true}), "/dry_run", "unknown field"),
        (
            json!({"organization": "contoso", "ticket": {"system": "jira", "number": "1", "key": "x"}}),
            "/ticket/key",
            "unknown field",
        ),
        (json!({"reason": "expired"}), "/organization", "missing field"),
        (json!({"organization": 7}), "/organization", "invalid type: number"),
        (json!({"organization": "Not A Label"}), "/organization", "is not an organization id"),
        (json!({"organization": "northwind"}), "/organization", "unknown organization `northwind`"),
        (json!({"organization": "contoso", "reason": "boredom"}), "/reason", "unknown variant `boredom`"),
        (json!({"organization": "contoso", "not_before": "2026-12-01T20:00:00"}), "/not_before", "time zone"),
        (json!({"organization": "contoso", "not_before": "next week"}), "/not_before", "time zone"),
        (
            json!({"organization": "contoso", "allow_absent": ["ex01.contoso.example", 3]}),
            "/allow_absent/1",
            "invalid type",
        ),
        (json!({"organization": "contoso", "ticket": {"system": "jira"}}), "/ticket/number", "missing field"),
        (json!({"organization": "contoso", "note": "x".repeat(2001)}), "/note", "2000"),
        (json!(["contoso"]), "", "invalid type"),
    ];
    for (body, pointer, detail) in cases {
        let problem = service.post(ALICE, RENEWALS, body.clone()).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
    }
    assert_eq!(service.get(ALICE, RENEWALS).await.expect(200)["items"], json!([]));
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_json_or_too_long_is_refused() {
    let service = Service::start().await;
    let long = format!("{{\"organization\": \"contoso\", \"note\": \"{}\"}}", "x".repeat(70_000));
    let cases: [(&str, String, u16, &str); 8] = [
        ("application/json", "{\"organization\": ".to_owned(), 400, "malformed_json"),
        ("application/json", String::new(), 400, "malformed_json"),
        ("application/json", "{\"organization\": \"contoso\"} {}".to_owned(), 400, "malformed_json"),
        ("application/json", "not json".to_owned(), 400, "malformed_json"),
        (
            "application/json",
            r#"{"organization": "contoso", "organization": "fabrikam"}"#.to_owned(),
            422,
            "invalid_request",
        ),
        ("application/json", long, 413, "payload_too_large"),
        ("text/plain", "{\"organization\": \"contoso\"}".to_owned(), 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", "organization=contoso".to_owned(), 415, "unsupported_media_type"),
    ];
    for (content_type, body, status, slug) in cases {
        let request =
            service.request(ALICE, Method::POST, RENEWALS).header(header::CONTENT_TYPE, content_type).body(body);
        Answer::of(request.send().await.unwrap()).await.problem(status, slug);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_second_live_renewal_is_told_who_holds_the_organization() {
    let service = Service::start().await;
    let holder = service.raise().await;
    let answer = service.post(ALICE, RENEWALS, json!({"organization": "contoso"})).await;
    assert_eq!(answer.problem(409, "organization_busy")["holder"], holder.as_str());
    assert_eq!(answer.header("location"), holder);
    assert!(answer.header("link").contains(&holder));
    service.post(ALICE, RENEWALS, json!({"organization": "fabrikam"})).await.expect(202);
    service.stop().await;
}

async fn with_key(service: &Service, key: &str, body: Value) -> Answer {
    let request = service.request(ALICE, Method::POST, RENEWALS).header("Idempotency-Key", key).json(&body);
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn the_same_request_with_the_same_key_gets_the_stored_answer() {
    let service = Service::start().await;
    let first = with_key(&service, "\"key-1\"", json!({"organization": "contoso"})).await;
    first.expect(202);
    assert_eq!(first.header("idempotency-replayed"), "");
    service.plan(first.header("location")).await;
    for key in ["\"key-1\"", "key-1"] {
        let again = with_key(&service, key, json!({"organization": "contoso"})).await;
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.header("location"), first.header("location"));
    }
    with_key(&service, "key-1", json!({"organization": "fabrikam"})).await.problem(422, "idempotency_key_reused");
    with_key(&service, "key-2", json!({"organization": "contoso"})).await.problem(409, "organization_busy");
    with_key(&service, &"k".repeat(256), json!({"organization": "contoso"})).await.problem(400, "invalid_parameter");
    service.stop().await;
}

#[tokio::test]
async fn many_copies_of_a_request_at_once_make_one_renewal() {
    for service in Service::start_on_each().await {
        let copies = (0..8).map(|_| with_key(&service, "key-1", json!({"organization": "contoso"})));
        let answers = futures_util::future::join_all(copies).await;
        let urls: std::collections::BTreeSet<_> = answers.iter().map(|a| a.header("location")).collect();
        assert!(answers.iter().all(|a| a.status == 202), "{answers:?}");
        assert_eq!(urls.len(), 1);
        assert_eq!(answers.iter().filter(|a| a.header("idempotency-replayed") == "true").count(), 7);
        service.stop().await;
    }
}

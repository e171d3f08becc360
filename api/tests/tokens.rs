//! Tokens that are not accepted, and what is recorded of them.

use reqwest::{Method, header::AUTHORIZATION};

use crate::support::{ALICE, Answer, ROOT, SECRET, Service, VERA};

#[tokio::test]
async fn each_bad_token_is_refused_with_a_reason_of_its_own() {
    let service = Service::start().await;
    let signed = |change: fn(&mut api::Claims)| {
        let mut claims = ALICE.claims();
        change(&mut claims);
        format!("Bearer {}", api::Tokens::new(&SECRET).mint(&claims).unwrap())
    };
    let unsigned = |header: &str| format!("Bearer {header}.e30.AAAA");
    let cases = [
        ("Basic YWxpY2U6c2VjcmV0".to_owned(), "not `Bearer"),
        ("Bearer nonsense".to_owned(), "malformed"),
        (unsigned("eyJhbGciOiJub25lIn0"), "signed with `none`"),
        (unsigned("eyJhbGciOiJSUzI1NiJ9"), "signed with `RS256`"),
        (format!("Bearer {}", api::Tokens::new(&[8; 32]).mint(&ALICE.claims()).unwrap()), "signature is wrong"),
        (signed(|c| c.exp = 1), "expired at 1970-01-01"),
        (signed(|c| c.nbf += 3000), "not valid before"),
        (signed(|c| c.iss = "other".to_owned()), "issuer"),
        (signed(|c| c.aud = "other".to_owned()), "audience"),
    ];
    let mut details = std::collections::BTreeSet::new();
    for (header, reason) in &cases {
        let request = service.anonymous(Method::GET, "/v1/renewals").header(AUTHORIZATION, header);
        let answer = Answer::of(request.send().await.unwrap()).await;
        let problem = answer.problem(401, "unauthenticated");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{reason}: {detail}");
        let is_bearer = header.to_lowercase().starts_with("bearer ");
        let expected =
            if is_bearer { "Bearer realm=\"rekey\", error=\"invalid_token\"" } else { "Bearer realm=\"rekey\"" };
        assert_eq!(answer.header("www-authenticate"), expected, "{header:?}");
        details.insert(detail.to_owned());
    }
    assert_eq!(details.len(), cases.len(), "{details:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_refusal_is_recorded_with_its_name_only_when_the_signature_is_right() {
    let service = Service::start().await;
    let mut late = ALICE.claims();
    late.exp = 1;
    let ours = api::Tokens::new(&SECRET).mint(&late).unwrap();
    let theirs = api::Tokens::new(&[8; 32]).mint(&ROOT.claims()).unwrap();
    for token in [&ours, &theirs] {
        let request = service.anonymous(Method::GET, "/v1/renewals").bearer_auth(token);
        Answer::of(request.send().await.unwrap()).await.problem(401, "unauthenticated");
    }
    service.get(ALICE, "/v1/audit").await.problem(403, "forbidden");
    let page = service.get(VERA, "/v1/audit").await.expect(200);
    let told: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (&e["actor"], &e["action"], &e["detail"]["problem"]))
        .collect();
    let alice = serde_json::json!(ALICE.name);
    let refused = serde_json::json!("access.refused");
    let (unauthenticated, forbidden) = (serde_json::json!("unauthenticated"), serde_json::json!("forbidden"));
    let anonymous = serde_json::json!("anonymous");
    assert_eq!(
        told,
        [
            (&alice, &refused, &forbidden),
            (&anonymous, &refused, &unauthenticated),
            (&alice, &refused, &unauthenticated)
        ]
    );
    service.stop().await;
}
